//! A process's side: the namespace, and ends that block the calling thread and nobody else.

mod cancel;
mod channel;
mod end;
mod gift;
mod namespace;
mod options;
mod overlapped;
mod server;
mod watcher;

pub use cancel::Cancel;
pub(crate) use channel::{Answer, Channel, done};
pub use end::{Client, Server};
pub use gift::EndToken;
pub(crate) use gift::{ClientEnd, Giving, take};
pub use namespace::{Namespace, PipeDetails, default_socket};
pub use options::{ClientOptions, ServerOptions};
pub use overlapped::{Completion, Completions, Done, Op, Overlapped, Submitted};
pub(crate) use server::ServerEnd;

//! A process's side: the namespace, and ends that block the calling thread and nobody else.

mod cancel;
mod channel;
mod end;
mod namespace;
mod options;
mod server;
mod watcher;

pub use cancel::Cancel;
pub use end::{Client, Server};
pub use namespace::{Namespace, PipeDetails, default_socket};
pub use options::{ClientOptions, ServerOptions};

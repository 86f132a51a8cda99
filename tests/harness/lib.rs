//! What the tests share: connections in one process or in two, commands to either end, deadlines, and a reference
//! model of one connection.
//!
//! A test talks to a [`Party`], which holds one end of one connection either here or in a child process; the same
//! [`Cmd`] reaches both, so that most tests run in both arrangements without being written twice. Children are the
//! binary `npfs-test-child`; integration tests name it by [`child_exe!`].

pub mod actor;
pub mod child;
pub mod cmd;
pub mod driver;
pub mod fuzz;
#[path = "../model/mod.rs"]
pub mod model;
pub mod party;
pub mod raw;
pub mod rng;
pub mod site;
pub mod sys;
pub mod table;
pub mod time;
pub mod user;

pub use actor::Actor;
pub use child::Child;
pub use cmd::{Blocking, Cmd, Done, OpId, Reply};
pub use driver::Driver;
pub use party::{Pair, Party, Rig};
pub use rng::{Rng, pattern};
pub use site::{Site, eventually, folder, open, serve};
pub use table::{Remote, Table};
pub use time::{Stopwatch, soon, until, within};

/// The path of the child binary; only integration tests know it.
#[macro_export]
macro_rules! child_exe {
    () => {
        env!("CARGO_BIN_EXE_npfs-test-child")
    };
}

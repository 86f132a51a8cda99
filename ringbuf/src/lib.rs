//! Memory that two processes share, and framed bytes moving through it: the data path of npfs.
//!
//! A [`Link`] is one sealed memfd between a pair of processes, mapped once. It holds many connections, each with two
//! queues. A [`Conn`] is one process's handle on one end of a connection: it reads and writes messages or bytes with
//! the answers of NT's named pipes, without a system call unless somebody has to be woken. Who gets a connection is
//! decided elsewhere, by whoever keeps the [`books`].
//!
//! ```text
//!  process A                          one link                               process B
//!  Conn (client end) ---------- queue read by the server ---------> Conn (server end)
//!                    <--------- queue read by the client ----------
//!
//!  a queue:  common line      attention: generation, closing bits, one bit per pended operation
//!            back, notes      the producer's role and books
//!            front, taken     the consumer's role (the match lock too) and books
//!            16 records       pended reads, stalled writes, flushes
//!            data area        frames: 16 bytes of header with the commit tag, then the payload
//! ```
//!
//! **Trust.** The peer may write anything anywhere in the link at any time. What decides is private ([`Grant`]); each
//! shared value is loaded once, checked, and the local copy used; no reference to payload bytes ever exists; loops over
//! shared state are bounded. A breach ends that one connection with [`Error::Fault`]. A hostile peer can keep a caller
//! waiting, up to that caller's own deadline or cancel, and no longer.
//!
//! **Death.** A frame exists once its tag is stored, and not before; the books of each side turn with one store. What a
//! dead process held is taken back by [`books::LinkBooks::reap`].
//!
//! # Example
//!
//! Both ends in one process; [`Link::attach`] in another works the same with a descriptor that was sent there.
//!
//! ```
//! use npfs_ringbuf::{Conn, Link, PipeType, Read, ReadMode, CompletionMode, books::*};
//!
//! let mut books = LinkBooks::create(&LinkConfig::default())?;
//! let me = books.add_process(None)?;
//! let link = Link::attach(books.share()?, me)?;
//! let (_, server, client) = books.connect(&ConnSpec::new(PipeType::Message, 65_536), me, me)?;
//! let server = Conn::open(&link, &server)?;
//! let client = Conn::open(&link, &client)?;
//! server.set_modes(ReadMode::Message, CompletionMode::Queue)?;
//!
//! client.write(b"hello")?;
//! client.write(b"world")?;
//! let mut buf = [0; 16];
//! assert_eq!(server.read(&mut buf)?, Read::Whole(5)); // one write, one message
//! assert_eq!(&buf[..5], b"hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Modules, in the order to read them
//!
//! `layout` (what two processes agree on), `frame`, `queue` (the books of both sides), `produce`, `consume`, `record`,
//! `settle` (how pended operations meet writes), `matching` (the rules of that, pure), `role`, `wait`, `pending`,
//! `conn`, [`books`]; for hosts `memory`, `outside` (reads into memory that may not be touched under a lock), `hosted`, `signal`,
//! `slow` (what a server needs that never waits), `shared` (memory that may not be had). Unsafe code is in `area`, `barrier`, `cpu`,
//! `current`, `environment`, `futex`, `memory`, `region`, `shared` and one function of `wait`.

#![cfg_attr(
    loom,
    allow(
        dead_code,
        unused_imports,
        reason = "the models have no links and no kernel"
    )
)]

#[cfg(not(target_has_atomic = "64"))]
compile_error!("a link needs 64-bit atomics: on i686 build for a CPU with cmpxchg8b");
#[cfg(not(target_os = "linux"))]
compile_error!("futexes, memfds and their seals are Linux's");

mod area;
mod attention;
mod barrier;
#[cfg(not(loom))]
pub mod books;
#[cfg(not(loom))]
mod conn;
mod consume;
mod cpu;
mod current;
mod doorbell;
mod environment;
mod error;
mod fast;
pub mod fault;
mod frame;
mod futex;
#[cfg(not(loom))]
mod geometry;
#[cfg(not(loom))]
mod hosted;
#[cfg(all(test, not(loom)))]
mod laps;
mod layout;
#[cfg(not(loom))]
mod link;
mod marks;
mod matching;
mod memory;
#[cfg(all(test, loom))]
mod models;
mod outside;
#[cfg(not(loom))]
mod pending;
mod produce;
mod queue;
mod record;
#[cfg(not(loom))]
mod region;
mod role;
mod settle;
mod shared;
mod signal;
#[cfg(not(loom))]
mod slow;
#[cfg(not(loom))]
mod started;
mod sync;
mod types;
mod wait;

#[cfg(not(loom))]
pub use conn::{Conn, ConnectionId};
pub use current::Current;
#[cfg(not(loom))]
pub use current::{Held, Named};
pub use doorbell::Bell;
#[doc(hidden)]
pub use environment::var as environment;
pub use error::{AttachError, BooksError, Error, Fault};
#[cfg(not(loom))]
pub use hosted::{Task, Work};
pub use layout::{ABI_VERSION, MAGIC, layout_hash};
#[cfg(not(loom))]
pub use link::{Grant, Link};
pub use marks::{Claimed, Mark, Marks};
#[cfg(not(loom))]
pub use memory::{UserBuffer, UserMemory};
#[cfg(not(loom))]
pub use pending::{PendingFlush, PendingRead, PendingTransact, PendingWrite};
pub use role::{RoleProbe, thread_serial};
pub use shared::{Faint, Shared, try_box, try_bytes, try_copy, try_push};
#[cfg(not(loom))]
pub use slow::{MOST_SPOTS, Obstacles, Spot, Totals, wait_at_spots};
#[cfg(not(loom))]
pub use started::{Alarm, Answer, Asleep, Glance, Keep, Poller, Rest, Started, wait_at_bells};
pub use types::{
    Access, CompletionMode, Deadline, End, Info, Peek, PipeType, ProcessIndex, Read, ReadMode,
    State,
};
pub use wait::{SpinPolicy, Wait};
#[cfg(not(loom))]
pub use wait::{may_sleep, without_sleep};

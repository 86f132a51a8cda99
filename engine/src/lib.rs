//! The engine: names, instances and calls of named pipes, with the answers of Windows NT.
//!
//! What stands: names, instances, access, the broker, and ends with calls that block or are overlapped ([`Server`],
//! [`Client`]), and NT's own calls ([`nt`]). Providers of names are to come; what is said of them below is their contract.
//!
//! ```
//! use npfs::{BrokerOptions, ClientOptions, PipeType, Read, ReadMode, ServerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let broker = BrokerOptions::new().start()?; // in this process; `Namespace::open` finds the user's
//! let namespace = broker.connect()?;
//! let server = ServerOptions::new()
//!     .pipe_type(PipeType::Message)
//!     .create(&namespace, r"\\.\pipe\echo")?;
//! let client = ClientOptions::new()
//!     .read_mode(ReadMode::Message)
//!     .open(&namespace, "echo")?;
//! server.connect()?;
//! client.write(b"hello")?;
//! let mut buf = [0; 64];
//! assert_eq!(server.read(&mut buf)?, Read::Whole(5));
//! # Ok(())
//! # }
//! ```
//!
//! # Three layers
//!
//! ```text
//! client    Server, Client, options, overlapped calls      one per process
//! reactor   completes overlapped calls                     one thread per process, when first needed
//! broker    names, instances, access, links, deaths        one per user or machine, or embedded
//! ----------------------------------------------------------------------------------------------
//! npfs-ringbuf   links, slots, queues, waits: every byte of every message goes this way
//! ```
//!
//! The broker is asked when a name is created, opened or waited for, and told when an end closes.
//! Between connect and close no call reaches it, and it never sees a payload.
//!
//! # Namespaces and the state machine
//!
//! Names, instances and those who wait for an instance are one *pure* state machine: a request goes
//! in, completions come out. It holds no descriptor, reads no clock and maps no memory, so that a
//! test can drive it through any order of events. There are several namespaces (pipes, and local
//! RPC, which must stay reachable whatever happens to pipes), and a process may offer itself as the
//! *provider* of a name or of a prefix: the engine then calls it back, and it may take its time
//! without holding up anybody else.
//!
//! # Broker
//!
//! - **It never waits.** Workers share the clients, namespaces lie behind sharded locks, and no
//!   operation blocks on a client, nor on anything in memory that a client can write. Whoever wants
//!   to wait is a waiter in the state machine and is answered later.
//! - **The wire** between client and broker is made of messages of fixed size over a socket that
//!   keeps message boundaries. The first one carries the range of versions its sender speaks. A
//!   link is stricter: both processes need exactly the same memory ABI, and a difference has an
//!   error of its own. Any bytes may arrive; decoding them never panics.
//! - **Who is asking** is what the kernel says of the socket's other end, never what a message
//!   says. Access follows NT security descriptors: user and group ids of Linux become SIDs (as
//!   Samba maps them), a name created without a descriptor gets NT's default one, and the right to
//!   create a further instance of a name is checked as a right of its own.
//! - **Limits** hold for each client: instances, links, requests under way, memory. A client that
//!   reaches one gets an error and takes nothing from the others.
//! - **A client goes away.** The end of its socket closes its ends, as a last handle's close would,
//!   and wakes who waited for it. What it held in shared memory (roles, records, grants) is taken
//!   back only when the process is known to have exited: an ended socket alone does not prove that.
//! - **The broker goes away.** Connections go on talking, opening a name fails with a clear error.
//!   Once the broker is back, each client registers its ends and links again, by the 128-bit token
//!   that it was given with each; a link whose other process has not done so within 5 s is dead.
//! - **Start.** In the foreground with the tool (a service manager may hand it the socket), by the
//!   first client that finds none (it exits when idle), or inside a process, for tests and
//!   examples. Per user in a directory of mode 0700, or for a whole machine.
//!
//! # Reactor
//!
//! One thread per process, started by the first overlapped call, completes all of them.
//!
//! - **Descriptors do not grow** with pipes, messages or calls under way. The ring is set up
//!   without a descriptor where the kernel can do that. Received memory is mapped and its descriptor
//!   closed at once. In steady state a process holds one descriptor of ours at most, the socket.
//! - **It sleeps in one place**: on the bell of each *idle link* (never on each operation) and on a
//!   word of its own. Links with traffic are scanned in memory, so a busy peer makes no system call to be heard.
//! - **An operation owns its buffer until its one completion comes.** Cancelling asks; it does not
//!   free. It is a step in our own memory, not a request to the kernel.
//! - **Completions** arrive by callback, in batches from a completion queue, as Rust futures, or by
//!   one event descriptor per process for programs that have a loop already. A thread that waits on
//!   a completion queue does the reactor's work itself, without a hand-over to another thread.
//!   Callbacks run on the loop: a blocking call made there answers an error, and handlers that may
//!   block have worker threads.
//! - **Less kernel, same structures.** Where io_uring, or its futex operations, cannot be had, the
//!   same structures run over plain futex calls (the broker: over epoll). That is found by trying
//!   at start, never by version numbers, and tests force each variant.
//! - **The host may own the thread**: it then calls the reactor's wait and run steps itself, as
//!   Wine must.
//!
//! # Calls
//!
//! Builders in the manner of std (`ServerOptions`, `ClientOptions`) lead to typed ends. Both ends
//! have `read`, `write`, `transact`, `peek`, `flush`; only the server end has `connect` and
//! `disconnect`. Ends of byte pipes are also std's `Read` and `Write`. Each call comes in three
//! forms, with one code under them: *try* answers at once; *block* waits on the caller's own thread
//! and stops nobody else; *submit* is overlapped. Rust programs that declare their peer trusted may
//! read and write in place, without a copy.
//!
//! What each call answers in each state, which calls complete at once and which pend, and in which
//! order pended ones complete, is NT's. One table maps each error to its NTSTATUS; a message longer
//! than the reader's buffer is no error but a partial read.

#[cfg(not(target_os = "linux"))]
compile_error!("the engine stands on Linux's sockets, pidfds and memfds");

pub mod broker;
mod client;
mod error;
mod jobs;
mod lock;
mod lookout;
mod name;
mod notice;
pub mod npfs;
pub mod nt;
mod pool;
mod pump;
mod queue;
mod reactor;
pub mod security;
mod sleeper;
mod status;
mod sys;
#[cfg(feature = "tokio")]
pub mod tokio;
mod uring;
pub mod wire;

pub use broker::{Broker, BrokerOptions};
pub use client::{
    Cancel, Client, ClientOptions, Completion, Completions, Done, EndToken, Namespace, Op,
    Overlapped, PipeDetails, Server, ServerOptions, Submitted, default_socket,
};
pub use error::{Error, Result};
#[doc(hidden)]
pub use lookout::Lookout;
pub use name::{Name, NameError};
pub use notice::Notice;
pub use npfs::{Direction, State};
pub use npfs_ringbuf::{
    CompletionMode, Deadline, Info, Peek, PipeType, Read, ReadMode, SpinPolicy,
};
pub use pump::Pump;
pub use security::Mask;
pub use sleeper::event_loop;
pub use status::NtStatus;
pub use wire::Peer;

/// The example of the project's README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

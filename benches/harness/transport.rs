//! What every way to carry a message looks like to the workloads.
//!
//! The loops of `workloads` are generic over these traits and compiled once per transport, so no
//! call on the hot path is indirect, and none of them knows whose bytes it moves.

use std::os::fd::OwnedFd;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The sending half of one end.
pub(crate) trait Tx: Send {
    /// Sends one message; blocks or spins while there is no room.
    fn send(&mut self, message: &[u8]) -> Result<()>;
}

/// The receiving half of one end.
pub(crate) trait Rx: Send {
    /// Receives one message into `buf`, which has exactly the size of the workload's messages,
    /// and answers its length; blocks or spins while there is none.
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize>;

    /// Receives one message and shows it; `buf` as for `recv`, for those who cannot show it where it lies.
    #[inline]
    fn look<T>(&mut self, buf: &mut [u8], look: impl FnOnce(&[u8]) -> T) -> Result<T> {
        let length = self.recv(buf)?;
        Ok(look(&buf[..length]))
    }
}

/// A way to carry messages of this harness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// npfs through its public API: a message pipe of a broker's, with this quota in bytes.
    Ours {
        /// bytes, each direction
        quota: u32,
    },
    /// The same, its messages read where they lie (`read_in_place`).
    OursInPlace {
        /// bytes, each direction
        quota: u32,
    },
    /// The same while this many other instances of the pipe are connected; for `connect` alone.
    OursAmong {
        /// connected instances
        others: u32,
    },
    /// The same pipe in the native layer: overlapped reads, and a completion port that is waited on.
    Overlapped,
    /// The same while a read pends on both ends of this many other pipes.
    OverlappedAmong {
        /// connected pipes
        others: u32,
    },
    /// The same while the server has a read pending on a pipe to each of this many other processes.
    OverlappedOfClients {
        /// connected processes
        others: u32,
    },
    /// A mailbox of one cache line (or as many as the message needs), its reader spinning.
    RawLine,
    /// The same, with a pause instruction after each look.
    RawLinePaused,
    /// The same mailbox, its reader always asleep in a futex.
    RawFutex,
    /// A bare ring whose writer publishes an index.
    RingIndex {
        /// bytes of payload that fit
        capacity: u32,
    },
    /// A bare ring whose writer publishes each frame in the frame's header.
    RingInFrame {
        /// bytes of payload that fit
        capacity: u32,
    },
    /// pipe(2), one each way.
    Pipe,
    /// A pair of unix stream sockets.
    UnixStream,
    /// A pair of unix SOCK_SEQPACKET sockets.
    UnixSeqpacket,
    /// Two copies within one process, with no transport at all.
    Memcpy,
}

impl Kind {
    /// Whether this is npfs itself.
    pub(crate) fn is_ours(self) -> bool {
        matches!(
            self,
            Kind::Ours { .. }
                | Kind::OursInPlace { .. }
                | Kind::OursAmong { .. }
                | Kind::Overlapped
                | Kind::OverlappedAmong { .. }
                | Kind::OverlappedOfClients { .. }
        )
    }

    /// Short name for tables, as in `ring (index) 64 KiB`.
    pub(crate) fn name(self) -> String {
        match self {
            Kind::Ours { quota } => format!("npfs, quota {}", size_name(quota as usize)),
            Kind::OursInPlace { quota } => {
                format!("npfs in place, quota {}", size_name(quota as usize))
            }
            Kind::OursAmong { others } => format!("npfs, among {}", others + 1),
            Kind::Overlapped => "npfs, overlapped".to_owned(),
            Kind::OverlappedAmong { others } => format!("npfs, overlapped, among {}", others + 1),
            Kind::OverlappedOfClients { others } => {
                format!("npfs, overlapped, {} clients", others + 1)
            }
            Kind::RawLine => "raw line".to_owned(),
            Kind::RawLinePaused => "raw line, paused".to_owned(),
            Kind::RawFutex => "raw futex".to_owned(),
            Kind::RingIndex { capacity } => {
                format!("ring, index, {}", size_name(capacity as usize))
            }
            Kind::RingInFrame { capacity } => {
                format!("ring, in-frame, {}", size_name(capacity as usize))
            }
            Kind::Pipe => "pipe(2)".to_owned(),
            Kind::UnixStream => "unix stream".to_owned(),
            Kind::UnixSeqpacket => "unix seqpacket".to_owned(),
            Kind::Memcpy => "memcpy, one process".to_owned(),
        }
    }

    /// The same without its size: one line of a plot across message sizes.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Kind::Ours {
                quota: DEFAULT_QUOTA,
            } => "npfs",
            Kind::Ours { .. } => "npfs, big quota",
            Kind::OursInPlace { .. } => "npfs, in place",
            Kind::OursAmong { .. } => "npfs, among many",
            Kind::Overlapped => "npfs, overlapped",
            Kind::OverlappedAmong { .. } => "npfs, overlapped, among many",
            Kind::OverlappedOfClients { .. } => "npfs, overlapped, many clients",
            Kind::RawLine => "raw line",
            Kind::RawLinePaused => "raw line, paused",
            Kind::RawFutex => "raw futex",
            Kind::RingIndex { .. } => "ring, index",
            Kind::RingInFrame { .. } => "ring, in-frame",
            Kind::Pipe => "pipe(2)",
            Kind::UnixStream => "unix stream",
            Kind::UnixSeqpacket => "unix seqpacket",
            Kind::Memcpy => "memcpy",
        }
    }
}

/// The quota that a pipe has unless its creator says otherwise, in bytes.
pub(crate) const DEFAULT_QUOTA: u32 = 64 << 10;

/// `64 B`, `4 KiB`, `1 MiB`.
pub(crate) fn size_name(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

/// What one worker is given to open its end of a transport.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) ticket: Ticket,
}

/// The part of [`Parts`] that is plain data.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ticket {
    /// ours: the pipe; `connect` over a socket: its path
    pub(crate) name: String,
    /// ours: bytes, each direction
    pub(crate) quota: u32,
    /// bytes of data towards the server, and towards the client
    pub(crate) capacity: [usize; 2],
    /// both ends share one CPU: a poller must yield, or nobody would ever write
    pub(crate) yields: bool,
}

/// Which of the two workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Sends first, and keeps time in round trips.
    Client,
    /// Echoes, or receives and keeps time in one-way runs.
    Server,
}

impl Role {
    /// Index into pairs `[towards the server, towards the client]` of what this one receives.
    pub(crate) fn inbound(self) -> usize {
        match self {
            Role::Server => 0,
            Role::Client => 1,
        }
    }

    /// Index of what it sends.
    pub(crate) fn outbound(self) -> usize {
        1 - self.inbound()
    }
}

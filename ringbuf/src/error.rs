//! What can go wrong: `Error` for calls on a connection, `AttachError` for memory that is not ours, `BooksError` for
//! the broker's part.

use std::{error, fmt, io};

/// Why a call on a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// A try call that would have to pend.
    WouldBlock,
    /// A try call that needs a role which somebody else holds just now.
    Busy,
    /// STATUS_PIPE_EMPTY: nothing to read, and this end does not wait (NP-READ-03).
    Empty,
    /// STATUS_PIPE_BROKEN: the peer has gone and nothing is left (NP-READ-04, NP-WRITE-14).
    Broken,
    /// STATUS_PIPE_CLOSING: the peer has gone, so nobody would read this (NP-WRITE-01).
    Closing,
    /// STATUS_PIPE_DISCONNECTED (NP-DISC-07, 08).
    Disconnected,
    /// This end is closed, or its slot serves another connection by now.
    Stale,
    /// STATUS_CANCELLED (NP-CANCEL-01).
    Cancelled,
    /// STATUS_IO_TIMEOUT: the caller's deadline has passed.
    TimedOut,
    /// STATUS_POSSIBLE_DEADLOCK: it would have to wait where it must not ([`without_sleep`](crate::without_sleep)).
    WouldDeadlock,
    /// STATUS_PIPE_BUSY: transact with something to read, or a mode change with calls pending (NP-XCV-03, NP-INFO-07).
    PipeBusy,
    /// STATUS_INVALID_PIPE_STATE (NP-XCV-01, 02; NP-PEEK-02).
    InvalidState,
    /// STATUS_INVALID_PARAMETER: message read mode on a byte pipe (NP-INFO-05).
    InvalidMode,
    /// STATUS_ACCESS_DENIED: this end was not granted that direction.
    AccessDenied,
    /// STATUS_INSUFFICIENT_RESOURCES: no memory behind the area, or no room that a write of this kind may wait for.
    NoMemory,
    /// The buffer has more than 2^31-1 bytes.
    TooLong,
    /// STATUS_ACCESS_VIOLATION: a user's memory could not be copied ([`UserBuffer`](crate::UserBuffer)); nothing is lost.
    BadBuffer,
    /// The peer broke the protocol; the connection is over (STATUS_PIPE_BROKEN).
    Fault(Fault),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Error::WouldBlock => "the call would have to wait",
            Error::Busy => "another caller is in the middle of the same queue",
            Error::Empty => "nothing to read",
            Error::Broken => "the other end has closed",
            Error::Closing => "the other end is closing",
            Error::Disconnected => "the server end has disconnected",
            Error::Stale => "this end is closed",
            Error::Cancelled => "cancelled",
            Error::TimedOut => "timed out",
            Error::WouldDeadlock => "the call would have to wait, on a thread that must not",
            Error::PipeBusy => "the pipe is busy",
            Error::InvalidState => "not in this state of the pipe",
            Error::InvalidMode => "message read mode needs a message pipe",
            Error::AccessDenied => "this end may not do that",
            Error::NoMemory => "no memory",
            Error::TooLong => "more than 2147483647 bytes",
            Error::BadBuffer => "the buffer cannot be copied",
            Error::Fault(fault) => return write!(f, "the peer broke the protocol: {fault}"),
        })
    }
}

impl error::Error for Error {}

/// A breach of the protocol by the peer, found before anything was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A frame longer than the room it stands in.
    FrameLength,
    /// Flags that do not go together, or that this type of pipe does not have.
    FrameFlags,
    /// A chain of frames without an end.
    Walk,
    /// A record that points outside the area.
    Record,
    /// A frame from an end that may not write.
    Forbidden,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::FrameLength => "a frame is longer than its room",
            Fault::FrameFlags => "a frame has flags that cannot be",
            Fault::Walk => "the frames have no end",
            Fault::Record => "a record points outside the area",
            Fault::Forbidden => "a frame from an end that may not write",
        })
    }
}

impl error::Error for Fault {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::Fault(fault)
    }
}

/// Why a descriptor or a grant was refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// Not a memfd in ordinary pages (a file, a socket, huge pages).
    NotMemory,
    /// Seals that a link must have are missing (bits of fcntl(2) F_GET_SEALS).
    NotSealed {
        /// The missing bits.
        missing: i32,
    },
    /// Shorter than its own header says, or than any link is.
    TooSmall {
        /// Bytes, from fstat(2).
        len: u64,
    },
    /// Longer than this process can map.
    TooLarge {
        /// Bytes, from fstat(2).
        len: u64,
    },
    /// All zero: its maker has not finished.
    NotReady,
    /// Not a link at all.
    Magic(u32),
    /// A link of another ABI version.
    Version {
        /// Its version.
        found: u32,
    },
    /// The same version laid out differently: built from other sources.
    Layout {
        /// Its hash.
        found: u64,
    },
    /// Numbers in the header that cannot be.
    Geometry,
    /// A grant that does not fit the link; says which part.
    Grant(&'static str),
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::NotMemory => f.write_str("not a memfd in ordinary pages"),
            AttachError::NotSealed { missing } => write!(f, "seals {missing:#x} are missing"),
            AttachError::TooSmall { len } => write!(f, "{len} bytes are too short for a link"),
            AttachError::TooLarge { len } => write!(f, "{len} bytes are too many for this process"),
            AttachError::NotReady => f.write_str("the link is not ready yet"),
            AttachError::Magic(magic) => write!(f, "not a link (magic {magic:#010x})"),
            AttachError::Version { found } => write!(
                f,
                "the link has ABI version {found}, this library has {}",
                crate::ABI_VERSION
            ),
            AttachError::Layout { found } => write!(
                f,
                "the link has layout {found:016x}, this library has {:016x}",
                crate::layout_hash()
            ),
            AttachError::Geometry => f.write_str("the link's header contradicts itself"),
            AttachError::Grant(what) => write!(f, "the grant does not fit the link: {what}"),
            AttachError::Io(_) => f.write_str("the system refused the link's memory"),
        }
    }
}

impl error::Error for AttachError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            AttachError::Io(error) => Some(error),
            _ => None,
        }
    }
}

/// Why the broker's part refused.
#[derive(Debug)]
#[non_exhaustive]
pub enum BooksError {
    /// Every slot of the link is in use: take another link for the same pair.
    NoFreeSlot,
    /// No data area of that size is left: take another link for the same pair.
    NoFreeArea,
    /// A link has at most 8 processes.
    TooManyProcesses,
    /// A quota over 2^31-1 bytes.
    QuotaTooLarge(u32),
    /// A configuration that cannot be; says which part.
    Config(&'static str),
    /// No such connection, or no longer.
    NoSuchConnection,
    /// The link holds other connections, or somebody who is inside one that has ended.
    NotAlone,
    /// No such process, or not any more.
    NoSuchProcess,
    /// The system had no memory for the slot (ENOSPC, ENOMEM).
    NoMemory(io::Error),
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for BooksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BooksError::NoFreeSlot => f.write_str("no free slot in the link"),
            BooksError::NoFreeArea => f.write_str("no free area in the link"),
            BooksError::TooManyProcesses => f.write_str("the link has 8 processes already"),
            BooksError::QuotaTooLarge(quota) => write!(f, "a quota of {quota} bytes is too large"),
            BooksError::Config(what) => write!(f, "a link cannot be made so: {what}"),
            BooksError::NotAlone => f.write_str("the link is used by other connections"),
            BooksError::NoSuchConnection => f.write_str("no such connection"),
            BooksError::NoSuchProcess => f.write_str("no such process"),
            BooksError::NoMemory(_) => f.write_str("no memory for the connection"),
            BooksError::Io(_) => f.write_str("the system refused"),
        }
    }
}

impl error::Error for BooksError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            BooksError::NoMemory(error) | BooksError::Io(error) => Some(error),
            _ => None,
        }
    }
}

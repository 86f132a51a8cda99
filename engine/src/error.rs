//! The one error type of this crate, and its NTSTATUS.

use std::io;

use npfs_ringbuf::AttachError;

use crate::status::NtStatus;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed. [`Error::status`] has the NTSTATUS of each.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a name of a pipe; says why (section 3 of the specification).
    #[error("{0}")]
    Name(#[from] crate::name::NameError),
    /// No pipe has that name (NP-OPEN-01, NP-NAME-16, NP-WAIT-04).
    #[error("no pipe has that name")]
    NoSuchPipe,
    /// The pipe has all the instances that its first one allows (NP-CREATE-21).
    #[error("the pipe has all the instances that it may have")]
    InstancesExhausted,
    /// No instance is listening (NP-OPEN-04).
    #[error("every instance of the pipe is busy")]
    NoListener,
    /// The descriptor, or the direction of the pipe, forbids it (NP-CREATE-20, 22, 23; NP-OPEN-02, 03).
    #[error("access denied")]
    AccessDenied,
    /// An argument cannot be; says which.
    #[error("invalid argument: {0}")]
    InvalidParameter(&'static str),
    /// No client has opened this instance yet (NP-READ-05).
    #[error("no client is connected")]
    NotConnected,
    /// A client is connected already (NP-LISTEN-03).
    #[error("a client is connected already")]
    AlreadyConnected,
    /// Only the server end can do that (NP-LISTEN-05, NP-DISC-05).
    #[error("not at this end")]
    WrongEnd,
    /// The server has disconnected (NP-DISC-07, 08).
    #[error("the server has disconnected")]
    Disconnected,
    /// The other end has closed, so nobody would read this (NP-WRITE-01, NP-LISTEN-04).
    #[error("the other end is closing")]
    Closing,
    /// The other end has gone and nothing is left (NP-READ-04).
    #[error("the other end has closed")]
    Broken,
    /// Nothing to read, and this end does not wait (NP-READ-03).
    #[error("nothing to read")]
    Empty,
    /// The call would have to wait: only from calls that begin with `try_`.
    #[error("the call would have to wait")]
    WouldBlock,
    /// Something is unread, or calls are pending (NP-XCV-03, NP-INFO-07).
    #[error("the pipe is busy")]
    Busy,
    /// Not in this state (NP-XCV-01, NP-PEEK-02).
    #[error("not in this state of the pipe")]
    InvalidState,
    /// Message read mode on a byte pipe (NP-INFO-05).
    #[error("message read mode needs a message pipe")]
    InvalidMode,
    /// Cancelled from another thread (NP-CANCEL-01).
    #[error("cancelled")]
    Cancelled,
    /// The deadline has passed (NP-WAIT-07).
    #[error("timed out")]
    TimedOut,
    /// It would have to wait, in a callback that everything else waits for ([`crate::nt::Callback::new`]).
    #[error("the call would have to wait, in a callback that must not")]
    WouldDeadlock,
    /// No memory, or a limit of the broker for this process was reached.
    #[error("out of memory, or over a limit of the broker")]
    NoResources,
    /// The peer broke the protocol of the shared memory; the connection is over.
    #[error("the peer broke the protocol: {0}")]
    Fault(npfs_ringbuf::Fault),
    /// Memory that came from the broker is not a link of this version.
    #[error("the shared memory was refused")]
    Attach(#[from] AttachError),
    /// No broker serves this namespace, or it has just gone. Connections go on; names cannot be created or opened.
    #[error("no broker at {path}")]
    NoBroker {
        /// Its socket.
        path: String,
        /// What connecting to it said.
        source: Option<io::Error>,
    },
    /// The broker speaks other versions, or its memory has another layout.
    #[error("the broker is of another version: {0}")]
    Version(String),
    /// The broker answered what this library cannot read.
    #[error("the broker's answer makes no sense: {0}")]
    Protocol(&'static str),
    /// Not the token of an end that can be taken: it is malformed, was used already or came too late, or the end is for
    /// another user's process.
    #[error("no end can be taken by this token")]
    Token,
    /// An end can go to another user only if no other connection is in its memory ([`crate::ServerOptions::apart`], [`crate::ClientOptions::apart`]).
    #[error(
        "the connection shares its memory with others of the same two processes, so that its ends cannot go to another user"
    )]
    NotApart,
    /// Another status of the broker's.
    #[error("{0}")]
    Status(NtStatus),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// The NTSTATUS of this error. One table; its test lists every pair.
    #[must_use]
    pub fn status(&self) -> NtStatus {
        match self {
            Error::Name(_) => NtStatus::OBJECT_NAME_INVALID,
            Error::NoSuchPipe => NtStatus::OBJECT_NAME_NOT_FOUND,
            Error::InstancesExhausted => NtStatus::INSTANCE_NOT_AVAILABLE,
            Error::NoListener => NtStatus::PIPE_NOT_AVAILABLE,
            Error::AccessDenied => NtStatus::ACCESS_DENIED,
            Error::InvalidParameter(_) | Error::InvalidMode => NtStatus::INVALID_PARAMETER,
            Error::NotConnected => NtStatus::PIPE_LISTENING,
            Error::AlreadyConnected => NtStatus::PIPE_CONNECTED,
            Error::WrongEnd => NtStatus::ILLEGAL_FUNCTION,
            Error::Disconnected => NtStatus::PIPE_DISCONNECTED,
            Error::Closing => NtStatus::PIPE_CLOSING,
            Error::Broken | Error::Fault(_) => NtStatus::PIPE_BROKEN,
            Error::Empty => NtStatus::PIPE_EMPTY,
            Error::WouldBlock => NtStatus::PENDING,
            Error::Busy => NtStatus::PIPE_BUSY,
            Error::InvalidState => NtStatus::INVALID_PIPE_STATE,
            Error::Cancelled => NtStatus::CANCELLED,
            Error::TimedOut => NtStatus::IO_TIMEOUT,
            Error::WouldDeadlock => NtStatus::POSSIBLE_DEADLOCK,
            Error::NoResources | Error::Attach(_) | Error::Io(_) => {
                NtStatus::INSUFFICIENT_RESOURCES
            }
            Error::NoBroker { .. } => NtStatus::NO_SUCH_DEVICE,
            Error::Version(_) | Error::Protocol(_) => NtStatus::REVISION_MISMATCH,
            Error::Token => NtStatus::INVALID_HANDLE,
            Error::NotApart => NtStatus::SHARING_VIOLATION,
            Error::Status(status) => *status,
        }
    }

    /// What a status of the broker's means here.
    pub(crate) fn from_status(status: NtStatus) -> Error {
        match status {
            NtStatus::OBJECT_NAME_NOT_FOUND => Error::NoSuchPipe,
            NtStatus::OBJECT_NAME_INVALID => Error::Name(crate::name::NameError::Refused),
            NtStatus::INSTANCE_NOT_AVAILABLE => Error::InstancesExhausted,
            NtStatus::PIPE_NOT_AVAILABLE => Error::NoListener,
            NtStatus::ACCESS_DENIED => Error::AccessDenied,
            NtStatus::INVALID_PARAMETER => Error::InvalidParameter("refused by the broker"),
            NtStatus::PIPE_LISTENING => Error::NotConnected,
            NtStatus::PIPE_CONNECTED => Error::AlreadyConnected,
            NtStatus::ILLEGAL_FUNCTION => Error::WrongEnd,
            NtStatus::PIPE_DISCONNECTED => Error::Disconnected,
            NtStatus::PIPE_CLOSING => Error::Closing,
            NtStatus::PIPE_BROKEN => Error::Broken,
            NtStatus::CANCELLED => Error::Cancelled,
            NtStatus::IO_TIMEOUT => Error::TimedOut,
            NtStatus::INSUFFICIENT_RESOURCES => Error::NoResources,
            NtStatus::SHARING_VIOLATION => Error::NotApart,
            other => Error::Status(other),
        }
    }
}

impl From<npfs_ringbuf::Error> for Error {
    fn from(error: npfs_ringbuf::Error) -> Error {
        use npfs_ringbuf::Error as Ring;
        match error {
            Ring::WouldBlock => Error::WouldBlock,
            Ring::Busy | Ring::PipeBusy => Error::Busy,
            Ring::Empty => Error::Empty,
            Ring::Broken => Error::Broken,
            Ring::Closing => Error::Closing,
            Ring::Disconnected | Ring::Stale => Error::Disconnected,
            Ring::Cancelled => Error::Cancelled,
            Ring::TimedOut => Error::TimedOut,
            Ring::WouldDeadlock => Error::WouldDeadlock,
            Ring::InvalidState => Error::InvalidState,
            Ring::InvalidMode => Error::InvalidMode,
            Ring::AccessDenied => Error::AccessDenied,
            Ring::NoMemory => Error::NoResources,
            Ring::TooLong => Error::InvalidParameter("more than 2147483647 bytes"),
            Ring::Fault(fault) => Error::Fault(fault),
            _ => Error::InvalidState,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> io::Error {
        use io::ErrorKind as Kind;
        let kind = match &error {
            Error::Io(_) => {
                let Error::Io(error) = error else {
                    unreachable!("matched just now")
                };
                return error;
            }
            Error::NoSuchPipe => Kind::NotFound,
            Error::InstancesExhausted | Error::NoListener | Error::Busy => Kind::ResourceBusy,
            Error::AccessDenied => Kind::PermissionDenied,
            Error::Name(_) | Error::InvalidParameter(_) | Error::InvalidMode => Kind::InvalidInput,
            Error::NotConnected | Error::Disconnected => Kind::NotConnected,
            Error::Closing | Error::Broken => Kind::BrokenPipe,
            Error::Empty | Error::WouldBlock => Kind::WouldBlock,
            Error::TimedOut => Kind::TimedOut,
            // `Interrupted` would be tried again by std's helpers.
            Error::Cancelled => Kind::Other,
            Error::NoResources => Kind::OutOfMemory,
            Error::NoBroker { .. } => Kind::ConnectionRefused,
            Error::Fault(_) | Error::Protocol(_) | Error::Attach(_) => Kind::InvalidData,
            Error::Version(_) => Kind::Unsupported,
            _ => Kind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_of_the_broker_survives_the_wire() {
        for status in [
            NtStatus::OBJECT_NAME_NOT_FOUND,
            NtStatus::OBJECT_NAME_INVALID,
            NtStatus::INSTANCE_NOT_AVAILABLE,
            NtStatus::PIPE_NOT_AVAILABLE,
            NtStatus::ACCESS_DENIED,
            NtStatus::INVALID_PARAMETER,
            NtStatus::PIPE_LISTENING,
            NtStatus::PIPE_CONNECTED,
            NtStatus::ILLEGAL_FUNCTION,
            NtStatus::PIPE_DISCONNECTED,
            NtStatus::PIPE_CLOSING,
            NtStatus::PIPE_BROKEN,
            NtStatus::CANCELLED,
            NtStatus::IO_TIMEOUT,
            NtStatus::INSUFFICIENT_RESOURCES,
            NtStatus::INVALID_HANDLE,
        ] {
            assert_eq!(Error::from_status(status).status(), status);
        }
    }

    #[test]
    fn every_error_of_the_queue_has_its_status() {
        use npfs_ringbuf::Error as Ring;
        for (error, status) in [
            (Ring::WouldBlock, NtStatus::PENDING),
            (Ring::Busy, NtStatus::PIPE_BUSY),
            (Ring::Empty, NtStatus::PIPE_EMPTY),
            (Ring::Broken, NtStatus::PIPE_BROKEN),
            (Ring::Closing, NtStatus::PIPE_CLOSING),
            (Ring::Disconnected, NtStatus::PIPE_DISCONNECTED),
            (Ring::Stale, NtStatus::PIPE_DISCONNECTED),
            (Ring::Cancelled, NtStatus::CANCELLED),
            (Ring::TimedOut, NtStatus::IO_TIMEOUT),
            (Ring::WouldDeadlock, NtStatus::POSSIBLE_DEADLOCK),
            (Ring::PipeBusy, NtStatus::PIPE_BUSY),
            (Ring::InvalidState, NtStatus::INVALID_PIPE_STATE),
            (Ring::InvalidMode, NtStatus::INVALID_PARAMETER),
            (Ring::AccessDenied, NtStatus::ACCESS_DENIED),
            (Ring::NoMemory, NtStatus::INSUFFICIENT_RESOURCES),
            (Ring::TooLong, NtStatus::INVALID_PARAMETER),
            (
                Ring::Fault(npfs_ringbuf::Fault::Walk),
                NtStatus::PIPE_BROKEN,
            ),
        ] {
            assert_eq!(Error::from(error).status(), status, "{error:?}");
        }
    }
}

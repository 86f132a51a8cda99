//! What both sides of `npfs_host.h` have in common.

use npfs_ringbuf::{AttachError, BooksError, Conn, Error, Grant, Info, Peek, State};

/// How a call of the host level ended: `NPFS_HOST_...`.
pub type npfs_host_status = i32;

/// Done.
pub const NPFS_HOST_OK: npfs_host_status = 0;
/// Done; the message is longer than the buffer, and the rest of it stays (NP-READ-09).
pub const NPFS_HOST_MORE_DATA: npfs_host_status = 1;
/// It would have to wait.
pub const NPFS_HOST_WOULD_BLOCK: npfs_host_status = 2;
/// It goes on after the call, and completes once.
pub const NPFS_HOST_PENDING: npfs_host_status = 3;
/// Nothing to read, and the end is in the mode that never waits (NP-READ-03).
pub const NPFS_HOST_EMPTY: npfs_host_status = -1;
/// The peer is gone, and nothing is left to read (NP-READ-04, NP-WRITE-14).
pub const NPFS_HOST_BROKEN: npfs_host_status = -2;
/// The peer is gone, so that nobody would read what is written (NP-WRITE-01).
pub const NPFS_HOST_CLOSING: npfs_host_status = -3;
/// The server end has disconnected (NP-DISC-07, 08).
pub const NPFS_HOST_DISCONNECTED: npfs_host_status = -4;
/// No client has connected yet.
pub const NPFS_HOST_LISTENING: npfs_host_status = -5;
/// The slot serves another connection now, or the end is closed: drop the connection, and ask the server.
pub const NPFS_HOST_STALE: npfs_host_status = -6;
/// Somebody else is in the middle of a step that this call needs. The server is told at its doorbell when that is over.
pub const NPFS_HOST_BUSY: npfs_host_status = -7;
/// Withdrawn by a cancel (NP-CANCEL-01).
pub const NPFS_HOST_CANCELLED: npfs_host_status = -8;
/// The host's copy failed. No byte of the stream is lost, except of a read that pended if a later one has been given more
/// meanwhile, or a reader is stopped in the middle of a step.
pub const NPFS_HOST_FAULT: npfs_host_status = -9;
/// Not for this path: make the host's ordinary request.
pub const NPFS_HOST_FALLBACK: npfs_host_status = -10;
/// The deadline has passed.
pub const NPFS_HOST_TIMED_OUT: npfs_host_status = -11;
/// This end was not granted that direction.
pub const NPFS_HOST_ACCESS_DENIED: npfs_host_status = -12;
/// No memory, no slot or no descriptor is left.
pub const NPFS_HOST_NO_MEMORY: npfs_host_status = -13;
/// Transact with something to read, or a change of modes with calls pending (NP-XCV-03, NP-INFO-07).
pub const NPFS_HOST_PIPE_BUSY: npfs_host_status = -14;
/// Not in this state or mode of the pipe (NP-XCV-01, 02; NP-PEEK-02; NP-INFO-05).
pub const NPFS_HOST_INVALID_STATE: npfs_host_status = -15;
/// An argument that cannot be: a NULL that must not be, an unknown number, something that is not of this library.
pub const NPFS_HOST_INVALID: npfs_host_status = -16;
/// The memory is not a link of this very layout, or the end is not of that link.
pub const NPFS_HOST_MISMATCH: npfs_host_status = -17;
/// A bug of this library.
pub const NPFS_HOST_INTERNAL: npfs_host_status = -18;

/// What a call on a connection answers.
pub(crate) fn of_error(error: Error) -> npfs_host_status {
    match error {
        Error::WouldBlock => NPFS_HOST_WOULD_BLOCK,
        Error::Busy | Error::WouldDeadlock => NPFS_HOST_BUSY,
        Error::Empty => NPFS_HOST_EMPTY,
        Error::Broken | Error::Fault(_) => NPFS_HOST_BROKEN,
        Error::Closing => NPFS_HOST_CLOSING,
        Error::Disconnected => NPFS_HOST_DISCONNECTED,
        Error::Stale => NPFS_HOST_STALE,
        Error::Cancelled => NPFS_HOST_CANCELLED,
        Error::TimedOut => NPFS_HOST_TIMED_OUT,
        Error::PipeBusy => NPFS_HOST_PIPE_BUSY,
        Error::InvalidState | Error::InvalidMode => NPFS_HOST_INVALID_STATE,
        Error::AccessDenied => NPFS_HOST_ACCESS_DENIED,
        Error::NoMemory => NPFS_HOST_NO_MEMORY,
        Error::BadBuffer => NPFS_HOST_FAULT,
        _ => NPFS_HOST_INVALID,
    }
}

/// What a refused link or grant answers.
pub(crate) fn of_attach(error: AttachError) -> npfs_host_status {
    let status = match error {
        AttachError::Io(_) => NPFS_HOST_NO_MEMORY,
        _ => NPFS_HOST_MISMATCH,
    };
    // It owns nothing; but a compiler does not know that of an `io::Error`, and what is dropped may panic.
    std::mem::forget(error);
    status
}

/// What the books answer.
pub(crate) fn of_books(error: BooksError) -> npfs_host_status {
    let status = match &error {
        BooksError::QuotaTooLarge(_)
        | BooksError::Config(_)
        | BooksError::NoSuchConnection
        | BooksError::NoSuchProcess => NPFS_HOST_INVALID,
        // pidfd_open(2) of a process that is none.
        BooksError::Io(error) if error.raw_os_error() == Some(ESRCH) => NPFS_HOST_INVALID,
        _ => NPFS_HOST_NO_MEMORY,
    };
    // As in `of_attach`.
    std::mem::forget(error);
    status
}

const ESRCH: i32 = 3;

/// The books refuse because the end is closed.
pub(crate) fn or_stale<T>(answer: Result<T, BooksError>) -> Result<T, npfs_host_status> {
    answer.map_err(|error| {
        std::mem::forget(error);
        NPFS_HOST_STALE
    })
}

/// The client end of a connection.
pub const NPFS_HOST_CLIENT: u32 = 0;
/// Its server end.
pub const NPFS_HOST_SERVER: u32 = 1;

/// A pended read, or the wait for something to read.
pub const NPFS_HOST_READ: u32 = 0;
/// A stalled write.
pub const NPFS_HOST_WRITE: u32 = 1;
/// The wait for everything written to be read (a flush).
pub const NPFS_HOST_DRAIN: u32 = 2;

/// The server end has disconnected (FILE_PIPE_DISCONNECTED_STATE).
pub const NPFS_HOST_STATE_DISCONNECTED: u32 = 1;
/// Both ends are open (FILE_PIPE_CONNECTED_STATE).
pub const NPFS_HOST_STATE_CONNECTED: u32 = 3;
/// The other end has closed (FILE_PIPE_CLOSING_STATE).
pub const NPFS_HOST_STATE_CLOSING: u32 = 4;
/// Of an end itself: its last handle has gone.
pub const NPFS_HOST_STATE_CLOSED: u32 = 5;

/// Reads by message (FILE_PIPE_MESSAGE_MODE; NP-INFO-05).
pub const NPFS_HOST_MODE_MESSAGE: u32 = 1;
/// Never waits (FILE_PIPE_COMPLETE_OPERATION).
pub const NPFS_HOST_MODE_NOWAIT: u32 = 2;

/// Bytes of `npfs_host_end.grant`.
pub const NPFS_HOST_GRANT_SIZE: usize = 96;
const _: () = assert!(NPFS_HOST_GRANT_SIZE == Grant::SIZE);

/// What a process needs to attach to its end of a connection, besides the link's descriptor the first time: plain data that
/// the host's server sends as it is. What stands in it is for that process alone.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_host_end {
    /// Which link it is on.
    pub link: [u64; 2],
    /// The index that the process has on that link.
    pub process: u32,
    /// `NPFS_HOST_CLIENT` or `NPFS_HOST_SERVER`.
    pub side: u32,
    /// Opaque.
    pub grant: [u8; NPFS_HOST_GRANT_SIZE],
}

/// Counts of a connection as one end sees them (FILE_PIPE_LOCAL_INFORMATION, FILE_PIPE_PEEK_BUFFER).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct npfs_host_info {
    /// Unread bytes, those of pended writes included.
    pub available: u64,
    /// Unread bytes of the first message; 0 on a byte pipe.
    pub message_left: u64,
    /// Messages that can be read; 0 on a byte pipe.
    pub messages: u32,
    /// Free bytes of the quota in the other direction (NP-QUEUE-08).
    pub quota_left: u32,
    /// Bytes that a peek has copied.
    pub copied: u32,
    /// `NPFS_HOST_STATE_CONNECTED`, `_CLOSING` or `_DISCONNECTED`.
    pub state: u32,
}

impl From<State> for npfs_host_info {
    fn from(state: State) -> npfs_host_info {
        npfs_host_info {
            state: match state {
                State::Connected => NPFS_HOST_STATE_CONNECTED,
                State::Closing => NPFS_HOST_STATE_CLOSING,
                State::Disconnected => NPFS_HOST_STATE_DISCONNECTED,
            },
            ..npfs_host_info::default()
        }
    }
}

/// What a peek through that end has seen, and what it answers.
pub(crate) fn of_peek(peek: &Peek, end: &Conn) -> (npfs_host_info, npfs_host_status) {
    let quota = end.info();
    let seen = npfs_host_info {
        available: peek.available,
        message_left: peek.message_len,
        messages: peek.messages,
        quota_left: quota.map_or(0, |info| info.write_quota_available),
        // No buffer is longer than that.
        copied: u32::try_from(peek.copied).unwrap_or(u32::MAX),
        ..peek.state.into()
    };
    let status = if peek.partial {
        NPFS_HOST_MORE_DATA
    } else {
        NPFS_HOST_OK
    };
    (seen, status)
}

impl From<Info> for npfs_host_info {
    fn from(info: Info) -> npfs_host_info {
        npfs_host_info {
            available: info.read_available,
            messages: info.messages,
            quota_left: info.write_quota_available,
            ..info.state.into()
        }
    }
}

//! The vocabulary: ends, types, modes, and what the calls answer.

use std::time::Duration;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum End {
    /// The end that opened the pipe.
    Client = 0,
    /// The end that created the instance.
    Server = 1,
}

impl End {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> End {
        match self {
            End::Client => End::Server,
            End::Server => End::Client,
        }
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

/// A process's index in a link, below 8, given by the books and never reused before the process was swept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessIndex(u8);

impl ProcessIndex {
    /// `None` for 8 and above.
    #[must_use]
    pub const fn new(index: u8) -> Option<ProcessIndex> {
        if (index as usize) < crate::layout::PROCESSES {
            Some(ProcessIndex(index))
        } else {
            None
        }
    }

    /// How many a link has.
    pub const COUNT: usize = crate::layout::PROCESSES;

    /// Every one that a link can have.
    pub(crate) fn all() -> impl Iterator<Item = ProcessIndex> {
        (0..=u8::MAX).map_while(ProcessIndex::new)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// What a pipe carries, fixed when it is created (NP-QUEUE-07).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PipeType {
    /// A stream of bytes.
    Byte,
    /// Messages: one write, one message.
    Message,
}

/// How one end reads; `Message` needs a pipe of message type (NP-INFO-05).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReadMode {
    /// Gathers over message boundaries (NP-READ-07).
    #[default]
    Byte,
    /// Stops at the end of a message (NP-READ-09).
    Message,
}

/// Whether calls of one end may pend (section 0 of the specification calls them QUEUE and COMPLETE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CompletionMode {
    /// PIPE_WAIT: a call that cannot finish pends.
    #[default]
    Queue,
    /// PIPE_NOWAIT: it answers at once (NP-READ-03, NP-WRITE-10 to 12).
    Complete,
}

/// A connection, as one end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Both ends are there.
    Connected,
    /// The other end has closed; what it had written can still be read.
    Closing,
    /// The server end has disconnected; unread data is gone.
    Disconnected,
}

/// The data access that an end was granted (FILE_READ_DATA, FILE_WRITE_DATA).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// FILE_READ_DATA.
    pub read: bool,
    /// FILE_WRITE_DATA.
    pub write: bool,
}

impl Access {
    /// Both.
    pub const DUPLEX: Access = Access {
        read: true,
        write: true,
    };
    /// Reading only.
    pub const READ: Access = Access {
        read: true,
        write: false,
    };
    /// Writing only.
    pub const WRITE: Access = Access {
        read: false,
        write: true,
    };
}

/// A read that succeeded: how many bytes it brought, and whether that was all of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "`Part` means that the rest of the message stays for the next read"]
pub enum Read {
    /// STATUS_SUCCESS: this many bytes.
    Whole(usize),
    /// STATUS_BUFFER_OVERFLOW: this many bytes; the message goes on (NP-READ-09).
    Part(usize),
}

impl Read {
    /// Bytes put into the buffer.
    #[must_use]
    pub const fn count(self) -> usize {
        match self {
            Read::Whole(n) | Read::Part(n) => n,
        }
    }
}

/// What a peek saw (FILE_PIPE_PEEK_BUFFER; NP-PEEK-04 to 07).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// Connected or closing.
    pub state: State,
    /// Unread bytes, those of pended writes included.
    pub available: u64,
    /// Messages queued; 0 on a byte pipe.
    pub messages: u32,
    /// Unread bytes of the first message; 0 on a byte pipe.
    pub message_len: u64,
    /// Bytes copied into the caller's buffer.
    pub copied: usize,
    /// The first message has more bytes than were copied (STATUS_BUFFER_OVERFLOW).
    pub partial: bool,
}

/// Counts of a connection, as one end sees it (FILE_PIPE_LOCAL_INFORMATION; NP-INFO-09, 10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// The connection's state.
    pub state: State,
    /// Unread bytes that this end can read.
    pub read_available: u64,
    /// Free quota of this end's outgoing direction, bytes (NP-QUEUE-08).
    pub write_quota_available: u32,
    /// Messages that this end can read.
    pub messages: u32,
}

/// A moment of CLOCK_MONOTONIC up to which a call may wait, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(pub(crate) u64);

impl Deadline {
    /// Waits for as long as it takes.
    pub const NEVER: Deadline = Deadline(u64::MAX);

    /// The moment `after` from now.
    #[must_use]
    pub fn after(after: Duration) -> Deadline {
        let after = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
        Deadline(crate::futex::now().saturating_add(after))
    }

    /// That many nanoseconds of CLOCK_MONOTONIC; `u64::MAX`: never.
    #[must_use]
    pub const fn at(nanoseconds: u64) -> Deadline {
        Deadline(nanoseconds)
    }

    /// How long it is until then: nothing if it has come; `None`: it never comes.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        (self != Deadline::NEVER)
            .then(|| Duration::from_nanos(self.0.saturating_sub(crate::futex::now())))
    }

    /// Whether it has come.
    #[must_use]
    pub fn passed(self) -> bool {
        self != Deadline::NEVER && crate::futex::now() >= self.0
    }
}

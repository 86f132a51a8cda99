//! NTSTATUS: the numbers that NT's named pipes answer, and the one table from typed errors to them.

use std::fmt;

/// An NTSTATUS. Values from section 1.1 of the specification, which takes them from Microsoft's ntstatus.h.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct NtStatus(pub u32);

macro_rules! statuses {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl NtStatus {
            $(#[doc = $doc] pub const $name: NtStatus = NtStatus($value);)*

            /// All that pipes answer.
            pub const ALL: &'static [NtStatus] = &[$(NtStatus::$name,)*];

            /// The name in ntstatus.h, of those that pipes answer.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(NtStatus::$name => Some(concat!("STATUS_", stringify!($name))),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000, "Done.";
    TIMEOUT = 0x0000_0102, "The time of a wait is over.";
    PENDING = 0x0000_0103, "Not done yet.";
    BUFFER_OVERFLOW = 0x8000_0005, "The message goes on.";
    NO_MORE_FILES = 0x8000_0006, "The listing is at its end.";
    INVALID_INFO_CLASS = 0xC000_0003, "No such information.";
    INFO_LENGTH_MISMATCH = 0xC000_0004, "Another length was due.";
    INVALID_HANDLE = 0xC000_0008, "Not an open end.";
    INVALID_PARAMETER = 0xC000_000D, "An argument cannot be.";
    NO_SUCH_DEVICE = 0xC000_000E, "No broker serves this namespace.";
    NO_SUCH_FILE = 0xC000_000F, "No name matches.";
    INVALID_DEVICE_REQUEST = 0xC000_0010, "Not with this object.";
    ACCESS_DENIED = 0xC000_0022, "The descriptor or the direction forbids it.";
    BUFFER_TOO_SMALL = 0xC000_0023, "More room is needed.";
    OBJECT_TYPE_MISMATCH = 0xC000_0024, "An object of another type.";
    OBJECT_NAME_INVALID = 0xC000_0033, "Not a name of a pipe.";
    OBJECT_NAME_NOT_FOUND = 0xC000_0034, "No pipe has that name.";
    OBJECT_PATH_INVALID = 0xC000_0039, "Not a path.";
    SHARING_VIOLATION = 0xC000_0043, "What it is kept in is that of others, too.";
    REVISION_MISMATCH = 0xC000_0059, "Built for another version.";
    INVALID_OWNER = 0xC000_005A, "Not an owner that the caller may name.";
    INVALID_SECURITY_DESCR = 0xC000_0079, "Not a security descriptor.";
    INSUFFICIENT_RESOURCES = 0xC000_009A, "No memory, or a limit was reached.";
    BAD_IMPERSONATION_LEVEL = 0xC000_00A5, "The client did not allow that much.";
    INSTANCE_NOT_AVAILABLE = 0xC000_00AB, "The pipe has all the instances that it may have.";
    PIPE_NOT_AVAILABLE = 0xC000_00AC, "No instance is listening.";
    INVALID_PIPE_STATE = 0xC000_00AD, "Not in this state.";
    PIPE_BUSY = 0xC000_00AE, "There is something to read, or calls are pending.";
    ILLEGAL_FUNCTION = 0xC000_00AF, "Not at this end.";
    PIPE_DISCONNECTED = 0xC000_00B0, "The server has disconnected.";
    PIPE_CLOSING = 0xC000_00B1, "The other end is closing.";
    PIPE_CONNECTED = 0xC000_00B2, "A client is connected already.";
    PIPE_LISTENING = 0xC000_00B3, "No client is connected yet.";
    INVALID_READ_MODE = 0xC000_00B4, "Not in this read mode.";
    IO_TIMEOUT = 0xC000_00B5, "The time is over.";
    NOT_SUPPORTED = 0xC000_00BB, "Not here.";
    PIPE_EMPTY = 0xC000_00D9, "Nothing to read.";
    INVALID_USER_BUFFER = 0xC000_00E8, "Not memory of the caller's.";
    CANNOT_IMPERSONATE = 0xC000_010D, "Nothing was read from the client yet.";
    CANCELLED = 0xC000_0120, "Cancelled.";
    PIPE_BROKEN = 0xC000_014B, "The other end has gone.";
    POSSIBLE_DEADLOCK = 0xC000_0194, "It would wait, in a callback that must not.";
    NOT_FOUND = 0xC000_0225, "Nothing to cancel.";
}

impl NtStatus {
    /// Success or information: NT_SUCCESS of ntdef.h.
    #[must_use]
    pub const fn is_success(self) -> bool {
        self.0 < 0x8000_0000
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "NTSTATUS {:#010x}", self.0),
        }
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_its_name_or_its_number() {
        assert_eq!(NtStatus::PIPE_BROKEN.to_string(), "STATUS_PIPE_BROKEN");
        assert_eq!(NtStatus(0xC000_9999).to_string(), "NTSTATUS 0xc0009999");
        assert!(NtStatus::PENDING.is_success());
        assert!(!NtStatus::BUFFER_OVERFLOW.is_success());
    }
}

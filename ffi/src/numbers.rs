//! The numbers of the C header: statuses, control codes, classes, rights and flags.

use crate::types::{npfs_handle, npfs_status};

// ---- statuses (ntstatus.h) -----------------------------------------------------------------------------------------

/// Done.
pub const NPFS_STATUS_SUCCESS: npfs_status = 0x0000_0000;
/// The time of a wait is over.
pub const NPFS_STATUS_TIMEOUT: npfs_status = 0x0000_0102;
/// Not done yet.
pub const NPFS_STATUS_PENDING: npfs_status = 0x0000_0103;
/// A pointer is not aligned as its type is.
pub const NPFS_STATUS_DATATYPE_MISALIGNMENT: npfs_status = 0x8000_0002;
/// The message goes on.
pub const NPFS_STATUS_BUFFER_OVERFLOW: npfs_status = 0x8000_0005;
/// The listing is at its end.
pub const NPFS_STATUS_NO_MORE_FILES: npfs_status = 0x8000_0006;
/// No such information.
pub const NPFS_STATUS_INVALID_INFO_CLASS: npfs_status = 0xC000_0003;
/// Another length was due.
pub const NPFS_STATUS_INFO_LENGTH_MISMATCH: npfs_status = 0xC000_0004;
/// A pointer is NULL that must not be.
pub const NPFS_STATUS_ACCESS_VIOLATION: npfs_status = 0xC000_0005;
/// Not an open end.
pub const NPFS_STATUS_INVALID_HANDLE: npfs_status = 0xC000_0008;
/// An argument cannot be.
pub const NPFS_STATUS_INVALID_PARAMETER: npfs_status = 0xC000_000D;
/// No broker serves this namespace.
pub const NPFS_STATUS_NO_SUCH_DEVICE: npfs_status = 0xC000_000E;
/// No name matches.
pub const NPFS_STATUS_NO_SUCH_FILE: npfs_status = 0xC000_000F;
/// Not with this object.
pub const NPFS_STATUS_INVALID_DEVICE_REQUEST: npfs_status = 0xC000_0010;
/// The descriptor or the direction forbids it.
pub const NPFS_STATUS_ACCESS_DENIED: npfs_status = 0xC000_0022;
/// More room is needed.
pub const NPFS_STATUS_BUFFER_TOO_SMALL: npfs_status = 0xC000_0023;
/// An object of another type.
pub const NPFS_STATUS_OBJECT_TYPE_MISMATCH: npfs_status = 0xC000_0024;
/// Not a name of a pipe.
pub const NPFS_STATUS_OBJECT_NAME_INVALID: npfs_status = 0xC000_0033;
/// No pipe has that name.
pub const NPFS_STATUS_OBJECT_NAME_NOT_FOUND: npfs_status = 0xC000_0034;
/// Somebody has that name already.
pub const NPFS_STATUS_OBJECT_NAME_COLLISION: npfs_status = 0xC000_0035;
/// Not a path.
pub const NPFS_STATUS_OBJECT_PATH_INVALID: npfs_status = 0xC000_0039;
/// What it is kept in is that of others, too.
pub const NPFS_STATUS_SHARING_VIOLATION: npfs_status = 0xC000_0043;
/// Built for another version.
pub const NPFS_STATUS_REVISION_MISMATCH: npfs_status = 0xC000_0059;
/// Not an owner that the caller may name.
pub const NPFS_STATUS_INVALID_OWNER: npfs_status = 0xC000_005A;
/// Not a security descriptor.
pub const NPFS_STATUS_INVALID_SECURITY_DESCR: npfs_status = 0xC000_0079;
/// No memory, or a limit was reached.
pub const NPFS_STATUS_INSUFFICIENT_RESOURCES: npfs_status = 0xC000_009A;
/// The client did not allow that much.
pub const NPFS_STATUS_BAD_IMPERSONATION_LEVEL: npfs_status = 0xC000_00A5;
/// The pipe has all the instances that it may have.
pub const NPFS_STATUS_INSTANCE_NOT_AVAILABLE: npfs_status = 0xC000_00AB;
/// No instance is listening.
pub const NPFS_STATUS_PIPE_NOT_AVAILABLE: npfs_status = 0xC000_00AC;
/// Not in this state.
pub const NPFS_STATUS_INVALID_PIPE_STATE: npfs_status = 0xC000_00AD;
/// There is something to read, or calls are pending.
pub const NPFS_STATUS_PIPE_BUSY: npfs_status = 0xC000_00AE;
/// Not at this end.
pub const NPFS_STATUS_ILLEGAL_FUNCTION: npfs_status = 0xC000_00AF;
/// The server has disconnected.
pub const NPFS_STATUS_PIPE_DISCONNECTED: npfs_status = 0xC000_00B0;
/// The other end is closing.
pub const NPFS_STATUS_PIPE_CLOSING: npfs_status = 0xC000_00B1;
/// A client is connected already.
pub const NPFS_STATUS_PIPE_CONNECTED: npfs_status = 0xC000_00B2;
/// No client is connected yet.
pub const NPFS_STATUS_PIPE_LISTENING: npfs_status = 0xC000_00B3;
/// Not in this read mode.
pub const NPFS_STATUS_INVALID_READ_MODE: npfs_status = 0xC000_00B4;
/// The time is over.
pub const NPFS_STATUS_IO_TIMEOUT: npfs_status = 0xC000_00B5;
/// Not here.
pub const NPFS_STATUS_NOT_SUPPORTED: npfs_status = 0xC000_00BB;
/// Nothing to read.
pub const NPFS_STATUS_PIPE_EMPTY: npfs_status = 0xC000_00D9;
/// A bug of npfs, caught; what the call was doing may be half done.
pub const NPFS_STATUS_INTERNAL_ERROR: npfs_status = 0xC000_00E5;
/// Not memory of the caller's.
pub const NPFS_STATUS_INVALID_USER_BUFFER: npfs_status = 0xC000_00E8;
/// Nothing was read from the client yet.
pub const NPFS_STATUS_CANNOT_IMPERSONATE: npfs_status = 0xC000_010D;
/// Cancelled.
pub const NPFS_STATUS_CANCELLED: npfs_status = 0xC000_0120;
/// The other end has gone.
pub const NPFS_STATUS_PIPE_BROKEN: npfs_status = 0xC000_014B;
/// It would wait, in a completion routine that must not.
pub const NPFS_STATUS_POSSIBLE_DEADLOCK: npfs_status = 0xC000_0194;
/// Nothing to cancel.
pub const NPFS_STATUS_NOT_FOUND: npfs_status = 0xC000_0225;

// ---- control codes (npfs_fs_control_file) --------------------------------------------------------------------------

/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_ASSIGN_EVENT: u32 = 0x0011_0000;
/// Cuts the client off. No input, no output.
pub const NPFS_FSCTL_PIPE_DISCONNECT: u32 = 0x0011_0004;
/// Waits for a client. No input, no output.
pub const NPFS_FSCTL_PIPE_LISTEN: u32 = 0x0011_0008;
/// Looks at what could be read. Output: `npfs_file_pipe_peek_buffer`.
pub const NPFS_FSCTL_PIPE_PEEK: u32 = 0x0011_400C;
/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_QUERY_EVENT: u32 = 0x0011_0010;
/// Writes a message and reads the reply. Input: the message; output: room for the reply.
pub const NPFS_FSCTL_PIPE_TRANSCEIVE: u32 = 0x0011_C017;
/// Waits until an instance of a pipe listens; on a handle of the root. Input: `npfs_file_pipe_wait_for_buffer`.
pub const NPFS_FSCTL_PIPE_WAIT: u32 = 0x0011_0018;
/// The calling thread acts as the client.
pub const NPFS_FSCTL_PIPE_IMPERSONATE: u32 = 0x0011_001C;
/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_SET_CLIENT_PROCESS: u32 = 0x0011_0020;
/// Output: `npfs_file_pipe_client_process_buffer`.
pub const NPFS_FSCTL_PIPE_QUERY_CLIENT_PROCESS: u32 = 0x0011_0024;
/// Input: the attribute's name, 8-bit, with its NUL (`ServerProcessId`, `ServerSessionId`); output: `uint32_t`.
pub const NPFS_FSCTL_PIPE_GET_PIPE_ATTRIBUTE: u32 = 0x0011_0028;
/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_SET_PIPE_ATTRIBUTE: u32 = 0x0011_002C;
/// Input: the attribute's name, 8-bit, with its NUL (`ClientProcessId`, `ClientSessionId`); output: `uint32_t`.
pub const NPFS_FSCTL_PIPE_GET_CONNECTION_ATTRIBUTE: u32 = 0x0011_0030;
/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_SET_CONNECTION_ATTRIBUTE: u32 = 0x0011_0034;
/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_GET_HANDLE_ATTRIBUTE: u32 = 0x0011_0038;
/// Answers STATUS_NOT_SUPPORTED.
pub const NPFS_FSCTL_PIPE_SET_HANDLE_ATTRIBUTE: u32 = 0x0011_003C;
/// Completes when everything written has been read.
pub const NPFS_FSCTL_PIPE_FLUSH: u32 = 0x0011_8040;
/// Accepted from a server end.
pub const NPFS_FSCTL_PIPE_DISABLE_IMPERSONATE: u32 = 0x0011_0044;
/// A read under another name.
pub const NPFS_FSCTL_PIPE_INTERNAL_READ: u32 = 0x0011_5FF4;
/// A write under another name.
pub const NPFS_FSCTL_PIPE_INTERNAL_WRITE: u32 = 0x0011_9FF8;
/// A transceive under another name.
pub const NPFS_FSCTL_PIPE_INTERNAL_TRANSCEIVE: u32 = 0x0011_DFFF;
/// A read under another name.
pub const NPFS_FSCTL_PIPE_INTERNAL_READ_OVFLOW: u32 = 0x0011_6000;

// ---- rights (desired access) ---------------------------------------------------------------------------------------

/// Read from the pipe; of the root: list the pipes.
pub const NPFS_FILE_READ_DATA: u32 = 0x1;
/// Write to the pipe.
pub const NPFS_FILE_WRITE_DATA: u32 = 0x2;
/// Create a further instance of the pipe; the same bit as FILE_APPEND_DATA.
pub const NPFS_FILE_CREATE_PIPE_INSTANCE: u32 = 0x4;
/// Query the modes and the local information.
pub const NPFS_FILE_READ_ATTRIBUTES: u32 = 0x80;
/// Set the modes.
pub const NPFS_FILE_WRITE_ATTRIBUTES: u32 = 0x100;
/// Read the security descriptor.
pub const NPFS_READ_CONTROL: u32 = 0x2_0000;
/// Replace the DACL.
pub const NPFS_WRITE_DAC: u32 = 0x4_0000;
/// Replace owner and group.
pub const NPFS_WRITE_OWNER: u32 = 0x8_0000;
/// Wait for the file object; synchronous calls need it, too.
pub const NPFS_SYNCHRONIZE: u32 = 0x10_0000;
/// Whatever the descriptor allows.
pub const NPFS_MAXIMUM_ALLOWED: u32 = 0x200_0000;
/// All of them.
pub const NPFS_GENERIC_ALL: u32 = 0x1000_0000;
/// Write data and attributes, read the descriptor, create instances.
pub const NPFS_GENERIC_WRITE: u32 = 0x4000_0000;
/// Read data, attributes and the descriptor.
pub const NPFS_GENERIC_READ: u32 = 0x8000_0000;

// ---- create and open -----------------------------------------------------------------------------------------------

/// Share access of a create: clients may read (server to client).
pub const NPFS_FILE_SHARE_READ: u32 = 1;
/// Share access of a create: clients may write (client to server).
pub const NPFS_FILE_SHARE_WRITE: u32 = 2;
/// Disposition: a further instance of a pipe that exists.
pub const NPFS_FILE_OPEN: u32 = 1;
/// Disposition: the first instance.
pub const NPFS_FILE_CREATE: u32 = 2;
/// Disposition: either.
pub const NPFS_FILE_OPEN_IF: u32 = 3;
/// Information of a create or an open: the pipe was there.
pub const NPFS_FILE_OPENED: u32 = 1;
/// Information of a create: the pipe is new.
pub const NPFS_FILE_CREATED: u32 = 2;
/// Option, without effect.
pub const NPFS_FILE_WRITE_THROUGH: u32 = 0x2;
/// Option: calls wait for their end.
pub const NPFS_FILE_SYNCHRONOUS_IO_ALERT: u32 = 0x10;
/// Option: calls wait for their end.
pub const NPFS_FILE_SYNCHRONOUS_IO_NONALERT: u32 = 0x20;
/// Pipe type: a stream of bytes.
pub const NPFS_FILE_PIPE_BYTE_STREAM_TYPE: u32 = 0;
/// Pipe type: messages.
pub const NPFS_FILE_PIPE_MESSAGE_TYPE: u32 = 1;
/// Added to the pipe type; there are no remote clients in any case.
pub const NPFS_FILE_PIPE_REJECT_REMOTE_CLIENTS: u32 = 2;
/// Read mode: bytes.
pub const NPFS_FILE_PIPE_BYTE_STREAM_MODE: u32 = 0;
/// Read mode: messages.
pub const NPFS_FILE_PIPE_MESSAGE_MODE: u32 = 1;
/// Completion mode QUEUE: calls wait, or pend.
pub const NPFS_FILE_PIPE_QUEUE_OPERATION: u32 = 0;
/// Completion mode COMPLETE: calls never wait.
pub const NPFS_FILE_PIPE_COMPLETE_OPERATION: u32 = 1;
/// Maximum of instances: none.
pub const NPFS_FILE_PIPE_UNLIMITED_INSTANCES: u32 = 0xFFFF_FFFF;
/// Direction, in `named_pipe_configuration`: client to server.
pub const NPFS_FILE_PIPE_INBOUND: u32 = 0;
/// Direction: server to client.
pub const NPFS_FILE_PIPE_OUTBOUND: u32 = 1;
/// Direction: both ways.
pub const NPFS_FILE_PIPE_FULL_DUPLEX: u32 = 2;
/// State of an instance, in `named_pipe_state`.
pub const NPFS_FILE_PIPE_DISCONNECTED_STATE: u32 = 1;
/// State: waits for a client.
pub const NPFS_FILE_PIPE_LISTENING_STATE: u32 = 2;
/// State: has one.
pub const NPFS_FILE_PIPE_CONNECTED_STATE: u32 = 3;
/// State: the other end has gone.
pub const NPFS_FILE_PIPE_CLOSING_STATE: u32 = 4;
/// Which end, in `named_pipe_end`.
pub const NPFS_FILE_PIPE_CLIENT_END: u32 = 0;
/// Which end, in `named_pipe_end`.
pub const NPFS_FILE_PIPE_SERVER_END: u32 = 1;

/// In `attributes` of `npfs_object_attributes`, of a pipe that is created or opened: its connections, or this one, have memory of
/// their own, so that their ends can always be given to another user's process (`npfs_give_to_user`). Each costs a mapping.
pub const NPFS_OBJ_APART: u32 = 0x8000_0000;
/// In `quality` of `npfs_object_attributes`: it says something; else impersonation, dynamic, effective only.
pub const NPFS_SQOS_PRESENT: u32 = 0x10_0000;
/// In `quality`, level: the server does not learn who the client is.
pub const NPFS_SECURITY_ANONYMOUS: u32 = 0;
/// In `quality`, level: it learns who, and may not act as the client.
pub const NPFS_SECURITY_IDENTIFICATION: u32 = 1;
/// In `quality`, level: it may act as the client.
pub const NPFS_SECURITY_IMPERSONATION: u32 = 2;
/// In `quality`, level: the same here.
pub const NPFS_SECURITY_DELEGATION: u32 = 3;
/// In `quality`: who the client is, is settled when it opens (static tracking).
pub const NPFS_SECURITY_STATIC_TRACKING: u32 = 4;
/// In `quality`: only what is enabled goes with it.
pub const NPFS_SECURITY_EFFECTIVE_ONLY: u32 = 8;

// ---- information classes -------------------------------------------------------------------------------------------

/// Listing: `npfs_file_directory_information`.
pub const NPFS_FILE_DIRECTORY_INFORMATION_CLASS: u32 = 1;
/// Listing: FILE_FULL_DIR_INFORMATION.
pub const NPFS_FILE_FULL_DIRECTORY_INFORMATION_CLASS: u32 = 2;
/// Listing: FILE_BOTH_DIR_INFORMATION.
pub const NPFS_FILE_BOTH_DIRECTORY_INFORMATION_CLASS: u32 = 3;
/// FILE_BASIC_INFORMATION: times 0, attributes normal.
pub const NPFS_FILE_BASIC_INFORMATION_CLASS: u32 = 4;
/// `npfs_file_standard_information`.
pub const NPFS_FILE_STANDARD_INFORMATION_CLASS: u32 = 5;
/// FILE_INTERNAL_INFORMATION: a number that no other open file has.
pub const NPFS_FILE_INTERNAL_INFORMATION_CLASS: u32 = 6;
/// FILE_EA_INFORMATION: 0.
pub const NPFS_FILE_EA_INFORMATION_CLASS: u32 = 7;
/// FILE_ACCESS_INFORMATION: the rights that the handle was granted.
pub const NPFS_FILE_ACCESS_INFORMATION_CLASS: u32 = 8;
/// `npfs_file_name_information`.
pub const NPFS_FILE_NAME_INFORMATION_CLASS: u32 = 9;
/// Listing: FILE_NAMES_INFORMATION.
pub const NPFS_FILE_NAMES_INFORMATION_CLASS: u32 = 12;
/// FILE_POSITION_INFORMATION: how many bytes can be read.
pub const NPFS_FILE_POSITION_INFORMATION_CLASS: u32 = 14;
/// FILE_MODE_INFORMATION: the options that say how calls go.
pub const NPFS_FILE_MODE_INFORMATION_CLASS: u32 = 16;
/// FILE_ALIGNMENT_INFORMATION: 0.
pub const NPFS_FILE_ALIGNMENT_INFORMATION_CLASS: u32 = 17;
/// FILE_ALL_INFORMATION.
pub const NPFS_FILE_ALL_INFORMATION_CLASS: u32 = 18;
/// `npfs_file_pipe_information`; can be set.
pub const NPFS_FILE_PIPE_INFORMATION_CLASS: u32 = 23;
/// `npfs_file_pipe_local_information`.
pub const NPFS_FILE_PIPE_LOCAL_INFORMATION_CLASS: u32 = 24;
/// `npfs_file_pipe_remote_information`; refused, as local pipes are.
pub const NPFS_FILE_PIPE_REMOTE_INFORMATION_CLASS: u32 = 25;
/// FILE_IO_COMPLETION_NOTIFICATION_INFORMATION, to be set: `uint32_t` of the two flags below.
pub const NPFS_FILE_IO_COMPLETION_NOTIFICATION_INFORMATION_CLASS: u32 = 41;
/// No packet for a call that was done when it returned.
pub const NPFS_FILE_SKIP_COMPLETION_PORT_ON_SUCCESS: u32 = 1;
/// The file object is not signalled.
pub const NPFS_FILE_SKIP_SET_EVENT_ON_HANDLE: u32 = 2;

/// FILE_FS_VOLUME_INFORMATION: the label is `NamedPipe`.
pub const NPFS_FILE_FS_VOLUME_INFORMATION_CLASS: u32 = 1;
/// FILE_FS_SIZE_INFORMATION.
pub const NPFS_FILE_FS_SIZE_INFORMATION_CLASS: u32 = 3;
/// FILE_FS_DEVICE_INFORMATION: type 0x11.
pub const NPFS_FILE_FS_DEVICE_INFORMATION_CLASS: u32 = 4;
/// FILE_FS_ATTRIBUTE_INFORMATION: `NPFS`.
pub const NPFS_FILE_FS_ATTRIBUTE_INFORMATION_CLASS: u32 = 5;
/// FILE_FS_FULL_SIZE_INFORMATION.
pub const NPFS_FILE_FS_FULL_SIZE_INFORMATION_CLASS: u32 = 7;

/// Part of a security descriptor: whose it is.
pub const NPFS_OWNER_SECURITY_INFORMATION: u32 = 1;
/// Part of a security descriptor: its group.
pub const NPFS_GROUP_SECURITY_INFORMATION: u32 = 2;
/// Part of a security descriptor: who may do what.
pub const NPFS_DACL_SECURITY_INFORMATION: u32 = 4;

// ---- others --------------------------------------------------------------------------------------------------------

/// Not a handle.
pub const NPFS_NULL_HANDLE: npfs_handle = 0;
/// Of `npfs_duplicate_object` and `npfs_give`: the rights that the handle has; the access that is asked for means nothing.
pub const NPFS_DUPLICATE_SAME_ACCESS: u32 = 2;
/// Of `npfs_duplicate_object`: closes the handle that was duplicated, whatever comes of it.
pub const NPFS_DUPLICATE_CLOSE_SOURCE: u32 = 1;
/// A time: for ever.
pub const NPFS_INFINITE: u32 = 0xFFFF_FFFF;
/// A time to wait for an instance: the pipe's own.
pub const NPFS_DEFAULT_WAIT: u32 = 0;
/// How many objects `npfs_wait` takes.
pub const NPFS_MAXIMUM_WAIT_OBJECTS: u32 = 64;
/// Bytes of a token, with the NUL at its end (`npfs_give`).
pub const NPFS_TOKEN_SIZE: u32 = 33;
/// Of `npfs_broker_options`: every user of the machine may connect.
pub const NPFS_BROKER_EVERYONE: u32 = 1;

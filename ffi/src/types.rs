//! The types of the C header: handles, status blocks, parameters, and NT's structures (section 1.4 of the specification).

use std::ffi::{c_char, c_void};

/// An NTSTATUS: `NPFS_STATUS_...`. From 0xC0000000 on an error, from 0x80000000 on a warning, below both success.
pub type npfs_status = u32;

/// Something open: a namespace, a broker, a file (the end of a pipe, the root or the volume), an event, a completion port
/// or a thread. A number that is never 0 and not given again for another object, of this process and no other. All are closed
/// by `npfs_close`.
pub type npfs_handle = u64;

/// IO_STATUS_BLOCK: where a call reports. It is written once, when the call completes, and not before, `information` first
/// and then `status`; a call that fails at once does not touch it. Whoever watches it from another thread reads `status` with
/// acquire ordering (`npfs_io_status` does).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_io_status_block {
    /// How the call ended. Set it to `NPFS_STATUS_PENDING` before the call to see when it is written.
    pub status: npfs_status,
    /// Mostly how many bytes were moved.
    pub information: usize,
}

/// A completion routine (PIO_APC_ROUTINE): is told the call's context and status block. `reserved` is 0.
pub type npfs_io_callback = Option<
    unsafe extern "C" fn(context: *mut c_void, iosb: *mut npfs_io_status_block, reserved: u32),
>;

/// OBJECT_ATTRIBUTES: which object is meant, and what goes with it. Zero what is not needed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_object_attributes {
    /// `sizeof(npfs_object_attributes)`.
    pub length: u32,
    /// Bytes of `name`, twice the number of its units.
    pub name_length: u32,
    /// UTF-16, not ended by anything: `\??\pipe\NAME`, `\Device\NamedPipe\NAME`, or a name relative to `root_directory`.
    /// Aligned to 2.
    pub name: *const u16,
    /// The same as UTF-8, ended by a NUL; looked at if `name` is NULL. Both NULL: an empty name.
    pub path: *const c_char,
    /// An open file that the name is relative to, of the same namespace; 0: none.
    pub root_directory: npfs_handle,
    /// Of a pipe that is created: a self-relative SECURITY_DESCRIPTOR; NULL: the default one.
    pub security_descriptor: *const c_void,
    /// Bytes of it.
    pub security_length: u32,
    /// Of an open: SECURITY_QUALITY_OF_SERVICE as `NPFS_SQOS_PRESENT`, a level and flags; 0: the default.
    pub quality: u32,
    /// `NPFS_OBJ_APART`, or 0. What NT knows besides (OBJ_CASE_INSENSITIVE and so on) may be said and means nothing.
    pub attributes: u32,
    /// 0.
    pub reserved: u32,
}

/// What a completion port tells of one call (FILE_IO_COMPLETION_INFORMATION).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_port_packet {
    /// What the file was associated with (`npfs_port_associate`).
    pub key: usize,
    /// What the call was given.
    pub context: *mut c_void,
    /// As in the call's status block.
    pub status: npfs_status,
    /// As in the call's status block.
    pub information: usize,
}

/// How a broker is started in this process.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_broker_options {
    /// `sizeof(npfs_broker_options)`.
    pub length: u32,
    /// `NPFS_BROKER_...`, or 0.
    pub flags: u32,
    /// A path, UTF-8: where other processes reach it. NULL: nowhere, only `npfs_broker_connect` does.
    pub socket: *const c_char,
    /// Threads, at most 64; 0: one for each CPU, at most four.
    pub workers: u32,
    /// It ends when it has had no client for so many milliseconds; 0: never.
    pub idle_exit: u32,
}

/// In whose name a thread acts after `NPFS_FSCTL_PIPE_IMPERSONATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_identity {
    /// 1: in a client's, and what follows says in whose; 0: in its process's own.
    pub impersonates: u32,
    /// How far: `NPFS_SECURITY_...`. At the anonymous level the four ids are 0.
    pub level: u32,
    /// Not 0: without what the client has switched off.
    pub effective_only: u32,
    /// The client's process.
    pub process: u32,
    /// Its user.
    pub user: u32,
    /// Its group.
    pub group: u32,
    /// Its session, as of getsid(2).
    pub session: u32,
}

// ---- NT's structures, byte for byte --------------------------------------------------------------------------------

/// FILE_PIPE_INFORMATION.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_pipe_information {
    /// `NPFS_FILE_PIPE_BYTE_STREAM_MODE` or `NPFS_FILE_PIPE_MESSAGE_MODE`.
    pub read_mode: u32,
    /// `NPFS_FILE_PIPE_QUEUE_OPERATION` or `NPFS_FILE_PIPE_COMPLETE_OPERATION`.
    pub completion_mode: u32,
}

/// FILE_PIPE_LOCAL_INFORMATION. Quotas and counts in bytes, in the server's naming for both ends.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_pipe_local_information {
    /// 0 bytes, 1 messages.
    pub named_pipe_type: u32,
    /// `NPFS_FILE_PIPE_INBOUND`, `OUTBOUND` or `FULL_DUPLEX`.
    pub named_pipe_configuration: u32,
    /// 0xFFFFFFFF: no limit.
    pub maximum_instances: u32,
    /// Of the pipe.
    pub current_instances: u32,
    /// Client to server.
    pub inbound_quota: u32,
    /// What this end can read.
    pub read_data_available: u32,
    /// Server to client.
    pub outbound_quota: u32,
    /// What this end can write before a write waits.
    pub write_quota_available: u32,
    /// `NPFS_FILE_PIPE_..._STATE`.
    pub named_pipe_state: u32,
    /// `NPFS_FILE_PIPE_CLIENT_END` or `NPFS_FILE_PIPE_SERVER_END`.
    pub named_pipe_end: u32,
}

/// FILE_PIPE_REMOTE_INFORMATION.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_pipe_remote_information {
    /// In 100 ns.
    pub collect_data_time: i64,
    /// Bytes.
    pub maximum_collection_count: u32,
}

/// FILE_PIPE_PEEK_BUFFER: 16 bytes, and the data behind them.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_pipe_peek_buffer {
    /// `NPFS_FILE_PIPE_..._STATE`.
    pub named_pipe_state: u32,
    /// Bytes.
    pub read_data_available: u32,
    /// Messages; 0 for a stream of bytes.
    pub number_of_messages: u32,
    /// Bytes of the first message that are left; 0 for a stream of bytes.
    pub message_length: u32,
    /// As much as there is room for.
    pub data: [u8; 1],
}

/// FILE_PIPE_WAIT_FOR_BUFFER: 14 bytes, and the name behind them; at least 16 bytes in all.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_pipe_wait_for_buffer {
    /// In 100 ns: negative from now, positive since 1601.
    pub timeout: i64,
    /// Bytes.
    pub name_length: u32,
    /// 0: the pipe's own timeout.
    pub timeout_specified: u8,
    /// UTF-16, without a backslash in front.
    pub name: [u16; 1],
}

/// What `NPFS_FSCTL_PIPE_QUERY_CLIENT_PROCESS` answers.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_pipe_client_process_buffer {
    /// As of getsid(2).
    pub client_session: u64,
    /// Its process.
    pub client_process: u64,
}

/// FILE_STANDARD_INFORMATION.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_standard_information {
    /// Both quotas, in bytes.
    pub allocation_size: i64,
    /// What this end can read, in bytes.
    pub end_of_file: i64,
    /// 1.
    pub number_of_links: u32,
    /// 1.
    pub delete_pending: u8,
    /// 0.
    pub directory: u8,
}

/// FILE_NAME_INFORMATION.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_name_information {
    /// Bytes, of the whole name.
    pub file_name_length: u32,
    /// UTF-16: a backslash, and the name as its creator spelled it.
    pub file_name: [u16; 1],
}

/// FILE_DIRECTORY_INFORMATION: one pipe of a listing.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
pub struct npfs_file_directory_information {
    /// From this entry to the next, in bytes; 0: it is the last.
    pub next_entry_offset: u32,
    /// Counts from 0.
    pub file_index: u32,
    /// 0.
    pub creation_time: i64,
    /// 0.
    pub last_access_time: i64,
    /// 0.
    pub last_write_time: i64,
    /// 0.
    pub change_time: i64,
    /// How many instances there are.
    pub end_of_file: i64,
    /// How many there may be; 0xFFFFFFFF: any number.
    pub allocation_size: i64,
    /// FILE_ATTRIBUTE_NORMAL.
    pub file_attributes: u32,
    /// Bytes.
    pub file_name_length: u32,
    /// UTF-16, without a backslash in front.
    pub file_name: [u16; 1],
}

/// The numbers of the specification, section 1.4, on every target; `layout.c` asserts the same in C.
macro_rules! layout {
    ($($of:ident: $size:literal { $($field:ident = $offset:literal),* })*) => {
        $(const _: () = {
            assert!(size_of::<$of>() == $size);
            $(assert!(std::mem::offset_of!($of, $field) == $offset);)*
        };)*
        /// Type, size, and fields with their offsets.
        #[doc(hidden)]
        #[allow(clippy::type_complexity, reason = "a table for one test")]
        pub const LAYOUT: &[(&str, usize, &[(&str, usize)])] = &[
            $((stringify!($of), $size, &[$((stringify!($field), $offset)),*]),)*
        ];
    };
}

layout! {
    npfs_file_pipe_information: 8 { read_mode = 0, completion_mode = 4 }
    npfs_file_pipe_local_information: 40 {
        named_pipe_type = 0, named_pipe_configuration = 4, maximum_instances = 8, current_instances = 12,
        inbound_quota = 16, read_data_available = 20, outbound_quota = 24, write_quota_available = 28,
        named_pipe_state = 32, named_pipe_end = 36
    }
    npfs_file_pipe_remote_information: 16 { collect_data_time = 0, maximum_collection_count = 8 }
    npfs_file_pipe_peek_buffer: 20 {
        named_pipe_state = 0, read_data_available = 4, number_of_messages = 8, message_length = 12, data = 16
    }
    npfs_file_pipe_wait_for_buffer: 16 { timeout = 0, name_length = 8, timeout_specified = 12, name = 14 }
    npfs_file_pipe_client_process_buffer: 16 { client_session = 0, client_process = 8 }
    npfs_file_standard_information: 24 {
        allocation_size = 0, end_of_file = 8, number_of_links = 16, delete_pending = 20, directory = 21
    }
    npfs_file_name_information: 8 { file_name_length = 0, file_name = 4 }
    npfs_file_directory_information: 72 {
        next_entry_offset = 0, file_index = 4, creation_time = 8, last_access_time = 16, last_write_time = 24,
        change_time = 32, end_of_file = 40, allocation_size = 48, file_attributes = 56, file_name_length = 60,
        file_name = 64
    }
}

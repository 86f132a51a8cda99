/*
 * npfs.h: Windows named pipes on Linux, as NT's system calls have them.
 *
 * Generated from the exports of the crate npfs-ffi; edit those.
 *
 * - Every function answers a status (NTSTATUS). Results go through pointers, which are written on success only, unless
 *   it is said otherwise. A pointer that is NULL and must not be answers NPFS_STATUS_ACCESS_VIOLATION, a misaligned one
 *   NPFS_STATUS_DATATYPE_MISALIGNMENT, a handle of another kind NPFS_STATUS_OBJECT_TYPE_MISMATCH.
 * - Handles are numbers of this process, never used twice. Any thread may use them, at the same time as others.
 * - Nothing that the library allocates is ever the caller's to free, nor the other way round.
 * - A call that answers NPFS_STATUS_PENDING goes on after it has returned. Its status block and its buffer belong to the
 *   library until the block is written; events, packets and the file object tell of it after that. The engine moves such
 *   calls on by a thread of its own, which sleeps while there is nothing to do, or through whoever waits with npfs_wait
 *   or npfs_port_wait.
 * - No signal handler is installed. An interrupted system call is made again.
 * - After fork(2) the child opens a namespace of its own; its parent's handles mean nothing there.
 */

#ifndef NPFS_H
#define NPFS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __GNUC__
#define NPFS_ALIGNED(n) __attribute__((aligned(n)))
#else
#define NPFS_ALIGNED(n)
#endif

/** What `npfs_version` answers of the library that this header is of. */
#define NPFS_VERSION UINT32_C(0x00000100)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_ASSIGN_EVENT UINT32_C(0x00110000)
/** Cuts the client off. No input, no output. */
#define NPFS_FSCTL_PIPE_DISCONNECT UINT32_C(0x00110004)
/** Waits for a client. No input, no output. */
#define NPFS_FSCTL_PIPE_LISTEN UINT32_C(0x00110008)
/** Looks at what could be read. Output: `npfs_file_pipe_peek_buffer`. */
#define NPFS_FSCTL_PIPE_PEEK UINT32_C(0x0011400C)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_QUERY_EVENT UINT32_C(0x00110010)
/** Writes a message and reads the reply. Input: the message; output: room for the reply. */
#define NPFS_FSCTL_PIPE_TRANSCEIVE UINT32_C(0x0011C017)
/** Waits until an instance of a pipe listens; on a handle of the root. Input: `npfs_file_pipe_wait_for_buffer`. */
#define NPFS_FSCTL_PIPE_WAIT UINT32_C(0x00110018)
/** The calling thread acts as the client. */
#define NPFS_FSCTL_PIPE_IMPERSONATE UINT32_C(0x0011001C)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_SET_CLIENT_PROCESS UINT32_C(0x00110020)
/** Output: `npfs_file_pipe_client_process_buffer`. */
#define NPFS_FSCTL_PIPE_QUERY_CLIENT_PROCESS UINT32_C(0x00110024)
/** Input: the attribute's name, 8-bit, with its NUL (`ServerProcessId`, `ServerSessionId`); output: `uint32_t`. */
#define NPFS_FSCTL_PIPE_GET_PIPE_ATTRIBUTE UINT32_C(0x00110028)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_SET_PIPE_ATTRIBUTE UINT32_C(0x0011002C)
/** Input: the attribute's name, 8-bit, with its NUL (`ClientProcessId`, `ClientSessionId`); output: `uint32_t`. */
#define NPFS_FSCTL_PIPE_GET_CONNECTION_ATTRIBUTE UINT32_C(0x00110030)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_SET_CONNECTION_ATTRIBUTE UINT32_C(0x00110034)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_GET_HANDLE_ATTRIBUTE UINT32_C(0x00110038)
/** Answers STATUS_NOT_SUPPORTED. */
#define NPFS_FSCTL_PIPE_SET_HANDLE_ATTRIBUTE UINT32_C(0x0011003C)
/** Completes when everything written has been read. */
#define NPFS_FSCTL_PIPE_FLUSH UINT32_C(0x00118040)
/** Accepted from a server end. */
#define NPFS_FSCTL_PIPE_DISABLE_IMPERSONATE UINT32_C(0x00110044)
/** A read under another name. */
#define NPFS_FSCTL_PIPE_INTERNAL_READ UINT32_C(0x00115FF4)
/** A write under another name. */
#define NPFS_FSCTL_PIPE_INTERNAL_WRITE UINT32_C(0x00119FF8)
/** A transceive under another name. */
#define NPFS_FSCTL_PIPE_INTERNAL_TRANSCEIVE UINT32_C(0x0011DFFF)
/** A read under another name. */
#define NPFS_FSCTL_PIPE_INTERNAL_READ_OVFLOW UINT32_C(0x00116000)
/** Read from the pipe; of the root: list the pipes. */
#define NPFS_FILE_READ_DATA UINT32_C(1)
/** Write to the pipe. */
#define NPFS_FILE_WRITE_DATA UINT32_C(2)
/** Create a further instance of the pipe; the same bit as FILE_APPEND_DATA. */
#define NPFS_FILE_CREATE_PIPE_INSTANCE UINT32_C(4)
/** Query the modes and the local information. */
#define NPFS_FILE_READ_ATTRIBUTES UINT32_C(0x80)
/** Set the modes. */
#define NPFS_FILE_WRITE_ATTRIBUTES UINT32_C(0x100)
/** Read the security descriptor. */
#define NPFS_READ_CONTROL UINT32_C(0x20000)
/** Replace the DACL. */
#define NPFS_WRITE_DAC UINT32_C(0x40000)
/** Replace owner and group. */
#define NPFS_WRITE_OWNER UINT32_C(0x80000)
/** Wait for the file object; synchronous calls need it, too. */
#define NPFS_SYNCHRONIZE UINT32_C(0x100000)
/** Whatever the descriptor allows. */
#define NPFS_MAXIMUM_ALLOWED UINT32_C(0x2000000)
/** All of them. */
#define NPFS_GENERIC_ALL UINT32_C(0x10000000)
/** Write data and attributes, read the descriptor, create instances. */
#define NPFS_GENERIC_WRITE UINT32_C(0x40000000)
/** Read data, attributes and the descriptor. */
#define NPFS_GENERIC_READ UINT32_C(0x80000000)
/** Share access of a create: clients may read (server to client). */
#define NPFS_FILE_SHARE_READ UINT32_C(1)
/** Share access of a create: clients may write (client to server). */
#define NPFS_FILE_SHARE_WRITE UINT32_C(2)
/** Disposition: a further instance of a pipe that exists. */
#define NPFS_FILE_OPEN UINT32_C(1)
/** Disposition: the first instance. */
#define NPFS_FILE_CREATE UINT32_C(2)
/** Disposition: either. */
#define NPFS_FILE_OPEN_IF UINT32_C(3)
/** Information of a create or an open: the pipe was there. */
#define NPFS_FILE_OPENED UINT32_C(1)
/** Information of a create: the pipe is new. */
#define NPFS_FILE_CREATED UINT32_C(2)
/** Option, without effect. */
#define NPFS_FILE_WRITE_THROUGH UINT32_C(2)
/** Option: calls wait for their end. */
#define NPFS_FILE_SYNCHRONOUS_IO_ALERT UINT32_C(0x10)
/** Option: calls wait for their end. */
#define NPFS_FILE_SYNCHRONOUS_IO_NONALERT UINT32_C(0x20)
/** Pipe type: a stream of bytes. */
#define NPFS_FILE_PIPE_BYTE_STREAM_TYPE UINT32_C(0)
/** Pipe type: messages. */
#define NPFS_FILE_PIPE_MESSAGE_TYPE UINT32_C(1)
/** Added to the pipe type; there are no remote clients in any case. */
#define NPFS_FILE_PIPE_REJECT_REMOTE_CLIENTS UINT32_C(2)
/** Read mode: bytes. */
#define NPFS_FILE_PIPE_BYTE_STREAM_MODE UINT32_C(0)
/** Read mode: messages. */
#define NPFS_FILE_PIPE_MESSAGE_MODE UINT32_C(1)
/** Completion mode QUEUE: calls wait, or pend. */
#define NPFS_FILE_PIPE_QUEUE_OPERATION UINT32_C(0)
/** Completion mode COMPLETE: calls never wait. */
#define NPFS_FILE_PIPE_COMPLETE_OPERATION UINT32_C(1)
/** Maximum of instances: none. */
#define NPFS_FILE_PIPE_UNLIMITED_INSTANCES UINT32_C(0xFFFFFFFF)
/** Direction, in `named_pipe_configuration`: client to server. */
#define NPFS_FILE_PIPE_INBOUND UINT32_C(0)
/** Direction: server to client. */
#define NPFS_FILE_PIPE_OUTBOUND UINT32_C(1)
/** Direction: both ways. */
#define NPFS_FILE_PIPE_FULL_DUPLEX UINT32_C(2)
/** State of an instance, in `named_pipe_state`. */
#define NPFS_FILE_PIPE_DISCONNECTED_STATE UINT32_C(1)
/** State: waits for a client. */
#define NPFS_FILE_PIPE_LISTENING_STATE UINT32_C(2)
/** State: has one. */
#define NPFS_FILE_PIPE_CONNECTED_STATE UINT32_C(3)
/** State: the other end has gone. */
#define NPFS_FILE_PIPE_CLOSING_STATE UINT32_C(4)
/** Which end, in `named_pipe_end`. */
#define NPFS_FILE_PIPE_CLIENT_END UINT32_C(0)
/** Which end, in `named_pipe_end`. */
#define NPFS_FILE_PIPE_SERVER_END UINT32_C(1)

/**
 * In `attributes` of `npfs_object_attributes`, of a pipe that is created or opened: its connections, or this one, have memory of
 * their own, so that their ends can always be given to another user's process (`npfs_give_to_user`). Each costs a mapping.
 */
#define NPFS_OBJ_APART UINT32_C(0x80000000)
/** In `quality` of `npfs_object_attributes`: it says something; else impersonation, dynamic, effective only. */
#define NPFS_SQOS_PRESENT UINT32_C(0x100000)
/** In `quality`, level: the server does not learn who the client is. */
#define NPFS_SECURITY_ANONYMOUS UINT32_C(0)
/** In `quality`, level: it learns who, and may not act as the client. */
#define NPFS_SECURITY_IDENTIFICATION UINT32_C(1)
/** In `quality`, level: it may act as the client. */
#define NPFS_SECURITY_IMPERSONATION UINT32_C(2)
/** In `quality`, level: the same here. */
#define NPFS_SECURITY_DELEGATION UINT32_C(3)
/** In `quality`: who the client is, is settled when it opens (static tracking). */
#define NPFS_SECURITY_STATIC_TRACKING UINT32_C(4)
/** In `quality`: only what is enabled goes with it. */
#define NPFS_SECURITY_EFFECTIVE_ONLY UINT32_C(8)
/** Listing: `npfs_file_directory_information`. */
#define NPFS_FILE_DIRECTORY_INFORMATION_CLASS UINT32_C(1)
/** Listing: FILE_FULL_DIR_INFORMATION. */
#define NPFS_FILE_FULL_DIRECTORY_INFORMATION_CLASS UINT32_C(2)
/** Listing: FILE_BOTH_DIR_INFORMATION. */
#define NPFS_FILE_BOTH_DIRECTORY_INFORMATION_CLASS UINT32_C(3)
/** FILE_BASIC_INFORMATION: times 0, attributes normal. */
#define NPFS_FILE_BASIC_INFORMATION_CLASS UINT32_C(4)
/** `npfs_file_standard_information`. */
#define NPFS_FILE_STANDARD_INFORMATION_CLASS UINT32_C(5)
/** FILE_INTERNAL_INFORMATION: a number that no other open file has. */
#define NPFS_FILE_INTERNAL_INFORMATION_CLASS UINT32_C(6)
/** FILE_EA_INFORMATION: 0. */
#define NPFS_FILE_EA_INFORMATION_CLASS UINT32_C(7)
/** FILE_ACCESS_INFORMATION: the rights that the handle was granted. */
#define NPFS_FILE_ACCESS_INFORMATION_CLASS UINT32_C(8)
/** `npfs_file_name_information`. */
#define NPFS_FILE_NAME_INFORMATION_CLASS UINT32_C(0x9)
/** Listing: FILE_NAMES_INFORMATION. */
#define NPFS_FILE_NAMES_INFORMATION_CLASS UINT32_C(0xC)
/** FILE_POSITION_INFORMATION: how many bytes can be read. */
#define NPFS_FILE_POSITION_INFORMATION_CLASS UINT32_C(0xE)
/** FILE_MODE_INFORMATION: the options that say how calls go. */
#define NPFS_FILE_MODE_INFORMATION_CLASS UINT32_C(0x10)
/** FILE_ALIGNMENT_INFORMATION: 0. */
#define NPFS_FILE_ALIGNMENT_INFORMATION_CLASS UINT32_C(0x11)
/** FILE_ALL_INFORMATION. */
#define NPFS_FILE_ALL_INFORMATION_CLASS UINT32_C(0x12)
/** `npfs_file_pipe_information`; can be set. */
#define NPFS_FILE_PIPE_INFORMATION_CLASS UINT32_C(0x17)
/** `npfs_file_pipe_local_information`. */
#define NPFS_FILE_PIPE_LOCAL_INFORMATION_CLASS UINT32_C(0x18)
/** `npfs_file_pipe_remote_information`; refused, as local pipes are. */
#define NPFS_FILE_PIPE_REMOTE_INFORMATION_CLASS UINT32_C(0x19)
/** FILE_IO_COMPLETION_NOTIFICATION_INFORMATION, to be set: `uint32_t` of the two flags below. */
#define NPFS_FILE_IO_COMPLETION_NOTIFICATION_INFORMATION_CLASS UINT32_C(0x29)
/** No packet for a call that was done when it returned. */
#define NPFS_FILE_SKIP_COMPLETION_PORT_ON_SUCCESS UINT32_C(1)
/** The file object is not signalled. */
#define NPFS_FILE_SKIP_SET_EVENT_ON_HANDLE UINT32_C(2)
/** FILE_FS_VOLUME_INFORMATION: the label is `NamedPipe`. */
#define NPFS_FILE_FS_VOLUME_INFORMATION_CLASS UINT32_C(1)
/** FILE_FS_SIZE_INFORMATION. */
#define NPFS_FILE_FS_SIZE_INFORMATION_CLASS UINT32_C(3)
/** FILE_FS_DEVICE_INFORMATION: type 0x11. */
#define NPFS_FILE_FS_DEVICE_INFORMATION_CLASS UINT32_C(4)
/** FILE_FS_ATTRIBUTE_INFORMATION: `NPFS`. */
#define NPFS_FILE_FS_ATTRIBUTE_INFORMATION_CLASS UINT32_C(5)
/** FILE_FS_FULL_SIZE_INFORMATION. */
#define NPFS_FILE_FS_FULL_SIZE_INFORMATION_CLASS UINT32_C(7)
/** Part of a security descriptor: whose it is. */
#define NPFS_OWNER_SECURITY_INFORMATION UINT32_C(1)
/** Part of a security descriptor: its group. */
#define NPFS_GROUP_SECURITY_INFORMATION UINT32_C(2)
/** Part of a security descriptor: who may do what. */
#define NPFS_DACL_SECURITY_INFORMATION UINT32_C(4)
/** Of `npfs_duplicate_object` and `npfs_give`: the rights that the handle has; the access that is asked for means nothing. */
#define NPFS_DUPLICATE_SAME_ACCESS UINT32_C(2)
/** Of `npfs_duplicate_object`: closes the handle that was duplicated, whatever comes of it. */
#define NPFS_DUPLICATE_CLOSE_SOURCE UINT32_C(1)
/** A time: for ever. */
#define NPFS_INFINITE UINT32_C(0xFFFFFFFF)
/** A time to wait for an instance: the pipe's own. */
#define NPFS_DEFAULT_WAIT UINT32_C(0)
/** How many objects `npfs_wait` takes. */
#define NPFS_MAXIMUM_WAIT_OBJECTS UINT32_C(0x40)
/** Bytes of a token, with the NUL at its end (`npfs_give`). */
#define NPFS_TOKEN_SIZE UINT32_C(0x21)
/** Of `npfs_broker_options`: every user of the machine may connect. */
#define NPFS_BROKER_EVERYONE UINT32_C(1)

/** An NTSTATUS: `NPFS_STATUS_...`. From 0xC0000000 on an error, from 0x80000000 on a warning, below both success. */
typedef uint32_t npfs_status;

/**
 * IO_STATUS_BLOCK: where a call reports. It is written once, when the call completes, and not before, `information` first
 * and then `status`; a call that fails at once does not touch it. Whoever watches it from another thread reads `status` with
 * acquire ordering (`npfs_io_status` does).
 */
typedef struct npfs_io_status_block {
    /** How the call ended. Set it to `NPFS_STATUS_PENDING` before the call to see when it is written. */
    npfs_status status;
    /** Mostly how many bytes were moved. */
    uintptr_t information;
} npfs_io_status_block;

/**
 * Something open: a namespace, a broker, a file (the end of a pipe, the root or the volume), an event, a completion port
 * or a thread. A number that is never 0 and not given again for another object, of this process and no other. All are closed
 * by `npfs_close`.
 */
typedef uint64_t npfs_handle;

/** How a broker is started in this process. */
typedef struct npfs_broker_options {
    /** `sizeof(npfs_broker_options)`. */
    uint32_t length;
    /** `NPFS_BROKER_...`, or 0. */
    uint32_t flags;
    /** A path, UTF-8: where other processes reach it. NULL: nowhere, only `npfs_broker_connect` does. */
    const char *socket;
    /** Threads, at most 64; 0: one for each CPU, at most four. */
    uint32_t workers;
    /** It ends when it has had no client for so many milliseconds; 0: never. */
    uint32_t idle_exit;
} npfs_broker_options;

/** What a completion port tells of one call (FILE_IO_COMPLETION_INFORMATION). */
typedef struct npfs_port_packet {
    /** What the file was associated with (`npfs_port_associate`). */
    uintptr_t key;
    /** What the call was given. */
    void *context;
    /** As in the call's status block. */
    npfs_status status;
    /** As in the call's status block. */
    uintptr_t information;
} npfs_port_packet;

/** OBJECT_ATTRIBUTES: which object is meant, and what goes with it. Zero what is not needed. */
typedef struct npfs_object_attributes {
    /** `sizeof(npfs_object_attributes)`. */
    uint32_t length;
    /** Bytes of `name`, twice the number of its units. */
    uint32_t name_length;
    /**
     * UTF-16, not ended by anything: `\??\pipe\NAME`, `\Device\NamedPipe\NAME`, or a name relative to `root_directory`.
     * Aligned to 2.
     */
    const uint16_t *name;
    /** The same as UTF-8, ended by a NUL; looked at if `name` is NULL. Both NULL: an empty name. */
    const char *path;
    /** An open file that the name is relative to, of the same namespace; 0: none. */
    npfs_handle root_directory;
    /** Of a pipe that is created: a self-relative SECURITY_DESCRIPTOR; NULL: the default one. */
    const void *security_descriptor;
    /** Bytes of it. */
    uint32_t security_length;
    /** Of an open: SECURITY_QUALITY_OF_SERVICE as `NPFS_SQOS_PRESENT`, a level and flags; 0: the default. */
    uint32_t quality;
    /** `NPFS_OBJ_APART`, or 0. What NT knows besides (OBJ_CASE_INSENSITIVE and so on) may be said and means nothing. */
    uint32_t attributes;
    /** 0. */
    uint32_t reserved;
} npfs_object_attributes;

/** A completion routine (PIO_APC_ROUTINE): is told the call's context and status block. `reserved` is 0. */
typedef void (*npfs_io_callback)(void *context, struct npfs_io_status_block *iosb, uint32_t reserved);

/** In whose name a thread acts after `NPFS_FSCTL_PIPE_IMPERSONATE`. */
typedef struct npfs_identity {
    /** 1: in a client's, and what follows says in whose; 0: in its process's own. */
    uint32_t impersonates;
    /** How far: `NPFS_SECURITY_...`. At the anonymous level the four ids are 0. */
    uint32_t level;
    /** Not 0: without what the client has switched off. */
    uint32_t effective_only;
    /** The client's process. */
    uint32_t process;
    /** Its user. */
    uint32_t user;
    /** Its group. */
    uint32_t group;
    /** Its session, as of getsid(2). */
    uint32_t session;
} npfs_identity;

/** FILE_PIPE_INFORMATION. */
typedef struct npfs_file_pipe_information {
    /** `NPFS_FILE_PIPE_BYTE_STREAM_MODE` or `NPFS_FILE_PIPE_MESSAGE_MODE`. */
    uint32_t read_mode;
    /** `NPFS_FILE_PIPE_QUEUE_OPERATION` or `NPFS_FILE_PIPE_COMPLETE_OPERATION`. */
    uint32_t completion_mode;
} npfs_file_pipe_information;

/** FILE_PIPE_LOCAL_INFORMATION. Quotas and counts in bytes, in the server's naming for both ends. */
typedef struct npfs_file_pipe_local_information {
    /** 0 bytes, 1 messages. */
    uint32_t named_pipe_type;
    /** `NPFS_FILE_PIPE_INBOUND`, `OUTBOUND` or `FULL_DUPLEX`. */
    uint32_t named_pipe_configuration;
    /** 0xFFFFFFFF: no limit. */
    uint32_t maximum_instances;
    /** Of the pipe. */
    uint32_t current_instances;
    /** Client to server. */
    uint32_t inbound_quota;
    /** What this end can read. */
    uint32_t read_data_available;
    /** Server to client. */
    uint32_t outbound_quota;
    /** What this end can write before a write waits. */
    uint32_t write_quota_available;
    /** `NPFS_FILE_PIPE_..._STATE`. */
    uint32_t named_pipe_state;
    /** `NPFS_FILE_PIPE_CLIENT_END` or `NPFS_FILE_PIPE_SERVER_END`. */
    uint32_t named_pipe_end;
} npfs_file_pipe_local_information;

/** FILE_PIPE_REMOTE_INFORMATION. */
typedef struct NPFS_ALIGNED(8) npfs_file_pipe_remote_information {
    /** In 100 ns. */
    int64_t collect_data_time;
    /** Bytes. */
    uint32_t maximum_collection_count;
} npfs_file_pipe_remote_information;

/** FILE_PIPE_PEEK_BUFFER: 16 bytes, and the data behind them. */
typedef struct npfs_file_pipe_peek_buffer {
    /** `NPFS_FILE_PIPE_..._STATE`. */
    uint32_t named_pipe_state;
    /** Bytes. */
    uint32_t read_data_available;
    /** Messages; 0 for a stream of bytes. */
    uint32_t number_of_messages;
    /** Bytes of the first message that are left; 0 for a stream of bytes. */
    uint32_t message_length;
    /** As much as there is room for. */
    uint8_t data[1];
} npfs_file_pipe_peek_buffer;

/** FILE_PIPE_WAIT_FOR_BUFFER: 14 bytes, and the name behind them; at least 16 bytes in all. */
typedef struct NPFS_ALIGNED(8) npfs_file_pipe_wait_for_buffer {
    /** In 100 ns: negative from now, positive since 1601. */
    int64_t timeout;
    /** Bytes. */
    uint32_t name_length;
    /** 0: the pipe's own timeout. */
    uint8_t timeout_specified;
    /** UTF-16, without a backslash in front. */
    uint16_t name[1];
} npfs_file_pipe_wait_for_buffer;

/** What `NPFS_FSCTL_PIPE_QUERY_CLIENT_PROCESS` answers. */
typedef struct NPFS_ALIGNED(8) npfs_file_pipe_client_process_buffer {
    /** As of getsid(2). */
    uint64_t client_session;
    /** Its process. */
    uint64_t client_process;
} npfs_file_pipe_client_process_buffer;

/** FILE_STANDARD_INFORMATION. */
typedef struct NPFS_ALIGNED(8) npfs_file_standard_information {
    /** Both quotas, in bytes. */
    int64_t allocation_size;
    /** What this end can read, in bytes. */
    int64_t end_of_file;
    /** 1. */
    uint32_t number_of_links;
    /** 1. */
    uint8_t delete_pending;
    /** 0. */
    uint8_t directory;
} npfs_file_standard_information;

/** FILE_NAME_INFORMATION. */
typedef struct npfs_file_name_information {
    /** Bytes, of the whole name. */
    uint32_t file_name_length;
    /** UTF-16: a backslash, and the name as its creator spelled it. */
    uint16_t file_name[1];
} npfs_file_name_information;

/** FILE_DIRECTORY_INFORMATION: one pipe of a listing. */
typedef struct NPFS_ALIGNED(8) npfs_file_directory_information {
    /** From this entry to the next, in bytes; 0: it is the last. */
    uint32_t next_entry_offset;
    /** Counts from 0. */
    uint32_t file_index;
    /** 0. */
    int64_t creation_time;
    /** 0. */
    int64_t last_access_time;
    /** 0. */
    int64_t last_write_time;
    /** 0. */
    int64_t change_time;
    /** How many instances there are. */
    int64_t end_of_file;
    /** How many there may be; 0xFFFFFFFF: any number. */
    int64_t allocation_size;
    /** FILE_ATTRIBUTE_NORMAL. */
    uint32_t file_attributes;
    /** Bytes. */
    uint32_t file_name_length;
    /** UTF-16, without a backslash in front. */
    uint16_t file_name[1];
} npfs_file_directory_information;

/** Done. */
#define NPFS_STATUS_SUCCESS UINT32_C(0x00000000)
/** The time of a wait is over. */
#define NPFS_STATUS_TIMEOUT UINT32_C(0x00000102)
/** Not done yet. */
#define NPFS_STATUS_PENDING UINT32_C(0x00000103)
/** A pointer is not aligned as its type is. */
#define NPFS_STATUS_DATATYPE_MISALIGNMENT UINT32_C(0x80000002)
/** The message goes on. */
#define NPFS_STATUS_BUFFER_OVERFLOW UINT32_C(0x80000005)
/** The listing is at its end. */
#define NPFS_STATUS_NO_MORE_FILES UINT32_C(0x80000006)
/** No such information. */
#define NPFS_STATUS_INVALID_INFO_CLASS UINT32_C(0xC0000003)
/** Another length was due. */
#define NPFS_STATUS_INFO_LENGTH_MISMATCH UINT32_C(0xC0000004)
/** A pointer is NULL that must not be. */
#define NPFS_STATUS_ACCESS_VIOLATION UINT32_C(0xC0000005)
/** Not an open end. */
#define NPFS_STATUS_INVALID_HANDLE UINT32_C(0xC0000008)
/** An argument cannot be. */
#define NPFS_STATUS_INVALID_PARAMETER UINT32_C(0xC000000D)
/** No broker serves this namespace. */
#define NPFS_STATUS_NO_SUCH_DEVICE UINT32_C(0xC000000E)
/** No name matches. */
#define NPFS_STATUS_NO_SUCH_FILE UINT32_C(0xC000000F)
/** Not with this object. */
#define NPFS_STATUS_INVALID_DEVICE_REQUEST UINT32_C(0xC0000010)
/** The descriptor or the direction forbids it. */
#define NPFS_STATUS_ACCESS_DENIED UINT32_C(0xC0000022)
/** More room is needed. */
#define NPFS_STATUS_BUFFER_TOO_SMALL UINT32_C(0xC0000023)
/** An object of another type. */
#define NPFS_STATUS_OBJECT_TYPE_MISMATCH UINT32_C(0xC0000024)
/** Not a name of a pipe. */
#define NPFS_STATUS_OBJECT_NAME_INVALID UINT32_C(0xC0000033)
/** No pipe has that name. */
#define NPFS_STATUS_OBJECT_NAME_NOT_FOUND UINT32_C(0xC0000034)
/** Somebody has that name already. */
#define NPFS_STATUS_OBJECT_NAME_COLLISION UINT32_C(0xC0000035)
/** Not a path. */
#define NPFS_STATUS_OBJECT_PATH_INVALID UINT32_C(0xC0000039)
/** What it is kept in is that of others, too. */
#define NPFS_STATUS_SHARING_VIOLATION UINT32_C(0xC0000043)
/** Built for another version. */
#define NPFS_STATUS_REVISION_MISMATCH UINT32_C(0xC0000059)
/** Not an owner that the caller may name. */
#define NPFS_STATUS_INVALID_OWNER UINT32_C(0xC000005A)
/** Not a security descriptor. */
#define NPFS_STATUS_INVALID_SECURITY_DESCR UINT32_C(0xC0000079)
/** No memory, or a limit was reached. */
#define NPFS_STATUS_INSUFFICIENT_RESOURCES UINT32_C(0xC000009A)
/** The client did not allow that much. */
#define NPFS_STATUS_BAD_IMPERSONATION_LEVEL UINT32_C(0xC00000A5)
/** The pipe has all the instances that it may have. */
#define NPFS_STATUS_INSTANCE_NOT_AVAILABLE UINT32_C(0xC00000AB)
/** No instance is listening. */
#define NPFS_STATUS_PIPE_NOT_AVAILABLE UINT32_C(0xC00000AC)
/** Not in this state. */
#define NPFS_STATUS_INVALID_PIPE_STATE UINT32_C(0xC00000AD)
/** There is something to read, or calls are pending. */
#define NPFS_STATUS_PIPE_BUSY UINT32_C(0xC00000AE)
/** Not at this end. */
#define NPFS_STATUS_ILLEGAL_FUNCTION UINT32_C(0xC00000AF)
/** The server has disconnected. */
#define NPFS_STATUS_PIPE_DISCONNECTED UINT32_C(0xC00000B0)
/** The other end is closing. */
#define NPFS_STATUS_PIPE_CLOSING UINT32_C(0xC00000B1)
/** A client is connected already. */
#define NPFS_STATUS_PIPE_CONNECTED UINT32_C(0xC00000B2)
/** No client is connected yet. */
#define NPFS_STATUS_PIPE_LISTENING UINT32_C(0xC00000B3)
/** Not in this read mode. */
#define NPFS_STATUS_INVALID_READ_MODE UINT32_C(0xC00000B4)
/** The time is over. */
#define NPFS_STATUS_IO_TIMEOUT UINT32_C(0xC00000B5)
/** Not here. */
#define NPFS_STATUS_NOT_SUPPORTED UINT32_C(0xC00000BB)
/** Nothing to read. */
#define NPFS_STATUS_PIPE_EMPTY UINT32_C(0xC00000D9)
/** A bug of npfs, caught; what the call was doing may be half done. */
#define NPFS_STATUS_INTERNAL_ERROR UINT32_C(0xC00000E5)
/** Not memory of the caller's. */
#define NPFS_STATUS_INVALID_USER_BUFFER UINT32_C(0xC00000E8)
/** Nothing was read from the client yet. */
#define NPFS_STATUS_CANNOT_IMPERSONATE UINT32_C(0xC000010D)
/** Cancelled. */
#define NPFS_STATUS_CANCELLED UINT32_C(0xC0000120)
/** The other end has gone. */
#define NPFS_STATUS_PIPE_BROKEN UINT32_C(0xC000014B)
/** It would wait, in a completion routine that must not. */
#define NPFS_STATUS_POSSIBLE_DEADLOCK UINT32_C(0xC0000194)
/** Nothing to cancel. */
#define NPFS_STATUS_NOT_FOUND UINT32_C(0xC0000225)
/** Not a handle. */
#define NPFS_NULL_HANDLE UINT32_C(0)

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library: major in bits 16 to 31, minor in bits 8 to 15, patch below. A program that was built with
 * `NPFS_VERSION` runs with any library of the same major version (while that is 0, of the same minor version, too) that is not
 * older.
 */
uint32_t npfs_version(void);

/**
 * The layout of shared memory: processes whose two numbers differ cannot talk to each other.
 *
 * - `version`: receives its version.
 * - `layout_hash`: receives a hash of sizes and offsets.
 *
 * Memory: Both can be written.
 */
npfs_status npfs_abi(uint32_t *version, uint64_t *layout_hash);

/**
 * Writes the name of a status ("STATUS_PIPE_BROKEN"), or its number if it has none, as snprintf(3) does: as much as there is
 * room for, with a NUL.
 *
 * - `text`, `size`: receive it; NULL and 0: only its length is wanted.
 *
 * Returns the length of the whole text without the NUL.
 *
 * Memory: `text` can be written, `size` bytes.
 */
uint32_t npfs_status_name(npfs_status status,
                          char *text,
                          uint32_t size);

/**
 * The status in a block that another thread may be writing; what was written before it (`information`, the buffer) can be
 * read then. Anything but the value that the caller has put there means that the call is done. NULL answers
 * ACCESS_VIOLATION.
 *
 * Memory: `iosb` can be read.
 */
npfs_status npfs_io_status(const struct npfs_io_status_block *iosb);

/**
 * Opens a namespace: the names of pipes as one broker keeps them. A process needs one, whatever it opens in it. Any thread.
 *
 * - `socket`: where the broker listens, a path; NULL: this user's own, which is started if it is not there (the program `npfs`,
 *   from `NPFS_BROKER`, beside this program, or from `PATH`).
 * - `names`: receives the handle; close it with `npfs_close`.
 *
 * A child of fork(2) opens its own; what its parent has opened is not the child's.
 *
 * Errors: NO_SUCH_DEVICE (no broker, and none could be started), REVISION_MISMATCH (one of another version).
 *
 * Memory: `socket`, unless NULL, can be read up to its NUL; `names` can be written.
 */
npfs_status npfs_namespace_open(const char *socket,
                                npfs_handle *names);

/**
 * Starts a broker in this process, with threads of its own; they end when its last handle is closed. Any thread.
 *
 * - `options`: NULL: one that `npfs_broker_connect` alone reaches.
 * - `broker`: receives the handle; close it with `npfs_close`.
 *
 * Errors: OBJECT_NAME_COLLISION (somebody serves that socket), ACCESS_DENIED (its folder is not safe, or the system
 * refuses), INSUFFICIENT_RESOURCES (no descriptors, memory or threads), INVALID_PARAMETER.
 *
 * Memory: `options`, unless NULL, and what it points to can be read; `broker` can be written.
 */
npfs_status npfs_broker_start(const struct npfs_broker_options *options,
                              npfs_handle *broker);

/**
 * Opens a namespace of a broker of this process, without a socket file. Any thread.
 *
 * - `broker`: of `npfs_broker_start`.
 * - `names`: receives the handle; close it with `npfs_close`.
 *
 * Errors: INVALID_HANDLE, INSUFFICIENT_RESOURCES, NO_SUCH_DEVICE (it has ended).
 *
 * Memory: `names` can be written.
 */
npfs_status npfs_broker_connect(npfs_handle broker, npfs_handle *names);

/**
 * Creates an event: set until it is reset (a notification event), by hand or by a call that begins with it. Any thread.
 *
 * - `event`: receives the handle; close it with `npfs_close`. Calls under way keep it.
 *
 * Memory: `event` can be written.
 */
npfs_status npfs_event_create(npfs_handle *event);

/** Sets an event (NtSetEvent); whoever waits for it goes on. Any thread. */
npfs_status npfs_event_set(npfs_handle event);

/** Resets an event (NtResetEvent). Any thread. */
npfs_status npfs_event_reset(npfs_handle event);

/**
 * Whether an event is set. Any thread; waits for nothing.
 *
 * - `is_set`: receives 1 or 0.
 *
 * Memory: `is_set` can be written.
 */
npfs_status npfs_event_is_set(npfs_handle event, uint8_t *is_set);

/**
 * Creates a completion port: a queue of the completions of any number of files. Any thread.
 *
 * - `concurrency`: how many of the threads that wait there are at work at a time: `npfs_port_wait` gives packets to no more than
 *   that, until one of them waits again or ends. 0: any number.
 * - `port`: receives the handle; close it with `npfs_close`. Files that are associated with it keep it.
 *
 * Memory: `port` can be written.
 */
npfs_status npfs_port_create(uint32_t concurrency,
                             npfs_handle *port);

/**
 * Completions of a file's calls go to a port from now on, if the call has a context (FileCompletionInformation). Any thread.
 *
 * - `port`: the port.
 * - `file`: an overlapped file that has none yet.
 * - `key`: what its packets say of it.
 *
 * Errors: INVALID_PARAMETER (it has one, or is synchronous), INVALID_HANDLE.
 */
npfs_status npfs_port_associate(npfs_handle port,
                                npfs_handle file,
                                uintptr_t key);

/**
 * Takes packets from a port, the oldest first; waits until there is one (NtRemoveIoCompletionEx). Any thread; each packet goes
 * to one.
 *
 * - `packets`, `most`: receive as many as there are, at most so many; not 0.
 * - `count`: receives how many.
 * - `timeout`: in milliseconds; 0: only what is there; `NPFS_INFINITE`.
 *
 * Errors: TIMEOUT (a success by its number: nothing was written), INVALID_HANDLE, INVALID_PARAMETER, POSSIBLE_DEADLOCK (in a
 * completion routine).
 *
 * Memory: `packets` can be written, `most` of them, and nobody else uses them meanwhile; `count` can be written.
 */
npfs_status npfs_port_wait(npfs_handle port,
                           struct npfs_port_packet *packets,
                           uint32_t most,
                           uint32_t *count,
                           uint32_t timeout);

/**
 * Puts a packet of the caller's own into a port (NtSetIoCompletion). Any thread.
 *
 * - `key`, `context`, `status`, `information`: what the packet says.
 *
 * Errors: INVALID_HANDLE.
 *
 * Memory: None of these is looked at.
 */
npfs_status npfs_port_post(npfs_handle port,
                           uintptr_t key,
                           void *context,
                           npfs_status status,
                           uintptr_t information);

/**
 * Waits until one of several objects is signalled (NtWaitForMultipleObjects, any): an event that is set, a file whose last call has
 * completed, a port with packets. Nothing is reset by it. Any thread; one that waits moves on whatever pends in the process.
 *
 * - `handles`, `count`: 1 to `NPFS_MAXIMUM_WAIT_OBJECTS` events, files and ports.
 * - `timeout`: in milliseconds; 0: only looks; `NPFS_INFINITE`.
 * - `signalled`: receives the index of the first one that is; may be NULL.
 *
 * Errors: TIMEOUT (a success by its number), INVALID_HANDLE, OBJECT_TYPE_MISMATCH, ACCESS_DENIED (a file without
 * `NPFS_SYNCHRONIZE`), INVALID_PARAMETER, POSSIBLE_DEADLOCK (in a completion routine).
 *
 * Memory: `handles` can be read, `count` of them; `signalled`, unless NULL, can be written.
 */
npfs_status npfs_wait(const npfs_handle *handles,
                      uint32_t count,
                      uint32_t timeout,
                      uint32_t *signalled);

/**
 * A descriptor for programs with an event loop of their own (epoll(7), poll(2)): readable once something has completed (a packet in a
 * port, an event that was set), until `npfs_notice_take`. One for the process; it exists from the first call of this on,
 * and is the library's: not to be closed or read from. Any thread.
 *
 * - `descriptor`: receives it.
 *
 * Errors: INSUFFICIENT_RESOURCES.
 *
 * Memory: `descriptor` can be written.
 */
npfs_status npfs_notice_descriptor(int *descriptor);

/**
 * The descriptor is not readable any more, until something completes. To be called when it is readable, and before the ports and
 * events are looked at: what completes meanwhile makes it readable again. Any thread.
 *
 * Errors: INSUFFICIENT_RESOURCES.
 */
npfs_status npfs_notice_take(void);

/**
 * Creates a pipe, or a further instance of one, and opens its server end (NtCreateNamedPipeFile). Any thread.
 *
 * - `names`: a namespace.
 * - `file`: receives the handle; close it with `npfs_close`.
 * - `desired_access`: rights.
 * - `at`: its name (`\??\pipe\NAME`; an empty one relative to the root makes a pipe without a name), and its security descriptor.
 * - `iosb`: receives success and `NPFS_FILE_CREATED` or `NPFS_FILE_OPENED`; may be NULL.
 * - `share_access`: who may write: `NPFS_FILE_SHARE_READ` the server, `NPFS_FILE_SHARE_WRITE` the client, or both.
 * - `create_disposition`: `NPFS_FILE_OPEN`, `NPFS_FILE_CREATE` or `NPFS_FILE_OPEN_IF`.
 * - `create_options`: `NPFS_FILE_SYNCHRONOUS_IO_NONALERT` for calls that wait; it needs `NPFS_SYNCHRONIZE`. 0: overlapped ones.
 * - `named_pipe_type`, `read_mode`, `completion_mode`: `NPFS_FILE_PIPE_...`.
 * - `maximum_instances`: not 0; of the first instance, for the pipe's life.
 * - `inbound_quota`, `outbound_quota`: bytes, client to server and server to client.
 * - `default_timeout`: in units of 100 ns, negative; how long `npfs_wait_pipe` waits unless told. NULL: none, which a first
 *   instance may not have.
 *
 * Errors: INVALID_PARAMETER, OBJECT_NAME_INVALID, OBJECT_NAME_NOT_FOUND (there is none to open), ACCESS_DENIED,
 * INSTANCE_NOT_AVAILABLE, INSUFFICIENT_RESOURCES, NO_SUCH_DEVICE (no broker).
 *
 * Memory: `at` and what it points to can be read; `file`, and `iosb` unless NULL, can be written.
 */
npfs_status npfs_create_named_pipe(npfs_handle names,
                                   npfs_handle *file,
                                   uint32_t desired_access,
                                   const struct npfs_object_attributes *at,
                                   struct npfs_io_status_block *iosb,
                                   uint32_t share_access,
                                   uint32_t create_disposition,
                                   uint32_t create_options,
                                   uint32_t named_pipe_type,
                                   uint32_t read_mode,
                                   uint32_t completion_mode,
                                   uint32_t maximum_instances,
                                   uint32_t inbound_quota,
                                   uint32_t outbound_quota,
                                   const int64_t *default_timeout);

/**
 * Opens the client end of a pipe, the volume (`\Device\NamedPipe`) or the root (`\Device\NamedPipe\`) (NtOpenFile). Any thread.
 *
 * - `names`: a namespace.
 * - `file`: receives the handle; close it with `npfs_close`.
 * - `desired_access`: rights.
 * - `at`: the name, and the quality of service.
 * - `iosb`: receives success and `NPFS_FILE_OPENED`; may be NULL.
 * - `share_access`: means nothing here.
 * - `open_options`: `NPFS_FILE_SYNCHRONOUS_IO_NONALERT` for calls that wait; it needs `NPFS_SYNCHRONIZE`. 0: overlapped ones.
 *
 * The client end reads bytes and waits until it is told otherwise (`npfs_set_handle_state`).
 *
 * Errors: OBJECT_NAME_NOT_FOUND (no such pipe), PIPE_NOT_AVAILABLE (no instance listens: `npfs_wait_pipe`), ACCESS_DENIED,
 * OBJECT_NAME_INVALID, INVALID_PARAMETER, NO_SUCH_DEVICE (no broker).
 *
 * Memory: `at` and what it points to can be read; `file`, and `iosb` unless NULL, can be written.
 */
npfs_status npfs_open_file(npfs_handle names,
                           npfs_handle *file,
                           uint32_t desired_access,
                           const struct npfs_object_attributes *at,
                           struct npfs_io_status_block *iosb,
                           uint32_t _share_access,
                           uint32_t open_options);

/**
 * Closes a handle of any kind (NtClose). Any thread, also while other threads use the handle: their calls end, or answer
 * INVALID_HANDLE.
 *
 * The last handle of a file closes it: what pends on it has completed when this returns, unless other processes have
 * the end, too. Closing a namespace or a port leaves open what was opened in it or is associated with it. Closing a broker
 * stops it and waits for its threads; connections that it has made go on.
 *
 * Errors: INVALID_HANDLE.
 */
npfs_status npfs_close(npfs_handle handle);

/**
 * A further handle of the same object (NtDuplicateObject). Any thread.
 *
 * - `handle`: of any kind.
 * - `desired_access`: of a file: rights that `handle` has, or fewer of them.
 * - `options`: `NPFS_DUPLICATE_SAME_ACCESS`, `NPFS_DUPLICATE_CLOSE_SOURCE`, or 0.
 * - `duplicate`: receives the new handle; close it with `npfs_close`.
 *
 * Errors: INVALID_HANDLE, ACCESS_DENIED.
 *
 * Memory: `duplicate` can be written.
 */
npfs_status npfs_duplicate_object(npfs_handle handle,
                                  uint32_t desired_access,
                                  uint32_t options,
                                  npfs_handle *duplicate);

/**
 * Gives the end of a pipe to another process of this user, its first half: makes a token, by which that process takes
 * the end (`npfs_take`), once and within five seconds. How the token comes there is the caller's business; whoever of the same user
 * has it first can take the end. The end stays open until then, also if this handle is closed. Any thread.
 *
 * - `file`: the end.
 * - `desired_access`, `options`: as of `npfs_duplicate_object`; closing the source is not done here.
 * - `token`: receives a text with a NUL at its end; `size`, its room, is at least `NPFS_TOKEN_SIZE`.
 *
 * Errors: INVALID_HANDLE, ACCESS_DENIED, BUFFER_TOO_SMALL, NOT_SUPPORTED (the volume, the root), NO_SUCH_DEVICE (no broker).
 *
 * Memory: `token` can be written, `size` bytes.
 */
npfs_status npfs_give(npfs_handle file,
                      uint32_t desired_access,
                      uint32_t options,
                      char *token,
                      uint32_t size);

/**
 * As `npfs_give`, to a process of another user's: it has the memory of this connection from then on, and of no other.
 *
 * - `uid`: that user's number, of which alone a process can take the end.
 *
 * Errors: SHARING_VIOLATION (this process has other connections with that of the other end, in the same memory: only one that is
 * alone there can go to another user, and none joins it then; one that was created or opened with `NPFS_OBJ_APART` always is), and
 * those of `npfs_give`.
 *
 * Memory: `token` can be written, `size` bytes.
 */
npfs_status npfs_give_to_user(npfs_handle file,
                              uint32_t uid,
                              uint32_t desired_access,
                              uint32_t options,
                              char *token,
                              uint32_t size);

/**
 * Its second half: opens the end that another process has given. Both have the same end from then on, and it closes with the
 * last handle of either. Any thread.
 *
 * - `names`: a namespace of the same broker.
 * - `token`: what `npfs_give` made, with a NUL at its end.
 * - `file`: receives the handle; close it with `npfs_close`.
 *
 * Errors: INVALID_HANDLE (not a token, used already, too late, or another user's), INSUFFICIENT_RESOURCES, NO_SUCH_DEVICE.
 *
 * Memory: `token` can be read up to its NUL; `file` can be written.
 */
npfs_status npfs_take(npfs_handle names,
                      const char *token,
                      npfs_handle *file);

/**
 * Whether the completion routines of a file's calls may wait. If not, which is how a file begins, they run on the library's one
 * event loop, one after the other, and calls that would have to wait answer POSSIBLE_DEADLOCK there. If so, they run on up to 64
 * threads of the library's, in no order. Any thread; counts for calls through this handle and duplicates of it.
 *
 * - `may_wait`: not 0: they may.
 *
 * Errors: INVALID_HANDLE.
 */
npfs_status npfs_set_callbacks_may_wait(npfs_handle file,
                                        uint8_t may_wait);

/**
 * Reads from a pipe (NtReadFile). Any thread; what pends ends as cancelled with the thread that has issued it.
 *
 * - `file`: a handle with `NPFS_FILE_READ_DATA`.
 * - `event`: reset now, and set when the call completes; 0: the file object is, instead.
 * - `callback`: is called when the call has completed, also if that is at once, on a thread of the library's
 *   (`npfs_set_callbacks_may_wait`); `iosb` stays until it returns. Not for a file with a completion port. NULL: none.
 * - `context`: what the packet to the file's completion port says of this call; NULL: no packet.
 * - `iosb`: receives status and count when the call completes; not NULL.
 * - `buffer`, `length`: receive the data.
 *
 * Returns SUCCESS; BUFFER_OVERFLOW: the message goes on; PENDING (overlapped files only): `iosb` will tell. PENDING lends
 * `iosb` and `buffer` to the library: both must stay where they are, and nobody may use `buffer`, until `iosb` is
 * written.
 *
 * Errors: PIPE_EMPTY, PIPE_LISTENING, PIPE_DISCONNECTED, PIPE_BROKEN, CANCELLED, ACCESS_DENIED, INVALID_HANDLE,
 * INVALID_PARAMETER (the volume, the root, or more than 2^31-1 bytes), INSUFFICIENT_RESOURCES; POSSIBLE_DEADLOCK (a call
 * that waits, in a completion routine). `iosb` is not touched by errors that this function returns, and nothing tells of them.
 *
 * Memory: `iosb`, and `buffer` with `length` bytes, can be written until the call has completed. `callback` can be called from any
 * thread, with `context`, and does not throw.
 */
npfs_status npfs_read_file(npfs_handle file,
                           npfs_handle event,
                           npfs_io_callback callback,
                           void *context,
                           struct npfs_io_status_block *iosb,
                           void *buffer,
                           uint32_t length);

/**
 * Writes to a pipe (NtWriteFile): one message, or bytes. Any thread; what pends ends as cancelled with the thread that has issued
 * it.
 *
 * - `file`: a handle with `NPFS_FILE_WRITE_DATA`.
 * - `event`, `callback`, `context`, `iosb`: as of `npfs_read_file`.
 * - `buffer`, `length`: the data, which has been copied when this function returns, also with PENDING.
 *
 * Returns SUCCESS, or PENDING (overlapped files only) while the data exceeds the quota.
 *
 * Errors: PIPE_LISTENING, PIPE_DISCONNECTED, PIPE_CLOSING (nobody would read it), CANCELLED, ACCESS_DENIED, INVALID_HANDLE,
 * INVALID_PARAMETER (the volume, the root, or more than 2^31-1 bytes), INSUFFICIENT_RESOURCES.
 *
 * Memory: `buffer` can be read, `length` bytes; `iosb` and `callback` as of `npfs_read_file`.
 */
npfs_status npfs_write_file(npfs_handle file,
                            npfs_handle event,
                            npfs_io_callback callback,
                            void *context,
                            struct npfs_io_status_block *iosb,
                            const void *buffer,
                            uint32_t length);

/**
 * Controls a pipe (NtFsControlFile): listen, disconnect, peek, transceive, wait, impersonate, ask who is there. Any thread.
 *
 * - `file`: a handle with the rights that the code's bits 14 and 15 ask for.
 * - `event`, `callback`, `context`, `iosb`: as of `npfs_read_file`.
 * - `control`: `NPFS_FSCTL_PIPE_...`.
 * - `input`, `input_length`: copied when this function returns.
 * - `output`, `output_length`: as `buffer` of `npfs_read_file`.
 *
 * Returns SUCCESS, BUFFER_OVERFLOW, or PENDING (overlapped files only): a listen without a client, a transceive, a wait
 * for an instance, a flush.
 *
 * Errors: as the code says, by the end and its state; NOT_SUPPORTED: no such code.
 *
 * Memory: `input` can be read, `input_length` bytes; `iosb`, and `output` with `output_length` bytes, can be written until the call has
 * completed.
 */
npfs_status npfs_fs_control_file(npfs_handle file,
                                 npfs_handle event,
                                 npfs_io_callback callback,
                                 void *context,
                                 struct npfs_io_status_block *iosb,
                                 uint32_t control,
                                 const void *input,
                                 uint32_t input_length,
                                 void *output,
                                 uint32_t output_length);

/**
 * Waits until everything that was written before has been read (NtFlushBuffersFile), also on overlapped files. Any thread.
 *
 * - `iosb`: receives the status; not NULL.
 *
 * Errors: PIPE_DISCONNECTED, PIPE_BROKEN, CANCELLED, INVALID_HANDLE.
 *
 * Memory: `iosb` can be written until this function returns.
 */
npfs_status npfs_flush_buffers_file(npfs_handle file,
                                    struct npfs_io_status_block *iosb);

/**
 * Cancels what the calling thread has pending on a file, through whatever handle of it (NtCancelIoFile). Each call
 * completes once, as CANCELLED unless it was done before, and has completed when this returns.
 *
 * - `result`: receives the status; may be NULL.
 *
 * Errors: INVALID_HANDLE.
 *
 * Memory: `result`, unless NULL, can be written.
 */
npfs_status npfs_cancel_io_file(npfs_handle file,
                                struct npfs_io_status_block *result);

/**
 * Cancels the calls on a file that report to one status block, or all of them, whichever thread has issued them
 * (NtCancelIoFileEx). Calls that block are among them.
 *
 * - `which`: names the calls by their status block, which is not read or written for that; NULL: all calls.
 * - `result`: receives the status; may be NULL.
 *
 * Errors: NOT_FOUND (nothing pends there), INVALID_HANDLE.
 *
 * Memory: `result`, unless NULL, can be written.
 */
npfs_status npfs_cancel_io_file_ex(npfs_handle file,
                                   struct npfs_io_status_block *which,
                                   struct npfs_io_status_block *result);

/**
 * Cancels the call that blocks in a thread (NtCancelSynchronousIoFile): it returns CANCELLED, and does not touch its status
 * block.
 *
 * - `thread`: a handle of the thread (`npfs_open_current_thread`).
 * - `which`: only if the call reports there; NULL: in any case.
 * - `result`: receives the status; may be NULL.
 *
 * Errors: NOT_FOUND (no call blocks there), INVALID_HANDLE.
 *
 * Memory: `result`, unless NULL, can be written.
 */
npfs_status npfs_cancel_synchronous_io_file(npfs_handle thread,
                                            struct npfs_io_status_block *which,
                                            struct npfs_io_status_block *result);

/**
 * A handle of the calling thread, for `npfs_cancel_synchronous_io_file`. It may outlive the thread.
 *
 * - `thread`: receives the handle; close it with `npfs_close`.
 *
 * Memory: `thread` can be written.
 */
npfs_status npfs_open_current_thread(npfs_handle *thread);

/**
 * Asks about a file (NtQueryInformationFile). Any thread.
 *
 * - `iosb`: receives the status and how many bytes were written; not NULL.
 * - `information`, `length`: receive the structure of the class.
 * - `information_class`: `NPFS_FILE_..._INFORMATION_CLASS`.
 *
 * Returns SUCCESS, or BUFFER_OVERFLOW: a name was cut off.
 *
 * Errors: INFO_LENGTH_MISMATCH, ACCESS_DENIED, PIPE_DISCONNECTED, INVALID_PARAMETER (no such class), INVALID_HANDLE.
 *
 * Memory: `iosb` can be written; so can `information`, `length` bytes, and nobody else uses it meanwhile.
 */
npfs_status npfs_query_information_file(npfs_handle file,
                                        struct npfs_io_status_block *iosb,
                                        void *information,
                                        uint32_t length,
                                        uint32_t information_class);

/**
 * Sets what can be set of a file (NtSetInformationFile): its modes, and what completions do besides. Any thread.
 *
 * - `iosb`: receives the status; not NULL.
 * - `information`, `length`: the structure of the class.
 * - `information_class`: `NPFS_FILE_PIPE_INFORMATION_CLASS` or `NPFS_FILE_IO_COMPLETION_NOTIFICATION_INFORMATION_CLASS`.
 *
 * Errors: INFO_LENGTH_MISMATCH, ACCESS_DENIED, PIPE_BUSY, PIPE_DISCONNECTED, INVALID_PARAMETER, INVALID_HANDLE.
 *
 * Memory: `information` can be read, `length` bytes; `iosb` can be written.
 */
npfs_status npfs_set_information_file(npfs_handle file,
                                      struct npfs_io_status_block *iosb,
                                      const void *information,
                                      uint32_t length,
                                      uint32_t information_class);

/**
 * Asks about the volume that a file is on (NtQueryVolumeInformationFile). Any thread.
 *
 * - `iosb`: receives the status and how many bytes were written; not NULL.
 * - `information`, `length`: receive the structure of the class.
 * - `information_class`: `NPFS_FILE_FS_..._INFORMATION_CLASS`.
 *
 * Returns SUCCESS, or BUFFER_OVERFLOW: a label was cut off.
 *
 * Errors: INFO_LENGTH_MISMATCH, NOT_SUPPORTED (no such class), INVALID_HANDLE.
 *
 * Memory: `iosb` can be written; so can `information`, `length` bytes, and nobody else uses it meanwhile.
 */
npfs_status npfs_query_volume_information_file(npfs_handle file,
                                               struct npfs_io_status_block *iosb,
                                               void *information,
                                               uint32_t length,
                                               uint32_t information_class);

/**
 * Lists the pipes (NtQueryDirectoryFile): as many as there is room for; the next call goes on. Any thread.
 *
 * - `file`: a handle of the root (`\Device\NamedPipe\`) with `NPFS_FILE_READ_DATA`.
 * - `iosb`: receives the status and how many bytes were written; not NULL.
 * - `information`, `length`: receive entries, each aligned to 8 from the beginning.
 * - `information_class`: `NPFS_FILE_DIRECTORY_INFORMATION_CLASS` or one of the other three.
 * - `return_single_entry`: not 0: one entry at most.
 * - `pattern`, `pattern_length`: UTF-16 with wildcards, and its bytes; counts at the first call on a handle. NULL: all pipes.
 * - `restart_scan`: not 0: from the beginning.
 *
 * Errors: NO_SUCH_FILE (nothing matches), NO_MORE_FILES (the end), BUFFER_OVERFLOW (no room for one entry),
 * INVALID_INFO_CLASS, INVALID_PARAMETER (not the root), ACCESS_DENIED, INVALID_HANDLE, NO_SUCH_DEVICE.
 *
 * Memory: `pattern` can be read, `pattern_length` bytes; `iosb` can be written; so can `information`, `length` bytes, and nobody else
 * uses it meanwhile.
 */
npfs_status npfs_query_directory_file(npfs_handle file,
                                      struct npfs_io_status_block *iosb,
                                      void *information,
                                      uint32_t length,
                                      uint32_t information_class,
                                      uint8_t return_single_entry,
                                      const uint16_t *pattern,
                                      uint32_t pattern_length,
                                      uint8_t restart_scan);

/**
 * The whole path of a file (NtQueryObject): UTF-16, not ended by anything. Any thread.
 *
 * - `name`, `length`: receive it; `length` in bytes.
 * - `needed`: receives the bytes of the whole path, also with BUFFER_TOO_SMALL.
 *
 * Errors: BUFFER_TOO_SMALL, OBJECT_PATH_INVALID (a pipe without a name), INVALID_HANDLE.
 *
 * Memory: `needed` can be written; so can `name`, `length` bytes, and nobody else uses it meanwhile.
 */
npfs_status npfs_query_object_name(npfs_handle file, uint16_t *name, uint32_t length, uint32_t *needed);

/**
 * Parts of the security descriptor of a pipe (NtQuerySecurityObject), self-relative. Any thread.
 *
 * - `file`: a handle with `NPFS_READ_CONTROL`.
 * - `security_information`: `NPFS_..._SECURITY_INFORMATION`, which parts.
 * - `descriptor`, `length`: receive it.
 * - `needed`: receives its bytes, also with BUFFER_TOO_SMALL.
 *
 * Errors: BUFFER_TOO_SMALL, ACCESS_DENIED, PIPE_DISCONNECTED, INVALID_PARAMETER (the volume, the root), INVALID_HANDLE,
 * NO_SUCH_DEVICE.
 *
 * Memory: `needed` can be written; so can `descriptor`, `length` bytes, and nobody else uses it meanwhile.
 */
npfs_status npfs_query_security_object(npfs_handle file,
                                       uint32_t security_information,
                                       void *descriptor,
                                       uint32_t length,
                                       uint32_t *needed);

/**
 * Replaces parts of the security descriptor of a pipe (NtSetSecurityObject). Any thread.
 *
 * - `file`: a handle with `NPFS_WRITE_DAC` for the DACL, `NPFS_WRITE_OWNER` for owner and group.
 * - `security_information`: `NPFS_..._SECURITY_INFORMATION`, which parts.
 * - `descriptor`, `length`: a self-relative descriptor that has them.
 *
 * Errors: INVALID_SECURITY_DESCR, INVALID_OWNER, ACCESS_DENIED, PIPE_DISCONNECTED, INVALID_PARAMETER (the volume, the
 * root), INVALID_HANDLE, NO_SUCH_DEVICE.
 *
 * Memory: `descriptor` can be read, `length` bytes.
 */
npfs_status npfs_set_security_object(npfs_handle file,
                                     uint32_t security_information,
                                     const void *descriptor,
                                     uint32_t length);

/**
 * In whose name the calling thread acts, since `NPFS_FSCTL_PIPE_IMPERSONATE`. What follows from it is the caller's business:
 * the thread's own credentials are as they were.
 *
 * Memory: `identity` can be written.
 */
npfs_status npfs_query_impersonation(struct npfs_identity *identity);

/** The calling thread acts in its process's own name again (RevertToSelf). */
npfs_status npfs_revert_to_self(void);

/**
 * Opens the client end of a pipe; waits for an instance while all are busy (CreateFile and WaitNamedPipe). Any thread.
 *
 * - `names`: a namespace.
 * - `pipe`: its name, UTF-8: `NAME` or `\\.\pipe\NAME`.
 * - `desired_access`: rights; 0: reading, writing and synchronizing.
 * - `open_options`: as of `npfs_open_file`.
 * - `timeout`: how long in all, in milliseconds; `NPFS_INFINITE`; `NPFS_DEFAULT_WAIT`: the pipe's own time for each wait.
 * - `file`: receives the handle; close it with `npfs_close`.
 *
 * Errors: OBJECT_NAME_NOT_FOUND (there is no such pipe: this is not waited for), IO_TIMEOUT, ACCESS_DENIED,
 * OBJECT_NAME_INVALID, INVALID_PARAMETER, NO_SUCH_DEVICE.
 *
 * Memory: `pipe` can be read up to its NUL; `file` can be written.
 */
npfs_status npfs_connect(npfs_handle names,
                         const char *pipe,
                         uint32_t desired_access,
                         uint32_t open_options,
                         uint32_t timeout,
                         npfs_handle *file);

/**
 * Waits until an instance of a pipe listens (WaitNamedPipe). It is not reserved: another client may be quicker. Any thread.
 *
 * - `names`: a namespace.
 * - `pipe`: its name, UTF-8: `NAME` or `\\.\pipe\NAME`.
 * - `timeout`: in milliseconds; `NPFS_DEFAULT_WAIT`: the pipe's own; `NPFS_INFINITE`.
 *
 * Errors: OBJECT_NAME_NOT_FOUND, IO_TIMEOUT, OBJECT_NAME_INVALID, NO_SUCH_DEVICE.
 *
 * Memory: `pipe` can be read up to its NUL.
 */
npfs_status npfs_wait_pipe(npfs_handle names,
                           const char *pipe,
                           uint32_t timeout);

/**
 * Waits for a client at a server end (ConnectNamedPipe). Any thread; another one ends it with `npfs_cancel_io_file_ex`.
 *
 * Returns SUCCESS, also if a client was there already.
 *
 * Errors: PIPE_CLOSING (a client came and went: disconnect first), PIPE_LISTENING (no client, and the end never waits),
 * ILLEGAL_FUNCTION (a client end), CANCELLED, PIPE_BROKEN, INVALID_HANDLE.
 */
npfs_status npfs_listen(npfs_handle server);

/**
 * Cuts the client off, with whatever it has not read (DisconnectNamedPipe). The end can listen again. Any thread.
 *
 * Errors: PIPE_DISCONNECTED, ILLEGAL_FUNCTION (a client end), INVALID_HANDLE.
 */
npfs_status npfs_disconnect(npfs_handle server);

/**
 * Reads, and waits for it on overlapped files, too (ReadFile). Any thread; another one ends it with `npfs_cancel_io_file_ex`.
 *
 * - `file`: a handle with `NPFS_FILE_READ_DATA`.
 * - `buffer`, `length`: receive the data.
 * - `transferred`: receives how many bytes.
 *
 * Returns SUCCESS, or BUFFER_OVERFLOW: the message goes on.
 *
 * Errors: as of `npfs_read_file`.
 *
 * Memory: `buffer` can be written, `length` bytes, and nobody else uses it meanwhile; `transferred` can be written.
 */
npfs_status npfs_read(npfs_handle file,
                      void *buffer,
                      uint32_t length,
                      uint32_t *transferred);

/**
 * Writes, and waits for it on overlapped files, too (WriteFile). Any thread; another one ends it with
 * `npfs_cancel_io_file_ex`.
 *
 * - `file`: a handle with `NPFS_FILE_WRITE_DATA`.
 * - `buffer`, `length`: the data.
 * - `transferred`: receives how many bytes; fewer than `length` only from an end that never waits. May be NULL.
 *
 * Errors: as of `npfs_write_file`.
 *
 * Memory: `buffer` can be read, `length` bytes; `transferred`, unless NULL, can be written.
 */
npfs_status npfs_write(npfs_handle file,
                       const void *buffer,
                       uint32_t length,
                       uint32_t *transferred);

/**
 * Writes a message and reads the reply (TransactNamedPipe); waits for it. The end's read mode must be messages, and it must have
 * nothing to read. Any thread; another one ends it with `npfs_cancel_io_file_ex`.
 *
 * - `file`: a handle with `NPFS_FILE_READ_DATA` and `NPFS_FILE_WRITE_DATA`.
 * - `request`, `request_length`: the message.
 * - `reply`, `reply_length`: receive the reply.
 * - `transferred`: receives how many bytes.
 *
 * Returns SUCCESS, or BUFFER_OVERFLOW: the reply goes on, the rest can be read.
 *
 * Errors: INVALID_PIPE_STATE (not connected, or not in message mode), PIPE_BUSY (there is something to read), PIPE_BROKEN,
 * PIPE_DISCONNECTED, CANCELLED, ACCESS_DENIED, INVALID_HANDLE.
 *
 * Memory: `request` can be read, `request_length` bytes; `reply` can be written, `reply_length` bytes, and nobody else uses it meanwhile;
 * `transferred` can be written.
 */
npfs_status npfs_transact(npfs_handle file,
                          const void *request,
                          uint32_t request_length,
                          void *reply,
                          uint32_t reply_length,
                          uint32_t *transferred);

/**
 * Opens a message pipe, writes a message, reads the reply and closes (CallNamedPipe). Any thread.
 *
 * - `names`, `pipe`, `timeout`: as of `npfs_connect`; the timeout is for the opening.
 * - `request`, `request_length`, `reply`, `reply_length`, `transferred`: as of `npfs_transact`.
 *
 * Returns SUCCESS, or BUFFER_OVERFLOW: the reply was longer, and the rest is lost.
 *
 * Errors: as of both; INVALID_PARAMETER: a pipe of bytes.
 *
 * Memory: As of both.
 */
npfs_status npfs_call(npfs_handle names,
                      const char *pipe,
                      const void *request,
                      uint32_t request_length,
                      void *reply,
                      uint32_t reply_length,
                      uint32_t *transferred,
                      uint32_t timeout);

/**
 * Looks at what could be read, and takes nothing (PeekNamedPipe). Any thread; waits for nothing.
 *
 * - `file`: a handle with `NPFS_FILE_READ_DATA`.
 * - `buffer`, `length`: receive data; of the first message only, where messages are read. NULL and 0: none.
 * - `copied`, `available`, `left`: receive how many bytes were copied, how many there are, and how many the first message has beyond
 *   those that were copied; each may be NULL.
 *
 * Returns SUCCESS, also if the buffer was too small.
 *
 * Errors: PIPE_BROKEN, INVALID_PIPE_STATE, PIPE_DISCONNECTED, ACCESS_DENIED, INVALID_HANDLE.
 *
 * Memory: `buffer` can be written, `length` bytes, and nobody else uses it meanwhile; the others, unless NULL, can be written.
 */
npfs_status npfs_peek(npfs_handle file,
                      void *buffer,
                      uint32_t length,
                      uint32_t *copied,
                      uint32_t *available,
                      uint32_t *left);

/**
 * The modes of an end, and how many instances its pipe has (GetNamedPipeHandleState). Any thread.
 *
 * - `file`: a handle with `NPFS_FILE_READ_ATTRIBUTES`.
 * - `read_mode`, `completion_mode`, `instances`: receive them; each may be NULL.
 *
 * Errors: ACCESS_DENIED, PIPE_DISCONNECTED (a client), INVALID_PARAMETER (the volume, the root), INVALID_HANDLE.
 *
 * Memory: Each, unless NULL, can be written.
 */
npfs_status npfs_get_handle_state(npfs_handle file,
                                  uint32_t *read_mode,
                                  uint32_t *completion_mode,
                                  uint32_t *instances);

/**
 * Sets modes of an end (SetNamedPipeHandleState). Any thread.
 *
 * - `file`: a handle with `NPFS_FILE_READ_ATTRIBUTES` and `NPFS_FILE_WRITE_ATTRIBUTES`.
 * - `read_mode`: `NPFS_FILE_PIPE_BYTE_STREAM_MODE` or `NPFS_FILE_PIPE_MESSAGE_MODE`; NULL: as it is.
 * - `completion_mode`: `NPFS_FILE_PIPE_QUEUE_OPERATION` or `NPFS_FILE_PIPE_COMPLETE_OPERATION`; NULL: as it is.
 *
 * Errors: INVALID_PARAMETER (no such mode; messages from a pipe of bytes), PIPE_BUSY (calls are pending), ACCESS_DENIED,
 * PIPE_DISCONNECTED (a client), INVALID_HANDLE.
 *
 * Memory: Each, unless NULL, can be read.
 */
npfs_status npfs_set_handle_state(npfs_handle file,
                                  const uint32_t *read_mode,
                                  const uint32_t *completion_mode);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NPFS_H */

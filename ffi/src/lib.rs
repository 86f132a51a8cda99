//! The C interface: `libnpfs`, prefix `npfs_`, headers `npfs.h` and `npfs_host.h`.
//!
//! # Two levels
//!
//! - **`npfs.h`, for programs.** Calls as NT's own: create, open, read, write, fsctl, flush,
//!   cancel, query and set information, volume, directory, security, duplicate, close; with I/O
//!   status blocks, events, completion ports and completion routines; a small layer on top in the manner of Win32; namespaces and
//!   brokers. Results are NTSTATUS values. It stands, and `include/npfs.h` is its reference.
//! - **`npfs_host.h`, for hosts** that have objects, handles and threads of their own and want the
//!   data path only. Wine is the one in mind: its server keeps names, handles, security and
//!   listening, and the bytes leave it. `include/npfs_host.h` is its reference.
//!
//! # For every function
//!
//! - Handles are opaque: numbers that are never used twice, so that one that was closed is told from one that is open.
//!   Results go through pointers, which are written on success only.
//! - No panic crosses into C. No signal handler is installed, no callback runs while a lock is held. An interrupted system call is
//!   made again.
//! - Both headers are generated, kept under version control, and compiled as C11 and as C++17 with
//!   warnings as errors. A header that no longer matches fails the checks, and so does a layout of
//!   shared memory whose numbers differ between C and Rust, or between 32 and 64 bits.
//!
//! # Program level: where what is
//!
//! | module | what |
//! |---|---|
//! | `nt` | NT's calls, one to one over [`npfs::nt`] |
//! | `win32` | what Win32 makes of them |
//! | `objects` | namespaces, brokers, events, ports, waiting, versions |
//! | `handle` | the table of what is open |
//! | `pending` | calls under way, by the address of their status blocks |
//! | `memory` | the caller's pointers; the `unsafe` of this crate is there and in the exports' calls of it |
//! | `guard` | panics end here |
//! | `types`, `numbers` | what the header declares besides functions |
//! | `host` | the host level, below |
//!
//! A call that pends lends its status block and its buffer to the library until it completes. Threads: the library starts one when
//! something first pends (and one that reads the broker's answers while a listen or a wait does), and a broker's when one is
//! embedded.
//!
//! # Host level: for every function
//!
//! - No thread starts unasked, no signal handler is installed, no destructor hangs on a thread.
//! - try, wait and abandon do not allocate: the storage of a wait or of an operation is the
//!   caller's.
//! - User memory is touched through the host's copy functions only. They may fail (a guard page, a
//!   buffer that was freed) or block: nothing but the right to write on that one connection is held meanwhile, and what
//!   fails answers `NPFS_HOST_FAULT` and costs no byte of the stream. Of a read that pended: unless a read that was matched
//!   after it has taken more already.
//! - A thread may be ended in `npfs_host_wait_block`, where it holds nothing but its place in line, which
//!   `npfs_host_wait_abandon` gives up; and in one of the host's copies, where it leaves the right to write on that connection, which
//!   the server's sweep of the thread takes back (`npfs_host_exit_thread` with its number sees to what it was moving on).
//!   Anywhere else in the library a host defers that: locks of the process may be held. No call is to be unwound through: a
//!   thread ends by exit(2), or the library is built with `panic = "abort"`.
//!
//! # Host level: who calls what
//!
//! | side | functions | thread |
//! |---|---|---|
//! | server | `npfs_srv_...`, below | one, which never waits and believes no shared memory |
//! | client | `npfs_host_abi`, `_init`, `_thread`; `_attach`, `_drop`, `_forget_link` | any |
//! | | `npfs_host_try_read`, `_try_write`, `_peek`, `_query`: at once | any |
//! | | `npfs_host_wait_begin`, `npfs_host_transceive_begin`, `_wait_block`, `_wait_end`: a blocking call in three steps | its own |
//! | | `npfs_host_wait_cancel`; `npfs_host_wait_abandon` | another; its own, from a signal handler |
//! | | `npfs_host_submit`, `_submit_transceive`, `_cancel`, `_exit_thread` | any |
//! | | `npfs_host_pump_wait`, `_run`; `_kick` | the host's pump; any |
//!
//! | function | what it does |
//! |---|---|
//! | `npfs_srv_init`, `_end` | gives the descriptor that the server's loop watches, which no client ever holds |
//! | `npfs_srv_slab_get`, `_put` | what two processes share, counted by reference: as many links as their connections need |
//! | `npfs_srv_conn_create`, `_destroy` | a slot with a new generation: type, two quotas, access, modes, the host's cookies |
//! | `npfs_srv_conn_export`, `_release` | what a process needs to attach to its end: memory, slot, generation |
//! | `npfs_srv_set_state`, `_set_flags` | publishes a change and wakes whoever waits on either end; needs no role and no lock |
//! | `npfs_srv_try_read`, `_try_write`, `_peek`, `_query` | the server as a slow endpoint, for requests that do not take the short path; a write may be freed of the quota |
//! | `npfs_srv_ticket_add`, `_transact`, `_take`, `_remove` | the server's own place in the order of pended reads, writes or flushes |
//! | `npfs_srv_watch`, `_signaled` | waiting on a pipe's handle: a completer that signals a watched end rings the server |
//! | `npfs_srv_doorbell` | drains the bell; one callback for each cookie that has news |
//! | `npfs_srv_sweep`, `_reap` | after the death of a process or of one thread: takes back what it held |
//! | `npfs_srv_stats` | counts, by which a test can show that the server stayed off the path |
//!
//! An end of the host's is closed by the host, and not with the last process that has come for it: a handle that was inherited or
//! duplicated is the end's too before its process has asked for anything. (`NPFS_SRV_HOLDERS_CLOSE` is for hosts whose processes
//! all come at once.)
//!
//! A client that is stopped between a change and the wake that goes with it (SIGSTOP, a debugger) keeps the server from hearing of
//! its link until it goes on or is swept; a host that suspends threads defers that while they are in a call.
//!
//! What a connection has not (LISTENING, a slow path by policy) is the host's: `NPFS_HOST_LISTENING` and `NPFS_HOST_FALLBACK`
//! are there for it to answer with.

#![allow(
    non_camel_case_types,
    reason = "types have the names of the header, which are C's"
)]

mod guard;
mod handle;
pub mod host;
mod memory;
pub mod nt;
pub mod numbers;
pub mod objects;
mod pending;
pub mod types;
pub mod win32;

/// The version of this crate as [`objects::npfs_version`] answers it.
pub const VERSION: u32 = version(env!("CARGO_PKG_VERSION"));

/// "1.2.3" as 0x00010203.
const fn version(text: &str) -> u32 {
    let bytes = text.as_bytes();
    let (mut parts, mut part, mut at) = ([0_u32; 3], 0, 0);
    while at < bytes.len() && part < 3 {
        match bytes[at] {
            b'.' => part += 1,
            digit @ b'0'..=b'9' => parts[part] = parts[part] * 10 + (digit - b'0') as u32,
            _ => break,
        }
        at += 1;
    }
    parts[0] << 16 | parts[1] << 8 | parts[2]
}

const _: () = assert!(version("1.2.3") == 0x1_0203);

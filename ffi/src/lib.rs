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
//!   listening, and the bytes leave it. **There is no code of it yet**: what stands below is the contract that it will be written
//!   against. Names and argument lists may still move; what is promised about them should not.
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
//!
//! A call that pends lends its status block and its buffer to the library until it completes. Threads: the library starts one when
//! something first pends (and one that reads the broker's answers while a listen or a wait does), and a broker's when one is
//! embedded.
//!
//! # Host level: for every function
//!
//! - No thread starts unasked.
//! - try, wait and abandon do not allocate: the storage of a wait or of an operation is the
//!   caller's.
//! - User memory is touched through the host's copy functions only. They may fail (a guard page, a
//!   buffer that was freed): what was reserved is then given back and the call answers `FAULT`.
//!
//! # Host level: statuses
//!
//! | status | meaning |
//! |---|---|
//! | `OK` | done |
//! | `MORE_DATA` | done; the message is longer than the buffer, the rest stays |
//! | `WOULD_BLOCK` | it would have to wait |
//! | `EMPTY` | nothing to read, and the end is in the mode that never waits |
//! | `BROKEN` | the peer is gone, and nothing is left to read |
//! | `CLOSING` | the peer is gone, so that nobody would read what is written |
//! | `DISCONNECTED` | the server end has disconnected |
//! | `LISTENING` | no client has connected yet |
//! | `STALE` | the slot serves another connection now: drop the cached handle, ask the server |
//! | `BUSY` | somebody else is in the middle of a step that this call needs; a bell rings when it is over |
//! | `CANCELLED` | withdrawn by a cancel |
//! | `FAULT` | the host's copy failed |
//! | `FALLBACK` | not for this path: make the host's ordinary request |
//!
//! # Host level: the server's side
//!
//! One thread calls; no function blocks, waits for a client, or panics, whatever the shared memory
//! holds.
//!
//! | function | what it does |
//! |---|---|
//! | `npfs_srv_init` | once; gives the descriptor that the server's loop watches, which no client ever holds |
//! | `npfs_srv_slab_get`, `_put` | the link of two processes, counted by reference |
//! | `npfs_srv_conn_create`, `_destroy` | a slot with a new generation: type, two quotas, flags, the host's cookie |
//! | `npfs_srv_conn_export` | what a client needs to attach to its end: memory, slot, generation |
//! | `npfs_srv_set_state`, `_set_flags` | publishes a change and wakes whoever waits on either end; needs no role and no lock |
//! | `npfs_srv_try_read`, `_try_write`, `_peek`, `_query` | the server as a slow endpoint, for requests that do not take the short path; a write may be freed of the quota |
//! | `npfs_srv_ticket_add`, `_remove` | the server's own place in the order of pended reads, writes or flushes |
//! | `npfs_srv_watch`, `_signaled` | waiting on a pipe's handle: a completer that signals a watched end rings the server |
//! | `npfs_srv_doorbell` | drains the bell; one callback for each cookie that has news |
//! | `npfs_srv_sweep` | after the death of a process or of one thread: takes back what it held |
//! | `npfs_srv_stats` | counts, by which a test can show that the server stayed off the path |
//!
//! # Host level: the client's side
//!
//! Any thread may call, except where the pump is named.
//!
//! | function | what it does |
//! |---|---|
//! | `npfs_abi` | version and hash of the layout; if the two sides differ, nothing is shared |
//! | `npfs_init` | once; takes the host's functions: copy in, copy out, complete, start the pump, clock |
//! | `npfs_conn_attach`, `_drop` | one end of a connection, in this process |
//! | `npfs_try_read`, `_try_write` | at once; a system call only if somebody must be woken |
//! | `npfs_wait_begin` | takes a place in the order of issue; the wait's state is the caller's memory |
//! | `npfs_wait_block` | spins within bounds, then sleeps; holds nothing while asleep, so the thread may end there |
//! | `npfs_wait_end` | moves the bytes and gives the place back; a streamed write goes back to blocking |
//! | `npfs_wait_cancel` | from another thread: the wait answers `CANCELLED` |
//! | `npfs_wait_abandon` | from a signal handler, async-signal-safe: the waiting thread never comes back |
//! | `npfs_submit_read`, `_write` | `OK` now, or pending and exactly one completion later |
//! | `npfs_cancel` | by thread, by cookie or all; each operation cancelled completes once, as `CANCELLED` |
//! | `npfs_peek`, `npfs_query` | no system call |
//! | `npfs_transceive_begin` | a write free of the quota together with the place of its reply's read |
//! | `npfs_flush_begin` | a wait for the queue to drain |
//! | `npfs_pump_wait`, `_run`, `_kick` | the reactor's two steps, on the host's thread; anyone may kick |
//! | `npfs_exit_thread` | the thread's operations end as NT ends them |

#![allow(
    non_camel_case_types,
    reason = "types have the names of the header, which are C's"
)]

mod guard;
mod handle;
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

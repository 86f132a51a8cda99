//! The host level: `npfs_host.h`, for runtimes that bring their own objects, handles and threads.
//!
//! | module | what |
//! |---|---|
//! | `types` | statuses, and the structures of the header |
//! | `server` | the side of the host's server: one thread that never blocks and believes no shared memory |
//! | `slabs`, `conns`, `news` | behind it: links and processes, connections and tickets, what the doorbell tells |
//! | `client` | the side of the programs: any thread, user memory only through the host's copies |
//! | `table` | connections by number, which any thread may drop |
//! | `operations` | what was submitted and pends |
//! | `rows`, `once`, `queue` | behind these: containers that say so if there is no memory, or need none, and do not panic |

pub mod client;
mod conns;
mod news;
mod once;
mod operations;
mod queue;
mod rows;
pub mod server;
mod slabs;
mod table;
pub mod types;

use std::mem::{offset_of, size_of};

use npfs::NtStatus;

use crate::{guard::guard_or, memory::Out};

use client::{npfs_host_op, npfs_host_wait};
use server::{npfs_srv_config, npfs_srv_conn_options, npfs_srv_counts};
use types::{
    NPFS_HOST_INTERNAL, NPFS_HOST_INVALID, NPFS_HOST_NO_MEMORY, npfs_host_end, npfs_host_info,
    npfs_host_status,
};

/// An answer, or why there is none.
type HostResult<T> = Result<T, npfs_host_status>;

/// What is wrong with a pointer or a length.
fn of_memory(error: NtStatus) -> npfs_host_status {
    match error {
        NtStatus::INSUFFICIENT_RESOURCES => NPFS_HOST_NO_MEMORY,
        _ => NPFS_HOST_INVALID,
    }
}

/// The body of every export that answers a status.
fn guard(call: impl FnOnce() -> HostResult<npfs_host_status>) -> npfs_host_status {
    guard_or(NPFS_HOST_INTERNAL, || match call() {
        Ok(status) | Err(status) => status,
    })
}

/// A place for a result.
///
/// # Safety
/// As [`Out::new`].
unsafe fn out<T>(pointer: *mut T) -> HostResult<Out<T>> {
    // SAFETY: the caller's promise is the same.
    unsafe { Out::new(pointer) }.map_err(of_memory)
}

/// A structure's name and size, and its fields' names and offsets.
type Layout = (&'static str, usize, &'static [(&'static str, usize)]);

macro_rules! layout {
    ($($of:ident { $($field:ident),* })*) => {
        /// Of each structure of the header: for C to compare.
        pub const LAYOUT: &[Layout] = &[
            $((
                stringify!($of),
                size_of::<$of>(),
                &[$((stringify!($field), offset_of!($of, $field))),*],
            ),)*
        ];
    };
}

layout! {
    npfs_host_end { link, process, side, grant }
    npfs_host_info { available, message_left, messages, quota_left, copied, state }
    npfs_host_wait { opaque }
    npfs_host_op { opaque }
    npfs_srv_config { link_size, link_slots, reserved }
    npfs_srv_conn_options { server_pid, flags, quota, access, modes, cookie }
    npfs_srv_counts {
        reads, writes, peeks, queries, tickets, callbacks,
        bytes_written, bytes_read, messages_written, messages_read
    }
}

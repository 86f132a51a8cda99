//! What one would use instead of npfs, each as good as it gets with the same guarantees or fewer.
//!
//! The bare ones (`raw_line`, `raw_futex`, the rings) trust the peer, check nothing, have no
//! quota, no roles, no death and no sleep: they show what the machine can do.

pub(crate) mod mailbox;
pub(crate) mod memcpy;
pub(crate) mod ring_in_frame;
pub(crate) mod ring_index;
pub(crate) mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::sys::{self, PAGE, Shared};
use crate::transport::{Kind, Parts, Role, Ticket};

/// Makes what both ends of a baseline need: `[the server's, the client's]`.
///
/// `size` is the message's, in bytes; `one_way` leaves the direction towards the client minimal.
pub(crate) fn prepare(kind: Kind, size: usize, one_way: bool, yields: bool) -> Result<[Parts; 2]> {
    let ring = |capacity: u32| {
        // A page more for the headers, so that as much payload fits as the name says.
        let there = capacity as usize + PAGE;
        shared([there, if one_way { size + PAGE } else { there }], yields)
    };
    match kind {
        Kind::RawLine | Kind::RawLinePaused | Kind::RawFutex => {
            shared([mailbox::capacity(size); 2], yields)
        }
        Kind::RingIndex { capacity } | Kind::RingInFrame { capacity } => ring(capacity),
        Kind::Pipe => {
            let (server_in, client_out) = io::pipe().context("pipe")?;
            let (client_in, server_out) = io::pipe().context("pipe")?;
            Ok([
                Parts {
                    fds: vec![server_in.into(), server_out.into()],
                    ..Parts::default()
                },
                Parts {
                    fds: vec![client_in.into(), client_out.into()],
                    ..Parts::default()
                },
            ])
        }
        Kind::UnixStream => {
            let (server, client) = std::os::unix::net::UnixStream::pair().context("socketpair")?;
            sockets([server.into(), client.into()])
        }
        Kind::UnixSeqpacket => sockets(sys::seqpacket_pair().context("socketpair")?),
        Kind::Memcpy => Ok([Parts::default(), Parts::default()]),
        Kind::Ours { .. }
        | Kind::OursInPlace { .. }
        | Kind::OursAmong { .. }
        | Kind::Overlapped
        | Kind::OverlappedAmong { .. }
        | Kind::OverlappedOfClients { .. } => {
            unreachable!("not a baseline")
        }
    }
}

fn shared(capacity: [usize; 2], yields: bool) -> Result<[Parts; 2]> {
    let ticket = Ticket {
        capacity,
        yields,
        ..Ticket::default()
    };
    let inbound = Shared::create(c"npfs-bench", capacity[0]).context("memfd")?;
    let outbound = Shared::create(c"npfs-bench", capacity[1]).context("memfd")?;
    let copies = vec![sys::duplicate(&inbound)?, sys::duplicate(&outbound)?];
    Ok([
        Parts {
            fds: vec![inbound, outbound],
            ticket: ticket.clone(),
        },
        Parts {
            fds: copies,
            ticket,
        },
    ])
}

fn sockets(pair: [OwnedFd; 2]) -> Result<[Parts; 2]> {
    let [server, client] = pair;
    let twice = |fd: OwnedFd| -> Result<Parts> {
        Ok(Parts {
            fds: vec![sys::duplicate(&fd)?, fd],
            ..Parts::default()
        })
    };
    Ok([twice(server)?, twice(client)?])
}

/// Maps both directions: `(inbound, outbound)` as `role` sees them.
fn map_both(parts: Parts, role: Role) -> Result<(Arc<Shared>, Arc<Shared>)> {
    let [first, second]: [OwnedFd; 2] = parts
        .fds
        .try_into()
        .map_err(|_| anyhow::anyhow!("two descriptors were due"))?;
    let maps = [
        Arc::new(Shared::map(&first, parts.ticket.capacity[0]).context("mmap")?),
        Arc::new(Shared::map(&second, parts.ticket.capacity[1]).context("mmap")?),
    ];
    Ok((maps[role.inbound()].clone(), maps[role.outbound()].clone()))
}

/// What a poller does between two looks.
#[derive(Clone, Copy, Debug)]
struct Poll {
    yields: bool,
}

impl Poll {
    #[inline(always)]
    fn pause(self) {
        if self.yields {
            std::thread::yield_now();
        }
        // Else look again at once. The pause instruction takes 140 cycles on some CPUs, and slows
        // the rings there; the raw line takes part with one as well.
    }
}

//! A mailbox in shared memory: a flag word and the payload behind it, in the flag's own cache
//! line as far as it fits (56 bytes). For strict ping-pong; it holds one message.
//!
//! With a spinning reader this is the raw cache-line ping-pong, one line each way; with a reader
//! that sleeps in a futex until the flag changes, the raw futex ping-pong.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::{Poll, map_both};
use crate::sys::{self, Shared};
use crate::transport::{Parts, Role, Rx, Tx};

/// The flag is the first word of the first line, and the payload follows it.
const PAYLOAD: usize = 8;
/// Bytes of payload in the flag's line.
const FIRST: usize = 64 - PAYLOAD;

/// Bytes of shared memory for messages of `size` bytes.
pub(crate) fn capacity(size: usize) -> usize {
    PAYLOAD + size
}

/// How the reader learns of a message.
pub(crate) trait Notify: Copy + Send {
    /// After the flag was stored.
    fn tell(self, mailbox: &Shared);
    /// While the flag still holds `seen`.
    fn wait(self, mailbox: &Shared, seen: u32);
}

/// Nobody is told: the reader looks all the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin(Poll);

impl Notify for Spin {
    #[inline(always)]
    fn tell(self, _: &Shared) {}

    #[inline(always)]
    fn wait(self, _: &Shared, _: u32) {
        self.0.pause();
    }
}

/// The same, but it pauses after each look, and leaves the line to its writer for that long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paused;

impl Notify for Paused {
    #[inline(always)]
    fn tell(self, _: &Shared) {}

    #[inline(always)]
    fn wait(self, _: &Shared, _: u32) {
        std::hint::spin_loop();
    }
}

/// FUTEX_WAKE for each message, FUTEX_WAIT for each look in vain; never a spin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sleep;

impl Notify for Sleep {
    #[inline(always)]
    fn tell(self, mailbox: &Shared) {
        sys::futex_wake(mailbox.flag());
    }

    #[inline(always)]
    fn wait(self, mailbox: &Shared, seen: u32) {
        sys::futex_wait(mailbox.flag(), seen);
    }
}

/// One half of one end.
pub(crate) struct Half<N> {
    mailbox: Arc<Shared>,
    flag: u32,
    notify: N,
}

/// Opens the spinning form.
pub(crate) fn open_spin(parts: Parts, role: Role) -> Result<(Half<Spin>, Half<Spin>)> {
    let spin = Spin(Poll {
        yields: parts.ticket.yields,
    });
    open(parts, role, spin)
}

/// Opens the spinning form that pauses.
pub(crate) fn open_paused(parts: Parts, role: Role) -> Result<(Half<Paused>, Half<Paused>)> {
    open(parts, role, Paused)
}

/// Opens the sleeping form.
pub(crate) fn open_sleep(parts: Parts, role: Role) -> Result<(Half<Sleep>, Half<Sleep>)> {
    open(parts, role, Sleep)
}

fn open<N: Notify>(parts: Parts, role: Role, notify: N) -> Result<(Half<N>, Half<N>)> {
    let (inbound, outbound) = map_both(parts, role)?;
    let half = |mailbox| Half {
        mailbox,
        flag: 0,
        notify,
    };
    Ok((half(outbound), half(inbound)))
}

impl<N: Notify> Tx for Half<N> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> Result<()> {
        // The flag's line comes last: it is the one that the reader keeps looking at.
        let near = message.len().min(FIRST);
        self.mailbox.put(PAYLOAD + near, &message[near..]);
        self.mailbox.put(PAYLOAD, &message[..near]);
        self.flag = self.flag.wrapping_add(1);
        self.mailbox.flag().store(self.flag, Ordering::Release); // pairs with `recv`
        self.notify.tell(&self.mailbox);
        Ok(())
    }
}

impl<N: Notify> Rx for Half<N> {
    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.flag = self.flag.wrapping_add(1);
        loop {
            let seen = self.mailbox.flag().load(Ordering::Acquire); // pairs with `send`
            if seen == self.flag {
                break;
            }
            self.notify.wait(&self.mailbox, seen);
        }
        self.mailbox.get(PAYLOAD, buf);
        Ok(buf.len())
    }
}

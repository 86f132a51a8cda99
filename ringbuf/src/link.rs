//! A pair of processes and the memory between them, and what the broker tells a process about one connection.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use crate::{
    attention::{Attention, DISCONNECTED},
    barrier, books,
    doorbell::Bell,
    error::AttachError,
    geometry::Geometry,
    layout::{ABI_VERSION, PAGE},
    region::{self, Map, Region},
    shared::{self, Shared},
    sync::process::{AtomicU64, Ordering},
    types::{Access, End, PipeType, ProcessIndex},
};

/// One process's mapping of a link. Mapped once; costs no descriptor.
#[derive(Debug)]
pub struct Link {
    region: Region,
    process: ProcessIndex,
    /// Turns in a row after which a thread of this process keeps a role.
    keep_after: u8,
    /// Its calls look again while another call copies.
    is_patient: bool,
    token: [u64; 2],
    /// One for each slot: how often this process has each end open, 16 bits by `End::index`, and above them of which
    /// generation.
    open: Box<[AtomicU64]>,
}

impl Link {
    /// Checks a descriptor and maps it as the link that `process` shares. The descriptor is closed before this
    /// returns, whatever the answer.
    ///
    /// # Errors
    /// Whatever is not a sealed memfd of this very layout is refused with the reason; nothing of it is believed
    /// before it is checked.
    pub fn attach(fd: OwnedFd, process: ProcessIndex) -> Result<Shared<Link>, AttachError> {
        Link::attach_as(fd, process, true)
    }

    /// The same for a thread that everybody waits for: where a call of a handle on this link, a try call or one that takes
    /// its place in line, would look again until another has copied, it answers [`Error::Busy`](crate::Error::Busy) at
    /// once. [`Conn::read_obstacles`](crate::Conn::read_obstacles) says what to wait for then.
    ///
    /// # Errors
    /// As [`Link::attach`].
    pub fn attach_in_a_hurry(
        fd: OwnedFd,
        process: ProcessIndex,
    ) -> Result<Shared<Link>, AttachError> {
        Link::attach_as(fd, process, false)
    }

    fn attach_as(
        fd: OwnedFd,
        process: ProcessIndex,
        is_patient: bool,
    ) -> Result<Shared<Link>, AttachError> {
        let len = region::check(fd.as_fd())?;
        if len < PAGE {
            return Err(AttachError::TooSmall { len });
        }
        if usize::try_from(len).is_err() || isize::try_from(len).is_err() {
            return Err(AttachError::TooLarge { len });
        }
        // The first page alone, until it says how much there is.
        let first = Map::new(fd.as_fd(), PAGE).map_err(AttachError::Io)?;
        let geometry = Geometry::parse(first.header(), len)?;
        let token = first
            .header()
            .token
            .each_ref()
            .map(|half| half.load(Ordering::Relaxed));
        drop(first);
        let map = Map::new(fd.as_fd(), len).map_err(AttachError::Io)?;
        let open = shared::zeros(geometry.slots as usize).ok_or_else(no_memory)?;
        let Some(region) = Region::new(map, geometry) else {
            return Err(AttachError::Geometry);
        };
        let link = Link {
            region,
            process,
            // Who is in a hurry is not asked for a role that it keeps, and has none between its calls (`Conn::reclaim`).
            keep_after: if is_patient {
                barrier::keep_after()
            } else {
                barrier::KEEP_NEVER
            },
            is_patient,
            token,
            open,
        };
        Shared::new(link).map_err(|_| no_memory())
    }

    /// This process's index.
    #[must_use]
    pub fn process(&self) -> ProcessIndex {
        self.process
    }

    pub(crate) fn keep_after(&self) -> u8 {
        self.keep_after
    }

    /// How often a call that does not sleep looks at a role that is held for the length of a copy: once at least.
    pub(crate) fn looks(&self, most: u32) -> u32 {
        if self.is_patient { most } else { 1 }
    }

    /// The other process of the pair that the link was made for; `None`: this one is not of it.
    #[must_use]
    pub fn peer(&self) -> Option<ProcessIndex> {
        match self.process.get() {
            own @ (0 | 1) => ProcessIndex::new(1 - own),
            _ => None,
        }
    }

    /// The bell of this process.
    #[must_use]
    #[inline]
    pub fn own_bell(&self) -> Bell<'_> {
        self.bell(self.process)
    }

    /// The bell of a process of this link.
    #[must_use]
    #[inline]
    pub fn bell(&self, process: ProcessIndex) -> Bell<'_> {
        Bell::new(self.region.bell(process))
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// What both processes of a link, and nobody else but the broker that made it, know it by.
    #[must_use]
    pub fn token(&self) -> [u64; 2] {
        self.token
    }

    // ---- without the broker that made it -----------------------------------------------------------------------

    /// This process has opened that end, once more perhaps.
    pub(crate) fn note_open(&self, slot: u32, end: End, generation: u32) {
        let Some(own) = self.open.get(slot as usize) else {
            return;
        };
        let changed = |word| {
            let ends = if word & !ENDS == above(generation) {
                word & ENDS
            } else {
                0
            };
            let full = count(ends, end) == MOST_OPENS;
            Some(above(generation) | (ends + if full { 0 } else { one(end) }))
        };
        // Cannot fail: it always gives a value.
        let _ = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
    }

    /// One handle of the end is of no more use to this process; the slot may serve another connection already. `true`: it
    /// was the last.
    pub(crate) fn note_closed(&self, slot: u32, end: End, generation: u32) -> bool {
        let Some(own) = self.open.get(slot as usize) else {
            return true;
        };
        let changed = |word: u64| {
            let is_open = word & !ENDS == above(generation) && count(word, end) != 0;
            is_open.then(|| word - one(end))
        };
        let before = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        before.is_ok_and(|before| count(before, end) == 1)
    }

    /// The generation of the connection that a slot serves, or has served last; 0: none yet.
    fn attention(&self, slot: u32) -> Attention {
        let queue = &self.region.slot(slot).queues[End::Server.index()];
        Attention::load(&queue.common.0.attention)
    }

    /// Whether this process has that end of the slot's connection open.
    fn has(&self, slot: u32, end: End) -> bool {
        let own = self.open.get(slot as usize);
        let own = own.map_or(0, |own| own.load(Ordering::Relaxed));
        // A broker closes on behalf of who it has parted with.
        let closed = self.region.slot(slot).closed.load(Ordering::SeqCst);
        count(own, end) != 0
            && own & !ENDS == above(self.attention(slot).generation())
            && closed & 1 << end.index() == 0
    }

    /// Whether this process has an end of the slot's connection open that another process has, too, or whose other end
    /// another process has.
    fn is_shared_at(&self, slot: u32) -> bool {
        match (self.has(slot, End::Client), self.has(slot, End::Server)) {
            (false, false) => false,
            (true, true) => {
                let holders = &self.region.slot(slot).holders;
                let holders = holders.iter().map(|of| of.load(Ordering::SeqCst));
                let others = books::ANY_PROCESS & !self.own_bit();
                holders.fold(0, |all, of| all | of) & others != 0
            }
            _ => true,
        }
    }

    fn own_bit(&self) -> u32 {
        1 << self.process.get()
    }

    /// Connections that a broker made in its last moment, and whose grant has not come here: this process will never use
    /// its side of them, and the other side is to know. Only when that broker has gone and nothing of its is unread.
    pub fn close_what_never_came(&self) {
        for slot in 0..self.region.geometry().slots {
            let attention = self.attention(slot);
            let untouched = self.region.slot(slot).closed.load(Ordering::SeqCst) == 0;
            if attention.generation() == 0 || !untouched || attention.has(DISCONNECTED) {
                continue;
            }
            for end in [End::Client, End::Server] {
                if !self.has(slot, end) {
                    self.release(slot, end, self.own_bit());
                }
            }
        }
    }

    /// Without a broker: those processes have an end no more, and it is closed if nobody has it.
    fn release(&self, slot: u32, end: End, gone: u32) {
        let header = self.region.slot(slot);
        let before = header.holders[end.index()].fetch_and(!gone, Ordering::SeqCst);
        let closed = header.closed.load(Ordering::SeqCst) & 1 << end.index() != 0;
        if before & !gone & books::ANY_PROCESS == 0 && !closed {
            books::close_end(&self.region, slot, end);
        }
    }

    /// As [`crate::Conn::close`] of an end that other processes may have, too, without a broker that knows whether they
    /// do.
    pub(crate) fn release_own(&self, slot: u32, end: End) {
        self.release(slot, end, self.own_bit());
    }

    /// Whether this process has something open here that another process has to do with.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        (0..self.region.geometry().slots).any(|slot| self.is_shared_at(slot))
    }

    /// Other processes of this link have gone (a bit for each index; one's own counts for nothing), and no broker has the
    /// link's books any more: ends that nobody else has are closed from here, and whoever waits for them is woken.
    /// `exited`: they are known to run no more, so that what they held is taken back first
    /// ([`crate::books::LinkBooks::bury`] does the same for a broker).
    pub fn bury_others(&self, gone: u8, exited: bool) {
        let gone = u32::from(gone) & !self.own_bit();
        let others = || ProcessIndex::all().filter(|index| gone & 1 << index.get() != 0);
        for slot in 0..self.region.geometry().slots {
            if !self.has(slot, End::Client) && !self.has(slot, End::Server) {
                continue;
            }
            if exited {
                for other in others() {
                    books::sweep_slot(&self.region, slot, other, None, true);
                }
            }
            for end in [End::Client, End::Server] {
                if self.has(slot, end) {
                    let holders = &self.region.slot(slot).holders[end.index()];
                    holders.fetch_and(!gone, Ordering::SeqCst);
                } else {
                    self.release(slot, end, gone);
                }
            }
        }
    }
}

fn no_memory() -> AttachError {
    AttachError::Io(io::ErrorKind::OutOfMemory.into())
}

/// The bits of both ends' counts in a slot's word.
const ENDS: u64 = u32::MAX as u64;
/// What a count does not go beyond. (So many handles of one end in one process are never all closed.)
const MOST_OPENS: u64 = u16::MAX as u64;

/// A generation above them.
fn above(generation: u32) -> u64 {
    u64::from(generation) << 32
}

/// An end, once.
fn one(end: End) -> u64 {
    1 << (16 * end.index())
}

fn count(word: u64, end: End) -> u64 {
    word >> (16 * end.index()) & MOST_OPENS
}

/// What the broker tells one process about its end of one connection: private numbers that decide where the shared
/// ones only report. Plain data, [`Grant::SIZE`] bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub(crate) token: [u64; 2],
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    pub(crate) end: End,
    pub(crate) pipe_type: PipeType,
    /// By `End::index`.
    pub(crate) access: [Access; 2],
    /// By the index of the end that reads, as everything below.
    pub(crate) quotas: [u32; 2],
    pub(crate) secrets: [u64; 2],
    /// Offset and length.
    pub(crate) areas: [(u64, u64); 2],
}

impl Grant {
    /// Bytes of a grant on the wire.
    pub const SIZE: usize = 96;

    /// The end that it is for.
    #[must_use]
    pub fn end(&self) -> End {
        self.end
    }

    /// For the wire; little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Grant::SIZE] {
        let mut bytes = [0; Grant::SIZE];
        let bits = |access: Access| u8::from(access.read) | u8::from(access.write) << 1;
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&ABI_VERSION.to_le_bytes());
        put(&[
            self.end as u8,
            u8::from(self.pipe_type == PipeType::Message),
            bits(self.access[0]),
            bits(self.access[1]),
        ]);
        put(&self.slot.to_le_bytes());
        put(&self.generation.to_le_bytes());
        for number in self.token {
            put(&number.to_le_bytes());
        }
        for reader in 0..2 {
            put(&self.quotas[reader].to_le_bytes());
            put(&[0; 4]);
            put(&self.secrets[reader].to_le_bytes());
            put(&self.areas[reader].0.to_le_bytes());
            put(&self.areas[reader].1.to_le_bytes());
        }
        bytes
    }

    /// From the wire.
    ///
    /// # Errors
    /// [`AttachError::Grant`] for another length or numbers that cannot be, [`AttachError::Version`] for another ABI.
    pub fn from_bytes(bytes: &[u8]) -> Result<Grant, AttachError> {
        let bytes: &[u8; Grant::SIZE] = bytes
            .try_into()
            .map_err(|_| AttachError::Grant("its length"))?;
        let word = |at: usize| -> u32 {
            let mut word = [0; 4];
            word.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if word(0) != ABI_VERSION {
            return Err(AttachError::Version { found: word(0) });
        }
        let end = match bytes[4] {
            0 => End::Client,
            1 => End::Server,
            _ => return Err(AttachError::Grant("its end")),
        };
        let pipe_type = match bytes[5] {
            0 => PipeType::Byte,
            1 => PipeType::Message,
            _ => return Err(AttachError::Grant("its pipe type")),
        };
        let access = |byte: u8| {
            if byte >= 4 {
                return Err(AttachError::Grant("its access"));
            }
            Ok(Access {
                read: byte & 1 != 0,
                write: byte & 2 != 0,
            })
        };
        let queue = |reader: usize| 32 + 32 * reader;
        Ok(Grant {
            token: [long(16), long(24)],
            slot: word(8),
            generation: word(12),
            end,
            pipe_type,
            access: [access(bytes[6])?, access(bytes[7])?],
            quotas: [word(queue(0)), word(queue(1))],
            secrets: [long(queue(0) + 8), long(queue(1) + 8)],
            areas: [
                (long(queue(0) + 16), long(queue(0) + 24)),
                (long(queue(1) + 16), long(queue(1) + 24)),
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_survives_the_wire() {
        let grant = Grant {
            token: [1, u64::MAX],
            slot: 7,
            generation: 9,
            end: End::Server,
            pipe_type: PipeType::Message,
            access: [Access::READ, Access::DUPLEX],
            quotas: [0, u32::MAX],
            secrets: [3, 4],
            areas: [(65_536, 65_536), (131_072, 1 << 40)],
        };
        assert_eq!(Grant::from_bytes(&grant.to_bytes()).expect("same"), grant);
        assert!(Grant::from_bytes(&grant.to_bytes()[1..]).is_err());
        for (at, what) in [(0, 2), (4, 2), (5, 2), (6, 4), (7, 9)] {
            let mut bytes = grant.to_bytes();
            bytes[at] = what;
            assert!(Grant::from_bytes(&bytes).is_err(), "byte {at}");
        }
    }
}

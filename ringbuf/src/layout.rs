//! What two processes agree on: every shared structure, and the offset of each of its fields. No code.
//!
//! Fixed-width atomics only, so that 32- and 64-bit processes share a link; `AtomicU64` has an alignment of 8 on
//! every target. Any process may store anything in any field at any time: every load is checked where it is used.
//!
//! ```text
//! 0          header (one page)
//! 4 KiB      bells: one page for each of 8 processes
//! 36 KiB     slot headers, 1 KiB each          -> fallocated when a slot is handed out
//!            record tables, 2 KiB per slot     -> the same
//! data_off   data areas, sparse                -> populated by their producers
//! ```

use crate::sync::{AtomicU32, AtomicU64};

/// "NPF1", little-endian; stored last, so that a half-made link is refused.
pub const MAGIC: u32 = u32::from_le_bytes(*b"NPF1");
/// Exact match required. A new field takes reserved space *and* a version.
pub const ABI_VERSION: u32 = 1;

/// Processes that can share a link.
pub(crate) const PROCESSES: usize = 8;
/// Records for one direction of a connection.
#[cfg(not(loom))]
pub(crate) const RECORDS: usize = 16;
/// The models walk every record's every word.
#[cfg(loom)]
pub(crate) const RECORDS: usize = 2;
/// Most slots in a link: as many as a bell's ready bitmap has bits.
pub(crate) const MAX_SLOTS: u32 = 4096;

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

/// The first page of a link. Written once by its maker, before anybody else has it.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct LinkHeader {
    pub(crate) magic: AtomicU32,
    pub(crate) abi_version: AtomicU32,
    pub(crate) layout_hash: AtomicU64,
    /// Bytes of the whole link.
    pub(crate) size: AtomicU64,
    /// Offset of the first data area, bytes.
    pub(crate) data_off: AtomicU64,
    pub(crate) slots: AtomicU32,
    /// Reserved: a process of the pair asks for a connection to move to another link (bit per process).
    pub(crate) moved: AtomicU32,
    /// The link's identity, for re-registration with a new broker.
    pub(crate) token: [AtomicU64; 2],
}

/// One process's bell: who wants it woken sets a bit for the slot, and rings if it is armed.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct BellPage {
    pub(crate) armed: AtomicU32,
    /// The futex word.
    pub(crate) word: AtomicU32,
    /// Not zero once the process has been swept.
    pub(crate) dead: AtomicU32,
    /// CPU last run on, plus one; zero: not known.
    pub(crate) cpu: AtomicU32,
    /// Bit per word of `ready`.
    pub(crate) summary: AtomicU64,
    /// Bit per slot. The first 320 slots are on the line of the words above, which is all that a ring touches then.
    pub(crate) ready: [AtomicU64; READY_WORDS],
}

#[cfg(test)]
impl Default for BellPage {
    fn default() -> BellPage {
        BellPage {
            armed: AtomicU32::new(0),
            word: AtomicU32::new(0),
            dead: AtomicU32::new(0),
            cpu: AtomicU32::new(0),
            summary: AtomicU64::new(0),
            ready: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

pub(crate) const READY_WORDS: usize = MAX_SLOTS as usize / 64;

/// One connection.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct SlotHeader {
    /// Mirrored here; the truth that calls compare is in `Queue::attention`.
    pub(crate) generation: AtomicU32,
    /// Bit per end: its last handle has gone.
    pub(crate) closed: AtomicU32,
    /// Read mode (bit 0: message) and completion mode (bit 1: COMPLETE) of each end, by `End::index`.
    pub(crate) modes: [AtomicU32; 2],
    /// Whether each end's file object is signalled (NP-IO-04, 05), and who is told when it becomes so (`signal.rs`).
    pub(crate) signaled: [AtomicU32; 2],
    /// Reserved (NP-IO-10): the lock that serialises calls on each end's synchronous file object.
    pub(crate) file_lock: [AtomicU32; 2],
    /// Reserved: the connection has moved to another link.
    pub(crate) moved: AtomicU32,
    /// By `End::index`: who has the end open, a bit for each process. Mirrored here for the processes of a link whose
    /// broker has gone; until then its own books decide.
    pub(crate) holders: [AtomicU32; 2],
    pub(crate) reserved: [AtomicU32; 5],
    /// By the index of the end that *reads*.
    pub(crate) queues: [QueueHeader; 2],
}

/// One direction of a connection.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct QueueHeader {
    /// Read by both sides on every call, written only when something unusual begins or ends.
    pub(crate) common: Line<Common>,
    /// Written by producers only.
    pub(crate) back: Line<Back>,
    /// Producers' notes about the other side.
    pub(crate) notes: Line<Notes>,
    /// Written by consumers, and by whoever matches.
    pub(crate) front: Line<Front>,
    /// What consumers tell producers.
    pub(crate) taken: Line<Taken>,
    /// Behind the match lock.
    pub(crate) table: Line<Table>,
}

/// The line that both sides look at.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Common {
    /// `attention.rs`: generation (high half), flags and one bit per record. Equal to the bare generation on the
    /// fast path.
    pub(crate) attention: AtomicU64,
    /// CPU that a producer, a consumer last ran on, plus one.
    pub(crate) producer_cpu: AtomicU32,
    pub(crate) consumer_cpu: AtomicU32,
}

/// The producer's role and truth; two copies, of which `sel` names the one in force.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Back {
    pub(crate) role: AtomicU32,
    pub(crate) sel: AtomicU32,
    /// Position of the next header.
    pub(crate) tail: [AtomicU64; 2],
    /// Payload bytes ever committed.
    pub(crate) bytes: [AtomicU64; 2],
    /// Messages ever begun, wrapping.
    pub(crate) messages: [AtomicU32; 2],
    /// The role's.
    pub(crate) keep: Keep,
}

/// What a role is kept by (`role.rs`); written by its owner.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Keep {
    /// Odd: who keeps the role is inside. Counts, by twos, how often it was kept.
    pub(crate) inside: AtomicU32,
    /// Who had it last, and its turns in a row since.
    pub(crate) last: AtomicU32,
    pub(crate) turns: AtomicU32,
    /// The only owner that may keep it: the first that did; 0 before that. All bits: nobody, since a process that cannot
    /// ask for it has come.
    pub(crate) keeper: AtomicU32,
}

/// What a producer remembers of the consumer, and of its own restart.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Notes {
    /// Last seen `Taken::bytes`.
    pub(crate) taken: AtomicU64,
    /// Last seen `Taken::head`.
    pub(crate) head: AtomicU64,
    /// Position of the last restart's skip frame (`room.rs`).
    pub(crate) restart: AtomicU64,
    /// Highest offset written since the area was last punched.
    pub(crate) high_water: AtomicU64,
    /// Position at which a restart was last thought of.
    pub(crate) checked: AtomicU64,
    /// Since when laps have stayed small although a large one has taken memory: milliseconds, never 0; 0: it is not so.
    pub(crate) small_since: AtomicU32,
    /// How fast the laps of a stream are (`produce.rs`).
    pub(crate) lap: AtomicU32,
    /// A frame that ends at this position or before it is laid straight on: no restart is due, and neither the end of the
    /// area nor what is unread comes before. Found with `head`.
    pub(crate) straight: AtomicU64,
    /// One that ends there or before it may be padded. Found with `head`.
    pub(crate) padded: AtomicU64,
}

/// The consumer's role, which is the match lock too, and its truth in two copies.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Front {
    pub(crate) role: AtomicU32,
    pub(crate) sel: AtomicU32,
    /// Position of the next unread byte (inside a frame) or header.
    pub(crate) pos: [AtomicU64; 2],
    /// Payload bytes ever claimed by reads.
    pub(crate) bytes: [AtomicU64; 2],
    /// Messages ever read to their end, wrapping.
    pub(crate) messages: [AtomicU32; 2],
    /// Unread bytes of the frame that `pos` is inside of; 0: `pos` is at a header.
    pub(crate) left: [AtomicU32; 2],
    /// Flags (low half) and client context (high half) of that frame.
    pub(crate) meta: [AtomicU32; 2],
}

/// Published by consumers before each call returns; loaded by producers only when their notes say "short".
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Taken {
    /// Bytes claimed or cancelled.
    pub(crate) bytes: AtomicU64,
    /// Up to where the area may be used again.
    pub(crate) head: AtomicU64,
}

/// Counters of the match lock's holder.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Table {
    /// Bytes and messages of cancelled writes.
    pub(crate) cancelled: AtomicU64,
    pub(crate) cancelled_messages: AtomicU32,
    /// Issue order of the next record.
    pub(crate) order: AtomicU32,
    /// Futex word, bumped when a record becomes free; bit 0: somebody waits for one.
    pub(crate) room: AtomicU32,
    /// The consumer's role's: that line is full, and this one is read on each call anyway.
    pub(crate) keep: Keep,
}

/// A pended read, stalled write or flush (`record.rs`).
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Record {
    /// One CAS word, and the futex word of the owner's sleep.
    pub(crate) state: AtomicU32,
    pub(crate) kind: AtomicU32,
    /// Process index and thread serial, as in role words.
    pub(crate) owner: AtomicU32,
    /// Issue order.
    pub(crate) order: AtomicU32,
    /// Read: bytes wanted. Write: bytes in all.
    pub(crate) len: AtomicU32,
    /// Read: bytes given. Write: bytes not placed yet.
    pub(crate) count: AtomicU32,
    /// Read: position of the first byte given. Write: position of its first header.
    pub(crate) pos: AtomicU64,
    /// Write: bytes ever committed with its last byte. Flush: position to be reached. Read: front position before.
    pub(crate) end: AtomicU64,
    /// Write: position behind its last placed frame. Read: front position after.
    pub(crate) next: AtomicU64,
    /// CLOCK_MONOTONIC at completion, nanoseconds: tells the sleeper what a wake-up costs.
    pub(crate) stamp: AtomicU64,
    /// Write: empty messages written behind it while it is not wholly placed (NP-WRITE-04).
    pub(crate) empties: AtomicU32,
    /// 1: the owner waits at its process's bell, which is rung in place of the state word.
    pub(crate) cookie: AtomicU32,
}

/// Everything of a slot that is not payload.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct RecordTables {
    /// By the index of the end that *reads*.
    pub(crate) queues: [[Record; RECORDS]; 2],
}

pub(crate) const PAGE: u64 = 4096;
pub(crate) const BELLS_OFF: u64 = PAGE;
pub(crate) const SLOTS_OFF: u64 = BELLS_OFF + PROCESSES as u64 * PAGE;
pub(crate) const SLOT_SIZE: u64 = 1024;
pub(crate) const TABLES_SIZE: u64 = (2 * RECORDS * 64) as u64;

/// Names the layout: whoever computes another number would misread the memory.
#[must_use]
pub const fn layout_hash() -> u64 {
    // FNV-1a over the offsets that matter.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < OFFSETS.len() {
        hash = (hash ^ OFFSETS[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

use std::mem::{offset_of, size_of};

#[cfg(not(loom))]
const OFFSETS: &[usize] = &[
    size_of::<LinkHeader>(),
    offset_of!(LinkHeader, layout_hash),
    offset_of!(LinkHeader, size),
    offset_of!(LinkHeader, data_off),
    offset_of!(LinkHeader, slots),
    offset_of!(LinkHeader, token),
    size_of::<BellPage>(),
    offset_of!(BellPage, summary),
    offset_of!(BellPage, ready),
    size_of::<SlotHeader>(),
    offset_of!(SlotHeader, modes),
    offset_of!(SlotHeader, signaled),
    // Whoever reads that word otherwise would take a watcher's number for a signal.
    crate::signal::WATCHER_SHIFT as usize,
    crate::signal::LIFE_SHIFT as usize,
    offset_of!(SlotHeader, file_lock),
    offset_of!(SlotHeader, holders),
    offset_of!(SlotHeader, queues),
    size_of::<QueueHeader>(),
    offset_of!(QueueHeader, back),
    offset_of!(QueueHeader, notes),
    offset_of!(QueueHeader, front),
    offset_of!(QueueHeader, taken),
    offset_of!(QueueHeader, table),
    offset_of!(Common, producer_cpu),
    offset_of!(Back, tail),
    offset_of!(Back, bytes),
    offset_of!(Back, messages),
    offset_of!(Back, keep),
    offset_of!(Notes, restart),
    offset_of!(Notes, straight),
    offset_of!(Notes, padded),
    offset_of!(Front, pos),
    offset_of!(Front, bytes),
    offset_of!(Front, messages),
    offset_of!(Front, left),
    offset_of!(Front, meta),
    offset_of!(Taken, head),
    offset_of!(Table, order),
    offset_of!(Table, room),
    offset_of!(Table, keep),
    size_of::<Record>(),
    offset_of!(Record, len),
    offset_of!(Record, pos),
    offset_of!(Record, end),
    offset_of!(Record, next),
    offset_of!(Record, stamp),
    RECORDS,
    PROCESSES,
];
#[cfg(loom)]
const OFFSETS: &[usize] = &[];

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<LinkHeader>() == 56 && offset_of!(LinkHeader, layout_hash) == 8);
    assert!(offset_of!(LinkHeader, size) == 16 && offset_of!(LinkHeader, token) == 40);
    assert!(offset_of!(BellPage, ready) == 24 && size_of::<BellPage>() <= 4096);
    assert!(size_of::<QueueHeader>() == 6 * 64 && size_of::<SlotHeader>() == 64 + 2 * 6 * 64);
    assert!(size_of::<SlotHeader>() as u64 <= SLOT_SIZE && offset_of!(SlotHeader, queues) == 64);
    assert!(
        size_of::<Common>() <= 64
            && size_of::<Notes>() == 64
            && size_of::<Back>() == 64
            && size_of::<Front>() == 64
    );
    assert!(size_of::<Record>() == 64 && size_of::<RecordTables>() as u64 == TABLES_SIZE);
    assert!(offset_of!(Back, tail) == 8 && offset_of!(Front, pos) == 8);
};

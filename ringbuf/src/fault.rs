//! Named points at which tests stop, kill or park a thread. Only with the feature `fault-injection`, which only
//! tests turn on; without it the points are nothing.

#![cfg_attr(
    not(feature = "fault-injection"),
    allow(dead_code, reason = "the names stay, the hooks go")
)]

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Point {
    /// Producer's role held, nothing copied yet.
    ProducerRole = 1,
    /// Consumer's role held by a reader, nothing taken yet.
    ConsumerRole,
    /// Match lock held in the middle of settling.
    MatchLock,
    /// Frame copied, its tag not stored.
    Copied,
    /// Tag stored, the producer's books not yet brought up to date.
    Committed,
    /// Role given back, nobody rung yet.
    BeforeRing,
    /// A record is published, its owner about to wait.
    RecordTaken,
    /// A read was matched by a writer, its owner has not copied yet.
    Matched,
    /// Part of a streamed write is placed.
    MidStream,
    /// Data copied out, not yet taken.
    CopiedOut,
}

impl Point {
    /// Each of them.
    pub const ALL: &'static [Point] = &[
        Point::ProducerRole,
        Point::ConsumerRole,
        Point::MatchLock,
        Point::Copied,
        Point::Committed,
        Point::BeforeRing,
        Point::RecordTaken,
        Point::Matched,
        Point::MidStream,
        Point::CopiedOut,
    ];
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// SIGKILL to the own process.
    Kill = 1,
    /// SIGSTOP to the own process.
    Stop,
    /// This thread never goes on, like one that was terminated.
    ParkThread,
}

#[cfg(feature = "fault-injection")]
mod armed {
    use super::{Action, Point};
    use crate::sync::process::{AtomicU32, AtomicU64, Ordering};

    static ARMED: AtomicU64 = AtomicU64::new(0);
    static FIRED: AtomicU32 = AtomicU32::new(0);

    /// The next arrival of any thread of this process at `point` does `action`, once.
    pub fn arm(point: Point, action: Action) {
        ARMED.store(
            u64::from(action as u32) << 32 | u64::from(point as u32),
            Ordering::SeqCst,
        );
    }

    /// How often an armed point has been reached in this process.
    #[must_use]
    pub fn fired() -> u32 {
        FIRED.load(Ordering::SeqCst)
    }

    #[inline]
    pub(crate) fn at(point: Point) {
        let armed = ARMED.load(Ordering::Relaxed);
        if armed & 0xffff_ffff == u64::from(point as u32)
            && ARMED
                .compare_exchange(armed, 0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
        {
            fire(armed >> 32);
        }
    }

    #[cold]
    fn fire(action: u64) {
        FIRED.fetch_add(1, Ordering::SeqCst);
        let signal = match action {
            1 => libc::SIGKILL,
            2 => libc::SIGSTOP,
            _ => loop {
                std::thread::park();
            },
        };
        // To this very thread: a signal to the process may be taken by another one, and this one would run on for a while,
        // into a lock even, before it is stopped.
        // SAFETY: sends a signal; no memory is involved.
        unsafe { libc::raise(signal) };
    }
}

#[cfg(feature = "fault-injection")]
pub(crate) use armed::at;
#[cfg(feature = "fault-injection")]
pub use armed::{arm, fired};

#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub(crate) fn at(_: Point) {}

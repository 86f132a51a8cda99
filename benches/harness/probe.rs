//! What the machine is like right now: a cache line sent each way between the workers.
//!
//! A hypervisor moves virtual CPUs about; whether two of them share a core, an L3 or neither
//! changes every figure by a factor, and may change a few times a second. So each run is framed by
//! two probes, and it counts only if both say the same.
//!
//! The probe has a line for each direction, as every queue does. One line thrown to and fro takes
//! half as long between cores, since the answer's store fetches the line together with the load
//! before it; no message can travel that way without overwriting the one it answers.

use std::sync::atomic::Ordering;

use crate::clock::Clock;
use crate::sys::Shared;
use crate::transport::Role;

/// Where the two CPUs are, seen from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// One CPU; nothing to probe.
    OneCpu,
    /// Threads of one core: a round trip takes less than 72 ns (20 to 65 were seen).
    OneCore,
    /// Cores behind one L3: 72 to 200 ns (80 to 120 were seen).
    OneL3,
    /// Further apart.
    Across,
}

impl Class {
    /// The class of a line's round trip, in nanoseconds.
    pub(crate) fn of(nanos: f64) -> Class {
        match nanos {
            ..72.0 => Class::OneCore,
            ..200.0 => Class::OneL3,
            _ => Class::Across,
        }
    }

    /// As in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Class::OneCpu => "one CPU",
            Class::OneCore => "one core",
            Class::OneL3 => "one L3",
            Class::Across => "across",
        }
    }
}

/// Two probes around a run, in nanoseconds: the class, if both say the same and lie within a
/// factor of 1.5.
pub(crate) fn clean(before: f64, after: f64) -> Option<Class> {
    let class = Class::of(before);
    let near = before.max(after) <= 1.5 * before.min(after);
    (near && class == Class::of(after)).then_some(class)
}

const BATCHES: usize = 41;
const BATCH: u64 = 64;

/// One end's part. The client learns the median over batches, in tenths of a nanosecond per
/// round trip; `start` is the value that both lines hold, known to both ends.
pub(crate) fn probe(lines: &Shared, role: Role, start: u64, clock: Clock) -> u64 {
    let (there, back) = (lines.word(0), lines.word(LINE));
    let mut batches = [0; BATCHES];
    let mut value = start;
    for batch in &mut batches {
        let before = clock.now();
        for _ in 0..BATCH {
            value += 1;
            if role == Role::Client {
                there.store(value, Ordering::Release);
                while back.load(Ordering::Acquire) != value {}
            } else {
                while there.load(Ordering::Acquire) != value {}
                back.store(value, Ordering::Release);
            }
        }
        *batch = clock.now() - before;
    }
    batches.sort_unstable();
    clock.tenths(batches[BATCHES / 2]) / BATCH
}

/// Where the second line lies, in bytes: not beside the first, which a prefetcher would bring.
const LINE: usize = 512;

/// Bytes of the probe's shared memory.
pub(crate) const LEN: usize = 2 * LINE;

/// By how much the lines' value grows in one probe.
pub(crate) const STEP: u64 = BATCHES as u64 * BATCH;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_counts_only_if_nothing_moved() {
        assert_eq!(clean(90.0, 110.0), Some(Class::OneL3));
        assert_eq!(clean(30.0, 25.0), Some(Class::OneCore));
        assert_eq!(clean(90.0, 150.0), None, "more than a factor of 1.5");
        assert_eq!(clean(190.0, 210.0), None, "two classes");
        assert_eq!(clean(400.0, 30.0), None);
    }

    #[test]
    fn both_ends_of_a_probe_finish() {
        let fd = Shared::create(c"test", LEN).unwrap();
        let clock = Clock::calibrate();
        for start in [0, STEP] {
            std::thread::scope(|scope| {
                let server = Shared::map(&fd, LEN).unwrap();
                scope.spawn(move || probe(&server, Role::Server, start, clock));
                probe(&Shared::map(&fd, LEN).unwrap(), Role::Client, start, clock);
            });
            let lines = Shared::map(&fd, LEN).unwrap();
            for at in [0, LINE] {
                assert_eq!(lines.word(at).load(Ordering::Relaxed), start + STEP);
            }
        }
    }
}

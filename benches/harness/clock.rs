//! The clock of one sample: cheap to read, the same for every transport.

use std::fs;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Reads time in ticks and turns ticks into tenths of a nanosecond.
///
/// Ticks are the CPU's time-stamp counter where Linux calls it constant and never stopping, else
/// CLOCK_MONOTONIC. The parent calibrates once; both workers are told the result.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Clock {
    counter: bool,
    /// tenths of a nanosecond per tick, times 2^20
    factor: u64,
}

impl Clock {
    /// Chooses and calibrates: takes 30 ms with a time-stamp counter.
    pub(crate) fn calibrate() -> Clock {
        if !has_steady_counter() {
            return Clock {
                counter: false,
                factor: 10 << SHIFT,
            };
        }
        let probe = Clock {
            counter: true,
            factor: 0,
        };
        let (start, from) = (Instant::now(), probe.now());
        std::thread::sleep(Duration::from_millis(30));
        let (elapsed, to) = (start.elapsed(), probe.now());
        let tenths = nanos(elapsed) * 10;
        Clock {
            counter: true,
            factor: (tenths << SHIFT) / (to - from).max(1),
        }
    }

    /// Now, in ticks.
    #[inline(always)]
    pub(crate) fn now(self) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if self.counter {
            return crate::sys::ticks();
        }
        monotonic()
    }

    /// Tenths of a nanosecond that `ticks` last; meant for less than an hour.
    pub(crate) fn tenths(self, ticks: u64) -> u64 {
        ticks.saturating_mul(self.factor) >> SHIFT
    }

    /// Nanoseconds that `ticks` last.
    pub(crate) fn nanos(self, ticks: u64) -> u64 {
        self.tenths(ticks) / 10
    }

    /// The ticks that `duration` lasts.
    pub(crate) fn ticks_in(self, duration: Duration) -> u64 {
        (nanos(duration).saturating_mul(10) << SHIFT) / self.factor.max(1)
    }

    /// What a reading comes from, for the report.
    pub(crate) fn name(self) -> &'static str {
        if self.counter {
            "time-stamp counter"
        } else {
            "CLOCK_MONOTONIC"
        }
    }
}

const SHIFT: u32 = 20;

/// Nanoseconds of a duration, at most `u64::MAX`.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn monotonic() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one `timespec`, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}

fn has_steady_counter() -> bool {
    if !cfg!(target_arch = "x86_64") {
        return false;
    }
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info
        .lines()
        .find(|line| line.starts_with("flags"))
        .unwrap_or_default();
    ["constant_tsc", "nonstop_tsc"]
        .iter()
        .all(|flag| flags.split_whitespace().any(|f| f == *flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_system_clock() {
        let clock = Clock::calibrate();
        let differs = || {
            let (start, from) = (Instant::now(), clock.now());
            std::thread::sleep(Duration::from_millis(20));
            let (ours, theirs) = (clock.nanos(clock.now() - from), nanos(start.elapsed()));
            ours.abs_diff(theirs) as f64 / theirs as f64
        };
        // Somebody may be let run between the looks at the one and at the other.
        let least = (0..5).map(|_| differs()).fold(1.0, f64::min);
        assert!(least < 0.05, "{least}");
        let back = clock.nanos(clock.ticks_in(Duration::from_millis(5)));
        assert!(back.abs_diff(5_000_000) < 1000, "{back}");
    }
}

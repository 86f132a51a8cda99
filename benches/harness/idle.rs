//! What two ends cost that wait: CPU time and wake-ups of both processes, read from outside.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::crew::Crew;
use crate::placement::Placement;
use crate::results::IdleRow;
use crate::transport::Kind;
use crate::workloads::Pace;

/// From the start of the reads until they are surely asleep.
pub(crate) const SETTLE: Duration = Duration::from_millis(150);

/// Puts both ends to sleep in a read for `span`, reads what they used, and wakes them: each must
/// then receive one message, checked in full.
pub(crate) fn measure(
    crew: &mut Crew,
    kind: Kind,
    pace: Pace,
    placement: Placement,
    span: Duration,
) -> Result<IdleRow> {
    crew.idle(kind, pace, |pids| {
        thread::sleep(SETTLE);
        let (began, before) = (Instant::now(), Usage::of(pids)?);
        thread::sleep(span);
        let (span, after) = (began.elapsed(), Usage::of(pids)?);
        let cpu = after.cpu.saturating_sub(before.cpu);
        Ok(IdleRow {
            placement,
            kind,
            span,
            cpu,
            wakeups: after.switches - before.switches,
        })
    })
}

/// Since their start, over all threads of the processes.
#[derive(Debug, Default)]
struct Usage {
    cpu: Duration,
    /// voluntary context switches: each is one return to sleep
    switches: u64,
}

impl Usage {
    fn of(pids: [u32; 2]) -> Result<Usage> {
        let mut all = Usage::default();
        for pid in pids {
            for task in fs::read_dir(format!("/proc/{pid}/task")).context("threads of a worker")? {
                let path = task.context("threads of a worker")?.path();
                let status = fs::read_to_string(path.join("status")).context("status")?;
                let switches = status.lines().find_map(|line| {
                    line.strip_prefix("voluntary_ctxt_switches:")?
                        .trim()
                        .parse()
                        .ok()
                });
                all.switches += switches.unwrap_or(0_u64);
                all.cpu += match fs::read_to_string(path.join("schedstat")) {
                    Ok(text) => first_number(&text, 0).map(Duration::from_nanos),
                    // A kernel without scheduler statistics counts in ticks of 10 ms.
                    Err(_) => {
                        let stat = fs::read_to_string(path.join("stat")).context("stat")?;
                        let fields = stat.rsplit(')').next().unwrap_or_default();
                        let ticks = first_number(fields, 11).zip(first_number(fields, 12));
                        ticks.map(|(user, system)| Duration::from_millis(10 * (user + system)))
                    }
                }
                .context("CPU time of a worker")?;
            }
        }
        Ok(all)
    }
}

/// The number in field `index` of a line.
fn first_number(line: &str, index: usize) -> Option<u64> {
    line.split_whitespace().nth(index)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_sleep_show() {
        let me = std::process::id();
        let before = Usage::of([me, me]).unwrap();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(40) {}
        thread::sleep(Duration::from_millis(1));
        let after = Usage::of([me, me]).unwrap();
        assert!(after.cpu > before.cpu, "{before:?} {after:?}");
        assert!(after.switches > before.switches, "{before:?} {after:?}");
    }
}

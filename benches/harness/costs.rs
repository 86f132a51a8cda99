//! What connections cost that carry nothing: memory of all processes, descriptors of each.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::control::Task;
use crate::crew::Crew;
use crate::placement::Placement;
use crate::promises::Bound;
use crate::results::CostRow;
use crate::transport::{DEFAULT_QUOTA, Kind};
use crate::workloads::{Outcome, Pace};

/// Connections of `many` and `fds`, and those that `connect` cycles among.
pub(crate) const MANY: u32 = 10_000;
/// Messages of `fds`.
const MESSAGES: u64 = 10_000_000;

/// P8, the second half: bytes of memory for each connected pipe. The broker, this process, counts with both ends. And the
/// same with a read pending on each end, of which nothing is promised.
pub(crate) fn memory(crew: &mut Crew, placement: Placement) -> Result<Vec<CostRow>> {
    let mut rows = Vec::new();
    for reads in [false, true] {
        let hold = |crew: &mut Crew, count| match reads {
            false => crew.hold("memory", count),
            true => crew.let_read(count),
        };
        hold(crew, 1)?;
        let before = proportional(crew)?;
        hold(crew, MANY)?;
        let after = proportional(crew)?;
        let connected = crew.broker().stats().connections;
        if connected < MANY as usize {
            bail!("{connected} connections instead of {MANY}");
        }
        hold(crew, 0)?;
        let with = if reads {
            "with a read pending on each end"
        } else {
            "that carried nothing"
        };
        rows.push(CostRow {
            id: "P8",
            name: if reads { "many-pending" } else { "many" },
            placement,
            what: format!("memory for each of {MANY} pipes {with}"),
            ours: after.saturating_sub(before) as f64 / f64::from(MANY - 1),
            unit: "B",
            bound: (!reads).then_some(Bound::AtMost(2048.0)),
        });
    }
    Ok(rows)
}

/// P9: descriptors of either end beyond those that it has without npfs.
pub(crate) fn descriptors(crew: &mut Crew, placement: Placement, pace: Pace) -> Result<CostRow> {
    let none = open_files(crew)?;
    let mut most = 0;
    let mut look = |crew: &Crew| -> Result<()> {
        for (now, none) in open_files(crew)?.into_iter().zip(none) {
            most = most.max(now.saturating_sub(none));
        }
        Ok(())
    };
    crew.hold("descriptors", 1)?;
    look(crew)?;
    crew.hold("descriptors", MANY)?;
    look(crew)?;
    // And of overlapped calls.
    crew.let_read(MANY)?;
    look(crew)?;
    if !matches!(
        crew.run(Kind::Overlapped, Task::RoundTrip, pace)?,
        (Outcome::Trips(_), _)
    ) {
        bail!("round trips were due");
    }
    look(crew)?;
    let kind = Kind::Ours {
        quota: DEFAULT_QUOTA,
    };
    let mut messages = 0;
    while messages < MESSAGES {
        match crew.run(kind, Task::OneWay, pace)? {
            (Outcome::Flow(flow), _) => messages += flow.messages,
            _ => bail!("a stream was due"),
        }
    }
    look(crew)?;
    crew.hold("descriptors", 0)?;
    Ok(CostRow {
        id: "P9",
        name: "fds",
        placement,
        what: format!(
            "descriptors of a client process with 1 and {MANY} pipes, a read pending on each, after {MESSAGES} messages"
        ),
        ours: most as f64,
        unit: "",
        bound: Some(Bound::AtMost(1.0)),
    })
}

/// Proportional set size (proc(5), smaps_rollup) of this process and both workers, bytes.
fn proportional(crew: &Crew) -> Result<u64> {
    let mut all = 0;
    for pid in crew.pids().into_iter().chain([std::process::id()]) {
        let text =
            fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("smaps_rollup")?;
        let pss = text.lines().find_map(|line| {
            let number = line.strip_prefix("Pss:")?.trim().strip_suffix("kB")?;
            number.trim().parse::<u64>().ok()
        });
        all += 1024 * pss.context("no Pss in smaps_rollup")?;
    }
    Ok(all)
}

fn open_files(crew: &Crew) -> Result<[usize; 2]> {
    let mut counts = [0; 2];
    for (count, pid) in counts.iter_mut().zip(crew.pids()) {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("descriptors of a worker")?;
        *count = files.count();
    }
    Ok(counts)
}

//! One JSON object a line: a promise, a size, a placement.

use serde::Serialize;

use crate::promises::{self, Row, Unit};
use crate::results::{Figure, IdleRow, Report};

/// Figures are in `unit`; a `null` is a figure that is not to be had: a contender left out, or no
/// clean round, for which `ratio_all_rounds` still stands.
#[derive(Serialize)]
struct Line {
    id: &'static str,
    name: String,
    cpus: String,
    placement: &'static str,
    ours: Option<f64>,
    baseline: Option<f64>,
    baseline_name: String,
    unit: &'static str,
    ratio: Option<f64>,
    promise: Option<String>,
    holds: Option<bool>,
    ratio_all_rounds: Option<f64>,
    rounds_kept: usize,
    rounds_discarded: usize,
    quota: u32,
    #[serde(flatten)]
    percentiles: Option<Percentiles>,
    #[serde(flatten)]
    used: Option<Used>,
}

/// Nanoseconds of the server's CPU time for each message.
#[derive(Serialize)]
struct Used {
    ours_cpu: Option<f64>,
    baseline_cpu: Option<f64>,
}

/// Nanoseconds of round trips. `batched` is the median over batches without a look at the clock.
#[derive(Serialize)]
struct Percentiles {
    ours_p99: Option<f64>,
    ours_p999: Option<f64>,
    ours_max: Option<f64>,
    ours_batched: Option<f64>,
    baseline_p99: Option<f64>,
    baseline_p999: Option<f64>,
    baseline_max: Option<f64>,
    baseline_batched: Option<f64>,
    ratio_batched: Option<f64>,
}

/// The idle row: microseconds of CPU time of both processes, and how often any of their threads woke up.
#[derive(Serialize)]
struct IdleLine {
    id: &'static str,
    name: &'static str,
    cpus: String,
    placement: &'static str,
    ours: Option<f64>,
    baseline: Option<f64>,
    baseline_name: String,
    unit: &'static str,
    ratio: Option<f64>,
    promise: &'static str,
    holds: Option<bool>,
    seconds: f64,
    ours_wakeups: Option<u64>,
    baseline_wakeups: Option<u64>,
}

/// Something counted; `ratio` is to one of its unit.
#[derive(Serialize)]
struct CostLine {
    id: &'static str,
    name: &'static str,
    cpus: String,
    what: String,
    ours: f64,
    unit: &'static str,
    baseline: Option<f64>,
    baseline_name: &'static str,
    ratio: f64,
    promise: Option<String>,
    holds: Option<bool>,
}

/// The lines of the report, each ended by a line feed.
pub fn json_lines(report: &Report) -> String {
    let mut lines = String::new();
    let mut push = |line: String| {
        lines.push_str(&line);
        lines.push('\n');
    };
    for row in promises::rows(report) {
        push(serde_json::to_string(&line(&row)).expect("plain data"));
    }
    let mut placements: Vec<_> = report.idle.iter().map(|row| row.placement).collect();
    placements.dedup();
    for placement in placements {
        let mut here = report.idle.iter().filter(|row| row.placement == placement);
        let ours = here.clone().find(|row| row.kind.is_ours());
        let baseline = here.find(|row| !row.kind.is_ours());
        push(serde_json::to_string(&idle_line(ours, baseline)).expect("plain data"));
    }
    for row in &report.costs {
        let line = CostLine {
            id: row.id,
            name: row.name,
            cpus: row.placement.name(),
            what: row.what.clone(),
            ours: places(row.ours, 10.0),
            unit: row.unit,
            baseline: None,
            baseline_name: "none",
            ratio: places(row.ours, 10.0),
            promise: row.bound.map(|bound| bound.text()),
            holds: row.bound.map(|bound| bound.holds(row.ours)),
        };
        push(serde_json::to_string(&line).expect("plain data"));
    }
    lines
}

fn line(row: &Row) -> Line {
    let figure = |value: Option<f64>| {
        value.map(|value| match row.unit {
            Unit::Messages | Unit::Cycles => value.round(),
            Unit::Nanos => places(value, 10.0),
            Unit::Gigabytes => places(value, 1e4),
        })
    };
    Line {
        id: row.id,
        name: row.workload.name(),
        cpus: row.placement.name(),
        placement: row.class.map_or("mixed", |class| class.name()),
        ours: figure(row.ours),
        baseline: figure(row.baseline),
        baseline_name: row.baseline_name.clone(),
        unit: row.unit.name(),
        ratio: row.ratio.map(|ratio| places(ratio, 1e4)),
        promise: row.bound.map(|bound| bound.text()),
        holds: row.holds(),
        ratio_all_rounds: row.ratio_of_all.map(|ratio| places(ratio, 1e4)),
        rounds_kept: row.rounds.0,
        rounds_discarded: row.rounds.1,
        quota: row.quota,
        percentiles: percentiles(row),
        used: used(row),
    }
}

fn used(row: &Row) -> Option<Used> {
    let [ours, baseline] = row.figures.map(|figure| match figure {
        Some(Figure::Rate { used, .. }) => used.map(|nanos| places(nanos, 10.0)),
        _ => None,
    });
    ours.or(baseline)?;
    Some(Used {
        ours_cpu: ours,
        baseline_cpu: baseline,
    })
}

fn percentiles(row: &Row) -> Option<Percentiles> {
    if row.unit != Unit::Nanos {
        return None;
    }
    let [ours, baseline] = row.figures.map(|figure| match figure {
        Some(Figure::Latency(latency)) => Some(latency),
        _ => None,
    });
    Some(Percentiles {
        ours_p99: ours.map(|l| l.p99),
        ours_p999: ours.map(|l| l.p999),
        ours_max: ours.map(|l| l.max),
        ours_batched: ours.map(|l| l.batched),
        baseline_p99: baseline.map(|l| l.p99),
        baseline_p999: baseline.map(|l| l.p999),
        baseline_max: baseline.map(|l| l.max),
        baseline_batched: baseline.map(|l| l.batched),
        ratio_batched: ours
            .zip(baseline)
            .map(|(a, b)| places(a.batched / b.batched, 1e4)),
    })
}

fn idle_line(ours: Option<&IdleRow>, baseline: Option<&IdleRow>) -> IdleLine {
    let micros = |row: Option<&IdleRow>| row.map(|row| places(row.cpu.as_secs_f64() * 1e6, 10.0));
    let any = ours.or(baseline).expect("a placement of one of the rows");
    IdleLine {
        id: "P8",
        name: "idle",
        cpus: any.placement.name(),
        placement: if any.placement.is_one_cpu() {
            "one CPU"
        } else {
            "two CPUs"
        },
        ours: micros(ours),
        baseline: micros(baseline),
        baseline_name: baseline.map_or_else(|| "none".to_owned(), |row| row.kind.name()),
        unit: "us CPU",
        ratio: None,
        promise: "0 CPU, 0 wake-ups",
        holds: ours.map(promises::idle_holds),
        seconds: places(any.span.as_secs_f64(), 100.0),
        ours_wakeups: ours.map(|row| row.wakeups),
        baseline_wakeups: baseline.map(|row| row.wakeups),
    }
}

/// Rounded to 1 / `scale`.
fn places(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}

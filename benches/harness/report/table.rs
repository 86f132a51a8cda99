//! Tables for a terminal.

use std::fmt::Write;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};

use super::{rate, ratio, time};
use crate::plan::{Contender, Workload};
use crate::promises::{self, Row, Unit};
use crate::results::{CostRow, Figure, Report, Section};
use crate::transport::{Kind, size_name};

/// The whole report as text.
pub fn tables(report: &Report) -> String {
    let mut out = String::new();
    let machine = &report.machine;
    let _ = writeln!(
        out,
        "{}, {} CPUs, Linux {}; samples by {}; {:.0} s",
        machine.cpu,
        machine.cpus,
        machine.kernel,
        machine.clock,
        report.elapsed.as_secs_f64()
    );
    for section in &report.sections {
        let _ = write!(out, "\n{}\n{}\n", heading(section), of_section(section));
    }
    if !report.idle.is_empty() {
        let _ = write!(
            out,
            "\nidle: both ends asleep in a read\n{}\n",
            of_idle(report)
        );
    }
    if !report.costs.is_empty() {
        let mut table = table(&["", "counted", "npfs", "promise", "holds"]);
        for row in &report.costs {
            table.add_row(cost_cells(row));
        }
        let _ = write!(out, "\ncosts\n{table}\n");
    }
    let rows = promises::rows(report);
    if rows
        .iter()
        .any(|row| row.ratio.is_some() || row.ratio_of_all.is_some())
    {
        let _ = write!(out, "\npromises\n{}\n", of_promises(&rows));
    }
    for failure in &report.failures {
        let _ = writeln!(out, "failed: {failure}");
    }
    out
}

/// `round trip, 64 B · CPUs 0,1 · one L3 · 7 rounds: 60 runs kept, 3 discarded`
pub(super) fn heading(section: &Section) -> String {
    let class = section.class();
    let (kept, all) = section.runs_kept(class);
    let rounds = section.rounds.len();
    let (title, cpus) = (section.workload.title(), section.placement.name());
    let counts = match class {
        Some(class) => {
            let (name, gone) = (class.name(), all - kept);
            format!("{name} · {rounds} rounds: {kept} runs kept, {gone} discarded")
        }
        None => format!("not one clean run in {rounds} rounds: all are shown"),
    };
    format!("{title} · CPUs {cpus} · {counts}")
}

/// What a section's lines are made of: a contender, its figure, ours to it.
pub(super) struct Line {
    pub(super) who: Contender,
    pub(super) figure: Option<Figure>,
    pub(super) ratio: Option<f64>,
    /// rounds in which its run counts
    pub(super) kept: usize,
}

/// The lines of a section, over the rounds that count, or over all if none does.
pub(super) fn lines(section: &Section) -> Vec<Line> {
    let class = section.class();
    let figure = |who| match class {
        Some(_) => section.figure(who, class),
        None => section.figure_of_all(who),
    };
    let ours = section.contenders.iter().find(|who| who.kind.is_ours());
    let ours = ours.and_then(|&who| figure(who));
    let line = |&who: &Contender| {
        let figure = figure(who);
        let ratio = ours.zip(figure).map(|(ours, it)| ours.value() / it.value());
        Line {
            who,
            figure,
            ratio: ratio.filter(|_| !is_default_ours(who)),
            kept: section.kept(who, class),
        }
    };
    section.contenders.iter().map(line).collect()
}

fn is_default_ours(who: Contender) -> bool {
    who.kind
        == Kind::Ours {
            quota: crate::transport::DEFAULT_QUOTA,
        }
}

fn of_section(section: &Section) -> Table {
    let (header, body) = section_cells(section);
    let mut table = table(header);
    for row in body {
        table.add_row(row);
    }
    right(table)
}

/// A section's header and rows, for the terminal and for the page.
pub(super) fn section_cells(section: &Section) -> (&'static [&'static str], Vec<Vec<String>>) {
    let header: &[&str] = match section.workload {
        Workload::RoundTrip(_)
        | Workload::Overlapped
        | Workload::Pending
        | Workload::Clients
        | Workload::Connect
        | Workload::ConnectAmong => &[
            "",
            "p50",
            "p99",
            "p99.9",
            "max",
            "batched",
            "rounds",
            "npfs / it",
        ],
        Workload::Serve => &[
            "",
            "messages",
            "CPU each",
            "slowest",
            "fastest",
            "rounds",
            "npfs / it",
        ],
        _ => &[
            "",
            "messages",
            "GB/s",
            "slowest",
            "fastest",
            "rounds",
            "npfs / it",
        ],
    };
    let cells = |line: Line| {
        let mut cells = vec![line.who.name()];
        match line.figure {
            Some(Figure::Latency(l)) => {
                cells.extend([l.p50, l.p99, l.p999, l.max, l.batched].map(time));
            }
            Some(Figure::Rate {
                median,
                min,
                max,
                used,
            }) => {
                let bytes = || format!("{:.2}", median * line.who.size as f64 / 1e9);
                let second = used.map_or_else(bytes, time);
                cells.extend([rate(median), second, rate(min), rate(max)]);
            }
            None => cells.resize(header.len() - 2, dash()),
        }
        cells.push(format!("{}/{}", line.kept, section.rounds.len()));
        cells.push(line.ratio.map_or_else(String::new, ratio));
        cells
    };
    (header, lines(section).into_iter().map(cells).collect())
}

fn of_idle(report: &Report) -> Table {
    let mut table = table(&["", "CPUs", "for", "CPU time", "wake-ups"]);
    for row in &report.idle {
        table.add_row([
            row.kind.name(),
            row.placement.name(),
            time(row.span.as_secs_f64() * 1e9),
            time(row.cpu.as_secs_f64() * 1e9),
            row.wakeups.to_string(),
        ]);
    }
    right(table)
}

/// One count in words, as in the table and on the page.
pub(super) fn cost_cells(row: &CostRow) -> [String; 5] {
    let holds = row.bound.map(|bound| bound.holds(row.ours));
    let holds = holds.map_or("-", |holds| if holds { "yes" } else { "NO" });
    [
        row.id.to_owned(),
        row.what.clone(),
        format!("{:.0} {}", row.ours, row.unit).trim().to_owned(),
        row.bound.map_or_else(dash, |bound| bound.text()),
        holds.to_owned(),
    ]
}

fn of_promises(rows: &[Row]) -> Table {
    let header = [
        "",
        "workload",
        "CPUs",
        "npfs",
        "baseline",
        "",
        "ratio",
        "all rounds",
        "promise",
        "holds",
    ];
    let mut table = table(&header);
    for row in rows {
        table.add_row(promise_cells(row));
    }
    let mut table = right(table);
    for left in [1, 2, 5, 8, 9] {
        if let Some(column) = table.column_mut(left) {
            column.set_cell_alignment(CellAlignment::Left);
        }
    }
    table
}

/// One promise in words, as in the table and on the page.
pub(super) fn promise_cells(row: &Row) -> [String; 10] {
    let unit = |value: Option<f64>| {
        value.map_or_else(dash, |value| match row.unit {
            Unit::Nanos => time(value),
            Unit::Messages | Unit::Cycles => rate(value),
            Unit::Gigabytes => format!("{value:.2} GB/s"),
        })
    };
    let quota = match row.unit {
        Unit::Gigabytes => format!(", quota {}", size_name(row.quota as usize)),
        _ => String::new(),
    };
    let class = row.class.map_or("no clean round", |class| class.name());
    [
        row.id.to_owned(),
        format!("{}{quota}", row.workload.name()),
        format!("{} ({class})", row.placement.name()),
        unit(row.ours),
        unit(row.baseline),
        row.baseline_name.clone(),
        row.ratio.map_or_else(dash, ratio),
        row.ratio_of_all.map_or_else(dash, ratio),
        row.bound.map_or_else(dash, |bound| bound.text()),
        match row.holds() {
            Some(true) => "yes".to_owned(),
            Some(false) => "NO".to_owned(),
            None => dash(),
        },
    ]
}

fn dash() -> String {
    "-".to_owned()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    table
}

/// Figures to the right, names to the left.
fn right(mut table: Table) -> Table {
    for (index, column) in table.column_iter_mut().enumerate() {
        if index > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

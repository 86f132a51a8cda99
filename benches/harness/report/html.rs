//! One page with everything: promises, plots, tables. It refers to no other file.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::svg::{Plot, Series, escape};
use super::table::{Line, cost_cells, heading, lines, promise_cells, section_cells};
use super::{rate, time};
use crate::placement::Placement;
use crate::plan::Workload;
use crate::promises;
use crate::results::{Report, Section};
use crate::transport::{Kind, size_name};

/// The page, well-formed as XML too.
pub fn html(report: &Report) -> String {
    let machine = &report.machine;
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>npfs bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>npfs bench</h1>\n\
         <p>{}, {} CPUs, Linux {}; samples by {}; npfs {}; {:.0} s.</p>\n\
         <p>Two processes; every transport runs the same loop, and each payload is written by the \
         sender and checked by the receiver. A run counts only if a probe of the machine right \
         before it and one right after it agree; a round is one run of each transport. Figures are \
         to be compared \
         within one table, never across machines.</p>\n",
        escape(&machine.cpu),
        machine.cpus,
        escape(&machine.kernel),
        machine.clock,
        env!("CARGO_PKG_VERSION"),
        report.elapsed.as_secs_f64()
    );
    promises_part(&mut out, report);
    let trips = report
        .sections
        .iter()
        .filter(|s| matches!(s.workload, Workload::RoundTrip(_)));
    let plots: Vec<String> = trips
        .map(percentiles)
        .filter(|plot| !plot.is_empty())
        .collect();
    if !plots.is_empty() {
        let _ = write!(
            out,
            "<h2>Round trips by percentile</h2>\n{}",
            plots.concat()
        );
    }
    let flows: Vec<&Section> = report
        .sections
        .iter()
        .filter(|s| matches!(s.workload, Workload::OneWay(_)))
        .collect();
    if !flows.is_empty() {
        let mut placements: Vec<Placement> =
            flows.iter().map(|section| section.placement).collect();
        placements.dedup();
        out.push_str("<h2>Throughput by message size</h2>\n");
        for placement in placements {
            out.push_str(&throughput(&flows, placement));
        }
    }
    if !report.sections.is_empty() {
        out.push_str("<h2>All figures</h2>\n");
    }
    for section in &report.sections {
        section_part(&mut out, section);
    }
    idle_part(&mut out, report);
    if !report.costs.is_empty() {
        out.push_str("<h3>costs of pipes that carry nothing</h3>\n");
        let body: Vec<Vec<String>> = report
            .costs
            .iter()
            .map(|r| cost_cells(r).to_vec())
            .collect();
        table(
            &mut out,
            &["", "counted", "npfs", "promise", "holds"],
            &body,
        );
    }
    for failure in &report.failures {
        let _ = writeln!(out, "<p class=\"no\">failed: {}</p>", escape(failure));
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn promises_part(out: &mut String, report: &Report) {
    let rows = promises::rows(report);
    if !rows
        .iter()
        .any(|row| row.ratio.is_some() || row.ratio_of_all.is_some())
    {
        return;
    }
    out.push_str("<h2>Promises</h2>\n");
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
    let body: Vec<Vec<String>> = rows.iter().map(|row| promise_cells(row).to_vec()).collect();
    table(out, &header, &body);
}

fn section_part(out: &mut String, section: &Section) {
    let _ = writeln!(out, "<h3>{}</h3>", escape(&heading(section)));
    let (header, body) = section_cells(section);
    table(out, header, &body);
}

fn idle_part(out: &mut String, report: &Report) {
    if report.idle.is_empty() {
        return;
    }
    out.push_str("<h3>idle: both ends asleep in a read</h3>\n");
    let body: Vec<Vec<String>> = report
        .idle
        .iter()
        .map(|row| {
            vec![
                row.kind.name(),
                row.placement.name(),
                time(row.span.as_secs_f64() * 1e9),
                time(row.cpu.as_secs_f64() * 1e9),
                row.wakeups.to_string(),
            ]
        })
        .collect();
    table(out, &["", "CPUs", "for", "CPU time", "wake-ups"], &body);
}

fn table(out: &mut String, header: &[&str], body: &[Vec<String>]) {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for cell in cells {
            let class = match cell {
                "yes" => " class=\"yes\"",
                "NO" => " class=\"no\"",
                _ => "",
            };
            let _ = write!(row, "<{tag}{class}>{}</{tag}>", escape(cell));
        }
        row
    };
    let head = cells("th", &mut header.iter().copied());
    let _ = writeln!(out, "<div class=\"wide\"><table>\n<tr>{head}</tr>");
    for row in body {
        let ours = if row.iter().take(1).any(|name| name.starts_with("npfs")) {
            " class=\"ours\""
        } else {
            ""
        };
        let row = cells("td", &mut row.iter().map(String::as_str));
        let _ = writeln!(out, "<tr{ours}>{row}</tr>");
    }
    out.push_str("</table></div>\n");
}

/// Percentiles whose position is marked; each nine takes as much room as the one before.
const NINES: [(f64, &str); 6] = [
    (0.0, "0"),
    (0.9, "90 %"),
    (0.99, "99 %"),
    (0.999, "99.9 %"),
    (0.9999, "99.99 %"),
    (0.5, "50 %"),
];

/// Where a quantile stands: 0 at the left, five nines at the right.
fn nines(quantile: f64) -> f64 {
    (-(1.0 - quantile).log10() / 5.0).min(1.0)
}

fn percentiles(section: &Section) -> String {
    let class = section.class();
    let series = |who: &crate::plan::Contender| {
        let trips = section.trips(*who, class)?;
        let mut points = Vec::new();
        for step in 0..=100 {
            let at = f64::from(step) / 100.0;
            let quantile = 1.0 - 10_f64.powf(-5.0 * at);
            // Beyond the last sample there is nothing to tell.
            if step > 0 && trips.len() as f64 * (1.0 - quantile) < 1.0 {
                break;
            }
            let nanos = trips.value_at_quantile(quantile) as f64 / 10.0;
            points.push((at, nanos.max(0.1), String::new()));
        }
        let ours = who.kind.is_ours();
        let name = if ours { "npfs".to_owned() } else { who.name() };
        let colour = if who.kind == Kind::RawLine && who.size != section.workload.size() {
            8
        } else {
            colour(who.kind)
        };
        Some(Series {
            name,
            ours,
            colour,
            points,
            dots: false,
        })
    };
    let plot = Plot {
        title: heading(section),
        x_ticks: NINES
            .iter()
            .map(|&(q, text)| (nines(q), text.to_owned()))
            .collect(),
        x_name: "percentile",
        y_name: "round trip",
        y_text: time,
        series: section.contenders.iter().filter_map(series).collect(),
    };
    plot.svg()
}

/// By size, the best of each family (rings come in several sizes).
fn throughput(flows: &[&Section], placement: Placement) -> String {
    let here: Vec<&&Section> = flows.iter().filter(|s| s.placement == placement).collect();
    let last = (here.len().max(2) - 1) as f64;
    let mut best: BTreeMap<(usize, &str), Series> = BTreeMap::new();
    let mut x_ticks = Vec::new();
    for (index, section) in here.iter().enumerate() {
        let x = index as f64 / last;
        let class = section.class().filter(|_| !placement.is_one_cpu());
        let class = class.map_or_else(String::new, |class| format!(", {}", class.name()));
        x_ticks.push((x, format!("{}{class}", size_name(section.workload.size()))));
        for Line { who, figure, .. } in lines(section) {
            let Some(figure) = figure else { continue };
            let bytes = figure.value() * who.size as f64 / 1e9;
            let text = format!("{} at {}", rate(figure.value()), gigabytes(bytes));
            let key = (rank(who.kind), who.kind.family());
            let series = best.entry(key).or_insert_with(|| Series {
                name: who.kind.family().to_owned(),
                ours: key.1 == "npfs",
                colour: colour(who.kind),
                points: Vec::new(),
                dots: true,
            });
            match series.points.last_mut() {
                Some(point) if point.0 == x => {
                    if bytes > point.1 {
                        *point = (x, bytes, text);
                    }
                }
                _ => series.points.push((x, bytes, text)),
            }
        }
    }
    let plot = Plot {
        title: format!("one way · CPUs {}", placement.name()),
        x_ticks,
        x_name: "bytes of a message",
        y_name: "payload a second",
        y_text: gigabytes,
        series: best.into_values().collect(),
    };
    plot.svg()
}

fn gigabytes(value: f64) -> String {
    match value {
        ..0.0995 => format!("{:.0} MB/s", value * 1e3),
        ..9.95 => format!("{value:.1} GB/s"),
        _ => format!("{value:.0} GB/s"),
    }
}

/// Which of the plots' colours.
fn colour(kind: Kind) -> usize {
    match kind {
        Kind::RawLine => 0,
        Kind::RawFutex => 1,
        Kind::RingIndex { .. } => 2,
        Kind::RingInFrame { .. } => 3,
        Kind::Pipe => 4,
        Kind::UnixStream => 5,
        Kind::UnixSeqpacket => 6,
        Kind::Memcpy => 7,
        Kind::Ours { .. } => 8,
        Kind::OursInPlace { .. }
        | Kind::OursAmong { .. }
        | Kind::Overlapped
        | Kind::OverlappedAmong { .. }
        | Kind::OverlappedOfClients { .. }
        | Kind::RawLinePaused => 9,
    }
}

/// The order of a legend.
fn rank(kind: Kind) -> usize {
    match kind {
        kind if kind.is_ours() => 0,
        Kind::RawLine | Kind::RawLinePaused | Kind::RawFutex => 1,
        Kind::RingIndex { .. } | Kind::RingInFrame { .. } => 2,
        Kind::Pipe | Kind::UnixStream | Kind::UnixSeqpacket => 3,
        _ => 4,
    }
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5d6770; --rule: #d9dee3; --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5ae; --rule: #353c43; --paper: #14181b; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .88rem; }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid var(--rule);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.ours td { font-weight: 600; } .yes { color: #23884f; font-weight: 600; }
.no { color: #d0342c; font-weight: 700; }
svg { display: block; width: 100%; max-width: 760px; height: auto; margin: 1rem 0 1.6rem; }
svg text { fill: var(--ink); font-family: system-ui, sans-serif; }
svg .head { font-size: 14px; font-weight: 600; } svg .tick { font-size: 12px; fill: var(--soft); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
";

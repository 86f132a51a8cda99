//! The promises of the design's section 10, held against what was seen.

use crate::placement::Placement;
use crate::plan::{BIG_QUOTA, Contender, IN_PLACE, Which, Workload};
use crate::probe::Class;
use crate::results::{Figure, IdleRow, Report, Section};
use crate::transport::{DEFAULT_QUOTA, Kind};

/// What a ratio of ours to a baseline is promised to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    /// Of times.
    AtMost(f64),
    /// Of rates.
    AtLeast(f64),
}

impl Bound {
    /// Whether `ratio` keeps it.
    pub(crate) fn holds(self, ratio: f64) -> bool {
        match self {
            Bound::AtMost(most) => ratio <= most,
            Bound::AtLeast(least) => ratio >= least,
        }
    }

    /// `<= 1.6`
    pub(crate) fn text(self) -> String {
        match self {
            Bound::AtMost(most) => format!("<= {most}"),
            Bound::AtLeast(least) => format!(">= {least}"),
        }
    }
}

/// What a row's figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Nanoseconds of a round trip, at the median.
    Nanos,
    /// Cycles of open and close a second, at the median.
    Cycles,
    /// Messages a second.
    Messages,
    /// 10^9 bytes of payload a second.
    Gigabytes,
}

impl Unit {
    /// As printed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Unit::Nanos => "ns",
            Unit::Cycles => "cycles/s",
            Unit::Messages => "msg/s",
            Unit::Gigabytes => "GB/s",
        }
    }

    fn of(self, figure: &Figure, size: usize) -> f64 {
        match self {
            Unit::Gigabytes => figure.value() * size as f64 / 1e9,
            Unit::Cycles => 1e9 / figure.value(),
            Unit::Nanos | Unit::Messages => figure.value(),
        }
    }
}

/// One promise, size and placement: ours beside one baseline, over the rounds that count.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `P1` to `P4`.
    pub(crate) id: &'static str,
    /// The workload.
    pub(crate) workload: Workload,
    /// The CPUs.
    pub(crate) placement: Placement,
    /// What the probes say of them; `None`: no round counts.
    pub(crate) class: Option<Class>,
    /// The quota of our pipe, in bytes.
    pub(crate) quota: u32,
    /// What both figures count.
    pub(crate) unit: Unit,
    /// Ours, in `unit`.
    pub(crate) ours: Option<f64>,
    /// The baseline's, in `unit`.
    pub(crate) baseline: Option<f64>,
    /// Which baseline; of several the best one.
    pub(crate) baseline_name: String,
    /// Ours to the baseline's.
    pub(crate) ratio: Option<f64>,
    /// The same over every round, clean or not.
    pub(crate) ratio_of_all: Option<f64>,
    /// The promise; `None`: the row is for context.
    pub(crate) bound: Option<Bound>,
    /// Percentiles of both, for round trips.
    pub(crate) figures: [Option<Figure>; 2],
    /// Rounds that count, of the two the fewer, and rounds that do not.
    pub(crate) rounds: (usize, usize),
}

impl Row {
    /// Whether the promise is kept; `None` without a promise, or if fewer than half of the rounds count: then the machine
    /// was too restless for a judgement, and what is left of the rounds is no sample of it.
    pub(crate) fn holds(&self) -> Option<bool> {
        let (kept, discarded) = self.rounds;
        let held = self.bound?.holds(self.ratio?);
        (kept >= discarded).then_some(held)
    }
}

/// The idle promise (P8's first half): no CPU time, no wake-up.
pub(crate) fn idle_holds(row: &IdleRow) -> bool {
    row.cpu.is_zero() && row.wakeups == 0
}

/// Every row that the report's sections give.
pub(crate) fn rows(report: &Report) -> Vec<Row> {
    let mut rows: Vec<Row> = report
        .sections
        .iter()
        .flat_map(|section| rows_of(section, report.which))
        .collect();
    rows.sort_by_key(|row| row.id);
    rows
}

fn rows_of(section: &Section, which: Which) -> Vec<Row> {
    let (workload, size) = (section.workload, section.workload.size());
    let one_cpu = section.placement.is_one_cpu();
    let make = |id, quota, unit, candidates: &[Contender], bound| {
        let ours = Contender {
            kind: Kind::Ours { quota },
            size,
        };
        let seen = (which != Which::Baselines).then_some(ours);
        row(section, id, seen, quota, unit, candidates, bound)
    };
    let all = |wanted: &dyn Fn(Kind) -> bool| -> Vec<Contender> {
        section
            .contenders
            .iter()
            .copied()
            .filter(|one| wanted(one.kind))
            .collect()
    };
    let rings_of = |wanted: &dyn Fn(u32) -> bool| {
        all(&|kind| match kind {
            Kind::RingIndex { capacity } | Kind::RingInFrame { capacity } => wanted(capacity),
            _ => false,
        })
    };
    let quota = DEFAULT_QUOTA;
    match workload {
        Workload::RoundTrip(_) if one_cpu => {
            let bound = (size <= 64).then_some(Bound::AtMost(1.2));
            vec![make(
                "P2",
                quota,
                Unit::Nanos,
                &all(&|kind| kind == Kind::RawFutex),
                bound,
            )]
        }
        Workload::RoundTrip(_) => {
            let bound = match size {
                48 => Some(Bound::AtMost(1.45)),
                64 => Some(Bound::AtMost(1.6)),
                _ => None,
            };
            let lines = [(Kind::RawLine, bound), (Kind::RawLinePaused, None)];
            let row = |(line, bound)| {
                let lines = all(&|kind| kind == line);
                make("P1", quota, Unit::Nanos, &lines, bound)
            };
            lines.map(row).into()
        }
        Workload::OneWay(64) => {
            let pipe = all(&|kind| kind == Kind::Pipe);
            let against_pipe = Some(Bound::AtLeast(if one_cpu { 2.0 } else { 8.0 }));
            let against_rings = (!one_cpu).then_some(Bound::AtLeast(0.8));
            vec![
                make(
                    "P3",
                    quota,
                    Unit::Messages,
                    &rings_of(&|_| true),
                    against_rings,
                ),
                make("P3", quota, Unit::Messages, &pipe, against_pipe),
            ]
        }
        Workload::OneWay(_) => {
            let promised = (!one_cpu).then_some(Bound::AtLeast(0.85));
            let same = rings_of(&|capacity| capacity == quota);
            let big = rings_of(&|capacity| capacity > quota);
            // A ring of 64 KiB does not carry 1 MiB: then the best that does is shown beside the
            // default quota, and nothing is promised.
            let default_row = if size <= quota as usize {
                make("P4", quota, Unit::Gigabytes, &same, promised)
            } else {
                make("P4", quota, Unit::Gigabytes, &big, None)
            };
            let mut rows = vec![
                default_row,
                make("P4", BIG_QUOTA, Unit::Gigabytes, &big, promised),
            ];
            if size == IN_PLACE && which != Which::Baselines {
                // With a large quota the writer's copy is the slower side, whatever the reader does: for context.
                for (quota, least) in [(quota, Some(1.2)), (BIG_QUOTA, None)] {
                    let in_place = Contender {
                        kind: Kind::OursInPlace { quota },
                        size,
                    };
                    let copying = all(&|kind| kind == Kind::Ours { quota });
                    let bound = least.filter(|_| !one_cpu).map(Bound::AtLeast);
                    let unit = Unit::Gigabytes;
                    rows.push(row(
                        section,
                        "P4",
                        Some(in_place),
                        quota,
                        unit,
                        &copying,
                        bound,
                    ));
                }
            }
            rows
        }
        Workload::Overlapped | Workload::Pending | Workload::Clients
            if which == Which::Baselines =>
        {
            Vec::new()
        }
        Workload::Overlapped => {
            let blocking = all(&|kind| kind == Kind::Ours { quota });
            let most = if one_cpu { 1.5 } else { 3.0 };
            let who = all(&|kind| kind == Kind::Overlapped).first().copied();
            let bound = Some(Bound::AtMost(most));
            let unit = Unit::Nanos;
            vec![row(section, "P5", who, quota, unit, &blocking, bound)]
        }
        Workload::Pending | Workload::Clients => {
            let alone = all(&|kind| kind == Kind::Overlapped);
            let among = all(&|kind| kind != Kind::Overlapped);
            let who = among.first().copied();
            let bound = Some(Bound::AtMost(1.2));
            let unit = Unit::Nanos;
            vec![row(section, "P6", who, quota, unit, &alone, bound)]
        }
        // Nothing is promised: shown.
        Workload::Serve => {
            let sockets = all(&|kind| kind == Kind::UnixStream);
            vec![make("serve", quota, Unit::Messages, &sockets, None)]
        }
        Workload::Connect => {
            let sockets = all(&|kind| kind == Kind::UnixStream);
            // The promise is of the same sleepers. With a CPU for each end the broker's turn hides behind theirs; on one
            // CPU three take turns where sockets have two: shown, not judged.
            let promised = (!one_cpu).then_some(Bound::AtLeast(0.5));
            vec![make("P7", quota, Unit::Cycles, &sockets, promised)]
        }
        Workload::ConnectAmong if which == Which::Baselines => Vec::new(),
        Workload::ConnectAmong => {
            let among = all(&|kind| matches!(kind, Kind::OursAmong { .. }));
            let alone = all(&|kind| kind == Kind::Ours { quota });
            let flat = Some(Bound::AtLeast(FLAT));
            let who = among.first().copied();
            vec![row(section, "P7", who, quota, Unit::Cycles, &alone, flat)]
        }
        Workload::Idle | Workload::Many | Workload::Fds => Vec::new(),
    }
}

/// What counts as flat: a cycle among many takes a quarter longer than one alone, at most.
const FLAT: f64 = 0.8;

fn row(
    section: &Section,
    id: &'static str,
    ours: Option<Contender>,
    quota: u32,
    unit: Unit,
    candidates: &[Contender],
    bound: Option<Bound>,
) -> Row {
    let class = section.class();
    let clean = |who: Contender| section.figure(who, class);
    let every = |who: Contender| section.figure_of_all(who);
    let best = |of: &dyn Fn(Contender) -> Option<Figure>| {
        let known = candidates.iter().filter_map(|&who| Some((who, of(who)?)));
        known.reduce(|a, b| {
            let b_wins = match unit {
                Unit::Nanos | Unit::Cycles => b.1.value() < a.1.value(),
                Unit::Messages | Unit::Gigabytes => b.1.value() > a.1.value(),
            };
            if b_wins { b } else { a }
        })
    };
    let (our_clean, our_all) = (ours.and_then(clean), ours.and_then(every));
    let (best_clean, best_all) = (best(&clean), best(&every));
    let ratio = |ours: &Option<Figure>, other: &Option<(Contender, Figure)>| {
        let size = section.workload.size();
        Some(unit.of(ours.as_ref()?, size) / unit.of(&other.as_ref()?.1, size))
    };
    // The rounds that both figures rest on: as many as the one that has fewer.
    let who = ours
        .into_iter()
        .chain(best_clean.as_ref().map(|(who, _)| *who));
    let kept = who.map(|who| section.kept(who, class)).min().unwrap_or(0);
    let name = best_clean
        .as_ref()
        .or(best_all.as_ref())
        .map(|(who, _)| who.name());
    let size = section.workload.size();
    Row {
        id,
        workload: section.workload,
        placement: section.placement,
        class,
        quota,
        unit,
        ours: our_clean.as_ref().map(|figure| unit.of(figure, size)),
        baseline: best_clean.as_ref().map(|(_, figure)| unit.of(figure, size)),
        baseline_name: name.unwrap_or_else(|| "none".to_owned()),
        ratio: ratio(&our_clean, &best_clean),
        ratio_of_all: ratio(&our_all, &best_all),
        bound,
        figures: [our_clean, best_clean.map(|(_, figure)| figure)],
        rounds: (kept, section.rounds.len() - kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::contenders;
    use crate::results::tests::section;

    const TWO: Placement = Placement {
        client: 0,
        server: 1,
    };

    fn rows_for(workload: Workload, place: Placement, rates: &[(Option<Class>, f64)]) -> Vec<Row> {
        let who = contenders(workload, place, Which::Both);
        let values: Vec<Vec<f64>> = rates
            .iter()
            .map(|&(_, ours)| {
                who.iter()
                    .map(|one| if one.kind.is_ours() { ours } else { 100.0 })
                    .collect()
            })
            .collect();
        let rounds = rates
            .iter()
            .zip(&values)
            .map(|(&(class, _), values)| (class, values.as_slice()));
        let rounds: Vec<(Option<Class>, &[f64])> = rounds.collect();
        rows_of(&section(workload, place, who.clone(), &rounds), Which::Both)
    }

    #[test]
    fn a_promise_breaks_just_beyond_its_bound() {
        let near = Some(Class::OneL3);
        let holds = |workload, value| rows_for(workload, TWO, &[(near, value)])[0].holds();
        assert_eq!(holds(Workload::RoundTrip(64), 159.0), Some(true));
        assert_eq!(holds(Workload::RoundTrip(64), 161.0), Some(false));
        assert_eq!(holds(Workload::RoundTrip(48), 146.0), Some(false));
        assert_eq!(holds(Workload::RoundTrip(4096), 100.0), None);
        assert_eq!(holds(Workload::OneWay(64), 79.0), Some(false));
        assert_eq!(holds(Workload::OneWay(4096), 86.0), Some(true));
        assert_eq!(
            holds(Workload::OneWay(1 << 20), 86.0),
            None,
            "no such small ring"
        );
        assert_eq!(
            rows_for(Workload::OneWay(1 << 20), TWO, &[(near, 84.0)])[1].holds(),
            Some(false)
        );
        let one = Placement {
            client: 0,
            server: 0,
        };
        let on_one = |value| {
            rows_for(
                Workload::RoundTrip(48),
                one,
                &[(Some(Class::OneCpu), value)],
            )
        };
        assert_eq!(on_one(121.0)[0].holds(), Some(false));
        assert_eq!(
            (on_one(119.0)[0].holds(), on_one(119.0)[0].id),
            (Some(true), "P2")
        );
    }

    #[test]
    fn without_a_clean_round_nothing_is_claimed() {
        let row = &rows_for(Workload::RoundTrip(64), TWO, &[(None, 120.0)])[0];
        assert_eq!((row.holds(), row.ratio, row.rounds), (None, None, (0, 1)));
        assert!((row.ratio_of_all.unwrap() - 1.2).abs() < 0.01);
    }

    #[test]
    fn a_minority_of_clean_rounds_is_no_judgement() {
        let near = Some(Class::OneL3);
        let rounds = [(near, 500.0), (None, 100.0), (None, 100.0)];
        let row = &rows_for(Workload::RoundTrip(64), TWO, &rounds)[0];
        assert_eq!((row.holds(), row.rounds), (None, (1, 2)));
        assert!(row.ratio.is_some(), "but it is shown");
    }

    #[test]
    fn other_placements_do_not_mix_in() {
        let (near, far) = (Some(Class::OneL3), Some(Class::Across));
        let rounds = [(near, 150.0), (far, 400.0), (near, 150.0)];
        let row = &rows_for(Workload::RoundTrip(64), TWO, &rounds)[0];
        assert_eq!(
            (row.class, row.rounds, row.holds()),
            (near, (2, 1), Some(true))
        );
    }
}

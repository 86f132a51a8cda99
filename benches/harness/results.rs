//! What was seen, and the figures made of it.

use std::fs;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::placement::Placement;
use crate::plan::{Contender, Which, Workload};
use crate::probe::Class;
use crate::promises::Bound;
use crate::transport::Kind;
use crate::workloads::{Flow, Outcome, histogram};

/// One run of the tool.
#[derive(Debug)]
pub struct Report {
    /// Where it ran.
    pub(crate) machine: Machine,
    /// Who took part.
    pub(crate) which: Which,
    /// One for each workload and placement, without `idle`.
    pub(crate) sections: Vec<Section>,
    /// The idle measurements.
    pub(crate) idle: Vec<IdleRow>,
    /// What was counted.
    pub(crate) costs: Vec<CostRow>,
    /// Runs that failed, as sentences.
    pub failures: Vec<String>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

/// The machine, in words.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Model of the CPU.
    pub(crate) cpu: String,
    /// CPUs online.
    pub(crate) cpus: usize,
    /// Release of the kernel.
    pub(crate) kernel: String,
    /// Where samples come from.
    pub(crate) clock: &'static str,
}

impl Machine {
    pub(crate) fn here(clock: &'static str) -> Machine {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cpu: model
                .map_or("unknown CPU", |(_, name)| name.trim())
                .to_owned(),
            cpus: info
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: kernel.trim().to_owned(),
            clock,
        }
    }
}

/// One workload in one placement.
#[derive(Debug)]
pub(crate) struct Section {
    /// What was done.
    pub(crate) workload: Workload,
    /// Where.
    pub(crate) placement: Placement,
    /// By whom.
    pub(crate) contenders: Vec<Contender>,
    /// The rounds, in time's order.
    pub(crate) rounds: Vec<Round>,
}

/// One run of every contender, in the section's order; `None`: it failed.
pub(crate) type Round = Vec<Option<Run>>;

/// One run of one contender, between two probes.
#[derive(Debug)]
pub(crate) struct Run {
    /// The class that both probes agree on; `None`: something moved, and the run does not count.
    pub(crate) class: Option<Class>,
    /// What was seen.
    pub(crate) sample: Sample,
}

/// The outcome of a run.
#[derive(Debug)]
pub(crate) enum Sample {
    /// Tenths of a nanosecond: single round trips, and trips of whole batches.
    Trips(Histogram<u64>, Histogram<u64>),
    /// Messages a second, and the server's CPU time for each, where it is measured.
    Rate(f64, Option<f64>),
}

/// Both ends asleep for a while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IdleRow {
    /// Where.
    pub(crate) placement: Placement,
    /// Who.
    pub(crate) kind: Kind,
    /// How long.
    pub(crate) span: Duration,
    /// CPU time of both processes meanwhile.
    pub(crate) cpu: Duration,
    /// How often a thread of theirs woke and slept again.
    pub(crate) wakeups: u64,
}

/// Something that is counted and not timed.
#[derive(Clone, Debug)]
pub(crate) struct CostRow {
    /// `P8`, `P9`.
    pub(crate) id: &'static str,
    /// The workload.
    pub(crate) name: &'static str,
    /// Where.
    pub(crate) placement: Placement,
    /// In words.
    pub(crate) what: String,
    /// How much, in `unit`.
    pub(crate) ours: f64,
    /// Of what.
    pub(crate) unit: &'static str,
    /// The promise; `None`: shown.
    pub(crate) bound: Option<Bound>,
}

/// A contender's figures over some rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Figure {
    /// Nanoseconds.
    Latency(Latency),
    /// Messages a second: median of the rounds, slowest, fastest.
    Rate {
        /// median over rounds
        median: f64,
        /// slowest round
        min: f64,
        /// fastest round
        max: f64,
        /// nanoseconds of the server's CPU time for each, where it is measured: median
        used: Option<f64>,
    },
}

/// Percentiles of round trips, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    /// Median of single trips.
    pub p50: f64,
    /// 99 of 100 are not slower.
    pub p99: f64,
    /// 999 of 1000.
    pub p999: f64,
    /// The slowest.
    pub(crate) max: f64,
    /// Median over batches without a look at the clock inside.
    pub(crate) batched: f64,
}

impl Figure {
    /// What ratios are made of: the median round trip in nanoseconds, or messages a second.
    pub(crate) fn value(&self) -> f64 {
        match self {
            Figure::Latency(latency) => latency.p50,
            Figure::Rate { median, .. } => *median,
        }
    }
}

impl Run {
    /// Whether it is clean, and of `class`.
    fn counts_in(&self, class: Option<Class>) -> bool {
        self.class.is_some() && self.class == class
    }
}

impl Sample {
    pub(crate) fn new(outcome: Outcome) -> Option<Sample> {
        match outcome {
            Outcome::Trips(trips) => Some(Sample::Trips(
                rebuild(&trips.single),
                rebuild(&trips.batched),
            )),
            Outcome::Flow(Flow {
                messages,
                nanos,
                used,
            }) => Some(Sample::Rate(messages as f64 * 1e9 / nanos as f64, used)),
            Outcome::Served | Outcome::Used(_) | Outcome::Asked(..) => None,
        }
    }
}

fn rebuild(counts: &[(u64, u64)]) -> Histogram<u64> {
    let mut all = histogram();
    for &(value, count) in counts {
        all.saturating_record_n(value, count);
    }
    all
}

impl Section {
    /// The class to compare in: the one in which the contender with the fewest runs that count
    /// has the most; of two, the one with more runs of the first contender, which is ours. `None`:
    /// no run counts.
    pub(crate) fn class(&self) -> Option<Class> {
        let mut classes: Vec<Class> = self.runs().filter_map(|run| run.class).collect();
        classes.sort();
        classes.dedup();
        let worth = |class: &Class| {
            let class = Some(*class);
            let first = self
                .contenders
                .first()
                .map_or(0, |&who| self.kept(who, class));
            std::cmp::Reverse((self.fewest_kept(class), first, self.runs_kept(class)))
        };
        classes.into_iter().min_by_key(worth)
    }

    /// In how many rounds a contender's run counts in `class`.
    pub(crate) fn kept(&self, who: Contender, class: Option<Class>) -> usize {
        let Some(index) = self.contenders.iter().position(|&one| one == who) else {
            return 0;
        };
        let runs = self.rounds.iter().filter_map(|round| round[index].as_ref());
        runs.filter(|run| run.counts_in(class)).count()
    }

    /// The least of these over the contenders that did not fail throughout.
    pub(crate) fn fewest_kept(&self, class: Option<Class>) -> usize {
        let kept = self
            .contenders
            .iter()
            .enumerate()
            .filter_map(|(index, &who)| {
                let ran = self.rounds.iter().any(|round| round[index].is_some());
                ran.then(|| self.kept(who, class))
            });
        kept.min().unwrap_or(0)
    }

    /// Runs that count in `class`, and all.
    pub(crate) fn runs_kept(&self, class: Option<Class>) -> (usize, usize) {
        let kept = self.runs().filter(|run| run.counts_in(class)).count();
        (kept, self.runs().count())
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.rounds.iter().flatten().flatten()
    }

    /// A contender's figures over its runs that count in `class`.
    pub(crate) fn figure(&self, contender: Contender, class: Option<Class>) -> Option<Figure> {
        class?;
        self.over(contender, |run| run.counts_in(class))
    }

    /// The same over every run.
    pub(crate) fn figure_of_all(&self, contender: Contender) -> Option<Figure> {
        self.over(contender, |_| true)
    }

    /// All single round trips that count in `class`, in tenths of a nanosecond.
    pub(crate) fn trips(&self, who: Contender, class: Option<Class>) -> Option<Histogram<u64>> {
        let index = self.contenders.iter().position(|&one| one == who)?;
        let mut all = histogram();
        for run in self.rounds.iter().filter_map(|round| round[index].as_ref()) {
            if let (Sample::Trips(single, _), true) = (&run.sample, run.counts_in(class)) {
                all.add(single).expect("histograms of one shape");
            }
        }
        (!all.is_empty()).then_some(all)
    }

    fn over(&self, contender: Contender, counts: impl Fn(&Run) -> bool) -> Option<Figure> {
        let index = self.contenders.iter().position(|&one| one == contender)?;
        let (mut single, mut batched) = (histogram(), histogram());
        let (mut rates, mut uses) = (Vec::new(), Vec::new());
        let runs = self.rounds.iter().filter_map(|round| round[index].as_ref());
        for run in runs.filter(|&run| counts(run)) {
            match &run.sample {
                Sample::Trips(ones, batches) => {
                    single.add(ones).expect("histograms of one shape");
                    batched.add(batches).expect("histograms of one shape");
                }
                Sample::Rate(rate, used) => {
                    rates.push(*rate);
                    uses.extend(*used);
                }
            }
        }
        if !rates.is_empty() {
            let median = |of: &mut [f64]| {
                of.sort_by(f64::total_cmp);
                let (low, high) = (of.len().saturating_sub(1) / 2, of.len() / 2);
                Some((of.get(low)? + of.get(high)?) / 2.0)
            };
            return Some(Figure::Rate {
                median: median(&mut rates)?,
                min: rates[0],
                max: rates[rates.len() - 1],
                used: median(&mut uses),
            });
        }
        if single.is_empty() {
            return None;
        }
        let at = |quantile| single.value_at_quantile(quantile) as f64 / 10.0;
        Some(Figure::Latency(Latency {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: single.max() as f64 / 10.0,
            batched: batched.value_at_quantile(0.5) as f64 / 10.0,
        }))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A section made up of rates: by round, its class and a rate for each contender.
    pub(crate) fn section(
        workload: Workload,
        placement: Placement,
        contenders: Vec<Contender>,
        rounds: &[(Option<Class>, &[f64])],
    ) -> Section {
        let sample = |&rate: &f64| match workload {
            Workload::RoundTrip(_) => {
                let tenths = format!("{:.0}", rate * 10.0).parse().unwrap();
                let counts = [(tenths, 100)];
                Some(Sample::Trips(rebuild(&counts), rebuild(&counts)))
            }
            _ => Some(Sample::Rate(rate, None)),
        };
        let rounds = rounds.iter().map(|&(class, rates)| {
            let run = |rate| sample(rate).map(|sample| Run { class, sample });
            rates.iter().map(run).collect()
        });
        Section {
            workload,
            placement,
            contenders,
            rounds: rounds.collect(),
        }
    }

    #[test]
    fn figures_are_of_one_class_and_of_all() {
        let who = Contender {
            kind: Kind::Pipe,
            size: 64,
        };
        let near = Some(Class::OneL3);
        let section = section(
            Workload::OneWay(64),
            Placement {
                client: 0,
                server: 1,
            },
            vec![who],
            &[
                (near, &[10.0]),
                (None, &[1.0]),
                (near, &[30.0]),
                (Some(Class::Across), &[2.0]),
            ],
        );
        assert_eq!(section.class(), near);
        assert_eq!(
            (section.kept(who, near), section.runs_kept(near)),
            (2, (2, 4))
        );
        assert_eq!(section.figure(who, near).unwrap().value(), 20.0);
        assert_eq!(section.figure_of_all(who).unwrap().value(), 6.0);
        assert!(section.figure(who, None).is_none());
    }
}

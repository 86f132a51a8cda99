//! The order of events: placements, workloads, rounds, and when to stop.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::clock::Clock;
use crate::control::Task;
use crate::costs;
use crate::crew::Crew;
use crate::idle;
use crate::placement::Placement;
use crate::plan::{Contender, Options, Timing, Which, Workload, contenders};
use crate::probe::{Class, clean};
use crate::results::{Machine, Report, Round, Run, Sample, Section};
use crate::transport::Kind;
use crate::workloads::Pace;

/// Told how the run goes. Called between runs only, so that it disturbs none of them.
pub trait Progress {
    /// A workload starts: its name, its placement, and about how long it takes.
    fn workload(&mut self, workload: Workload, placement: Placement, estimate: Duration);
    /// How much of it is done, from 0 to 1, and the round that comes next.
    fn advance(&mut self, done: f64, round: usize);
    /// Something to tell at once: a run failed.
    fn note(&mut self, text: &str);
}

/// Runs everything that `options` ask for. Errors are those that end all: no worker can be
/// started, a CPU is not to be had. A run that fails is in [`Report::failures`].
pub fn run(options: &Options, progress: &mut dyn Progress) -> Result<Report> {
    let began = Instant::now();
    let clock = Clock::calibrate();
    let timing = Timing::new(options.quick);
    let mut report = Report {
        machine: Machine::here(clock.name()),
        which: options.which,
        sections: Vec::new(),
        idle: Vec::new(),
        costs: Vec::new(),
        failures: Vec::new(),
        elapsed: Duration::ZERO,
    };
    let mut failed = Failed::default();
    let plan = plan(options, &timing);
    let mut crew: Option<Crew> = None;
    for (index, step) in plan.iter().enumerate() {
        let crew = match crew.take() {
            // Memory and descriptors are counted in processes that have never used npfs.
            Some(ours) if ours.placement() == step.placement && !step.workload.counts() => {
                crew.insert(ours)
            }
            // New workers for each placement: a library may look at its CPUs once, at its start.
            _ => crew.insert(Crew::start(step.placement, clock, timing.grace)?),
        };
        // What took longer than planned is taken from what is still to come.
        let ahead: Duration = plan[index..].iter().map(|step| step.budget).sum();
        let left = timing.stop.saturating_sub(began.elapsed());
        let pressure = (left.as_secs_f64() / ahead.as_secs_f64()).min(1.0);
        let mut stage = Stage {
            timing,
            clock,
            step,
            budget: step.budget.mul_f64(pressure),
            crew,
            progress: &mut *progress,
            failed: &mut failed,
        };
        stage
            .progress
            .workload(step.workload, step.placement, stage.budget);
        match step.workload {
            Workload::Idle => stage.idle(&mut report),
            Workload::Many | Workload::Fds => stage.costs(&mut report),
            _ => report.sections.push(stage.section()),
        }
    }
    report.failures = failed.texts;
    report.elapsed = began.elapsed();
    Ok(report)
}

/// One workload in one placement.
struct Step {
    placement: Placement,
    workload: Workload,
    contenders: Vec<Contender>,
    /// how long it takes if nothing goes wrong
    budget: Duration,
}

fn plan(options: &Options, timing: &Timing) -> Vec<Step> {
    let mut steps = Vec::new();
    for &placement in &options.placements {
        for &workload in &options.workloads {
            // What takes seconds to set up, or is only shown, would leave the promises of the short form few rounds: there
            // only if nothing else is asked for.
            let long = [Workload::Clients, Workload::Serve, Workload::ConnectAmong];
            if options.quick && long.contains(&workload) && options.workloads.len() > 1 {
                continue;
            }
            if workload.counts()
                && (placement != options.placements[0] || options.which == Which::Baselines)
            {
                continue;
            }
            let contenders = contenders(workload, placement, options.which);
            if contenders.is_empty() {
                continue;
            }
            let each = match workload {
                Workload::Idle => timing.idle + idle::SETTLE,
                Workload::Many | Workload::Fds => Duration::from_secs(2),
                _ => timing.share,
            };
            let budget = each * u32::try_from(contenders.len()).expect("a handful");
            steps.push(Step {
                placement,
                workload,
                contenders,
                budget,
            });
        }
    }
    steps
}

/// What failed so far.
#[derive(Default)]
struct Failed {
    texts: Vec<String>,
    counts: HashMap<(Kind, Workload, Placement), u32>,
}

impl Failed {
    /// A hang costs seconds each time: who fails twice at one thing is not asked for it again,
    /// and who has failed five times not for anything.
    fn gave_up(&self, kind: Kind, step: &Step) -> bool {
        let here = self.counts.get(&(kind, step.workload, step.placement));
        let all = self.counts.iter().filter(|((who, ..), _)| *who == kind);
        here.is_some_and(|&count| count >= 2) || all.map(|(_, count)| count).sum::<u32>() >= 5
    }
}

struct Stage<'a> {
    timing: Timing,
    clock: Clock,
    step: &'a Step,
    budget: Duration,
    crew: &'a mut Crew,
    progress: &'a mut dyn Progress,
    failed: &'a mut Failed,
}

impl Stage<'_> {
    fn section(&mut self) -> Section {
        // Making ten thousand connections takes as long as many rounds. A failure shows in the first of these.
        for who in &self.step.contenders {
            let _ = match who.kind {
                Kind::OursAmong { others } => self.crew.gather(others),
                Kind::OverlappedAmong { others } => self.crew.let_read(others),
                _ => Ok(()),
            };
        }
        let began = Instant::now();
        let mut longest = Duration::ZERO;
        let mut section = Section {
            workload: self.step.workload,
            placement: self.step.placement,
            contenders: self.step.contenders.clone(),
            rounds: Vec::new(),
        };
        // Where much is thrown away, the long form takes up to twice its time.
        let patient = self.timing.stop == Duration::MAX;
        while !self.budget.is_zero() {
            let done = began.elapsed().as_secs_f64() / self.budget.as_secs_f64();
            self.progress
                .advance(done.min(1.0), section.rounds.len() + 1);
            let at = Instant::now();
            let round = self.round(section.rounds.len());
            section.rounds.push(round);
            longest = longest.max(at.elapsed());
            let twice = patient && section.fewest_kept(section.class()) < 3;
            if began.elapsed() + longest > self.budget * if twice { 2 } else { 1 } {
                break;
            }
        }
        section
    }

    /// Each contender once, another first in each round.
    fn round(&mut self, number: usize) -> Round {
        let contenders = &self.step.contenders;
        let mut round: Round = contenders.iter().map(|_| None).collect();
        for step in 0..contenders.len() {
            let index = (step + number) % contenders.len();
            round[index] = self.run(contenders[index]);
        }
        round
    }

    fn run(&mut self, who: Contender) -> Option<Run> {
        if self.failed.gave_up(who.kind, self.step) {
            return None;
        }
        let task = match self.step.workload {
            Workload::OneWay(_) => Task::OneWay,
            Workload::Connect | Workload::ConnectAmong => Task::Connect,
            Workload::Serve => Task::Serve,
            _ => Task::RoundTrip,
        };
        match self.crew.run(who.kind, task, self.pace(who.size)) {
            Ok((outcome, probes)) => {
                let class = match probes {
                    Some([before, after]) => clean(before, after),
                    None => Some(Class::OneCpu),
                };
                Sample::new(outcome).map(|sample| Run { class, sample })
            }
            Err(error) => {
                self.report_failure(who.kind, &error);
                None
            }
        }
    }

    fn idle(&mut self, report: &mut Report) {
        let span = self.timing.idle;
        let placement = self.step.placement;
        let all = self.step.contenders.len() as f64;
        for (index, who) in self.step.contenders.iter().enumerate() {
            self.progress.advance(index as f64 / all, 1);
            if self.failed.gave_up(who.kind, self.step) || self.budget.is_zero() {
                continue;
            }
            let pace = self.pace(who.size);
            match idle::measure(self.crew, who.kind, pace, placement, span) {
                Ok(row) => report.idle.push(row),
                Err(error) => self.report_failure(who.kind, &error),
            }
        }
    }

    fn costs(&mut self, report: &mut Report) {
        let placement = self.step.placement;
        let pace = self.pace(self.step.workload.size());
        let rows = match self.step.workload {
            Workload::Many => costs::memory(self.crew, placement),
            _ => costs::descriptors(self.crew, placement, pace).map(|row| vec![row]),
        };
        match rows {
            Ok(rows) => report.costs.extend(rows),
            Err(error) => self.report_failure(self.step.contenders[0].kind, &error),
        }
    }

    fn pace(&self, size: usize) -> Pace {
        let Timing {
            warm,
            warm_most,
            run,
            ..
        } = self.timing;
        let clock = self.clock;
        Pace {
            size,
            warm,
            warm_most,
            run,
            clock,
        }
    }

    fn report_failure(&mut self, kind: Kind, error: &anyhow::Error) {
        let Step {
            workload,
            placement,
            ..
        } = self.step;
        let (name, cpus) = (workload.name(), placement.name());
        let mut text = format!("{}, {name}, CPUs {cpus}: {error:#}", kind.name());
        *self
            .failed
            .counts
            .entry((kind, *workload, *placement))
            .or_default() += 1;
        if self.failed.gave_up(kind, self.step) {
            text.push_str(" (left out from here on)");
        }
        self.progress.note(&text);
        self.failed.texts.push(text);
    }
}

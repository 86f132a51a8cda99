//! `npfs bench`: npfs beside what one would use instead, on this machine, now.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use npfs_benches::{Options, Placement, Progress, Which, Workload, report};

use crate::Failure;
use crate::output::{Reserved, print};

const EXAMPLES: &str = "\
Examples:
  npfs bench                                all of it, about four minutes
  npfs bench --quick                        all of it, within 40 seconds
  npfs bench --only roundtrip-64 --cpus 0,1 one workload, between CPUs 0 and 1
  npfs bench --quick --html report.html     tables here, plots there
  npfs bench --json | jq 'select(.holds == false)'

Two processes exchange messages through npfs and through each baseline in turn, in rounds. A run
counts only if a cache line's round trip takes as long after it as before: virtual CPUs move. The
exit code is 0 if everything ran, whatever the figures say, 1 if something failed, 2 for a command
line that makes no sense.";

/// Measure npfs beside raw shared memory, futexes, pipes and sockets
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Bench {
    /// CPUs of the two ends; the same number twice puts both on one. Default: two CPUs, then one
    #[arg(long, value_name = "A,B", value_parser = Placement::parse)]
    cpus: Option<Placement>,

    /// Short rounds and few: everything within 40 seconds
    #[arg(long)]
    quick: bool,

    /// Only this workload; may be given more than once. There are roundtrip-48, roundtrip-64,
    /// roundtrip-4k, oneway-64, oneway-4k, oneway-64k, oneway-1m, overlapped, pending (overlapped
    /// among 10,000 pipes with a read on each end), clients (among 1,000 client processes),
    /// serve (64 clients of a server on one thread), connect (open and close),
    /// connect-among (the same among 10,000 instances), idle, many (memory) and fds (descriptors)
    #[arg(long, value_name = "NAME", value_parser = workload)]
    only: Vec<Workload>,

    /// Leave the baselines out (no ratios then)
    #[arg(long, conflicts_with = "baselines_only")]
    ours_only: bool,

    /// Leave npfs out (no ratios then)
    #[arg(long)]
    baselines_only: bool,

    /// Print one JSON object a line for each promise, and nothing else
    #[arg(long)]
    json: bool,

    /// Also write a page with plots to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn workload(name: &str) -> Result<Workload, String> {
    let named = Workload::ALL
        .into_iter()
        .find(|workload| workload.name() == name);
    named.ok_or_else(|| {
        let names: Vec<String> = Workload::ALL.into_iter().map(Workload::name).collect();
        format!("there are {}", names.join(", "))
    })
}

impl Bench {
    /// Measures and reports. Fails if a transport did, after reporting all the same.
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        let placements = match self.cpus {
            Some(placement) => vec![placement.check().map_err(Failure::Usage)?],
            None => Placement::defaults()?,
        };
        let page = self.html.as_deref().map(Reserved::new).transpose()?;
        let asked = |workload: &Workload| self.only.is_empty() || self.only.contains(workload);
        let options = Options {
            placements,
            workloads: Workload::ALL.into_iter().filter(asked).collect(),
            quick: self.quick,
            which: match (self.ours_only, self.baselines_only) {
                (true, _) => Which::Ours,
                (_, true) => Which::Baselines,
                _ => Which::Both,
            },
        };
        let mut progress = Shown::new(options.placements.len() * options.workloads.len());
        if cfg!(debug_assertions) {
            progress.note("built without optimisation: use cargo run --release -- bench");
        }
        let seen = npfs_benches::run(&options, &mut progress);
        progress.bar.finish_and_clear();
        let seen = seen?;
        if let Some(page) = page {
            page.write(&report::html(&seen))?;
        }
        print(&if self.json {
            report::json_lines(&seen)
        } else {
            report::tables(&seen)
        })?;
        Ok(if seen.failures.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// A bar on a terminal, else a line for each workload; always on standard error.
struct Shown {
    bar: ProgressBar,
    plain: bool,
    /// workloads begun, and how many there are
    begun: usize,
    all: usize,
}

/// Steps of the bar for each workload.
const STEPS: u64 = 100;

impl Shown {
    fn new(all: usize) -> Shown {
        let plain = !io::stderr().is_terminal();
        // Drawn only when told to: a thread that redraws would disturb what is measured.
        let target = if plain {
            ProgressDrawTarget::hidden()
        } else {
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(Some(STEPS * all as u64), target);
        let style = ProgressStyle::with_template("{bar:30} {elapsed:>4}  {msg}");
        bar.set_style(style.expect("a valid template"));
        Shown {
            bar,
            plain,
            begun: 0,
            all,
        }
    }
}

impl Progress for Shown {
    fn workload(&mut self, workload: Workload, placement: Placement, estimate: Duration) {
        self.begun += 1;
        let (begun, all) = (self.begun, self.all);
        let (name, cpus) = (workload.name(), placement.name());
        let seconds = estimate.as_secs_f64();
        if self.plain {
            eprintln!("[{begun}/{all}] {name} on CPUs {cpus}, about {seconds:.0} s");
        }
        self.bar
            .set_message(format!("[{begun}/{all}] {name} on CPUs {cpus}"));
    }

    fn advance(&mut self, done: f64, _round: usize) {
        let before = STEPS * (self.begun.saturating_sub(1)) as u64;
        let steps = (0..STEPS)
            .take_while(|&step| (step as f64) < done * STEPS as f64)
            .count();
        self.bar.set_position(before + steps as u64);
    }

    fn note(&mut self, text: &str) {
        if self.plain {
            eprintln!("npfs: {text}");
        } else {
            self.bar.suspend(|| eprintln!("npfs: {text}"));
        }
    }
}

//! `cargo bench -p benches --bench suite`: what `npfs bench --quick` does, as tables.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use npfs_benches::{Options, Placement, Progress, WORKER_COMMAND, Which, Workload};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .first()
        .is_some_and(|first| first == WORKER_COMMAND)
    {
        return npfs_benches::worker_main();
    }
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --benches`: nothing to time in a build without optimisation.
        println!("nothing is measured without --bench, which cargo bench gives");
        return ExitCode::SUCCESS;
    }
    match suite() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("suite: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `false`: a transport failed.
fn suite() -> anyhow::Result<bool> {
    let options = Options {
        placements: Placement::defaults()?,
        workloads: Workload::ALL.to_vec(),
        quick: true,
        which: Which::Both,
    };
    let report = npfs_benches::run(&options, &mut Lines)?;
    io::stdout().write_all(npfs_benches::report::tables(&report).as_bytes())?;
    Ok(report.failures.is_empty())
}

/// One line for each workload.
struct Lines;

impl Progress for Lines {
    fn workload(&mut self, workload: Workload, placement: Placement, _: Duration) {
        eprintln!("{} on CPUs {}", workload.name(), placement.name());
    }

    fn advance(&mut self, _: f64, _: usize) {}

    fn note(&mut self, text: &str) {
        eprintln!("failed: {text}");
    }
}

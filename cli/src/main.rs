//! `npfs`: named pipes in shared memory, from the command line.
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line makes no sense. Errors are one line on
//! standard error.

mod bench;
mod output;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Named pipes in shared memory: measure and operate them
#[derive(Debug, Parser)]
#[command(
    name = "npfs",
    version,
    arg_required_else_help = true,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bench(bench::Bench),
}

/// Why a command did not do what was asked.
enum Failure {
    /// The arguments are wrong.
    Usage(String),
    /// Something else is; the error says what.
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::Other(error)
    }
}

fn main() -> ExitCode {
    // A worker of the benchmark is this program once more; its command is nobody's to type.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == npfs_benches::WORKER_COMMAND)
    {
        return npfs_benches::worker_main();
    }
    let parsed = Cli::command()
        .try_get_matches()
        .and_then(|found| Cli::from_arg_matches(&found));
    let done = match parsed {
        Ok(Cli {
            command: Command::Bench(bench),
        }) => bench.run(),
        Err(error) => return refuse(&error),
    };
    match done {
        Ok(code) => code,
        Err(Failure::Usage(text)) => {
            eprintln!("npfs: {text} (see npfs --help)");
            ExitCode::from(2)
        }
        Err(Failure::Other(error)) => {
            eprintln!("npfs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Help goes out as it is; a mistake becomes one line.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if asked || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Whoever closed the pipe has read enough.
        let _ = error.print();
        return if asked {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(2)
        };
    }
    let text = error.to_string();
    let said = text.split("\n\nUsage:").next().unwrap_or_default();
    let said = said.split("\n\nFor more").next().unwrap_or_default();
    let words: Vec<&str> = said
        .split_whitespace()
        .filter(|word| *word != "error:")
        .collect();
    eprintln!("npfs: {} (see npfs --help)", words.join(" "));
    ExitCode::from(2)
}

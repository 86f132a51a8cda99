//! `npfs`: named pipes in shared memory, from the command line.
//!
//! ```text
//! broker            the process that knows the names
//! ls, info          what it knows
//! cat               a pipe on one side, standard input and output on the other
//! bench             measures
//! completions, man  for packages
//! ```
//!
//! Exit codes: 0 done, 1 it failed, 2 the command line makes no sense. Errors are one line on
//! standard error.

mod bench;
mod broker;
mod cat;
mod docs;
mod info;
mod ls;
mod output;
mod reach;

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

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

    /// The broker's socket, for commands that talk to one. Default: NPFS_SOCKET, else
    /// npfs/broker.sock in XDG_RUNTIME_DIR, else /tmp/npfs-UID/broker.sock
    #[arg(long, value_name = "PATH", global = true)]
    socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Broker(broker::Broker),
    Ls(ls::Ls),
    Info(info::Info),
    Cat(cat::Cat),
    Bench(bench::Bench),
    Completions(docs::Completions),
    Man(docs::Man),
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
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let socket = cli.socket.as_deref();
    let done = log().and_then(|()| match cli.command {
        Command::Broker(broker) => broker.run(socket),
        Command::Ls(ls) => ls.run(socket),
        Command::Info(info) => info.run(socket),
        Command::Cat(cat) => cat.run(socket),
        Command::Bench(bench) => bench.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    });
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

/// Sends what the engine has to say to standard error: warnings, or what `NPFS_LOG` asks for.
fn log() -> Result<(), Failure> {
    let filter = match env::var("NPFS_LOG") {
        Ok(asked) => EnvFilter::try_new(asked)
            .map_err(|error| Failure::Usage(format!("NPFS_LOG: {error}")))?,
        Err(_) => EnvFilter::new("warn"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Said on standard error, too, which is what cannot be written to.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// An argument that is a time: seconds, not necessarily whole, or `inf`.
fn seconds(text: &str) -> Result<Duration, String> {
    /// Some thirty years are for ever, too.
    const MOST: f64 = 1e9;
    match text.parse::<f64>() {
        Ok(number) if number > MOST => Ok(Duration::MAX),
        Ok(number) => Duration::try_from_secs_f64(number).map_err(|error| error.to_string()),
        Err(_) => Err("not a number of seconds".to_owned()),
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

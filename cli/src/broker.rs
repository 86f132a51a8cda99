//! `npfs broker`: the process that knows the names.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use npfs::broker::{IoKind, StartError};
use npfs::{BrokerOptions, Namespace};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::{Failure, reach, seconds};

const EXAMPLES: &str = "\
Examples:
  npfs broker                         this user's broker, until Ctrl-C
  npfs broker --detach --idle-exit 60 in the background, until nobody has needed it for a minute
  npfs broker --system                for all users, at /run/npfs/broker.sock
  NPFS_LOG=info npfs broker           with more of what it does on standard error

A service manager may pass a listening SOCK_SEQPACKET socket on (LISTEN_FDS); it is served instead.
The broker says one line on standard error once clients can connect. SIGTERM and SIGINT end it, and
its socket goes; connections that it has made go on. The exit code is 1 if another broker serves the
socket, but 0 with --detach, since what was asked for is there. A detached broker logs nowhere.";

/// Where a broker for all users listens.
const SYSTEM_SOCKET: &str = "/run/npfs/broker.sock";

/// Serve the names of pipes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Broker {
    /// Let every user of the machine connect; the socket is /run/npfs/broker.sock unless said
    #[arg(long)]
    system: bool,

    /// Threads; 0 for one for each CPU, four at most
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=256))]
    workers: u16,

    /// End after so long without any client
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    idle_exit: Option<Duration>,

    /// Run in the background; return once clients can connect
    #[arg(long)]
    detach: bool,

    /// How it waits. Default: io_uring if it works here, else epoll
    #[arg(long, value_name = "KIND")]
    io: Option<Io>,

    /// What `--detach` starts
    #[arg(long, hide = true, conflicts_with = "detach")]
    detached: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Io {
    Uring,
    Epoll,
}

/// How a detached broker tells the process that started it that another was quicker.
const ALREADY_SERVED: u8 = 3;

impl Broker {
    /// Serves until a signal or idleness ends it; with `--detach`, until another process does.
    pub(crate) fn run(self, socket: Option<&Path>) -> Result<ExitCode, Failure> {
        let place = match socket {
            None if self.system => SYSTEM_SOCKET.into(),
            socket => reach::place(socket),
        };
        if self.detach {
            Ok(self.detach(&place)?)
        } else {
            Ok(self.serve(&place)?)
        }
    }

    fn serve(&self, place: &Path) -> anyhow::Result<ExitCode> {
        // Before the socket is there: whoever sees it may send the signal.
        let mut signals = Signals::new([SIGTERM, SIGINT]).context("signals")?;
        let mut options = BrokerOptions::new();
        options
            .everyone(self.system)
            .workers(self.workers.into())
            .idle_exit(self.idle_exit.filter(|&after| after != Duration::MAX))
            .io(match self.io {
                None => IoKind::Probe,
                Some(Io::Uring) => IoKind::Uring,
                Some(Io::Epoll) => IoKind::Epoll,
            });
        let served = if options.activated()? {
            "the socket that was passed on".to_owned()
        } else {
            options.socket(place);
            place.display().to_string()
        };
        let broker = match options.start() {
            Err(StartError::AlreadyServed { .. }) if self.detached => {
                return Ok(ExitCode::from(ALREADY_SERVED));
            }
            started => started?,
        };
        let stopper = broker.stopper();
        thread::spawn(move || {
            if signals.forever().next().is_some() {
                stopper.stop();
            }
        });
        let stats = broker.stats();
        let plural = if stats.workers == 1 { "" } else { "s" };
        // A closed standard error is no reason not to serve.
        let _ = writeln!(
            io::stderr(),
            "{READY}{served} with {} worker{plural} over {}",
            stats.workers,
            stats.io
        );
        if self.detached {
            fall_silent().context("/dev/null")?;
        }
        broker.run().context("the broker")?;
        Ok(ExitCode::SUCCESS)
    }

    /// Sees to it that a broker serves `place`, whoever has started it.
    fn detach(&self, place: &Path) -> anyhow::Result<ExitCode> {
        // The background process works in the root folder, so as to keep no other busy.
        let place = std::path::absolute(place).context("the socket's path")?;
        let patience = Instant::now() + PATIENCE;
        let mut pause = Duration::from_millis(5);
        loop {
            let refused = match Namespace::connect(&place) {
                Ok(_) => return Ok(ExitCode::SUCCESS),
                Err(error @ npfs::Error::NoBroker { .. }) => error,
                Err(error) => return Err(error.into()),
            };
            if Instant::now() > patience {
                return Err(refused.into());
            }
            // Another one that has the lock may be about to listen, or about to end.
            if self.start_in_background(&place)? == Started::AnotherServes {
                thread::sleep(pause);
                pause = (2 * pause).min(Duration::from_millis(500));
            }
        }
    }

    /// Starts this program once more, and waits until it serves or has said why it does not.
    fn start_in_background(&self, place: &Path) -> anyhow::Result<Started> {
        let program = env::current_exe().context("this program's own path")?;
        let mut command = Command::new(program);
        command
            .args(["broker", "--detached", "--socket"])
            .arg(place);
        command.args(["--workers", &self.workers.to_string()]);
        if self.system {
            command.arg("--system");
        }
        if let Some(after) = self.idle_exit {
            command.args(["--idle-exit", &after.as_secs_f64().to_string()]);
        }
        if let Some(io) = self.io.and_then(|io| io.to_possible_value()) {
            command.args(["--io", io.get_name()]);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0) // Ctrl-C in this terminal is not for it
            .current_dir("/")
            .spawn()
            .context("cannot start the broker")?;
        let mut stderr = child.stderr.take().context("standard error")?;
        let (said, hears) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            // It ends when the broker falls silent, or ends itself. What came before an error counts.
            let _ = stderr.read_to_string(&mut text);
            let _ = said.send(text);
        });
        let Ok(text) = hears.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("the broker did not start within {} s", PATIENCE.as_secs());
        };
        if text.lines().any(|line| line.starts_with(READY)) {
            return Ok(Started::Ours);
        }
        let status = child.wait().context("the broker")?;
        if status.code() == Some(ALREADY_SERVED.into()) {
            return Ok(Started::AnotherServes);
        }
        let reason = text.lines().last().unwrap_or("it said nothing");
        Err(anyhow!(
            "{}",
            reason.strip_prefix("npfs: ").unwrap_or(reason)
        ))
    }
}

/// How the line begins that says that clients can connect.
const READY: &str = "npfs: serving ";

/// For a broker to start.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Started {
    Ours,
    AnotherServes,
}

/// Whoever started this one reads its standard error up to here, and then goes: later lines would fail.
fn fall_silent() -> io::Result<()> {
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stderr(null)?;
    Ok(())
}

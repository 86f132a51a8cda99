//! `npfs cat`: a pipe on one side, standard input and output on the other.

mod allow;
mod pump;

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use npfs::{
    Client, ClientOptions, Direction, Error, Namespace, PipeType, ReadMode, Server, ServerOptions,
};

use self::allow::Allow;
use self::pump::{End, Pump, Way};
use crate::{Failure, reach, seconds};

const EXAMPLES: &str = "\
Examples:
  npfs cat --serve demo                  one shell: wait for a client, print what it sends
  echo hello | npfs cat demo             another: send a line, then both end
  npfs cat -l --write-only demo < file   offer a file ...
  npfs cat --read-only demo > copy       ... and fetch it
  npfs cat -l --lines --keep log         print the messages of one client after the other
  npfs cat --lines --linger 10 rpc       send each line as a message, print the answers
  npfs cat -l --allow 1000:rw --allow gid:100:r demo

When it ends:
  The other end closes: at once, after all that it had sent is printed. With --keep, a server waits
    for the next client instead; what is left of standard input goes to that one.
  Standard input ends, client: once the server has read everything, and has sent nothing for half a
    second (--linger). With --write-only, once the server has read everything.
  Standard input ends, server: not before the client closes. With --write-only, once the client has
    read everything, --keep or not.
  With --read-only, standard input is not read at all, and only the other end's close counts.
  Standard output is closed, or Ctrl-C: at once.

The exit code is 1 if the other end closed while something still had to be sent to it (not with
--keep). A pipe has no half-close: the other end sees that one side has no more to say only when
the pipe closes.

A server is made for its user, who may do everything; others may read. --allow adds WHO:RIGHTS: WHO
is everyone, a user's number, or gid: and a group's number; RIGHTS are r, w, rw, or full, which also
lets WHO add instances of its own to the name and so pass for the server.";

/// Connect a pipe with standard input and output
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Cat {
    /// The pipe: NAME or \\.\pipe\NAME
    name: String,

    /// Be the server: make an instance of the pipe and wait for a client
    #[arg(short = 'l', long, visible_alias = "listen")]
    serve: bool,

    /// Serve one client after the other
    #[arg(long, requires = "serve")]
    keep: bool,

    /// Each line of standard input is one message, and each message is printed as a line; the pipe
    /// must carry messages, as that of a server with --lines does. Otherwise bytes go as they come
    #[arg(long)]
    lines: bool,

    /// Only read from the pipe; with --serve, clients can then only write to it
    #[arg(long, conflicts_with = "write_only")]
    read_only: bool,

    /// Only write to the pipe; with --serve, clients can then only read from it
    #[arg(long)]
    write_only: bool,

    /// Wait so long for a server to make the pipe and to listen. Default: not at all
    #[arg(long, value_name = "SECONDS", value_parser = seconds, conflicts_with = "serve")]
    wait: Option<Duration>,

    /// After standard input has ended, and all of it was read: go on while the server sends
    /// something at least so often; inf: until it closes
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = seconds, conflicts_with = "serve")]
    linger: Duration,

    /// Bytes of each direction that may be written and not read, before a write waits
    #[arg(long, value_name = "BYTES", requires = "serve")]
    quota: Option<u32>,

    /// Also let somebody else use the pipe; may be given more than once
    #[arg(long, value_name = "WHO:RIGHTS", requires = "serve")]
    allow: Vec<Allow>,
}

/// Between two looks for a pipe that is not there yet; the broker tells nobody of a new name.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

impl Cat {
    /// Copies until one of the ends has had enough.
    pub(crate) fn run(self, socket: Option<&Path>) -> Result<ExitCode, Failure> {
        if self.serve {
            let end = End::Server(self.create(&reach::any(socket)?)?);
            Pump::new(end, self.way(), self.lines, Duration::MAX).serve(self.keep)?;
        } else {
            let end = End::Client(self.open(socket)?);
            Pump::new(end, self.way(), self.lines, self.linger).run()?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn way(&self) -> Way {
        match (self.read_only, self.write_only) {
            (true, _) => Way::Out,
            (_, true) => Way::In,
            _ => Way::Both,
        }
    }
}

impl Cat {
    fn create(&self, namespace: &Namespace) -> anyhow::Result<Server> {
        let mut options = ServerOptions::new();
        options
            .direction(match self.way() {
                Way::Out => Direction::Inbound,
                Way::In => Direction::Outbound,
                Way::Both => Direction::Duplex,
            })
            // Said even where it is the default: the pipe may exist and be of the other type.
            .read_mode(self.read_mode());
        if self.lines {
            options.pipe_type(PipeType::Message);
        }
        if let Some(bytes) = self.quota {
            options.in_quota(bytes).out_quota(bytes);
        }
        if !self.allow.is_empty() {
            options.security(allow::descriptor(&self.allow)?);
        }
        let server = options.create(namespace, &self.name);
        server.map_err(|error| reach::about(&self.name, error))
    }

    fn open(&self, socket: Option<&Path>) -> anyhow::Result<Client> {
        let namespace = reach::any(socket)?;
        let mut options = ClientOptions::new();
        options
            .read(!self.write_only)
            .write(!self.read_only)
            .read_mode(self.read_mode());
        let until = self.wait.and_then(|wait| Instant::now().checked_add(wait));
        loop {
            let left = match (self.wait, until) {
                (None, _) => Duration::ZERO,
                (Some(_), None) => Duration::MAX,
                (Some(_), Some(until)) => until.saturating_duration_since(Instant::now()),
            };
            if !left.is_zero() {
                options.wait(Some(left));
            }
            match options.open(&namespace, &self.name) {
                Err(Error::NoSuchPipe) if !left.is_zero() => thread::sleep(LOOK_AGAIN.min(left)),
                Err(error @ Error::AccessDenied) if self.way() == Way::Both => {
                    let error = reach::about(&self.name, error);
                    return Err(anyhow!("{error} (try --read-only or --write-only)"));
                }
                opened => return opened.map_err(|error| reach::about(&self.name, error)),
            }
        }
    }

    fn read_mode(&self) -> ReadMode {
        if self.lines {
            ReadMode::Message
        } else {
            ReadMode::Byte
        }
    }
}

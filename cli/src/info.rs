//! `npfs info`: one pipe and its instances.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use npfs::Peer;
use npfs::wire::InstanceEntry;
use serde::Serialize;

use crate::ls::{Row, lines, plain};
use crate::output::print;
use crate::{Failure, reach};

const EXAMPLES: &str = "\
Examples:
  npfs info spoolss
  npfs info '\\\\.\\pipe\\spoolss'
  npfs info spoolss --json | jq '.instance_list[].server.pid'

Quotas are bytes: from client to server (in) and from server to client (out). Instances are numbered
from 1, oldest first. No broker is started for the question.";

/// Show one pipe and its instances
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Info {
    /// The pipe: NAME or \\.\pipe\NAME
    name: String,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    pipe: Row,
    instance_list: Vec<Instance>,
}

#[derive(Debug, Serialize)]
struct Instance {
    number: usize,
    state: &'static str,
    server: Process,
    client: Option<Process>,
    in_quota: u32,
    out_quota: u32,
}

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    uid: u32,
    gid: u32,
}

impl From<Peer> for Process {
    fn from(peer: Peer) -> Process {
        let Peer { pid, uid, gid, .. } = peer;
        Process { pid, uid, gid }
    }
}

impl Instance {
    fn new(number: usize, entry: &InstanceEntry) -> Instance {
        Instance {
            number,
            state: entry.state.name(),
            server: entry.server.into(),
            client: entry.client.map(Process::from),
            in_quota: entry.in_quota,
            out_quota: entry.out_quota,
        }
    }
}

impl Info {
    /// Asks and prints.
    pub(crate) fn run(self, socket: Option<&Path>) -> Result<ExitCode, Failure> {
        let details = reach::running(socket)?.info(&self.name);
        let details = details.map_err(|error| reach::about(&self.name, error))?;
        let numbered = (1..).zip(&details.instances);
        let whole = Whole {
            pipe: Row::from(&details.pipe),
            instance_list: numbered
                .map(|(number, entry)| Instance::new(number, entry))
                .collect(),
        };
        if self.json {
            let text = serde_json::to_string(&whole).map_err(anyhow::Error::from)?;
            print(&(text + "\n"))?;
        } else {
            print(&whole.text())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Whole {
    fn text(&self) -> String {
        let pipe = &self.pipe;
        let mut fields = plain();
        for (field, value) in [
            ("name", reach::printable(&pipe.name)),
            ("type", pipe.pipe_type.to_owned()),
            ("direction", pipe.direction.to_owned()),
            ("instances", pipe.count()),
            ("listening", pipe.listening.to_string()),
            ("connected", pipe.connected.to_string()),
            ("waiters", pipe.waiters.to_string()),
            ("default timeout", format!("{} ms", pipe.default_timeout_ms)),
            ("owner", pipe.owned_by()),
        ] {
            fields.add_row([field, &value]);
        }
        let mut table = plain();
        table.set_header(["#", "STATE", "SERVER", "CLIENT", "IN QUOTA", "OUT QUOTA"]);
        for instance in &self.instance_list {
            let client = instance.client.as_ref();
            table.add_row([
                instance.number.to_string(),
                instance.state.to_owned(),
                instance.server.pid.to_string(),
                client.map_or("-".to_owned(), |client| client.pid.to_string()),
                instance.in_quota.to_string(),
                instance.out_quota.to_string(),
            ]);
        }
        lines(&fields) + "\n" + &lines(&table)
    }
}

//! `npfs ls`: the pipes that a broker knows.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use npfs::npfs::PipeInfo;
use npfs::security::Sid;
use npfs::{Direction, PipeType};
use serde::Serialize;

use crate::output::print;
use crate::{Failure, reach};

const EXAMPLES: &str = "\
Examples:
  npfs ls                       all of them
  npfs ls 'spool*'              names that begin with spool, SPOOL and so on
  npfs ls --json | jq .name     one JSON object a line

In PATTERN, * stands for any characters and ? for one. No broker is started for the question.";

/// List the pipes
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Ls {
    /// Only names that match; upper and lower case are the same
    pattern: Option<String>,

    /// Print one JSON object a line for each pipe
    #[arg(long)]
    json: bool,
}

impl Ls {
    /// Asks and prints.
    pub(crate) fn run(self, socket: Option<&Path>) -> Result<ExitCode, Failure> {
        let pipes = reach::running(socket)?
            .list()
            .map_err(anyhow::Error::from)?;
        let pattern = self.pattern.as_deref();
        let pattern: Option<Vec<u16>> = pattern.map(|text| text.encode_utf16().collect());
        let wanted = |pipe: &&PipeInfo| {
            let pattern = pattern.as_deref();
            pattern.is_none_or(|pattern| pipe.name.matches(pattern))
        };
        let rows: Vec<Row> = pipes.iter().filter(wanted).map(Row::from).collect();
        if self.json {
            let mut text = String::new();
            for row in &rows {
                text += &serde_json::to_string(row).map_err(anyhow::Error::from)?;
                text.push('\n');
            }
            print(&text)?;
        } else {
            print(&table(&rows))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A pipe as it is printed. The names of the fields are JSON's, and stay.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) pipe_type: &'static str,
    pub(crate) direction: &'static str,
    pub(crate) instances: u32,
    /// `None`: any number.
    pub(crate) max_instances: Option<u32>,
    pub(crate) listening: u32,
    pub(crate) connected: u32,
    pub(crate) waiters: u32,
    pub(crate) default_timeout_ms: u128,
    /// A SID.
    pub(crate) owner: Option<String>,
    /// The user, if the owner is one of this system.
    pub(crate) owner_uid: Option<u32>,
}

impl From<&PipeInfo> for Row {
    fn from(pipe: &PipeInfo) -> Row {
        Row {
            name: pipe.name.to_string(),
            pipe_type: match pipe.pipe_type {
                PipeType::Byte => "byte",
                PipeType::Message => "message",
            },
            direction: match pipe.direction {
                Direction::Inbound => "inbound",
                Direction::Outbound => "outbound",
                Direction::Duplex => "duplex",
            },
            instances: pipe.instances,
            max_instances: (pipe.max_instances != u32::MAX).then_some(pipe.max_instances),
            listening: pipe.listening,
            connected: pipe.connected,
            waiters: pipe.waiters,
            default_timeout_ms: pipe.default_timeout.as_millis(),
            owner: pipe.owner.as_ref().map(Sid::to_string),
            owner_uid: pipe.owner.as_ref().and_then(Sid::as_uid),
        }
    }
}

impl Row {
    /// How many there are, of how many.
    pub(crate) fn count(&self) -> String {
        match self.max_instances {
            None => format!("{}/unlimited", self.instances),
            Some(most) => format!("{}/{most}", self.instances),
        }
    }

    /// For people: users by their number.
    pub(crate) fn owned_by(&self) -> String {
        match (self.owner_uid, &self.owner) {
            (Some(uid), _) => format!("uid {uid}"),
            (None, Some(sid)) => sid.clone(),
            (None, None) => "nobody".to_owned(),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = plain();
    table.set_header([
        "NAME",
        "TYPE",
        "DIRECTION",
        "INSTANCES",
        "LISTENING",
        "CONNECTED",
        "WAITERS",
        "OWNER",
    ]);
    for row in rows {
        table.add_row([
            reach::printable(&row.name),
            row.pipe_type.to_owned(),
            row.direction.to_owned(),
            row.count(),
            row.listening.to_string(),
            row.connected.to_string(),
            row.waiters.to_string(),
            row.owned_by(),
        ]);
    }
    for numbers in 4..7 {
        if let Some(column) = table.column_mut(numbers) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines(&table)
}

/// Columns without lines between them, one row a line whatever the width: for awk and grep, too.
pub(crate) fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table
}

pub(crate) fn lines(table: &Table) -> String {
    // The table pads each cell on both sides.
    let bare = |line: String| {
        line.strip_prefix(' ')
            .unwrap_or(&line)
            .trim_end()
            .to_owned()
            + "\n"
    };
    table.lines().map(bare).collect()
}

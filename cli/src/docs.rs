//! `npfs completions` and `npfs man`: what packages install beside the program.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man as Page;

use crate::output::print;
use crate::{Cli, Failure};

const COMPLETIONS: &str = "\
Examples:
  npfs completions bash > ~/.local/share/bash-completion/completions/npfs
  npfs completions fish > ~/.config/fish/completions/npfs.fish";

/// Print what a shell needs to complete this command
#[derive(Debug, Args)]
#[command(after_help = COMPLETIONS)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        // Rendered first: clap_complete panics where it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "npfs", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}

const MAN: &str = "\
Examples:
  npfs man | man -l -
  npfs man --out /usr/local/share/man/man1";

/// Print the manual page, or write those of all commands
#[derive(Debug, Args)]
#[command(after_help = MAN)]
pub(crate) struct Man {
    /// Write npfs.1, npfs-ls.1 and so on into this folder, which is made if need be
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Result<ExitCode, Failure> {
        // Its own `help` is no command that deserves a page.
        let command = Cli::command().disable_help_subcommand(true);
        match self.out {
            Some(folder) => {
                let cannot = || format!("cannot write to {}", folder.display());
                fs::create_dir_all(&folder).with_context(cannot)?;
                clap_mangen::generate_to(command, &folder).with_context(cannot)?;
            }
            None => {
                let mut page = Vec::new();
                let rendered = Page::new(command).render(&mut page);
                rendered.map_err(anyhow::Error::from)?;
                print(&String::from_utf8_lossy(&page))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

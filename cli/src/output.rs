//! Where results go: standard output, or a file that was found writable before the work began.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes to standard output. A reader that has gone (`npfs bench | head`) is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}

/// A file that will be written at the end. What it held stays until then; if it did not exist
/// and nothing is written, it goes again.
#[derive(Debug)]
pub(crate) struct Reserved {
    path: PathBuf,
    file: File,
    fresh: bool,
}

impl Reserved {
    /// Opens or creates `path` for writing.
    pub(crate) fn new(path: &Path) -> Result<Reserved> {
        let mut options = OpenOptions::new();
        options.write(true);
        let open = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                options.open(path).map(|file| (file, false))
            }
            new => new.map(|file| (file, true)),
        };
        let (file, fresh) = open.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Reserved {
            path: path.to_owned(),
            file,
            fresh,
        })
    }

    /// Replaces what the file held.
    pub(crate) fn write(mut self, text: &str) -> Result<()> {
        self.fresh = false;
        // A pipe or a terminal has no length to set, and needs none.
        let _ = self.file.set_len(0);
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.fresh {
            // It was empty and ours; if it cannot go, an empty file stays, which harms nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

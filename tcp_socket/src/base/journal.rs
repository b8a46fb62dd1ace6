//! A journal of what a program has executed, for experiments. Each line is written before the
//! response is sent, so that the file tells the truth even after the program was killed. It is
//! never synced: a machine that loses its power may lose the last lines.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::Context;

static JOURNAL: OnceLock<File> = OnceLock::new();

/// The option that opens the journal.
#[derive(Debug, clap::Args)]
pub struct Journal {
    /// For experiments: append each accepted batch to this file, before its response is sent
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
}

impl Journal {
    /// Opens the file, if the option names one.
    ///
    /// # Errors
    /// If the file can't be opened.
    pub fn open(&self) -> anyhow::Result<()> {
        let Some(path) = &self.journal else { return Ok(()) };
        let file = OpenOptions::new().append(true).create(true).open(path);
        let _ = JOURNAL.set(file.with_context(|| format!("cannot open {}", path.display()))?);
        Ok(())
    }
}

/// Appends a line that holds these parts. Without a journal, it does nothing. If the journal can't
/// be written, the program ends, since nobody could tell anymore what it has executed.
pub fn append(parts: impl IntoIterator<Item = String>) {
    let Some(mut journal) = JOURNAL.get() else { return };
    let line = parts.into_iter().collect::<Vec<_>>().join("; ") + "\n";
    if let Err(error) = journal.write_all(line.as_bytes()) {
        tracing::error!("cannot write the journal: {error}");
        std::process::exit(1);
    }
}

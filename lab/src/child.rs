//! The lab runs its own program again for each server, worker, and client of an experiment.

use clap::{FromArgMatches, Subcommand};

use crate::faults::programs::{self, Program};
use crate::run::placement::runtime;
use crate::run::server::{Serve, serve};

/// What a second process of this program does, until the first one is gone.
#[derive(Debug, Subcommand)]
pub enum Child {
    /// Run a server for the lab itself
    #[command(hide = true)]
    Serve(Serve),
    /// Run another program of an experiment
    #[command(hide = true)]
    Program(Program),
}

impl Child {
    /// Runs it.
    ///
    /// # Errors
    /// If it can't run.
    pub fn run(&self) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            match self {
                Self::Serve(options) => serve(options).await,
                Self::Program(options) => programs::run(options).await,
            }
        })
    }
}

/// If the lab started this process, does what it asks for, and returns whether it did. For programs
/// with another command line, such as tests.
///
/// # Errors
/// If it can't run.
pub fn run_as_child() -> anyhow::Result<bool> {
    if !matches!(std::env::args().nth(1).as_deref(), Some("serve" | "program")) {
        return Ok(false);
    }
    let matches = Child::augment_subcommands(clap::Command::new("lab")).get_matches();
    Child::from_arg_matches(&matches)?.run()?;
    Ok(true)
}

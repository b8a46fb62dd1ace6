//! The lab starts its own program again for each server and worker, and for a client that it kills.

use clap::{FromArgMatches, Subcommand};

use crate::faults::programs::{self, Program};
use crate::run::placement::runtime;
use crate::run::server::{Serve, serve};

/// What a child process of the lab does until the lab is gone.
#[derive(Debug, Subcommand)]
pub enum Child {
    /// Run a server for the lab itself
    #[command(hide = true)]
    Serve(Box<Serve>),
    /// Run a worker, a server behind a broker, or a client of an experiment
    #[command(hide = true)]
    Program(Program),
}

impl Child {
    /// Does what the lab asks for.
    ///
    /// # Errors
    /// If the server or program fails.
    pub fn run(&self) -> anyhow::Result<()> {
        runtime()?.block_on(async {
            match self {
                Self::Serve(options) => serve(options).await,
                Self::Program(options) => programs::run(options).await,
            }
        })
    }
}

/// Returns whether the lab started this process, after doing what the lab asks for. For programs with
/// a command line of their own, such as tests.
///
/// # Errors
/// If the server or program fails.
pub fn run_as_child() -> anyhow::Result<bool> {
    if !matches!(std::env::args().nth(1).as_deref(), Some("serve" | "program")) {
        return Ok(false);
    }
    let matches = Child::augment_subcommands(clap::Command::new("lab")).get_matches();
    Child::from_arg_matches(&matches)?.run()?;
    Ok(true)
}

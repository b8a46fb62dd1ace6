//! The program that is checked.

use std::io::{Error, Result};
use std::process::{Command, ExitStatus, Stdio};

use tokio::process::Child;

use crate::signal::{Pid, Signal, killpg, own_group};

/// A running program. Dropping it kills the program and all programs that it started.
pub struct Program(Child);

impl Program {
    /// Starts the program with its arguments, as a shell would.
    ///
    /// # Errors
    /// If the command is empty or not valid, or the program can't be started.
    pub fn start(command: &str) -> Result<Self> {
        let words = shlex::split(command);
        let words = words.ok_or_else(|| Error::other(format!("a quote is not closed: {command}")))?;
        let (program, args) = words.split_first().ok_or_else(|| Error::other("the command is empty"))?;
        let mut start = Command::new(program);
        start.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        own_group(&mut start);
        let child = tokio::process::Command::from(start).kill_on_drop(true).spawn();
        let child = child.map_err(|error| Error::other(format!("cannot start {program:?}: {error}")))?;
        Ok(Self(child))
    }

    /// Returns how it ended, if it has.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait()
    }

    /// Waits until it ends.
    ///
    /// # Errors
    /// If the system can't tell.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        self.0.wait().await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(id) = self.0.id() {
            let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

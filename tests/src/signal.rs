//! Signals and process groups, if the system has them. On other systems, the tests still compile,
//! but each is reported as ignored with [`NEEDS_UNIX`].

#[cfg(unix)]
pub use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

#[cfg(not(unix))]
pub use elsewhere::{Pid, Signal, kill, killpg};

/// The reason why tests are ignored on a system without signals.
pub const NEEDS_UNIX: &str = "the tests stop programs with signals, which need Unix; run the tests in WSL";

/// Makes the command start in its own process group, so that a single [`killpg`] reaches all of its
/// processes.
pub fn own_group(command: &mut std::process::Command) {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    #[cfg(not(unix))]
    let _ = command;
}

#[cfg(not(unix))]
#[allow(missing_docs, reason = "replaces nix on other systems and is never called")]
mod elsewhere {
    use std::io::{Error, Result};

    #[derive(Debug, Clone, Copy)]
    pub struct Pid;

    impl Pid {
        pub fn from_raw(_pid: i32) -> Self {
            Self
        }
    }

    #[derive(Debug, Clone, Copy)]
    pub enum Signal {
        SIGCONT,
        SIGINT,
        SIGKILL,
        SIGSTOP,
        SIGTERM,
    }

    pub fn kill(_process: Pid, _signal: impl Into<Option<Signal>>) -> Result<()> {
        Err(Error::other(super::NEEDS_UNIX))
    }

    pub fn killpg(group: Pid, signal: impl Into<Option<Signal>>) -> Result<()> {
        kill(group, signal)
    }
}

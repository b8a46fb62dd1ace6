//! Which core runs what.
//!
//! Both ends on one core: an exchange is two switches between processes, and the
//! protocol's own work shows. On separate cores both work at the same time, as on
//! two machines, but a waiting core sleeps: in a virtual machine, waking it takes
//! ten times as long as a small exchange, and all protocols look alike.

use std::fmt;
use std::sync::LazyLock;

use clap::ValueEnum;
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

/// All cores that this process may use. Asked once, before [`pin`] narrows it.
static CORES: LazyLock<Vec<CoreId>> = LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());

/// Puts the calling thread, and all threads and processes that it starts from
/// now on, on one core, counted from 0. False where the system has no such
/// choice, or no such core.
///
/// Call it before a runtime is built, so that the runtime counts its cores right.
pub fn pin(core: usize) -> bool {
    CORES.get(core).copied().is_some_and(core_affinity::set_for_current)
}

/// A runtime with as many threads as the calling thread has cores: after
/// [`pin`] it is the calling thread alone.
///
/// # Errors
/// If the system refuses what a runtime needs.
pub fn runtime() -> std::io::Result<Runtime> {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => Builder::new_current_thread().enable_all().build(),
        cores => Builder::new_multi_thread().worker_threads(cores).enable_all().build(),
    }
}

/// Where client and server run. A broker shares the server's core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Client and server on the same core.
    Same,
    /// Client and server on a core each.
    Separate,
    /// Wherever the system puts them, from one moment to the next.
    Free,
}

impl Placement {
    /// What comes nearest to it on this machine.
    pub fn possible(self) -> Self {
        match CORES.len() {
            // Elsewhere the call exists, but is a hint or nothing.
            _ if cfg!(not(target_os = "linux")) => Self::Free,
            0 => Self::Free,
            1 if self == Self::Separate => Self::Same,
            _ => self,
        }
    }

    /// The client's core.
    pub fn client_core(self) -> Option<usize> {
        (self != Self::Free).then_some(0)
    }

    /// The core of the server and of its broker.
    pub fn server_core(self) -> Option<usize> {
        match self {
            Self::Same => Some(0),
            Self::Separate => Some(1),
            Self::Free => None,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Same => "client and server on the same core",
            Self::Separate => "client and server on a core each",
            Self::Free => "cores left to the system: expect noise",
        })
    }
}

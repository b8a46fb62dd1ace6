//! Chooses the cores on which client and server run.
//!
//! With both ends on one core, an exchange takes two switches between processes, and the
//! protocol's own work is visible. On separate cores, both ends work at the same time, as they
//! would on two machines, but a core that waits goes to sleep. In a virtual machine, waking it
//! takes several times as long as a small exchange, so all protocols look alike.

use std::fmt;
use std::sync::LazyLock;

use clap::ValueEnum;
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

/// All cores that this process may use. The list is read once, before [`pin`] narrows it.
static CORES: LazyLock<Vec<CoreId>> = LazyLock::new(|| core_affinity::get_core_ids().unwrap_or_default());

/// Pins the calling thread to one core, counted from 0, together with all threads and processes
/// that it starts from now on. Returns false if there is no such core or the system doesn't let
/// programs choose.
///
/// Call this before you build a runtime: [`runtime`] counts the cores that are left.
pub fn pin(core: usize) -> bool {
    CORES.get(core).copied().is_some_and(core_affinity::set_for_current)
}

/// Builds a runtime with as many threads as the calling thread has cores. After [`pin`], the
/// calling thread is the only one.
///
/// # Errors
/// If the system refuses a resource that the runtime needs.
pub fn runtime() -> std::io::Result<Runtime> {
    match std::thread::available_parallelism().map_or(1, usize::from) {
        1 => Builder::new_current_thread().enable_all().build(),
        cores => Builder::new_multi_thread().worker_threads(cores).enable_all().build(),
    }
}

/// The cores on which client and server run. A broker shares the server's core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// Client and server on the same core.
    Same,
    /// Client and server on separate cores.
    Separate,
    /// The system chooses, and may change its choice at any time.
    Free,
}

impl Placement {
    /// Returns the nearest placement that this machine allows.
    pub(crate) fn possible(self) -> Self {
        match CORES.len() {
            // Outside Linux, choosing a core is only a hint or has no effect.
            _ if cfg!(not(target_os = "linux")) => Self::Free,
            0 => Self::Free,
            1 if self == Self::Separate => Self::Same,
            _ => self,
        }
    }

    /// Returns the client's core.
    pub(crate) fn client_core(self) -> Option<usize> {
        (self != Self::Free).then_some(0)
    }

    /// Returns the core of the server and its broker.
    pub(super) fn server_core(self) -> Option<usize> {
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
            Self::Separate => "client and server on separate cores",
            Self::Free => "cores chosen by the system: expect noise",
        })
    }
}

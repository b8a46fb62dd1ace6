//! What all scenes share: the stage they play on, and the programs in the background.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use message_queue::model::{Metric, Reading};
use message_queue::worker::{Queue, Worker};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::protocols::Address;
use crate::wire::message::Side;
use crate::wire::tape::{Tape, What};

/// The station of all scenes.
pub(super) const STATION: &str = "oslo-1";

/// The reading of all scenes, in °C.
pub(super) const TEMPERATURE: f64 = -3.5;

/// A temperature that every server refuses.
pub(super) const IMPOSSIBLE: f64 = 1_000.0;

/// When all readings were recorded: 1 January 2026, in milliseconds since the Unix epoch.
pub(super) const RECORDED_AT: u64 = 1_767_225_600_000;

/// What the programs of a scene connect to: proxies that record everything.
pub(super) struct Stage {
    /// Where the client connects to: a proxy in front of the server or broker.
    pub client: Address,
    /// Where the server, worker, or subscriber behind a broker connects to. It is
    /// another proxy in front of the same broker.
    pub other: Address,
    /// Records the client's connections.
    pub tape: Arc<Tape>,
}

impl Stage {
    /// Says what happens next. The diagram shows the sentence between the messages.
    pub(super) fn say(&self, text: &str) {
        self.tape.push(0, Side::Client, What::Note(text.to_owned()));
    }
}

/// Returns an error if the server accepted an impossible reading.
pub(super) fn expect_refusal<E>(recorded: &Result<usize, E>) -> anyhow::Result<()> {
    match recorded {
        Ok(_) => bail!("the server accepted a temperature of {IMPOSSIBLE} °C"),
        Err(_) => Ok(()),
    }
}

/// A reading as both brokers' programs send it.
pub(super) fn queue_reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature, value, recorded_at: RECORDED_AT }
}

/// Runs a program of the scene in the background until `scene` has ended. The program calls its
/// second argument when it is ready; then the scene begins.
///
/// # Errors
/// Those of the program and of the scene.
pub(super) async fn beside(
    program: impl AsyncFnOnce(CancellationToken, Box<dyn FnOnce() + Send>) -> anyhow::Result<()>,
    scene: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let program = program(shutdown.clone(), Box::new(move || _ = ready.send(())));
    let scene = async {
        is_ready.await.context("a program in the background stopped before it was ready")?;
        scene().await?;
        shutdown.cancel();
        Ok(())
    };
    tokio::try_join!(program, scene)?;
    Ok(())
}

/// Runs a worker in the background until `scene` has ended and the worker has done a job.
///
/// # Errors
/// Those of the worker and of the scene.
pub(super) async fn beside_a_worker(
    queue: impl Queue,
    scene: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let folder = Results::temporary()?;
    let results = message_queue::results::Results::open(&folder.0)?;
    let (report, mut done) = mpsc::unbounded_channel();
    let program = async |shutdown: CancellationToken, ready: Box<dyn FnOnce() + Send>| {
        let worker = Worker { queue, results, work_time: Duration::ZERO };
        worker
            .run(&shutdown, ready, |_attempt| {
                let _ = report.send(());
                Ok(())
            })
            .await?;
        Ok(())
    };
    let scene = async || {
        scene().await?;
        done.recv().await.context("the worker stopped before it had done the job")
    };
    beside(program, scene).await
}

/// A folder for a worker's results, which is removed at the end.
struct Results(PathBuf);

impl Results {
    /// Creates the folder.
    fn temporary() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("lab-wire-{}", std::process::id()));
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create the folder {}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

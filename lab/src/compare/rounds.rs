//! Starts the servers for one kind of measurement, then measures the protocols in turn, round
//! after round (A B C, A B C). If the machine slows down, it slows down for all of them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use super::plan::Plan;
use crate::protocols::Protocol;
use crate::report::results::Failure;
use crate::report::statistic::Spread;
use crate::run::brokers::Brokers;
use crate::run::encryption::Encryption;
use crate::run::placement::Placement;
use crate::run::running_protocol::{RunningProtocol, Through};

/// Time after which a missing first reply through a broker is an error.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Pause before another attempt to get that reply.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Name of the measurement that goes through a proxy.
pub(super) const BYTES: &str = "bytes";

/// Names of the measurements that go through a network.
pub(super) const ROUND_TRIPS: &str = "round trips";
pub(super) const NETWORK: &str = "network";

/// State that all measurements of a run share.
pub(super) struct Comparison<'a> {
    pub plan: &'a Plan,
    pub protocols: &'a [&'static Protocol],
    pub runtime: Runtime,
    pub progress: &'a ProgressBar,
    pub stop: &'a AtomicBool,
    pub brokers: Brokers,
    /// Whether the next measurement speaks TLS, and how.
    pub encryption: Option<Encryption>,
    pub failures: Vec<Failure>,
}

/// The rounds of one protocol at one level.
pub(super) struct Row<T> {
    pub protocol: String,
    pub level: u64,
    pub rounds: Vec<T>,
}

impl<T> Row<T> {
    pub fn spread(&self, figure: impl Fn(&T) -> f64) -> Spread {
        Spread::of(&self.rounds.iter().map(figure).collect::<Vec<_>>())
    }

    /// Returns the spread, if every round has the figure.
    pub fn spread_if_all(&self, figure: impl Fn(&T) -> Option<f64>) -> Option<Spread> {
        Spread::of_all(self.rounds.iter().map(figure))
    }

    /// Returns the protocol and the outcome of a measurement that has only one round.
    pub fn single(mut self) -> Option<(String, T)> {
        Some((self.protocol, self.rounds.pop()?))
    }

    pub fn sum(&self, count: impl Fn(&T) -> u64) -> u64 {
        self.rounds.iter().map(count).sum()
    }
}

impl Comparison<'_> {
    /// Starts all servers, then calls `measure` for each round, level, and protocol. `measure`
    /// returns `None` if there is nothing to measure for that protocol at that level.
    pub fn rounds<T>(
        &mut self,
        name: &str,
        placement: Placement,
        levels: (usize, &[u64]),
        measure: impl AsyncFnMut(&RunningProtocol, u64) -> anyhow::Result<Option<T>>,
    ) -> Vec<Row<T>> {
        self.rounds_of(self.protocols, name, placement, levels, measure)
    }

    /// Does the same for these protocols.
    pub fn rounds_of<T>(
        &mut self,
        protocols: &[&'static Protocol],
        name: &str,
        placement: Placement,
        (rounds, levels): (usize, &[u64]),
        mut measure: impl AsyncFnMut(&RunningProtocol, u64) -> anyhow::Result<Option<T>>,
    ) -> Vec<Row<T>> {
        if levels.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        let mut running = self.start_all(protocols, name, placement);
        let row =
            |protocol: &Protocol, level| Row { protocol: protocol.id.into(), level, rounds: Vec::new() };
        let mut rows: Vec<_> = protocols
            .iter()
            .flat_map(|protocol| levels.iter().map(move |&level| row(protocol, level)))
            .collect();
        for _ in 0..rounds {
            for (at_level, &level) in levels.iter().enumerate() {
                for (at, slot) in running.iter_mut().enumerate() {
                    if self.stop.load(Relaxed) {
                        break;
                    }
                    if let Some(target) = slot {
                        let protocol = target.protocol;
                        self.progress.set_message(format!("{name}: {}", protocol.name));
                        match self.runtime.block_on(measure(target, level)) {
                            Ok(outcome) => rows[at * levels.len() + at_level].rounds.extend(outcome),
                            Err(error) => {
                                self.failed(protocol, name, &error);
                                *slot = None;
                            }
                        }
                    }
                    self.progress.inc(1);
                }
            }
        }
        self.progress.println(format!("{name}: {:.0} s", started.elapsed().as_secs_f64()));
        rows.retain(|row| !row.rounds.is_empty());
        rows
    }

    /// Starts all protocols, in their order. The result has `None` for each one that fails.
    fn start_all(
        &mut self,
        protocols: &[&'static Protocol],
        name: &str,
        placement: Placement,
    ) -> Vec<Option<RunningProtocol>> {
        let through = match name {
            BYTES => Through::Proxy,
            ROUND_TRIPS | NETWORK => Through::Network,
            _ => Through::Nothing,
        };
        let mut running = Vec::new();
        for &protocol in protocols {
            let started = RunningProtocol::start(
                protocol,
                placement,
                &mut self.brokers,
                through,
                self.encryption.as_ref(),
            );
            let started = started.and_then(|target| {
                self.runtime.block_on(ready(&target))?;
                Ok(target)
            });
            running.push(started.inspect_err(|error| self.failed(protocol, name, error)).ok());
        }
        running
    }

    fn failed(&mut self, protocol: &Protocol, measurement: &str, error: &anyhow::Error) {
        self.failures.push(Failure {
            name: protocol.name.into(),
            measurement: measurement.to_owned() + if self.encryption.is_some() { " with TLS" } else { "" },
            error: format!("{error:#}"),
        });
    }
}

/// Waits for the first reply through a broker. A broker that has just started needs time: for
/// example, a quorum queue first elects its leader.
async fn ready(target: &RunningProtocol) -> anyhow::Result<()> {
    let started = Instant::now();
    while target.protocol.served.broker().is_some() {
        match target.connect_and_record().await {
            Ok(_) => break,
            Err(error) if started.elapsed() > READY_WITHIN => return Err(error),
            Err(_) => sleep(RETRY_AFTER).await,
        }
    }
    Ok(())
}

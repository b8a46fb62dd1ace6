//! The layout of `results.json`. Most figures are a [`Spread`] over the rounds: the median, the
//! lowest, and the highest. `null` means that a figure is not available.

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use super::sections::{Delayed, Delivered, Encrypted, Idle, RoundTrips, Stream};
use super::statistic::Spread;
use crate::protocols::Kind;
use crate::run::brokers::Missing;
use crate::run::conditions::Conditions;
use crate::run::placement::Placement;

/// Version of this layout. The lab also reads version 1, which lacks the newer fields.
pub const SCHEMA: u32 = 2;

/// The ID of the baseline that the other protocols are compared with.
pub(super) const BASELINE: &str = "tokio_echo";

/// The results of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// Version of the layout: [`SCHEMA`].
    pub schema: u32,
    /// Where, when, and how the run was made.
    pub conditions: Conditions,
    /// The protocols that ran, in the order of the tables.
    pub protocols: Vec<Named>,
    /// The protocols that could not run on this machine.
    pub missing: Vec<Missing>,
    /// The measurements that ended with an error, so some of their figures are missing.
    pub failures: Vec<Failure>,
    /// Time and CPU time per request, with one request in flight.
    pub latency: Measured<Latency>,
    /// Requests per second, by number of requests in flight.
    pub throughput: Measured<Throughput>,
    /// Latency at fixed rates (`--full`).
    pub fixed_rate: Measured<FixedRate>,
    /// Time by batch size, with one batch in flight (`--full`).
    pub batch: Measured<Batch>,
    /// Bytes on the wire.
    pub bytes: Vec<Bytes>,
    /// Time to set up a connection (`--full`).
    pub set_up: Measured<SetUp>,
    /// The server's memory (`--full`).
    pub memory: Vec<Memory>,
    /// How often a request has to cross the network.
    #[serde(default)]
    pub round_trips: Vec<RoundTrips>,
    /// What TLS adds (`--tls` or `--full`), placed as `set_up` is.
    #[serde(default)]
    pub encryption: Vec<Encrypted>,
    /// Times over a network (`--delay`, `--bandwidth`, or `--full`), placed as `throughput` is.
    #[serde(default)]
    pub network: Vec<Delayed>,
    /// One reading to many subscribers (`--fan-out` or `--full`), placed as `throughput` is.
    #[serde(default)]
    pub fan_out: Vec<Delivered>,
    /// Many messages over one connection (`--streams` or `--full`), placed as `throughput` is.
    #[serde(default)]
    pub streams: Vec<Stream>,
    /// What idle connections cost (`--idle` or `--full`), placed as `throughput` is.
    #[serde(default)]
    pub idle: Vec<Idle>,
    /// What the reader predicted before the run.
    #[serde(default)]
    pub answers: Answers,
}

/// A reader's answers, in the order of the predictions. `None`: not answered.
pub type Answers = Vec<Option<bool>>;

/// A protocol that ran.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    /// Its name in `--protocols` and in every row's `protocol`.
    pub id: String,
    /// Its name in the tables.
    pub name: String,
    /// What a reply means.
    pub kind: Kind,
}

/// A measurement that ended with an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The protocol's name.
    pub name: String,
    /// Name of the measurement.
    pub measurement: String,
    /// Why it failed.
    pub error: String,
}

/// A measurement's rows, and the placement on cores that they share.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured<T> {
    /// The cores of client and server.
    pub placement: Placement,
    /// One row per protocol or, if there are levels, per protocol and level.
    pub rows: Vec<T>,
}

/// Latency with one request in flight. Times are in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// The protocol's ID.
    pub protocol: String,
    /// Requests that succeeded, over all rounds.
    pub requests: u64,
    /// Requests that failed, over all rounds.
    pub errors: u64,
    /// Median. If a round has fewer than ten samples beyond a percentile, the percentile is `null`.
    pub p50: Option<Spread>,
    /// 90th percentile.
    pub p90: Option<Spread>,
    /// 99th percentile.
    pub p99: Option<Spread>,
    /// 99.9th percentile.
    pub p999: Option<Spread>,
    /// The longest time in a round.
    pub max: Spread,
    /// The client's CPU time per request, including the measuring loop.
    pub client_cpu: Option<Spread>,
    /// The server's CPU time per request.
    pub server_cpu: Option<Spread>,
    /// The broker's CPU time per request.
    pub broker_cpu: Option<Spread>,
}

/// Throughput with many requests in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Throughput {
    /// The protocol's ID.
    pub protocol: String,
    /// Requests in flight.
    pub in_flight: u64,
    /// Successful requests per second.
    pub per_second: Spread,
    /// Requests that failed, over all rounds.
    pub errors: u64,
    /// The client's CPU time per second of wall-clock time: 1 is one core.
    pub client_busy: Option<Spread>,
    /// The server's CPU time per second of wall-clock time.
    pub server_busy: Option<Spread>,
    /// The broker's CPU time per second of wall-clock time.
    pub broker_busy: Option<Spread>,
}

/// Latency at a fixed rate. Times are in nanoseconds, from the intended moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FixedRate {
    /// The protocol's ID.
    pub protocol: String,
    /// Requests per second that were due.
    pub offered: u64,
    /// Replies per second.
    pub achieved: Spread,
    /// Median.
    pub p50: Option<Spread>,
    /// 99th percentile.
    pub p99: Option<Spread>,
    /// 99.9th percentile.
    pub p999: Option<Spread>,
    /// 99th percentile of the sender's own delay: how late it noticed that a request was due. The
    /// times above include this delay.
    pub lateness_p99: Option<Spread>,
    /// Requests that failed, over all rounds.
    pub errors: u64,
    /// Planned requests that were never sent, over all rounds.
    pub unsent: u64,
    /// Whether a round achieved less than 95% of the offered rate. That round then skipped the
    /// higher rates.
    pub saturated: bool,
}

/// Time of a batch, with one in flight. Times are in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// The protocol's ID.
    pub protocol: String,
    /// Readings in the batch.
    pub readings: u64,
    /// CPU time of all sides for a batch.
    #[serde(default)]
    pub cpu: Option<Spread>,
    /// Median time of a batch.
    pub p50: Option<Spread>,
    /// Batches that failed, over all rounds.
    pub errors: u64,
}

/// TCP payload of one request, in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bytes {
    /// The protocol's ID.
    pub protocol: String,
    /// Readings in the request.
    #[serde(default = "one")]
    pub readings: u64,
    /// From client to server, as the mean of 100 requests. Through a broker, it is the sum of both
    /// hops.
    pub request: f64,
    /// From server to client, measured in the same way.
    pub response: f64,
    /// Once per connection, in both directions.
    pub set_up: f64,
    /// Size of the readings' information, in bytes.
    pub payload: u64,
}

/// The only number of readings in layout 1.
fn one() -> u64 {
    1
}

/// Time to the first verified reply, in nanoseconds: connection, handshakes, and one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetUp {
    /// The protocol's ID.
    pub protocol: String,
    /// Median over the connections of a round.
    pub median: Spread,
}

/// RAM used by the server or, with a broker, by the broker. In bytes, without the kernel's
/// buffers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    /// The protocol's ID.
    pub protocol: String,
    /// Memory before the first request or, with a broker, after one.
    pub at_rest: u64,
    /// Memory that each idle connection adds, after one request.
    pub per_connection: f64,
}

impl Results {
    /// Reads a `results.json`.
    ///
    /// # Errors
    /// If the text has another layout.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let results: Self = serde_json::from_str(text).context(
            "this is not a results.json of this version of the lab; measure again with cargo run --release",
        )?;
        let schema = results.schema;
        ensure!(
            schema <= SCHEMA,
            "results.json has layout {schema}, but this lab reads up to layout {SCHEMA}"
        );
        Ok(results)
    }

    /// Returns a protocol's name in tables.
    pub(super) fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.protocols.iter().find(|protocol| protocol.id == id).map_or(id, |protocol| &protocol.name)
    }
}

/// Medians of the protocol with a given ID, for comparison with another's.
impl Results {
    /// Returns p50 with one request in flight, in nanoseconds.
    pub(super) fn latency_of(&self, id: &str) -> Option<f64> {
        self.latency.rows.iter().find(|row| row.protocol == id)?.p50.map(|spread| spread.median)
    }

    /// Returns the CPU time of all sides per request, in nanoseconds.
    pub(super) fn cpu_of(&self, id: &str) -> Option<f64> {
        self.latency.rows.iter().find(|row| row.protocol == id)?.cpu()
    }

    /// Returns the requests per second with this many in flight.
    pub(super) fn rate_of(&self, id: &str, in_flight: u64) -> Option<f64> {
        let mut rows = self.throughput.rows.iter();
        rows.find(|row| row.protocol == id && row.in_flight == in_flight).map(|row| row.per_second.median)
    }

    /// Returns the bytes of a request with this many readings, in both directions.
    pub(super) fn bytes_of(&self, id: &str, readings: u64) -> Option<f64> {
        self.bytes.iter().find(|row| row.protocol == id && row.readings == readings).map(Bytes::total)
    }

    /// Returns the bytes of requests with one reading.
    pub(super) fn single_bytes(&self) -> impl Iterator<Item = &Bytes> {
        self.bytes.iter().filter(|row| row.readings == 1)
    }

    /// Returns p50 of a batch of this many readings, in nanoseconds.
    pub(super) fn batch_of(&self, id: &str, readings: u64) -> Option<f64> {
        let mut rows = self.batch.rows.iter();
        rows.find(|row| row.protocol == id && row.readings == readings)?.p50.map(|spread| spread.median)
    }

    /// Returns the time to the first reply, in nanoseconds.
    pub(super) fn set_up_of(&self, id: &str) -> Option<f64> {
        self.set_up.rows.iter().find(|row| row.protocol == id).map(|row| row.median.median)
    }
}

impl Latency {
    /// Returns the CPU time of all sides per request, in nanoseconds, or `None` if it is not
    /// available.
    pub(super) fn cpu(&self) -> Option<f64> {
        let others = [self.server_cpu, self.broker_cpu].into_iter().flatten();
        Some(self.client_cpu?.median + others.map(|spread| spread.median).sum::<f64>())
    }
}

impl Bytes {
    /// Returns the bytes in both directions.
    pub fn total(&self) -> f64 {
        self.request + self.response
    }

    /// Returns what share of all bytes is information, from 0 to 1. An echo sends the information
    /// twice, so its share is one half.
    pub(super) fn share(&self) -> f64 {
        self.payload as f64 / self.total()
    }
}

impl Throughput {
    /// Returns the name of the side that had no CPU time left. "none" means that each side waited
    /// part of the time, for another side or for a disk.
    pub(super) fn saturated(&self, placement: Placement) -> &'static str {
        const FULL: f64 = 0.9;
        let busy = |spread: Option<Spread>| spread.map_or(0.0, |spread| spread.median);
        let (client, server) = (busy(self.client_busy), busy(self.server_busy) + busy(self.broker_busy));
        if self.client_busy.is_none() {
            return "unknown";
        }
        if placement == Placement::Same {
            return if client + server >= FULL { "the core" } else { "none" };
        }
        match (client >= FULL, server >= FULL) {
            (true, true) => "both",
            (true, false) => "client",
            (false, true) if busy(self.broker_busy) > busy(self.server_busy) => "broker",
            (false, true) => "server",
            (false, false) => "none",
        }
    }
}

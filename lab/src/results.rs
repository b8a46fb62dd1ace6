//! What `results.json` holds. Each figure is a [`Spread`] over the rounds: median,
//! lowest, highest. `null` is a figure that could not be had.

use serde::{Deserialize, Serialize};

use crate::placement::Placement;
use crate::protocols::Kind;
use crate::spread::Spread;

/// The version of this layout; another one is not read.
pub const SCHEMA: u32 = 1;

/// Above this share of its cores' time a machine is busy with something else.
const BUSY: f64 = 0.1;

/// A whole run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where, when and how it was measured.
    pub conditions: Conditions,
    /// The protocols that ran, in the order of the tables.
    pub protocols: Vec<Named>,
    /// Those that should have run and could not.
    pub missing: Vec<Missing>,
    /// What failed altogether: a figure is then lacking.
    pub failures: Vec<Failure>,
    /// One request in flight: time and CPU per request.
    pub latency: Measured<Latency>,
    /// Many requests in flight.
    pub throughput: Measured<Throughput>,
    /// Latency at fixed rates (`--full`).
    pub fixed_rate: Measured<FixedRate>,
    /// Growth with the batch, one request in flight (`--full`).
    pub batch: Measured<Batch>,
    /// Bytes on the wire.
    pub bytes: Vec<Bytes>,
    /// Connection set-up (`--full`).
    pub set_up: Measured<SetUp>,
    /// The server's memory (`--full`).
    pub memory: Vec<Memory>,
}

/// Where, when and how it was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Conditions {
    /// The command.
    pub command: String,
    /// When it began, in seconds since the Unix epoch.
    pub started_at: u64,
    /// How long it took, in seconds.
    pub duration_seconds: f64,
    /// It was ended early: rounds are fewer than planned, or missing.
    pub interrupted: bool,
    /// Rounds planned.
    pub rounds: usize,
    /// The processor, and whether the machine is virtual.
    pub machine: String,
    /// Cores that the lab may use.
    pub cores: usize,
    /// Memory, in bytes.
    pub memory_bytes: Option<u64>,
    /// The system's name and its kernel's release.
    pub system: String,
    /// Share of all cores' time that other programs used just before, 0 to 1.
    pub busy_before: Option<f64>,
    /// The compiler.
    pub rustc: String,
    /// Versions of the libraries and of the brokers that did the work.
    pub versions: Vec<(String, String)>,
}

/// A protocol.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Named {
    /// As in `--protocols` and in every row's `protocol`.
    pub id: String,
    /// As in the tables.
    pub name: String,
    /// What a reply means.
    pub kind: Kind,
}

/// A protocol that did not run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// What this machine lacks.
    pub reason: String,
    /// The command that adds it.
    pub command: String,
}

/// A measurement that ended with an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The protocol's name.
    pub name: String,
    /// What was measured.
    pub measurement: String,
    /// Why it failed.
    pub error: String,
}

/// Rows that were measured at one placement.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Measured<T> {
    /// Which cores.
    pub placement: Placement,
    /// A row for each protocol, and for each level if there are levels.
    pub rows: Vec<T>,
}

/// One request in flight. Times in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Latency {
    /// The protocol's id.
    pub protocol: String,
    /// Requests that succeeded, over all rounds.
    pub requests: u64,
    /// Requests that failed, over all rounds.
    pub errors: u64,
    /// Half of the requests took no longer. Percentiles with fewer than ten
    /// samples beyond them in some round are `null`.
    pub p50: Option<Spread>,
    /// 90 percent took no longer.
    pub p90: Option<Spread>,
    /// 99 percent took no longer.
    pub p99: Option<Spread>,
    /// 99.9 percent took no longer.
    pub p999: Option<Spread>,
    /// The longest of a round.
    pub max: Spread,
    /// The client's CPU time per request, the measuring loop included.
    pub client_cpu: Option<Spread>,
    /// The server's.
    pub server_cpu: Option<Spread>,
    /// The broker's.
    pub broker_cpu: Option<Spread>,
}

/// Many requests in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Throughput {
    /// The protocol's id.
    pub protocol: String,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests per second that succeeded.
    pub per_second: Spread,
    /// Requests that failed, over all rounds.
    pub errors: u64,
    /// CPU time of the client per second of the clock: 1 is one core.
    pub client_busy: Option<Spread>,
    /// The server's.
    pub server_busy: Option<Spread>,
    /// The broker's.
    pub broker_busy: Option<Spread>,
}

/// Requests at a fixed rate. Times in nanoseconds, from the intended moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FixedRate {
    /// The protocol's id.
    pub protocol: String,
    /// Requests per second that were due.
    pub offered: u64,
    /// Replies per second.
    pub achieved: Spread,
    /// Half of the requests took no longer.
    pub p50: Option<Spread>,
    /// 99 percent took no longer.
    pub p99: Option<Spread>,
    /// 99.9 percent took no longer.
    pub p999: Option<Spread>,
    /// 99 percent of the requests were noticed to be due no later than this: the
    /// sender's own part in the times.
    pub lateness_p99: Option<Spread>,
    /// Requests that failed, over all rounds.
    pub errors: u64,
    /// Requests that were due and never sent, over all rounds.
    pub unsent: u64,
    /// Fewer than 95 percent of the offered rate came back in some round; higher
    /// rates were then not tried in that round.
    pub saturated: bool,
}

/// One batch in flight. Times in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Batch {
    /// The protocol's id.
    pub protocol: String,
    /// Readings in the batch.
    pub readings: u64,
    /// Half of the batches took no longer.
    pub p50: Option<Spread>,
    /// Batches that failed, over all rounds.
    pub errors: u64,
}

/// TCP payload of one request with one reading, in bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bytes {
    /// The protocol's id.
    pub protocol: String,
    /// From client to server, mean of 100 requests; through a broker the sum of
    /// both hops.
    pub request: f64,
    /// From server to client, likewise.
    pub response: f64,
    /// Once per connection, in both directions.
    pub set_up: f64,
    /// How many bytes the reading's information takes.
    pub payload: u64,
}

/// From nothing to the first verified reply, in nanoseconds: connection,
/// handshakes and one request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetUp {
    /// The protocol's id.
    pub protocol: String,
    /// The middle of the connections of a round.
    pub median: Spread,
}

/// Memory in RAM, in bytes, without the kernel's buffers, of the server or, through
/// a broker, of the broker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Memory {
    /// The protocol's id.
    pub protocol: String,
    /// Before the first request; through a broker, after one.
    pub at_rest: u64,
    /// What each open and idle connection adds, each of which has made one request.
    pub per_connection: f64,
}

impl Results {
    /// A protocol's name in tables.
    pub fn name<'a>(&'a self, id: &'a str) -> &'a str {
        self.protocols.iter().find(|protocol| protocol.id == id).map_or(id, |protocol| &protocol.name)
    }
}

/// Medians of one protocol, named by its id, to compare with another's.
impl Results {
    /// p50 with one in flight, in nanoseconds.
    pub fn latency_of(&self, id: &str) -> Option<f64> {
        self.latency.rows.iter().find(|row| row.protocol == id)?.p50.map(|spread| spread.median)
    }

    /// CPU time per request of all sides, in nanoseconds.
    pub fn cpu_of(&self, id: &str) -> Option<f64> {
        self.latency.rows.iter().find(|row| row.protocol == id)?.cpu()
    }

    /// Requests per second with so many in flight.
    pub fn rate_of(&self, id: &str, in_flight: u64) -> Option<f64> {
        let mut rows = self.throughput.rows.iter();
        rows.find(|row| row.protocol == id && row.in_flight == in_flight).map(|row| row.per_second.median)
    }

    /// Bytes per request, in both directions.
    pub fn bytes_of(&self, id: &str) -> Option<f64> {
        self.bytes.iter().find(|row| row.protocol == id).map(Bytes::total)
    }

    /// p50 of a batch of so many readings, in nanoseconds.
    pub fn batch_of(&self, id: &str, readings: u64) -> Option<f64> {
        let mut rows = self.batch.rows.iter();
        rows.find(|row| row.protocol == id && row.readings == readings)?.p50.map(|spread| spread.median)
    }

    /// From nothing to the first reply, in nanoseconds.
    pub fn set_up_of(&self, id: &str) -> Option<f64> {
        self.set_up.rows.iter().find(|row| row.protocol == id).map(|row| row.median.median)
    }
}

impl Conditions {
    /// Other programs use more of the machine than a quiet one's do.
    pub fn was_busy(&self) -> bool {
        self.busy_before.is_some_and(|share| share > BUSY)
    }
}

impl Latency {
    /// CPU time of all sides per request, in nanoseconds; `None` if it could not be had.
    pub fn cpu(&self) -> Option<f64> {
        let others = [self.server_cpu, self.broker_cpu].into_iter().flatten();
        Some(self.client_cpu?.median + others.map(|spread| spread.median).sum::<f64>())
    }
}

impl Bytes {
    /// Both directions.
    pub fn total(&self) -> f64 {
        self.request + self.response
    }

    /// The share of all bytes that is information, 0 to 1. (The echoes return it
    /// all, and so reach no more than a half.)
    pub fn share(&self) -> f64 {
        self.payload as f64 / self.total()
    }
}

impl Throughput {
    /// Which side had no CPU time left. If none, each waited part of the time, for
    /// another side or for a disk.
    pub fn saturated(&self, placement: Placement) -> &'static str {
        const FULL: f64 = 0.9;
        let busy = |spread: Option<Spread>| spread.map_or(0.0, |spread| spread.median);
        let (client, server) = (busy(self.client_busy), busy(self.server_busy) + busy(self.broker_busy));
        if self.client_busy.is_none() {
            return "unknown";
        }
        if placement == Placement::Same {
            return if client + server >= FULL { "the shared core" } else { "none" };
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

//! The sections of `results.json` about more than one request between two processes: TLS, networks,
//! subscribers, streams, and many connections.

use serde::{Deserialize, Serialize};

use super::statistic::Spread;
use crate::run::encryption::Connection;

/// Round trips between client and server. Through a broker, also those between broker and server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RoundTrips {
    /// The protocol's ID.
    pub protocol: String,
    /// Once per connection, with TCP's handshake.
    pub set_up: u64,
    /// For each request on an open connection.
    pub request: u64,
}

/// A protocol over connections that begin in one way. Times are in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Encrypted {
    /// The protocol's ID.
    pub protocol: String,
    /// How connections begin.
    pub connection: Connection,
    /// Time to the first reply, as the median over a round's connections.
    pub set_up: Spread,
    /// Round trips of a new connection, with TCP's handshake.
    pub round_trips: u64,
    /// Bytes that a connection costs once, in both directions.
    pub set_up_bytes: f64,
    /// Bytes of a request and its response, with one reading.
    pub request_bytes: f64,
    /// CPU time of all sides for a request with one reading. `null` for resumed and mutual
    /// connections, whose requests are the same as after a full handshake.
    pub one_cpu: Option<Spread>,
    /// The same for readings with 64 KiB of information.
    pub many_cpu: Option<Spread>,
    /// Memory of the server or broker for an idle connection, in bytes.
    pub memory: Option<f64>,
}

/// Times over a network that delays bytes, in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delayed {
    /// The protocol's ID.
    pub protocol: String,
    /// Delay of a round trip.
    pub delay: u64,
    /// Bits per second in each direction, or `null` if there was no limit.
    pub bandwidth: Option<u64>,
    /// Time to the first reply, with connection and handshakes.
    pub set_up: Spread,
    /// Median time of a request with one reading.
    pub one: Spread,
    /// Median time of a request with 100 readings.
    pub batch: Spread,
    /// Requests per second with 64 in flight. `null` if only one can be in flight.
    pub per_second: Option<Spread>,
}

/// One reading to many subscribers, each over its own connection. Times are in nanoseconds from the
/// moment when it was published.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivered {
    /// The ID of the way to fan out.
    pub protocol: String,
    /// Its name in tables.
    pub name: String,
    /// Number of subscribers.
    pub subscribers: u64,
    /// Until the first subscriber has it. All times are medians of the readings of a round.
    pub first: Spread,
    /// Until half of them have it.
    pub median: Spread,
    /// Until all have it.
    pub last: Spread,
    /// CPU time of the server or broker for each delivery.
    pub cpu: Option<Spread>,
    /// Memory of the server or broker for each subscriber, in bytes.
    pub memory: f64,
}

/// Many messages over one connection that stays open. Times are in nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stream {
    /// The ID of the way to stream.
    pub protocol: String,
    /// Its name in tables.
    pub name: String,
    /// What is acknowledged, and when.
    pub acknowledged: String,
    /// Number of messages.
    pub messages: u64,
    /// Messages per second, until all are acknowledged.
    pub per_second: Spread,
    /// Median time from sending a message to its acknowledgement.
    pub p50: Spread,
    /// The client's CPU time for each message.
    pub client_cpu: Option<Spread>,
    /// The server's CPU time for each message.
    pub server_cpu: Option<Spread>,
}

/// Idle connections beside 16 that work, each with one request in flight.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Idle {
    /// The protocol's ID.
    pub protocol: String,
    /// Number of idle connections.
    pub connections: u64,
    /// Memory of the server or broker for each idle connection, in bytes.
    pub memory: f64,
    /// Requests per second without idle connections.
    pub without: Spread,
    /// Requests per second with them.
    pub with: Spread,
    /// CPU time of the server or broker per request without idle connections, in nanoseconds.
    pub cpu: Option<Spread>,
    /// How much more it is with them, in the same round.
    pub added_cpu: Option<Spread>,
}

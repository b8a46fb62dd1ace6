//! What a run measures, and for how long.

use std::time::Duration;

use super::measure::Span;
use crate::protocols::{FAN_OUT, STREAMS};

/// The measurements of a run, and how long each takes.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Number of rounds of each measurement. Bytes and memory are measured only once.
    pub rounds: usize,
    /// Duration of a measurement with one request in flight.
    pub latency: Span,
    /// Duration of a measurement with many requests in flight.
    pub throughput: Span,
    /// Numbers of requests in flight to measure.
    pub in_flight: Vec<u64>,
    /// Duration of a measurement at one fixed rate.
    pub fixed_rate: Span,
    /// Fixed rates in requests per second, in rising order. An empty list skips the measurement.
    pub rates: Vec<u64>,
    /// Duration of a measurement with one batch in flight.
    pub batch: Span,
    /// Sizes of batches, in readings. An empty list skips the measurement.
    pub readings: Vec<u64>,
    /// Number of connections that a round opens, one after another. 0 skips the measurement.
    pub set_ups: usize,
    /// Number of idle connections held open to measure their memory. 0 skips the measurement.
    pub idle_connections: usize,
    /// Delays of a round trip over a network, in ms. An empty list skips the measurement.
    pub delays: Vec<u64>,
    /// Bandwidth of that network in each direction, in bits per second.
    pub bandwidth: Option<u64>,
    /// Numbers of subscribers for fan-out. An empty list skips the measurement.
    pub subscribers: Vec<u64>,
    /// Number of messages over a stream that stays open. `None` skips the measurement.
    pub messages: Option<u64>,
    /// Number of idle connections beside 16 that work. `None` skips the measurement.
    pub idle: Option<u64>,
    /// Number of connections that a round opens without TLS, and in each way with TLS. 0 skips the
    /// comparison of both.
    pub new_connections: usize,
    /// Duration of a measurement of requests in that comparison.
    pub encrypted: Span,
    /// Number of rounds at fixed rates, over the network, of fan-out, and with idle connections.
    pub extra_rounds: usize,
}

/// Number of messages over a stream, with `--streams`.
pub const MESSAGES: u64 = 20_000;

/// Number of idle connections, with `--idle`.
pub const IDLE: u64 = 5_000;

/// Number of connections that a round of the full plan opens without TLS, and in each way with it.
pub const NEW_CONNECTIONS: usize = 50;

fn span(warm_up: u64, measured: u64) -> Span {
    Span { warm_up: Duration::from_millis(warm_up), measured: Duration::from_millis(measured) }
}

impl Plan {
    /// The plan of the default run, which takes about a minute.
    pub fn quick() -> Self {
        Self {
            rounds: 3,
            latency: span(150, 500),
            throughput: span(150, 500),
            in_flight: vec![64],
            encrypted: span(100, 300),
            extra_rounds: 3,
            ..Self::default()
        }
    }

    /// The plan of `--full`: everything, longer and with more rounds.
    pub fn full() -> Self {
        Self {
            rounds: 5,
            latency: span(300, 1000),
            throughput: span(300, 700),
            in_flight: vec![1, 8, 64, 256],
            fixed_rate: span(200, 1000),
            rates: vec![1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000],
            batch: span(100, 400),
            readings: vec![1, 10, 100, 1000, 10_000],
            set_ups: 50,
            idle_connections: 100,
            delays: vec![1, 20, 100],
            subscribers: vec![1, 10, 100, 1000],
            messages: Some(MESSAGES),
            idle: Some(IDLE),
            new_connections: NEW_CONNECTIONS,
            ..Self::quick()
        }
    }

    /// Returns the length of the progress bar, in steps, for this many protocols.
    pub fn steps(&self, protocols: usize) -> u64 {
        let rounds = 1 + self.in_flight.len() + self.readings.len();
        let rounds = rounds + usize::from(self.set_ups > 0);
        let once = 1 + self.readings.len().max(1) + usize::from(self.idle_connections > 0);
        let extra = self.rates.len() + self.delays.len() + usize::from(self.idle.is_some());
        let encrypted = if self.new_connections > 0 { 4 * (self.rounds + 2) } else { 0 };
        ((rounds * self.rounds + extra * self.extra_rounds + once + encrypted) * protocols
            + self.subscribers.len() * self.extra_rounds * FAN_OUT.len()
            + usize::from(self.messages.is_some()) * self.rounds * STREAMS.len()) as u64
    }
}

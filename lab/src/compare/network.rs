//! Measures the protocols over a network with a delay: how often a request has to cross it, and
//! how long it takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::measure::{self, Span};
use super::rounds::{Comparison, NETWORK, ROUND_TRIPS, Row};
use crate::protocols::Recorder;
use crate::report::sections::{Delayed, RoundTrips};
use crate::report::statistic::Spread;
use crate::run::meter::Meter;
use crate::run::network::Network;
use crate::run::placement::Placement;
use crate::run::running_protocol::RunningProtocol;

/// The delay with which round trips are counted. Anything else that a request waits for is much
/// shorter.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// Number of attempts. The shortest time contains the least of other delays.
const TRIES: usize = 3;

/// Number of readings in a batch that crosses the network.
const BATCH: u64 = 100;

/// Number of requests in flight over the network.
const IN_FLIGHT: u64 = 64;

/// Number of requests in a round. Their median is its figure.
const REQUESTS: usize = 5;

/// Number of new connections in a round. Their median is its figure.
const CONNECTIONS: usize = 3;

/// The figures of one round: times in nanoseconds of set-up, one reading, and a batch; and requests
/// per second.
type Crossing = ([f64; 3], Option<f64>);

impl Comparison<'_> {
    /// Counts the round trips of each protocol: time divided by delay, rounded.
    pub(super) fn round_trips(&mut self, placement: Placement) -> Vec<RoundTrips> {
        let rows = self
            .rounds(ROUND_TRIPS, placement, (1, &[1]), async |target, _| count_trips(target).await.map(Some));
        let trips = |(protocol, Trips { set_up, request })| RoundTrips { protocol, set_up, request };
        rows.into_iter().filter_map(Row::single).map(trips).collect()
    }

    /// Measures set-up, latency, batches, and throughput with each delay of the plan.
    pub(super) fn network(&mut self, placement: Placement) -> Vec<Delayed> {
        let levels = (self.plan.extra_rounds, self.plan.delays.as_slice());
        let bandwidth = self.plan.bandwidth;
        let rows = self.rounds(NETWORK, placement, levels, async |target, delay| {
            let delay = Duration::from_millis(delay);
            network(target)?.set(delay, bandwidth);
            cross(target, delay).await.map(Some)
        });
        let delayed = |row: Row<Crossing>| Delayed {
            protocol: row.protocol.clone(),
            delay: row.level * 1_000_000,
            bandwidth,
            set_up: row.spread(|(times, _)| times[0]),
            one: row.spread(|(times, _)| times[1]),
            batch: row.spread(|(times, _)| times[2]),
            per_second: row.spread_if_all(|(_, rate)| *rate),
        };
        rows.into_iter().map(delayed).collect()
    }
}

/// How often a connection, and a request on it, crosses the network and back.
pub(super) struct Trips {
    pub set_up: u64,
    pub request: u64,
}

pub(super) async fn count_trips(target: &RunningProtocol) -> anyhow::Result<Trips> {
    network(target)?.set(ROUND_TRIP, None);
    let (mut first, mut request) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..TRIES {
        let (recorder, time) = connect(target).await?;
        first = first.min(time);
        for _ in 0..TRIES {
            request = request.min(time_of(&*recorder).await?);
        }
    }
    let trips = |time: f64| (time / ROUND_TRIP.as_nanos() as f64).round() as u64;
    Ok(Trips { set_up: trips(first).saturating_sub(trips(request)), request: trips(request) })
}

async fn cross(target: &RunningProtocol, delay: Duration) -> anyhow::Result<Crossing> {
    let mut set_ups = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        set_ups.push(connect(target).await?.1);
    }
    let (one, batch) = (median(target, 1).await?, median(target, BATCH).await?);
    let mut per_second = None;
    if !target.protocol.one_at_a_time {
        let recorder = target.connect(1).await?;
        let span = Span { warm_up: 4 * delay, measured: Duration::from_millis(300) + 4 * delay };
        let measured = measure::in_flight(&recorder, IN_FLIGHT, span, &Meter::default()).await;
        measured.errors.ensure_few()?;
        per_second = Some(measured.completed as f64 / measured.elapsed.as_secs_f64());
    }
    Ok(([Spread::of(&set_ups).median, one, batch], per_second))
}

fn network(target: &RunningProtocol) -> anyhow::Result<&Network> {
    target.network.as_ref().context("no network was started")
}

/// Returns a connected client, and the time until its first reply.
async fn connect(target: &RunningProtocol) -> anyhow::Result<(Arc<dyn Recorder>, f64)> {
    let started = Instant::now();
    let recorder = target.connect_and_record().await?;
    Ok((recorder, started.elapsed().as_nanos() as f64))
}

async fn time_of(recorder: &dyn Recorder) -> anyhow::Result<f64> {
    let started = Instant::now();
    recorder.record().await?;
    Ok(started.elapsed().as_nanos() as f64)
}

/// Returns the median time of a batch of this many readings, one in flight.
async fn median(target: &RunningProtocol, readings: u64) -> anyhow::Result<f64> {
    let recorder = target.connect(readings).await?;
    time_of(&*recorder).await?; // The first one also connects.
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        times.push(time_of(&*recorder).await?);
    }
    Ok(Spread::of(&times).median)
}

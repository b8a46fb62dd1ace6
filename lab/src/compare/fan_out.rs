//! Measures fan-out: how long it takes until all subscribers have a reading, and what that costs.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::rounds::{Comparison, Row};
use crate::protocols::{FAN_OUT, FanOut, Kind, Recorder};
use crate::report::sections::Delivered;
use crate::report::statistic::Spread;
use crate::run::placement::Placement;
use crate::run::running_protocol::RunningProtocol;

/// Number of readings published in a round.
const PUBLISHED: u64 = 20;

/// Time after which a missing reading is an error.
const WITHIN: Duration = Duration::from_secs(20);

/// Time without new readings before the measurement begins. A new member of a chat room, for
/// example, first gets the last messages.
const SETTLE: Duration = Duration::from_millis(100);

/// The figures of one round: the times in nanoseconds until the first, the median, and the last
/// subscriber has a reading; CPU time per delivery; and bytes of memory per subscriber.
type Deliveries = (Spread, Option<f64>, f64);

impl Comparison<'_> {
    /// Publishes to each number of subscribers in the plan.
    pub(super) fn fan_out(&mut self, placement: Placement) -> Vec<Delivered> {
        let levels = (self.plan.extra_rounds, self.plan.subscribers.as_slice());
        let selected = |way: &&FanOut| {
            way.protocol.kind == Kind::Baseline || self.protocols.iter().any(|one| one.id == way.selected_by)
        };
        let ways: Vec<&'static FanOut> = FAN_OUT.iter().filter(selected).collect();
        let protocols: Vec<_> = ways.iter().map(|way| &way.protocol).collect();
        let way_of = |id: &str| *ways.iter().find(|way| way.protocol.id == id).unwrap_or(&&FAN_OUT[0]);
        let mut room = 0;
        let rows = self.rounds_of(&protocols, "fan-out", placement, levels, async |target, subscribers| {
            room += 1;
            let way = way_of(target.protocol.id);
            deliver(target, way, room, subscribers.min(way.most())).await.map(Some)
        });
        let delivered = |row: Row<Deliveries>| {
            let way = way_of(&row.protocol);
            Delivered {
                name: way.protocol.name.into(),
                protocol: row.protocol.clone(),
                subscribers: row.level.min(way.most()),
                first: row.spread(|(times, ..)| times.low),
                median: row.spread(|(times, ..)| times.median),
                last: row.spread(|(times, ..)| times.high),
                cpu: row.spread_if_all(|(_, cpu, _)| *cpu),
                // Later rounds reuse memory that the first one has left, so they seem to need less.
                memory: row.spread(|(.., memory)| *memory).high,
            }
        };
        rows.into_iter().map(delivered).collect()
    }
}

async fn deliver(
    target: &RunningProtocol,
    way: &FanOut,
    room: u64,
    subscribers: u64,
) -> anyhow::Result<Deliveries> {
    let publisher = way.publisher(target.address(), room).await?;
    publisher.record().await?; // Some servers let nobody watch a station that has no reading.
    let at_first = target.meter.memory()?;
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new(); // The subscribers end with it.
    for member in 0..subscribers {
        let mut readings = way.subscribe(&target.address(), room, member).await?;
        let arrived = arrived.clone();
        tasks.spawn(async move {
            while readings.next().await.is_some() {
                let _ = arrived.send(Instant::now());
            }
        });
    }
    publish(&*publisher, &mut arrivals, subscribers).await?;
    sleep(SETTLE).await;
    while arrivals.try_recv().is_ok() {}
    let memory = target.meter.memory()?.saturating_sub(at_first) as f64 / subscribers as f64;
    let before = target.meter.read();
    let mut times = Vec::new();
    for _ in 0..PUBLISHED {
        times.push(publish(&*publisher, &mut arrivals, subscribers).await?);
    }
    let cpu = target.meter.read().since(before);
    let used = cpu.server.or(cpu.broker).map(|_| {
        let both = cpu.server.unwrap_or_default() + cpu.broker.unwrap_or_default();
        both.as_nanos() as f64 / (PUBLISHED * subscribers) as f64
    });
    let median =
        |figure: fn(&Spread) -> f64| Spread::of(&times.iter().map(figure).collect::<Vec<_>>()).median;
    let times = Spread {
        low: median(|times| times.low),
        median: median(|times| times.median),
        high: median(|times| times.high),
    };
    Ok((times, used, memory))
}

/// Publishes one reading. Returns the times until the first, the median, and the last subscriber has
/// it.
async fn publish(
    publisher: &dyn Recorder,
    arrivals: &mut mpsc::UnboundedReceiver<Instant>,
    subscribers: u64,
) -> anyhow::Result<Spread> {
    let started = Instant::now();
    publisher.record().await?;
    let mut times = Vec::new();
    for _ in 0..subscribers {
        let arrival = timeout(WITHIN, arrivals.recv()).await;
        let arrival =
            arrival.context("a subscriber got no reading in time")?.context("no subscriber is left")?;
        times.push((arrival - started).as_nanos() as f64);
    }
    Ok(Spread::of(&times))
}

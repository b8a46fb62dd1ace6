//! Measures what idle connections cost a server, and those that work at the same time.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::measure::{self, Throughput};
use super::rounds::{Comparison, Row};
use crate::protocols::{Protocol, Recorder, Served};
use crate::report::sections::Idle;
use crate::run::placement::Placement;
use crate::run::running_protocol::RunningProtocol;

/// Number of connections that work, each with one request in flight.
const WORKING: u64 = 16;

/// Maximum number of idle connections of RabbitMQ. Each of them needs several Erlang processes, and
/// takes about ten times as long to open as those of the other protocols.
const RABBITMQ: u64 = 500;

/// Number of connections that are opened at the same time.
const AT_ONCE: usize = 16;

/// File descriptors that a process needs besides idle connections.
const OTHER_FILES: u64 = 500;

/// A round's figures: bytes of memory for each idle connection, and the work without and with them.
type Pair = (f64, Throughput, Throughput);

/// Returns how many of these idle connections the limit on open files allows.
pub fn allowed(connections: u64) -> u64 {
    let limit = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(u64::MAX);
    connections.min(limit.saturating_sub(OTHER_FILES))
}

impl Comparison<'_> {
    /// Lets 16 connections work, first alone and then beside the plan's number of idle ones.
    pub(super) fn idle(&mut self, placement: Placement) -> Vec<Idle> {
        // Each server only once: both gRPC rows have the same one, and so do the rows of a broker.
        let once = |protocol: &&&Protocol| {
            !protocol.one_at_a_time
                && protocol.id != "grpc_stream"
                && !matches!(protocol.served, Served::ThroughBroker(..))
        };
        let protocols: Vec<_> = self.protocols.iter().filter(once).copied().collect();
        let span = self.plan.throughput;
        let levels: Vec<u64> = self.plan.idle.into_iter().map(allowed).collect();
        let levels = (self.plan.extra_rounds, levels.as_slice());
        let rows = self.rounds_of(&protocols, "idle", placement, levels, async |target, idle| {
            let working = Arc::new(Working::default());
            for _ in 0..WORKING {
                working.give_back(target.connect_and_record().await?);
            }
            let working: Arc<dyn Recorder> = working;
            let work = async || measure::in_flight(&working, WORKING, span, &target.meter).await;
            let without = work().await;
            let before = target.meter.memory()?;
            let idle = most(target.protocol, idle);
            let open = connect(target, idle).await?;
            let memory = target.meter.memory()?.saturating_sub(before) as f64 / idle as f64;
            let with = work().await;
            drop(open);
            without.errors.ensure_few()?;
            with.errors.ensure_few()?;
            Ok(Some((memory, without, with)))
        });
        rows.into_iter().map(|row| idle_of(&row)).collect()
    }
}

fn idle_of(row: &Row<Pair>) -> Idle {
    let rate = |work: &Throughput| work.completed as f64 / work.elapsed.as_secs_f64();
    let cpu = |work: &Throughput| {
        let used = work
            .cpu
            .server
            .or(work.cpu.broker)
            .map(|_| work.cpu.server.unwrap_or_default() + work.cpu.broker.unwrap_or_default());
        Some(used?.as_nanos() as f64 / work.completed as f64).filter(|cpu| cpu.is_finite())
    };
    let protocol = crate::protocols::by_id(&row.protocol);
    Idle {
        protocol: row.protocol.clone(),
        connections: protocol.map_or(row.level, |protocol| most(protocol, row.level)),
        // Later rounds find memory that the first one has left.
        memory: row.spread(|(memory, ..)| *memory).high,
        without: row.spread(|(_, without, _)| rate(without)),
        with: row.spread(|(.., with)| rate(with)),
        cpu: row.spread_if_all(|(_, without, _)| cpu(without)),
        added_cpu: row.spread_if_all(|(_, without, with)| Some(cpu(with)? - cpu(without)?)),
    }
}

fn most(protocol: &Protocol, idle: u64) -> u64 {
    if protocol.id == "rabbitmq_publish" { idle.min(RABBITMQ) } else { idle }
}

/// Opens connections, makes one request on each, and leaves them idle.
async fn connect(target: &RunningProtocol, idle: u64) -> anyhow::Result<Vec<Arc<dyn Recorder>>> {
    let connections = stream::iter(0..idle).map(async |_| target.connect_and_record().await);
    connections.buffer_unordered(AT_ONCE).try_collect().await.context("cannot open the idle connections")
}

/// Clients with a connection each. A call uses one that is free.
#[derive(Default)]
struct Working(Mutex<Vec<Arc<dyn Recorder>>>);

impl Working {
    fn give_back(&self, client: Arc<dyn Recorder>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(client);
    }
}

impl Recorder for Working {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let client = free.context("all connections are busy")?;
            let outcome = client.record().await;
            self.give_back(client);
            outcome
        }
        .boxed()
    }
}

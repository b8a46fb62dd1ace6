//! Measures what TLS adds to each protocol: to a new connection, and to the requests on it.

use std::collections::BTreeSet;
use std::mem;
use std::path::Path;
use std::time::Instant;

use anyhow::Context;

use super::bytes::{Wire, count_bytes};
use super::measure;
use super::network::{Trips, count_trips};
use super::plan::Plan;
use super::rounds::{BYTES, Comparison, ROUND_TRIPS, Row};
use crate::protocols::{INFORMATION, Served};
use crate::report::sections::Encrypted;
use crate::report::statistic::Spread;
use crate::run::brokers::Brokers;
use crate::run::encryption::{Connection, Encryption};
use crate::run::placement::Placement;
use crate::run::running_protocol::RunningProtocol;

/// Number of readings with 64 KiB of information.
const MANY: u64 = (64 * 1024 / INFORMATION) as u64;

/// The ways to begin a connection, in the order in which they take turns.
const CONNECTIONS: [Connection; 4] =
    [Connection::Plain, Connection::Full, Connection::Resumed, Connection::Mutual];

/// The figures of one round, in nanoseconds and bytes.
struct Round {
    set_up: f64,
    /// CPU time of all sides for one reading, and for many.
    cpu: Option<[Option<f64>; 2]>,
    memory: Option<f64>,
}

/// The measurements of connections that begin in one way.
struct Measured {
    connection: Connection,
    encryption: Option<Encryption>,
    rounds: Vec<Row<Round>>,
    wire: Vec<Row<Wire>>,
    trips: Vec<Row<Trips>>,
}

impl Comparison<'_> {
    /// Measures every protocol without TLS and with it. In each round, both take turns.
    ///
    /// # Errors
    /// If the certificates cannot be written to `folder`, or used.
    pub(super) fn encryption(
        &mut self,
        placement: Placement,
        folder: &Path,
    ) -> anyhow::Result<Vec<Encrypted>> {
        if self.plan.new_connections == 0 {
            return Ok(Vec::new());
        }
        let begin = |connection| {
            let encryption = Encryption::new(connection, folder)?;
            Ok(Measured { connection, encryption, rounds: Vec::new(), wire: Vec::new(), trips: Vec::new() })
        };
        let mut all = CONNECTIONS.into_iter().map(begin).collect::<anyhow::Result<Vec<_>>>()?;
        // The brokers of the other measurements would only take memory and time.
        self.brokers = Brokers::default();
        let mut brokers: [Brokers; 3] = Default::default();
        for round in 0..self.plan.rounds {
            for measured in &mut all {
                let brokers = &mut brokers[match measured.connection {
                    Connection::Plain => 0,
                    Connection::Full | Connection::Resumed => 1,
                    Connection::Mutual => 2,
                }];
                mem::swap(&mut self.brokers, brokers);
                self.encryption.clone_from(&measured.encryption);
                self.brokers.tls = self.encryption.as_ref().map(|one| one.server.clone()).unwrap_or_default();
                self.encrypted_round(placement, round == 0, measured);
                mem::swap(&mut self.brokers, brokers);
            }
        }
        self.encryption = None;
        Ok(all.iter().flat_map(rows).collect())
    }

    fn encrypted_round(&mut self, placement: Placement, first: bool, measured: &mut Measured) {
        let (plan, connection) = (self.plan, measured.connection);
        let runs = self.protocols.iter().copied();
        // The blocking echo has no TLS. Requests and replies already include the broker's own work.
        let runs: Vec<_> =
            runs.filter(|one| !one.one_at_a_time && !matches!(one.served, Served::ByBroker(_))).collect();
        let once = (1, &[1][..]);
        measured.rounds.extend(self.rounds_of(&runs, "connections", placement, once, async |target, _| {
            figures(target, connection, plan, first).await.map(Some)
        }));
        if !first {
            return;
        }
        measured.wire = self.rounds_of(&runs, BYTES, placement, once, async |target, _| {
            target.connect_and_record().await?; // Another connection can resume its session.
            let proxy = target.proxy.as_ref().context("no proxy was started")?;
            count_bytes(target, proxy, 1).await.map(Some)
        });
        measured.trips = self.rounds_of(&runs, ROUND_TRIPS, placement, once, async |target, _| {
            count_trips(target).await.map(Some)
        });
    }
}

/// Measures new connections, and for [`Connection::Plain`] and [`Connection::Full`] also their
/// requests and, in the first round, their memory.
async fn figures(
    target: &RunningProtocol,
    connection: Connection,
    plan: &Plan,
    first: bool,
) -> anyhow::Result<Round> {
    let both = matches!(connection, Connection::Plain | Connection::Full);
    let mut open = vec![target.connect_and_record().await?]; // It also warms the server up.
    let mut memory = None;
    if both
        && first
        && let Ok(before) = target.meter.memory()
    {
        for _ in 0..plan.new_connections {
            open.push(target.connect_and_record().await?);
        }
        let grown = target.meter.memory()?.saturating_sub(before);
        memory = Some(grown as f64 / plan.new_connections as f64);
    }
    drop(open);
    let mut times = Vec::with_capacity(plan.new_connections);
    for _ in 0..plan.new_connections {
        let started = Instant::now();
        target.connect_and_record().await?;
        times.push(started.elapsed().as_nanos() as f64);
    }
    let mut cpu = None;
    if both {
        cpu = Some([request_cpu(target, 1, plan).await?, request_cpu(target, MANY, plan).await?]);
    }
    Ok(Round { set_up: Spread::of(&times).median, cpu, memory })
}

/// Returns the CPU time of all sides for a request with this many readings, in nanoseconds.
async fn request_cpu(target: &RunningProtocol, readings: u64, plan: &Plan) -> anyhow::Result<Option<f64>> {
    let recorder = target.connect(readings).await?;
    let measured = measure::one_in_flight(&*recorder, plan.encrypted, &target.meter).await;
    measured.errors.ensure_few()?;
    let requests = measured.histogram.len() as f64;
    Ok(measured.cpu.together().map(|cpu| cpu.as_nanos() as f64 / requests))
}

/// Returns one row for each protocol.
fn rows(measured: &Measured) -> Vec<Encrypted> {
    let protocols: BTreeSet<_> = measured.rounds.iter().map(|row| &row.protocol).collect();
    let row = |protocol: &String| {
        let rounds =
            measured.rounds.iter().filter(|row| row.protocol == *protocol).flat_map(|row| &row.rounds);
        let rounds: Vec<_> = rounds.collect();
        let wire = measured.wire.iter().find(|row| row.protocol == *protocol)?.rounds.first()?;
        let trips = measured.trips.iter().find(|row| row.protocol == *protocol)?.rounds.first()?;
        let cpu = |at: usize| Spread::of_all(rounds.iter().map(|round| round.cpu?[at]));
        Some(Encrypted {
            protocol: protocol.clone(),
            connection: measured.connection,
            set_up: Spread::of(&rounds.iter().map(|round| round.set_up).collect::<Vec<_>>()),
            round_trips: trips.set_up,
            set_up_bytes: wire.set_up,
            request_bytes: wire.request + wire.response,
            one_cpu: cpu(0),
            many_cpu: cpu(1),
            memory: rounds.iter().find_map(|round| round.memory),
        })
    };
    protocols.into_iter().filter_map(row).collect()
}

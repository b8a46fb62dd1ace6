//! Compares the protocols: decides what is measured, in which order, and on which cores.
//!
//! Read [`plan`] first, which says what a run measures and for how long. [`measure`] has the
//! loops that measure every protocol.

pub mod bytes;
mod encryption;
mod fan_out;
pub mod idle;
pub mod measure;
mod network;
pub mod plan;
mod rounds;
mod streams;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;

use self::bytes::{Wire, count_bytes};
use self::measure::Latencies;
use self::plan::Plan;
use self::rounds::{BYTES, Comparison, Row};
use crate::protocols::{INFORMATION, Protocol};
use crate::report::results::{
    Batch, Bytes, FixedRate, Latency, Measured, Memory, Named, Results, SCHEMA, SetUp, Throughput,
};
use crate::report::statistic::{Spread, percentile};
use crate::run::brokers::{Brokers, is_installed, runnable};
use crate::run::conditions::Conditions;
use crate::run::meter::Cpu;
use crate::run::placement::{Placement, pin, runtime};

/// Minimum share of a fixed rate that a protocol has to achieve. With less, it is saturated.
const KEPT_UP: f64 = 0.95;

/// Measures the protocols according to the plan. If `stop` becomes true, it returns the results
/// so far.
///
/// Pins the calling thread to a core. `placement` replaces the default in all measurements.
///
/// # Errors
/// If the runtime or the certificates that measurements need cannot be created. A measurement that fails for one
/// protocol is not an error: the results list it in [`Results::failures`].
pub fn compare(
    plan: &Plan,
    protocols: &[&'static Protocol],
    placement: Option<Placement>,
    conditions: Conditions,
    progress: &ProgressBar,
    stop: &AtomicBool,
) -> anyhow::Result<Results> {
    let started = Instant::now();
    let (protocols, missing) = runnable(protocols, is_installed);
    let protocols = protocols.as_slice();
    progress.set_length(plan.steps(protocols.len()));
    let same = placement.unwrap_or(Placement::Same).possible();
    let separate = placement.unwrap_or(Placement::Separate).possible();
    if let Some(core) = same.client_core() {
        pin(core);
    }
    let mut comparison = Comparison {
        plan,
        protocols,
        runtime: runtime().context("cannot start the async runtime")?,
        progress,
        stop,
        brokers: Brokers::default(),
        encryption: None,
        failures: Vec::new(),
    };
    // Brokers restart when the placement changes, so measurements with the same placement come
    // together. Memory comes first, while the brokers are still empty.
    let memory = comparison.memory(same);
    let latency = comparison.latency(same);
    let batch = comparison.batch(same);
    let set_up = comparison.set_up(same);
    let bytes = comparison.bytes(same);
    let round_trips = comparison.round_trips(same);
    let folder = std::env::temp_dir().join(format!("lab-tls-{}", std::process::id()));
    let encryption = comparison.encryption(same, &folder);
    let _ = fs::remove_dir_all(&folder);
    let throughput = comparison.throughput(separate);
    let fixed_rate = comparison.fixed_rate(separate);
    let network = comparison.network(separate);
    let fan_out = comparison.fan_out(separate);
    let streams = comparison.streams(separate);
    let idle = comparison.idle(separate);
    progress.finish_and_clear();
    let named = |protocol: &&Protocol| Named {
        id: protocol.id.into(),
        name: protocol.name.into(),
        kind: protocol.kind,
    };
    Ok(Results {
        schema: SCHEMA,
        conditions: Conditions {
            duration_seconds: started.elapsed().as_secs_f64(),
            interrupted: stop.load(Relaxed),
            ..conditions
        },
        protocols: protocols.iter().map(named).collect(),
        missing,
        failures: comparison.failures,
        latency,
        throughput,
        fixed_rate,
        batch,
        bytes,
        set_up,
        memory,
        round_trips,
        encryption: encryption?,
        network,
        fan_out,
        streams,
        idle,
        answers: Vec::new(),
    })
}

impl Comparison<'_> {
    fn latency(&mut self, placement: Placement) -> Measured<Latency> {
        let span = self.plan.latency;
        let rows = self.rounds("one in flight", placement, (self.plan.rounds, &[1]), async |target, _| {
            let recorder = target.connect(1).await?;
            let measured = measure::one_in_flight(&*recorder, span, &target.meter).await;
            measured.errors.ensure_few()?;
            Ok(Some(measured))
        });
        let latency = |row: Row<Latencies>| {
            let at = |share| row.spread_if_all(|round| percentile(&round.histogram, share));
            let cpu = |time: fn(&Cpu) -> Option<Duration>| {
                row.spread_if_all(|round| {
                    Some(time(&round.cpu)?.as_nanos() as f64 / round.histogram.len() as f64)
                })
            };
            Latency {
                protocol: row.protocol.clone(),
                requests: row.sum(|round| round.histogram.len()),
                errors: row.sum(|round| round.errors.count),
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: row.spread(|round| round.histogram.max() as f64),
                client_cpu: cpu(|cpu| cpu.client),
                server_cpu: cpu(|cpu| cpu.server),
                broker_cpu: cpu(|cpu| cpu.broker),
            }
        };
        Measured { placement, rows: rows.into_iter().map(latency).collect() }
    }

    fn throughput(&mut self, placement: Placement) -> Measured<Throughput> {
        let span = self.plan.throughput;
        let levels = (self.plan.rounds, self.plan.in_flight.as_slice());
        let rows = self.rounds("throughput", placement, levels, async |target, in_flight| {
            if target.protocol.one_at_a_time && in_flight > 1 {
                return Ok(None);
            }
            let recorder = target.connect(1).await?;
            let measured = measure::in_flight(&recorder, in_flight, span, &target.meter).await;
            measured.errors.ensure_few()?;
            Ok(Some(measured))
        });
        let throughput = |row: Row<measure::Throughput>| {
            let busy = |time: fn(&Cpu) -> Option<Duration>| {
                row.spread_if_all(|round| Some(time(&round.cpu)?.as_secs_f64() / round.elapsed.as_secs_f64()))
            };
            Throughput {
                protocol: row.protocol.clone(),
                in_flight: row.level,
                per_second: row.spread(|round| round.completed as f64 / round.elapsed.as_secs_f64()),
                errors: row.sum(|round| round.errors.count),
                client_busy: busy(|cpu| cpu.client),
                server_busy: busy(|cpu| cpu.server),
                broker_busy: busy(|cpu| cpu.broker),
            }
        };
        Measured { placement, rows: rows.into_iter().map(throughput).collect() }
    }

    fn fixed_rate(&mut self, placement: Placement) -> Measured<FixedRate> {
        let span = self.plan.fixed_rate;
        let levels = (self.plan.extra_rounds, self.plan.rates.as_slice());
        let lowest = self.plan.rates.first().copied();
        // Protocols that could not keep up with a lower rate in this round.
        let mut saturated: Vec<&str> = Vec::new();
        let rows = self.rounds("fixed rate", placement, levels, async |target, rate| {
            if Some(rate) == lowest {
                saturated.retain(|id| *id != target.protocol.id);
            }
            if target.protocol.one_at_a_time || saturated.contains(&target.protocol.id) {
                return Ok(None);
            }
            let recorder = target.connect(1).await?;
            let measured = measure::fixed_rate(&recorder, rate as f64, span, &target.meter).await;
            if measured.achieved() < KEPT_UP * rate as f64 {
                saturated.push(target.protocol.id);
            }
            measured.latencies.errors.ensure_few()?;
            Ok(Some(measured))
        });
        let fixed_rate = |row: Row<measure::FixedRate>| {
            let at = |share| row.spread_if_all(|round| percentile(&round.latencies.histogram, share));
            let achieved = row.spread(measure::FixedRate::achieved);
            FixedRate {
                protocol: row.protocol.clone(),
                offered: row.level,
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
                lateness_p99: row.spread_if_all(|round| percentile(&round.lateness, 0.99)),
                errors: row.sum(|round| round.latencies.errors.count),
                unsent: row.sum(|round| round.unsent),
                saturated: achieved.low < KEPT_UP * row.level as f64,
                achieved,
            }
        };
        Measured { placement, rows: rows.into_iter().map(fixed_rate).collect() }
    }

    fn batch(&mut self, placement: Placement) -> Measured<Batch> {
        let span = self.plan.batch;
        let levels = (self.plan.rounds, self.plan.readings.as_slice());
        let rows = self.rounds("batches", placement, levels, async |target, readings| {
            let recorder = target.connect(readings).await?;
            let measured = measure::one_in_flight(&*recorder, span, &target.meter).await;
            measured.errors.ensure_few()?;
            Ok(Some(measured))
        });
        let batch = |row: Row<Latencies>| Batch {
            protocol: row.protocol.clone(),
            readings: row.level,
            cpu: row.spread_if_all(|round| {
                Some(round.cpu.together()?.as_nanos() as f64 / round.histogram.len() as f64)
            }),
            p50: row.spread_if_all(|round| percentile(&round.histogram, 0.5)),
            errors: row.sum(|round| round.errors.count),
        };
        Measured { placement, rows: rows.into_iter().map(batch).collect() }
    }

    fn set_up(&mut self, placement: Placement) -> Measured<SetUp> {
        let count = self.plan.set_ups;
        let levels: &[u64] = if count > 0 { &[1] } else { &[] };
        let rows = self.rounds("set-up", placement, (self.plan.rounds, levels), async |target, _| {
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let started = Instant::now();
                target.connect_and_record().await?;
                times.push(started.elapsed().as_nanos() as f64);
            }
            Ok(Some(Spread::of(&times).median))
        });
        let set_up =
            |row: Row<f64>| SetUp { protocol: row.protocol.clone(), median: row.spread(|&median| median) };
        Measured { placement, rows: rows.into_iter().map(set_up).collect() }
    }

    fn bytes(&mut self, placement: Placement) -> Vec<Bytes> {
        let levels: &[u64] = if self.plan.readings.is_empty() { &[1] } else { &self.plan.readings };
        let rows = self.rounds(BYTES, placement, (1, levels), async |target, readings| {
            let proxy = target.proxy.as_ref().context("no proxy was started")?;
            count_bytes(target, proxy, readings).await.map(Some)
        });
        let bytes = |row: Row<Wire>| {
            let (readings, payload) = (row.level, row.level * INFORMATION as u64);
            let (protocol, Wire { request, response, set_up }) = row.single()?;
            Some(Bytes { protocol, readings, request, response, set_up, payload })
        };
        rows.into_iter().filter_map(bytes).collect()
    }

    fn memory(&mut self, placement: Placement) -> Vec<Memory> {
        let count = self.plan.idle_connections;
        let levels: &[u64] = if count > 0 { &[1] } else { &[] };
        let rows = self.rounds("memory", placement, (1, levels), async |target, _| {
            let at_rest = target.meter.memory()?;
            // The first connection also allocates memory that all of them share.
            let mut open = vec![target.connect_and_record().await?];
            let before = target.meter.memory()?;
            for _ in 0..count {
                open.push(target.connect_and_record().await?);
            }
            let grown = target.meter.memory()?.saturating_sub(before);
            Ok(Some((at_rest, grown as f64 / count as f64)))
        });
        let memory = |(protocol, (at_rest, per_connection))| Memory { protocol, at_rest, per_connection };
        rows.into_iter().filter_map(Row::single).map(memory).collect()
    }
}

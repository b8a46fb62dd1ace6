//! Decides what is measured when: servers are started for one kind of
//! measurement, then rounds go through the protocols in turn (A B C, A B C), so
//! that a machine that grows slower does so for all.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::ProgressBar;
use tokio::runtime::Runtime;
use tokio::time::sleep;

use crate::broker::{Brokers, is_installed, runnable};
use crate::measure::{self, Errors, Latencies, percentile};
use crate::placement::{Placement, pin, runtime};
use crate::plan::Plan;
use crate::protocols::{INFORMATION, Protocol};
use crate::proxy::{Wire, count_bytes};
use crate::results::{
    Batch, Bytes, Conditions, Failure, FixedRate, Latency, Measured, Memory, Named, Results, SCHEMA, SetUp,
    Throughput,
};
use crate::spread::Spread;
use crate::target::Target;

/// A rate of which less than this share comes back is too high.
const KEPT_UP: f64 = 0.95;

/// Longest wait for the first reply through a broker.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Pause between two attempts to get it.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(50);

/// The measurement that goes through a proxy.
const BYTES: &str = "bytes";

/// Measures the protocols by the plan and returns what came of it; if `stop`
/// becomes true, what there is by then.
///
/// Pins the calling thread. `placement` overrides the choice for each measurement.
///
/// # Errors
/// If the machine refuses what every measurement needs. What fails for one
/// protocol is a [`Failure`] in the results.
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
    let mut lab = Lab {
        plan,
        protocols,
        runtime: runtime().context("no runtime")?,
        progress,
        stop,
        brokers: Brokers::default(),
        failures: Vec::new(),
    };
    // One placement after the other: the brokers are started anew for each. Memory first,
    // before a broker keeps anything.
    let memory = lab.memory(same);
    let latency = lab.latency(same);
    let batch = lab.batch(same);
    let set_up = lab.set_up(same);
    let bytes = lab.bytes(same);
    let throughput = lab.throughput(separate);
    let fixed_rate = lab.fixed_rate(separate);
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
        failures: lab.failures,
        latency,
        throughput,
        fixed_rate,
        batch,
        bytes,
        set_up,
        memory,
    })
}

struct Lab<'a> {
    plan: &'a Plan,
    protocols: &'a [&'static Protocol],
    runtime: Runtime,
    progress: &'a ProgressBar,
    stop: &'a AtomicBool,
    brokers: Brokers,
    failures: Vec<Failure>,
}

/// What the rounds of one protocol at one level gave.
struct Row<T> {
    protocol: String,
    level: u64,
    rounds: Vec<T>,
}

impl<T> Row<T> {
    fn spread(&self, figure: impl Fn(&T) -> f64) -> Spread {
        Spread::of(&self.rounds.iter().map(figure).collect::<Vec<_>>())
    }

    fn maybe(&self, figure: impl Fn(&T) -> Option<f64>) -> Option<Spread> {
        Spread::of_all(self.rounds.iter().map(figure))
    }

    fn sum(&self, count: impl Fn(&T) -> u64) -> u64 {
        self.rounds.iter().map(count).sum()
    }
}

impl Lab<'_> {
    /// Starts all servers and goes through rounds, levels and protocols. A slot
    /// that returns `None` has nothing to measure.
    fn rounds<T>(
        &mut self,
        name: &str,
        placement: Placement,
        (rounds, levels): (usize, &[u64]),
        mut slot: impl AsyncFnMut(&Target, u64) -> anyhow::Result<Option<T>>,
    ) -> Vec<Row<T>> {
        let mut rows = Vec::new();
        if levels.is_empty() {
            return rows;
        }
        let mut targets = Vec::new();
        for &protocol in self.protocols {
            let start = if name == BYTES { Target::start_counted } else { Target::start };
            let started = start(protocol, placement, &mut self.brokers).and_then(|target| {
                self.runtime.block_on(ready(&target))?;
                Ok(target)
            });
            match started {
                Ok(target) => targets.push(Some(target)),
                Err(error) => {
                    self.failed(protocol, name, &error);
                    targets.push(None);
                }
            }
            let row = |&level| Row { protocol: protocol.id.into(), level, rounds: Vec::new() };
            rows.extend(levels.iter().map(row));
        }
        for _ in 0..rounds {
            for (at_level, &level) in levels.iter().enumerate() {
                for (at, target) in targets.iter_mut().enumerate() {
                    if self.stop.load(Relaxed) {
                        break;
                    }
                    if let Some(running) = target {
                        let protocol = running.protocol;
                        self.progress.set_message(format!("{name}: {}", protocol.name));
                        match self.runtime.block_on(slot(running, level)) {
                            Ok(outcome) => rows[at * levels.len() + at_level].rounds.extend(outcome),
                            Err(error) => {
                                self.failed(protocol, name, &error);
                                *target = None;
                            }
                        }
                    }
                    self.progress.inc(1);
                }
            }
        }
        rows.retain(|row| !row.rounds.is_empty());
        rows
    }

    fn failed(&mut self, protocol: &Protocol, measurement: &str, error: &anyhow::Error) {
        self.failures.push(Failure {
            name: protocol.name.into(),
            measurement: measurement.into(),
            error: format!("{error:#}"),
        });
    }

    fn latency(&mut self, placement: Placement) -> Measured<Latency> {
        let span = self.plan.latency;
        let rows = self.rounds("one in flight", placement, (self.plan.rounds, &[1]), async |target, _| {
            let recorder = target.connect(1).await?;
            some(measure::one_in_flight(&*recorder, span, &target.meter).await, |it| &it.errors)
        });
        let latency = |row: Row<Latencies>| {
            let at = |share| row.maybe(|round| percentile(&round.histogram, share));
            let cpu = |time: fn(&measure::Cpu) -> Option<Duration>| {
                row.maybe(|round| Some(time(&round.cpu)?.as_nanos() as f64 / round.histogram.len() as f64))
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
            some(measure::in_flight(&recorder, in_flight, span, &target.meter).await, |it| &it.errors)
        });
        let throughput = |row: Row<measure::Throughput>| {
            let busy = |time: fn(&measure::Cpu) -> Option<Duration>| {
                row.maybe(|round| Some(time(&round.cpu)?.as_secs_f64() / round.elapsed.as_secs_f64()))
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
        let levels = (self.plan.rounds, self.plan.rates.as_slice());
        let lowest = self.plan.rates.first().copied();
        // The protocols that did not keep up with the rate before, in this round.
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
            some(measured, |it| &it.latencies.errors)
        });
        let fixed_rate = |row: Row<measure::FixedRate>| {
            let at = |share| row.maybe(|round| percentile(&round.latencies.histogram, share));
            let achieved = row.spread(measure::FixedRate::achieved);
            FixedRate {
                protocol: row.protocol.clone(),
                offered: row.level,
                p50: at(0.5),
                p99: at(0.99),
                p999: at(0.999),
                lateness_p99: row.maybe(|round| percentile(&round.lateness, 0.99)),
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
            some(measure::one_in_flight(&*recorder, span, &target.meter).await, |it| &it.errors)
        });
        let batch = |row: Row<Latencies>| Batch {
            protocol: row.protocol.clone(),
            readings: row.level,
            p50: row.maybe(|round| percentile(&round.histogram, 0.5)),
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
                target.connected().await?;
                times.push(started.elapsed().as_nanos() as f64);
            }
            Ok(Some(Spread::of(&times).median))
        });
        let set_up = |row: Row<f64>| SetUp { protocol: row.protocol.clone(), median: row.spread(|&it| it) };
        Measured { placement, rows: rows.into_iter().map(set_up).collect() }
    }

    fn bytes(&mut self, placement: Placement) -> Vec<Bytes> {
        let rows = self.rounds(BYTES, placement, (1, &[1]), async |target, _| {
            let proxy = target.proxy.as_ref().context("no proxy")?;
            count_bytes(target, proxy, 1).await.map(Some)
        });
        let bytes = |row: Row<Wire>| {
            let protocol = row.protocol;
            row.rounds.into_iter().map(move |wire| Bytes {
                protocol: protocol.clone(),
                request: wire.request,
                response: wire.response,
                set_up: wire.set_up,
                payload: INFORMATION as u64,
            })
        };
        rows.into_iter().flat_map(bytes).collect()
    }

    fn memory(&mut self, placement: Placement) -> Vec<Memory> {
        let count = self.plan.idle_connections;
        let levels: &[u64] = if count > 0 { &[1] } else { &[] };
        let rows = self.rounds("memory", placement, (1, levels), async |target, _| {
            let at_rest = target.meter.memory()?;
            // The first connection also pays for what all of them share.
            let mut open = vec![target.connected().await?];
            let before = target.meter.memory()?;
            for _ in 0..count {
                open.push(target.connected().await?);
            }
            let grown = target.meter.memory()?.saturating_sub(before);
            Ok(Some((at_rest, grown as f64 / count as f64)))
        });
        let memory = |row: Row<(u64, f64)>| {
            let protocol = row.protocol;
            row.rounds.into_iter().map(move |(at_rest, per_connection)| Memory {
                protocol: protocol.clone(),
                at_rest,
                per_connection,
            })
        };
        rows.into_iter().flat_map(memory).collect()
    }
}

/// Waits for the first reply through a broker: one that has just started takes its
/// time, and a queue its election.
async fn ready(target: &Target) -> anyhow::Result<()> {
    let started = Instant::now();
    while target.protocol.served.broker().is_some() {
        match target.connected().await {
            Ok(_) => break,
            Err(error) if started.elapsed() > READY_WITHIN => return Err(error),
            Err(_) => sleep(ASK_AGAIN_AFTER).await,
        }
    }
    Ok(())
}

/// What was measured, unless nothing but errors came of it.
fn some<T>(measured: T, errors: impl Fn(&T) -> &Errors) -> anyhow::Result<Option<T>> {
    match errors(&measured) {
        Errors { count, first: Some(first) } if *count >= measure::TOO_MANY_ERRORS => {
            anyhow::bail!("{count} errors, of which the first: {first}")
        }
        _ => Ok(Some(measured)),
    }
}

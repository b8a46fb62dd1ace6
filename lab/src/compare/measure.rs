//! The measuring loops. Each gets a client that is ready, warms it up, resets the counters, and
//! measures. None of them connects or starts anything.
//!
//! Times are in nanoseconds. A failed request counts as an error and does not enter
//! the percentiles.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::ensure;
use hdrhistogram::Histogram;
use tokio::task::coop::consume_budget;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::protocols::Recorder;
use crate::report::statistic::histogram;
use crate::run::meter::{Cpu, Meter};

/// Maximum number of requests in flight at a fixed rate. Further requests wait for their turn,
/// and this wait is part of their latency. Every client here allows at least this many.
pub const MAX_IN_FLIGHT: u64 = 256;

/// Number of errors after which a measurement sends no more requests.
pub const TOO_MANY_ERRORS: u64 = 100;

/// Maximum wait for the last replies at the end of a measurement. At a fixed rate, requests without
/// a reply then count as errors.
const LAST_REPLIES: Duration = Duration::from_secs(5);

/// How long to warm up, and then to measure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// Not measured. During this time, connections open, caches fill, and branch predictors learn.
    pub warm_up: Duration,
    /// Time that is measured.
    pub measured: Duration,
}

/// Failed requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors {
    /// Number of failed requests.
    pub count: u64,
    /// Message of the first error.
    pub first: Option<String>,
}

impl Errors {
    fn add(&mut self, error: &anyhow::Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("{error:#}"));
    }

    /// Returns an error if so many requests failed that the measurement was given up.
    pub(super) fn ensure_few(&self) -> anyhow::Result<()> {
        let first = self.first.as_deref().unwrap_or_default();
        ensure!(self.count < TOO_MANY_ERRORS, "{} requests failed; the first error: {first}", self.count);
        Ok(())
    }
}

/// Result of requests sent one after the other, or at a fixed rate.
pub struct Latencies {
    /// Time of each request that succeeded.
    pub histogram: Histogram<u64>,
    /// Requests that failed.
    pub errors: Errors,
    /// Time from the first request to the last reply.
    pub elapsed: Duration,
    /// CPU time that each side used during the measurement.
    pub cpu: Cpu,
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Sends one request after another, each as soon as the reply to the previous one has arrived.
///
/// If the server stalls, this loop waits with one request. It never sends the requests that
/// other clients would send meanwhile, so the stall is only one sample among thousands. Use
/// [`fixed_rate`] to make stalls visible.
pub async fn one_in_flight(recorder: &dyn Recorder, span: Span, meter: &Meter) -> Latencies {
    let warm = one_after_the_other(recorder, span.warm_up).await;
    if warm.errors.count >= TOO_MANY_ERRORS {
        return warm;
    }
    let before = meter.read();
    let measured = one_after_the_other(recorder, span.measured).await;
    Latencies { cpu: meter.read().since(before), ..measured }
}

async fn one_after_the_other(recorder: &dyn Recorder, time: Duration) -> Latencies {
    let mut histogram = histogram();
    let mut errors = Errors::default();
    let started = Instant::now();
    let mut sent = started;
    while sent - started < time && errors.count < TOO_MANY_ERRORS {
        let outcome = recorder.record().await;
        let now = Instant::now();
        match outcome {
            Ok(()) => histogram.saturating_record(nanoseconds(now - sent)),
            Err(error) => errors.add(&error),
        }
        sent = now;
    }
    Latencies { histogram, errors, elapsed: sent - started, cpu: Cpu::default() }
}

/// Result of many requests in flight.
#[derive(Debug, Clone)]
pub struct Throughput {
    /// Requests that succeeded.
    pub completed: u64,
    /// Requests that failed.
    pub errors: Errors,
    /// Duration of the measurement.
    pub elapsed: Duration,
    /// CPU time that each side used during the measurement.
    pub cpu: Cpu,
}

/// Keeps `count` requests in flight. Each caller sends its next request as soon as it has a
/// reply.
pub async fn in_flight(recorder: &Arc<dyn Recorder>, count: u64, span: Span, meter: &Meter) -> Throughput {
    let shared = Arc::new(Shared::default());
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let (recorder, shared) = (recorder.clone(), shared.clone());
        callers.spawn(async move {
            while !shared.stop.load(Relaxed) {
                consume_budget().await; // Lets the timer run even if the client never waits.
                match recorder.record().await {
                    Ok(()) => _ = shared.completed.fetch_add(1, Relaxed),
                    Err(error) => {
                        shared.fail(&error);
                        yield_now().await; // Lets the others run even if every call fails at once.
                    }
                }
            }
        });
    }
    sleep(span.warm_up).await;
    shared.reset();
    let (before, started) = (meter.read(), Instant::now());
    sleep(span.measured).await;
    let elapsed = started.elapsed();
    let cpu = meter.read().since(before);
    let completed = shared.completed.load(Relaxed);
    let errors = shared.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
    shared.stop.store(true, Relaxed);
    let _ = timeout(LAST_REPLIES, async { while callers.join_next().await.is_some() {} }).await;
    Throughput { completed, errors, elapsed, cpu }
}

/// State that all callers of one measurement share.
#[derive(Default)]
struct Shared {
    completed: AtomicU64,
    in_flight: AtomicU64,
    errors: Mutex<Errors>,
    stop: AtomicBool,
}

impl Shared {
    fn fail(&self, error: &anyhow::Error) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.add(error);
        if errors.count >= TOO_MANY_ERRORS {
            self.stop.store(true, Relaxed);
        }
    }

    /// Discards the counts of the warm-up, unless so many requests failed that the callers
    /// have stopped.
    fn reset(&self) {
        if !self.stop.load(Relaxed) {
            *self.errors.lock().unwrap_or_else(PoisonError::into_inner) = Errors::default();
            self.completed.store(0, Relaxed);
        }
    }
}

/// Result of requests at a fixed rate.
pub struct FixedRate {
    /// Time from the moment when each request should have been sent until its reply.
    pub latencies: Latencies,
    /// The sender's own delay: how late it noticed that a request was due.
    pub lateness: Histogram<u64>,
    /// Planned requests that had not been sent when the measurement ended.
    pub unsent: u64,
}

impl FixedRate {
    /// Returns the number of replies per second, up to the last reply.
    pub fn achieved(&self) -> f64 {
        self.latencies.histogram.len() as f64 / self.latencies.elapsed.as_secs_f64()
    }
}

/// Sends `rate` requests per second, whether or not replies have arrived, and measures each
/// from its *intended* moment. A stall therefore shows in every request that was due
/// during it, including those that could not be sent yet.
///
/// At most [`MAX_IN_FLIGHT`] requests are in flight. The loop polls the clock, because tokio's
/// timers can be a millisecond late. Polling keeps one core busy.
pub async fn fixed_rate(recorder: &Arc<dyn Recorder>, rate: f64, span: Span, meter: &Meter) -> FixedRate {
    let warm = pace(recorder, rate, span.warm_up).await;
    if warm.latencies.errors.count >= TOO_MANY_ERRORS {
        return warm;
    }
    let before = meter.read();
    let mut measured = pace(recorder, rate, span.measured).await;
    measured.latencies.cpu = meter.read().since(before);
    measured
}

async fn pace(recorder: &Arc<dyn Recorder>, rate: f64, time: Duration) -> FixedRate {
    let shared = Arc::new(Shared::default());
    let times = Arc::new(Mutex::new(histogram()));
    let mut lateness = histogram();
    let total = (rate * time.as_secs_f64()).ceil() as u64;
    let mut sent = 0;
    let started = Instant::now();
    let mut free_since = started;
    'pacing: while sent < total && !shared.stop.load(Relaxed) {
        let intended = started + Duration::from_secs_f64(sent as f64 / rate);
        while Instant::now() < intended {
            yield_now().await;
        }
        // The server causes this wait, so it doesn't count as the sender's own delay.
        while shared.in_flight.load(Relaxed) >= MAX_IN_FLIGHT {
            if started.elapsed() > 2 * time {
                break 'pacing;
            }
            yield_now().await;
            free_since = Instant::now();
        }
        lateness.saturating_record(nanoseconds(free_since.max(intended).elapsed()));
        shared.in_flight.fetch_add(1, Relaxed);
        let (recorder, shared, times) = (recorder.clone(), shared.clone(), times.clone());
        tokio::spawn(async move {
            let outcome = recorder.record().await;
            let time = intended.elapsed();
            match outcome {
                Ok(()) => {
                    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
                    times.saturating_record(nanoseconds(time));
                }
                Err(error) => shared.fail(&error),
            }
            shared.in_flight.fetch_sub(1, Relaxed);
        });
        sent += 1;
    }
    let all_back = async {
        while shared.in_flight.load(Relaxed) > 0 {
            yield_now().await;
        }
    };
    let lost = timeout(LAST_REPLIES, all_back).await.is_err();
    let elapsed = started.elapsed();
    let mut errors = shared.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if lost {
        errors.count += shared.in_flight.load(Relaxed);
        errors.first.get_or_insert_with(|| format!("no reply within {LAST_REPLIES:?}"));
    }
    let histogram = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let latencies = Latencies { histogram, errors, elapsed, cpu: Cpu::default() };
    FixedRate { latencies, lateness, unsent: total - sent }
}

//! The measuring loops. Each connects nothing and starts nothing: it gets a client
//! that is ready, warms it up, resets, and measures.
//!
//! Times are in nanoseconds. A failed request is counted as an error, and is in no
//! percentile.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::coop::consume_budget;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::protocols::Recorder;
use crate::server::{cpu_time, resident};

/// Most requests in flight at a fixed rate; further ones wait for their turn, and
/// that wait counts. No client here takes less.
pub const MAX_IN_FLIGHT: u64 = 256;

/// So many errors end a measurement early: nothing works.
pub const TOO_MANY_ERRORS: u64 = 100;

/// How long requests may take that are in flight when the time is over.
const LAST_REPLIES: Duration = Duration::from_secs(5);

/// Fewer samples than this beyond a percentile say nothing about it.
const SAMPLES_BEYOND: f64 = 10.0;

/// How long to warm up, and then to measure.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Not measured: connections are made, caches filled, code paths learnt.
    pub warm_up: Duration,
    /// Measured.
    pub measured: Duration,
}

/// The processes whose CPU time is told apart.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    /// The server's process.
    pub server: Option<u32>,
    /// The broker's, if there is one.
    pub broker: Option<u32>,
}

/// CPU time of each side; `None` where there is no such process or no figure.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Cpu {
    /// Of this process: protocol and measuring loop.
    pub client: Option<Duration>,
    /// Of the server's process.
    pub server: Option<Duration>,
    /// Of the broker's process.
    pub broker: Option<Duration>,
}

impl Meter {
    /// Since the processes' start.
    pub fn read(&self) -> Cpu {
        let of = |process: Option<u32>| process.and_then(|process| cpu_time(process).ok());
        Cpu { client: of(Some(std::process::id())), server: of(self.server), broker: of(self.broker) }
    }

    /// Memory in RAM, in bytes, of the process to which the clients connect.
    ///
    /// # Errors
    /// If there is none, or not on Linux.
    pub fn memory(&self) -> anyhow::Result<u64> {
        resident(self.broker.or(self.server).ok_or_else(|| anyhow::anyhow!("no process"))?)
    }
}

impl Cpu {
    /// What was used from `before` on.
    pub fn since(self, before: Self) -> Self {
        let used = |now: Option<Duration>, then: Option<Duration>| Some(now?.saturating_sub(then?));
        Self {
            client: used(self.client, before.client),
            server: used(self.server, before.server),
            broker: used(self.broker, before.broker),
        }
    }
}

/// Failed requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Errors {
    /// How many.
    pub count: u64,
    /// What the first one said.
    pub first: Option<String>,
}

impl Errors {
    fn add(&mut self, error: &anyhow::Error) {
        self.count += 1;
        self.first.get_or_insert_with(|| format!("{error:#}"));
    }
}

/// What came of requests one after the other, or at a fixed rate.
pub struct Latencies {
    /// Time of each request that succeeded.
    pub histogram: Histogram<u64>,
    /// Those that did not.
    pub errors: Errors,
    /// From the first request to the last reply.
    pub elapsed: Duration,
    /// What each side used meanwhile.
    pub cpu: Cpu,
}

/// A histogram of times up to a minute, three digits of each.
#[expect(clippy::missing_panics_doc, reason = "the bounds are valid")]
pub fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are valid")]
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// The time that this share of the samples did not exceed, in nanoseconds; `None`
/// if fewer than ten samples are beyond it, for then chance decides.
pub fn percentile(histogram: &Histogram<u64>, share: f64) -> Option<f64> {
    // Rounded, since 1 - 0.9 is a little less than 0.1.
    let beyond = (histogram.len() as f64 * (1.0 - share) * 1e6).round() / 1e6;
    (beyond >= SAMPLES_BEYOND).then(|| histogram.value_at_quantile(share) as f64)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One request after the other, each sent when the reply to the one before is here.
///
/// A server that stalls is asked once and then waited for: the requests that would
/// have come meanwhile are never sent, and the stall is one sample of thousands.
/// [`fixed_rate`] does see it.
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

/// What came of many requests in flight.
#[derive(Debug, Clone)]
pub struct Throughput {
    /// Requests that succeeded.
    pub completed: u64,
    /// Those that did not.
    pub errors: Errors,
    /// How long it was measured.
    pub elapsed: Duration,
    /// What each side used meanwhile.
    pub cpu: Cpu,
}

/// Keeps so many requests in flight, each followed by the next at once.
pub async fn in_flight(recorder: &Arc<dyn Recorder>, count: u64, span: Span, meter: &Meter) -> Throughput {
    let shared = Arc::new(Shared::default());
    let mut callers = JoinSet::new();
    for _ in 0..count {
        let (recorder, shared) = (recorder.clone(), shared.clone());
        callers.spawn(async move {
            while !shared.stop.load(Relaxed) {
                consume_budget().await; // A client that never waits must let the clock run.
                match recorder.record().await {
                    Ok(()) => _ = shared.completed.fetch_add(1, Relaxed),
                    Err(error) => {
                        shared.fail(&error);
                        yield_now().await; // An error at once must not keep the others from running.
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

/// What all callers of one measurement add to.
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

    /// Forgets the warm-up, but not that nothing works.
    fn reset(&self) {
        if !self.stop.load(Relaxed) {
            *self.errors.lock().unwrap_or_else(PoisonError::into_inner) = Errors::default();
            self.completed.store(0, Relaxed);
        }
    }
}

/// What came of requests at a fixed rate.
pub struct FixedRate {
    /// From the moment at which each should have been sent to its reply.
    pub latencies: Latencies,
    /// How late the sender was through its own fault: it found that a request was
    /// due so long after it was.
    pub lateness: Histogram<u64>,
    /// Requests that were due but still waited when the time was over twice.
    pub unsent: u64,
}

impl FixedRate {
    /// Replies per second, until the last one.
    pub fn achieved(&self) -> f64 {
        self.latencies.histogram.len() as f64 / self.latencies.elapsed.as_secs_f64()
    }
}

/// Sends so many requests per second, whether or not replies have come, and
/// measures from the *intended* moment of each. So a stall shows in all requests
/// that were due meanwhile, also in those that had to wait to be sent.
///
/// At most [`MAX_IN_FLIGHT`] are in flight. The clock is polled, since tokio's
/// timers are a millisecond late: this keeps one core busy.
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
    let mut unhindered = started;
    'pacing: while sent < total && !shared.stop.load(Relaxed) {
        let intended = started + Duration::from_secs_f64(sent as f64 / rate);
        while Instant::now() < intended {
            yield_now().await;
        }
        // Waiting for a place among those in flight is the server's fault.
        while shared.in_flight.load(Relaxed) >= MAX_IN_FLIGHT {
            if started.elapsed() > 2 * time {
                break 'pacing;
            }
            yield_now().await;
            unhindered = Instant::now();
        }
        lateness.saturating_record(nanoseconds(unhindered.max(intended).elapsed()));
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
        errors.first.get_or_insert_with(|| format!("no reply in {LAST_REPLIES:?}"));
    }
    let histogram = times.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let latencies = Latencies { histogram, errors, elapsed, cpu: Cpu::default() };
    FixedRate { latencies, lateness, unsent: total - sent }
}

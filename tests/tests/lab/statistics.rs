//! Tests the measuring loops and the statistics with inputs whose results are known.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use lab::Spread;
use lab::compare::measure::{self, Span};
use lab::protocols::Recorder;
use lab::report::statistic::{self, percentile};
use lab::run::meter::Meter;
use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

#[apply(test!)]
async fn the_spread_of_known_values_is_right() {
    assert_eq!(Spread::of(&[3.0]), Spread { median: 3.0, low: 3.0, high: 3.0 });
    assert_eq!(Spread::of(&[4.0, 1.0]), Spread { median: 2.5, low: 1.0, high: 4.0 });
    assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Spread { median: 2.0, low: 1.0, high: 9.0 });
    assert!(Spread::of(&[]).median.is_nan());
    assert_eq!(Spread::of_all([Some(1.0), None]), None);
    assert_eq!(Spread::of_all([]), None);
    assert!(Spread::of(&[9.0, 10.0, 12.0]).is_noisy());
    assert!(!Spread::of(&[9.0, 10.0, 11.0]).is_noisy());
}

#[apply(test!)]
async fn percentiles_of_known_values_are_right() {
    let mut thousand = statistic::histogram();
    (1..=1000).for_each(|time| thousand.record(time * 1000).unwrap());
    let near = |found: Option<f64>, expected: f64| {
        let found = found.expect("enough samples");
        assert!((found - expected).abs() <= expected * 0.001, "{found}, expected {expected}");
    };
    near(percentile(&thousand, 0.5), 500_000.0);
    near(percentile(&thousand, 0.9), 900_000.0);
    near(percentile(&thousand, 0.99), 990_000.0); // Exactly ten are beyond.
    assert_eq!(percentile(&thousand, 0.999), None, "one sample is beyond");
    thousand.record(5).unwrap();
    near(percentile(&thousand, 0.99), 990_000.0);
    let mut few = statistic::histogram();
    (1..=19).for_each(|time| few.record(time).unwrap());
    assert_eq!(percentile(&few, 0.5), None, "nine and a half are beyond");
}

/// A connection to a server that returns each byte it receives, but stalls once, before the
/// hundredth.
struct Stalling(Mutex<TcpStream>);

const STALL: Duration = Duration::from_millis(400);

impl Stalling {
    async fn start() -> Arc<dyn Recorder> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _peer) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut byte = [0];
            for request in 1.. {
                if stream.read_exact(&mut byte).is_err() {
                    break;
                }
                if request == 100 {
                    thread::sleep(STALL);
                }
                stream.write_all(&byte).unwrap();
            }
        });
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Arc::new(Self(Mutex::new(stream)))
    }
}

impl Recorder for Stalling {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let mut stream = self.0.lock().await;
            stream.write_all(&[1]).await?;
            stream.read_exact(&mut [0]).await?;
            Ok(())
        }
        .boxed()
    }
}

fn span(measured: Duration) -> Span {
    Span { warm_up: Duration::ZERO, measured }
}

/// The server stalls once in each measurement. With one request in flight, the stall is one sample
/// among thousands. At a fixed rate, all requests that were due during the stall waited, too.
#[apply(test!)]
#[alone]
async fn the_stall_shows_only_at_a_fixed_rate() {
    let stall = STALL.as_nanos() as f64;

    let server = Stalling::start().await;
    let alone = measure::one_in_flight(&*server, span(5 * STALL), &Meter::default()).await;
    assert!(alone.histogram.max() as f64 > 0.99 * stall, "the server should have stalled");
    let p99 = percentile(&alone.histogram, 0.99).expect("a thousand requests");
    assert!(p99 < stall / 4.0, "one in flight: p99 {p99} ns");

    let server = Stalling::start().await;
    let paced = measure::fixed_rate(&server, 1000.0, span(5 * STALL), &Meter::default()).await;
    let times = paced.latencies.histogram;
    assert_eq!((times.len(), paced.unsent, paced.latencies.errors.count), (2000, 0, 0));
    // 400 requests were due during the stall, and the first 320 of them waited for at least a fifth
    // of it. Only 256 can be in flight. The others had to wait to be sent, and that wait counts.
    let p99 = percentile(&times, 0.99).expect("enough samples");
    assert!(p99 > 0.8 * stall, "fixed rate: p99 {p99} ns");
    let waited = times.count_between((stall / 5.0) as u64, u64::MAX);
    assert!(waited >= 300, "{waited} requests waited for at least a fifth of the stall");
}

/// Handles one request at a time, each in 5 ms.
struct Slow(Mutex<()>);

impl Recorder for Slow {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let _one = self.0.lock().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
            Ok(())
        }
        .boxed()
    }
}

#[apply(test!)]
#[alone]
async fn a_server_that_is_too_slow_is_reported_as_saturated() {
    let slow: Arc<dyn Recorder> = Arc::new(Slow(Mutex::new(())));
    let offered = 2000.0;
    let measured =
        measure::fixed_rate(&slow, offered, span(Duration::from_millis(300)), &Meter::default()).await;
    assert!(measured.achieved() < 201.0, "{} per second, at 5 ms each", measured.achieved());
    assert!(measured.unsent > 0);
    let sent = measured.latencies.histogram.len() + measured.latencies.errors.count;
    assert_eq!(sent + measured.unsent, 600, "every request should be accounted for");
}

/// Counts the calls that run at the same time.
#[derive(Default)]
struct Crowd {
    now: AtomicU64,
    most: AtomicU64,
    calls: AtomicU64,
}

impl Recorder for Crowd {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            self.most.fetch_max(self.now.fetch_add(1, Relaxed) + 1, Relaxed);
            self.calls.fetch_add(1, Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.now.fetch_sub(1, Relaxed);
            Ok(())
        }
        .boxed()
    }
}

#[apply(test!)]
async fn exactly_the_given_number_of_requests_is_in_flight() {
    for count in [1, 8, 64] {
        let crowd = Arc::new(Crowd::default());
        let recorder: Arc<dyn Recorder> = crowd.clone();
        let span = span(Duration::from_millis(200));
        let measured = measure::in_flight(&recorder, count, span, &Meter::default()).await;
        assert_eq!(crowd.most.load(Relaxed), count);
        assert_eq!(crowd.now.load(Relaxed), 0, "every call should have returned");
        let calls = crowd.calls.load(Relaxed);
        assert!(measured.completed > 0 && measured.completed <= calls, "{} of {calls}", measured.completed);
    }
}

/// Counts its calls and fails every nth one. A success takes 1 ms.
#[derive(Default)]
struct Failing(AtomicU64, u64);

impl Recorder for Failing {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let call = self.0.fetch_add(1, Relaxed);
            anyhow::ensure!(call % self.1 != self.1 - 1, "call {call} failed");
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        }
        .boxed()
    }
}

#[apply(test!)]
async fn errors_are_counted_and_kept_out_of_the_percentiles() {
    let recorder = Failing(AtomicU64::new(0), 3);
    let measured =
        measure::one_in_flight(&recorder, span(Duration::from_millis(200)), &Meter::default()).await;
    let calls = recorder.0.load(Relaxed);
    assert_eq!(measured.errors.count, calls / 3);
    assert_eq!(measured.histogram.len(), calls - calls / 3);
    assert_eq!(measured.errors.first.as_deref(), Some("call 2 failed"));
    assert!(measured.histogram.min() >= 1_000_000, "failures are fast, but should not improve the figures");
}

#[apply(test!)]
async fn too_many_errors_end_a_measurement_early() {
    let long = span(Duration::from_secs(3600)); // Far longer than a test may take.
    let hopeless: Arc<dyn Recorder> = Arc::new(Failing(AtomicU64::new(0), 1));
    let alone = measure::one_in_flight(&*hopeless, long, &Meter::default()).await;
    assert_eq!((alone.errors.count, alone.histogram.len()), (measure::TOO_MANY_ERRORS, 0));
    let paced = measure::fixed_rate(&hopeless, 1000.0, long, &Meter::default()).await;
    assert!(paced.latencies.errors.count >= measure::TOO_MANY_ERRORS);
}

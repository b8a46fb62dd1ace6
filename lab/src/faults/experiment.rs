//! One client and one fault: requests at a steady pace, a fault in the middle, and what came of them.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::join_all;
use indicatif::ProgressBar;
use message_queue::brokers::{Broker, Kind, Options};
use tokio::sync::{Notify, RwLock};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

use super::breakage::{Breakage, What};
use super::client::{Client, Request, Told, micros, pause};
use super::count::{all_done_are_there, count};
use super::results::{Experiment, Results};
use super::row::{Behind, Row};
use super::stage::{Held, Stage};
use crate::run::conditions::Conditions;
use crate::scenes::view::{Conversation, Scene, diagram};
use crate::wire::decode::{NewDecoder, tls};
use crate::wire::fault::Kind as WireFault;
use crate::wire::message::Side;
use crate::wire::tape::{Event, What as Happened};
use crate::wire::trace::Trace;

/// Maximum time for a call. A longer one is abandoned and counts as unknown.
const CALL_WITHIN: Duration = Duration::from_secs(90);

/// Time for the remaining requests after everything is mended. A slow client sends fewer of them.
const AFTERWARD: Duration = Duration::from_secs(2);

/// Maximum time for a client to work again after everything is mended.
const RECOVER_WITHIN: Duration = Duration::from_secs(75);

/// The same after a fault over TLS. A client that has given up will not work again.
const RECOVER_OVER_TLS_WITHIN: Duration = Duration::from_secs(3);

/// Maximum time for workers and subscribers to catch up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

/// Time without another execution after which none is expected: first if nothing is missing, and then if
/// something is. A worker may wait for two seconds before it connects again.
const QUIET: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(5)];

/// Time after which a job that was done but not acknowledged has been redelivered.
const REDELIVERED: Duration = Duration::from_secs(3);

/// Pause between two checks of what was executed.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Maximum number of experiments at the same time.
const AT_ONCE: usize = 16;

/// Width of an exchange, in characters, and how many steps it shows before the fault and after it.
const EXCHANGE: (usize, usize, usize) = (96, 3, 12);

/// Which experiments to run.
pub struct Plan {
    /// The rows.
    pub rows: Vec<&'static Row>,
    /// The faults.
    pub faults: Vec<&'static Breakage>,
    /// Numbers of calls in flight. Every experiment runs once with each of them.
    pub in_flight: Vec<u64>,
    /// Number of the request at which the fault strikes. How many follow depends on how long it lasts.
    pub requests: u64,
}

/// Runs all experiments of a plan. Several run at the same time, since they mostly wait.
///
/// # Errors
/// If RabbitMQ does not start, or the system refuses a thread.
pub fn run(
    plan: &Plan,
    conditions: Conditions,
    progress: &ProgressBar,
    stop: &AtomicBool,
) -> anyhow::Result<Results> {
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let needs_rabbitmq = plan.rows.iter().any(|row| row.broker() == Some(Kind::RabbitMq));
    let rabbitmq = needs_rabbitmq.then(|| Broker::start(Kind::RabbitMq, Options::default())).transpose()?;
    let rabbitmq = rabbitmq.map(RwLock::new);
    let parts =
        plan.in_flight.iter().flat_map(|&in_flight| plan.faults.iter().map(move |&fault| (in_flight, fault)));
    let rows = |fault: &'static Breakage| plan.rows.iter().copied().filter(move |row| fault.concerns(row));
    progress.set_length(parts.clone().map(|(_, fault)| rows(fault).count() as u64).sum());
    let mut results = Results::new(conditions);
    for (in_flight, fault) in parts {
        // A broker that starts keeps the processor busy, which would slow down other experiments.
        let at_once = if fault.breaks_the_broker() { 1 } else { AT_ONCE };
        let rows: Vec<_> = rows(fault).collect();
        let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(row) = rows.get(next.fetch_add(1, Relaxed)).filter(|_| !stop.load(Relaxed))
                    {
                        let experiment = experiment(row, fault, in_flight, plan.requests, rabbitmq.as_ref());
                        let result = runtime.block_on(experiment);
                        made.lock().unwrap_or_else(PoisonError::into_inner).push((row, result));
                        progress.inc(1);
                    }
                });
            }
        });
        let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.sort_by_key(|(row, _)| rows.iter().position(|this| this.id == row.id));
        for (row, experiment) in made {
            match experiment {
                Ok(experiment) => results.experiments.push(experiment),
                Err(error) => {
                    let what = format!("{}, {}, {in_flight} in flight", row.name, fault.name);
                    results.failed.push(format!("{what}: {error:#}"));
                }
            }
        }
    }
    progress.finish_and_clear();
    results.conditions.duration_seconds = began.elapsed().as_secs_f64();
    results.conditions.interrupted = stop.load(Relaxed);
    Ok(results)
}

/// What the tasks of a client share.
struct Load {
    client: Arc<dyn Client>,
    next: AtomicU64,
    /// The request at which the fault strikes.
    strike: u64,
    /// Number of requests that should follow the fault.
    more: u64,
    /// Maximum time for the client to work again after everything is mended.
    recover_within: Duration,
    /// Called right before the request at which the fault strikes.
    arm: Box<dyn Fn() + Send + Sync>,
    armed: Notify,
    /// When everything was mended, in microseconds since 1970.
    mended: OnceLock<u64>,
    log: Mutex<Vec<Request>>,
}

impl Load {
    async fn run(&self) {
        loop {
            let number = self.next.fetch_add(1, Relaxed) + 1;
            if self.is_over(number) {
                return;
            }
            if number == self.strike {
                (self.arm)();
                self.armed.notify_one();
            }
            let started = micros();
            let told = timeout(CALL_WITHIN, self.client.record(number)).await.unwrap_or(Told::Unknown);
            let request = Request { number, started, ended: micros(), told };
            self.log.lock().unwrap_or_else(PoisonError::into_inner).push(request);
            pause(started).await;
        }
    }

    /// Returns whether enough requests have followed the fault, and the client works again.
    fn is_over(&self, number: u64) -> bool {
        let Some(mended) = self.mended.get() else { return false };
        let since = Duration::from_micros(micros().saturating_sub(*mended));
        let enough = number > self.strike + self.more || since > AFTERWARD;
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let works = log.last().is_some_and(|last| last.told == Told::Done && last.started > *mended);
        (enough && works) || since > self.recover_within
    }
}

async fn experiment(
    row: &'static Row,
    breakage: &'static Breakage,
    in_flight: u64,
    requests: u64,
    rabbitmq: Option<&RwLock<Broker>>,
) -> anyhow::Result<Experiment> {
    let broker = match (row.broker(), rabbitmq) {
        (Some(Kind::RabbitMq), Some(rabbitmq)) if breakage.breaks_the_broker() => {
            Held::Alone(rabbitmq.write().await)
        }
        (Some(Kind::RabbitMq), Some(rabbitmq)) => Held::Shared(rabbitmq.read().await),
        _ => Held::None,
    };
    let mut stage = Stage::set(row, breakage, broker).await?;
    let (mut log, mut killed) = (Vec::new(), None);
    if breakage.what == What::ClientKilled {
        let (calls, at) = stage.kill_a_client(requests as usize, in_flight).await?;
        (log, killed) = (calls, Some((at, None)));
    }
    let client = (row.connect)(stage.place()).await.context("the client does not connect")?;
    let first = log.iter().map(|request| request.number).max().unwrap_or(0);
    let faults = stage.near_faults.clone();
    let load = Arc::new(Load {
        client,
        next: AtomicU64::new(first),
        strike: first + if killed.is_some() { 1 } else { requests },
        more: requests,
        recover_within: if breakage.over_tls() { RECOVER_OVER_TLS_WITHIN } else { RECOVER_WITHIN },
        arm: Box::new(move || match breakage.what {
            What::Connection(kind) if !is_of_the_subscriber(kind, row) => faults.arm_next(kind),
            _ => {}
        }),
        armed: Notify::new(),
        mended: OnceLock::new(),
        log: Mutex::new(log),
    });
    let breaking = async {
        load.armed.notified().await;
        let window = match killed {
            Some(window) => Ok(window),
            None => stage.break_and_mend(breakage).await,
        };
        let _ = load.mended.set(micros());
        window
    };
    // The load has tasks of its own, since it has to go on while this one waits for a program to start.
    let tasks: Vec<_> = (0..in_flight)
        .map(|_| {
            let load = load.clone();
            tokio::spawn(async move { load.run().await })
        })
        .collect();
    let (window, ended) = tokio::join!(breaking, join_all(tasks));
    let window = window?;
    for task in ended {
        task.context("a task of the client panicked")?;
    }
    let mut log = std::mem::take(&mut *load.log.lock().unwrap_or_else(PoisonError::into_inner));
    log.sort_by_key(|request| request.number);
    catch_up(&stage, &log).await;
    let mut experiment = count(row, breakage, in_flight, &log, &stage.truth(), &stage.lives, window);
    let (events, _) = stage.tape.events();
    // The same moment on the clock of the tape and on that of the log.
    let offset = (Instant::now(), micros());
    if matches!(breakage.what, What::Connection(_) | What::ClientKilled) {
        experiment.noticed_ms = noticed(&events, window.0, offset);
    }
    experiment.errors = stage.errors.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
    let decoder = if breakage.over_tls() { tls::decoder } else { row.format.decoder() };
    experiment.exchange = exchange(row, decoder, events, window.0, offset);
    block_in_place(|| drop(stage)); // This waits until all processes have ended.
    Ok(experiment)
}

/// Returns whether the fault concerns the subscriber, and not the publisher: it stops reading.
fn is_of_the_subscriber(kind: WireFault, row: &Row) -> bool {
    matches!(kind, WireFault::StopReading(_)) && row.behind() == Some(Behind::Subscriber)
}

/// Waits until everything that the client called done has arrived, or nothing more comes.
async fn catch_up(stage: &Stage<'_>, log: &[Request]) {
    let until = Instant::now() + CATCH_UP_WITHIN;
    let mut last = (stage.truth().len(), Instant::now());
    let [settled, missing] = QUIET;
    let settled = if matches!(stage.row.behind(), Some(Behind::Worker(_))) { REDELIVERED } else { settled };
    loop {
        sleep(LOOK_AGAIN).await;
        let truth = stage.truth();
        if truth.len() != last.0 {
            last = (truth.len(), Instant::now());
        }
        let quiet = if all_done_are_there(stage.row, log, &truth) { settled } else { missing };
        if Instant::now() > until || last.1.elapsed() > quiet {
            return;
        }
    }
}

/// Returns when the server closed the first of the connections that were open when the fault struck.
fn noticed(events: &[Event], struck: u64, offset: (Instant, u64)) -> Option<f64> {
    let at = |event: &Event| micros_of(event, offset);
    let opened = events.iter().filter(|event| matches!(event.what, Happened::Open { .. }));
    let open: Vec<_> = opened.filter(|event| at(event) <= struck).map(|event| event.connection).collect();
    let ends = events.iter().filter(|event| {
        event.from == Side::Server
            && matches!(event.what, Happened::End | Happened::Reset)
            && open.contains(&event.connection)
    });
    let first = ends.map(at).find(|end| *end >= struck.saturating_sub(1_000))?;
    Some(first.saturating_sub(struck) as f64 / 1000.0)
}

fn micros_of(event: &Event, (now, micros): (Instant, u64)) -> u64 {
    micros.saturating_sub(now.saturating_duration_since(event.at).as_micros() as u64)
}

/// Returns a diagram of what passed around the fault.
fn exchange(
    row: &Row,
    decoder: NewDecoder,
    events: Vec<Event>,
    struck: u64,
    offset: (Instant, u64),
) -> String {
    let (width, before, after) = EXCHANGE;
    let mut trace = Trace::new(events, decoder);
    let split = trace.steps.partition_point(|step| micros_of(&step.event, offset) + 1_000 < struck);
    trace.steps.truncate(split + after);
    trace.steps.drain(..split.saturating_sub(before));
    let lanes = vec!["client", row.format.server()];
    let conversations = vec![Conversation { trace, client: 0, server: 1 }];
    diagram::diagram(&Scene { title: row.name.into(), lanes, conversations }, width)
}

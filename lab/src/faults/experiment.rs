//! One client and one fault: requests at a steady pace, a fault in the middle of them, and what came
//! of it.

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
use super::count::count;
use super::results::{Experiment, Results};
use super::row::{Behind, Row};
use super::stage::{Held, Stage};
use crate::run::conditions::Conditions;
use crate::scenes::view::{Conversation, Scene, diagram};
use crate::wire::fault::Kind as WireFault;
use crate::wire::message::Side;
use crate::wire::tape::{Event, What as Happened};
use crate::wire::trace::Trace;

/// Time after which a call that has not ended counts as endless.
const CALL_WITHIN: Duration = Duration::from_secs(90);

/// Time after the fault in which the requests that follow it should be through.
const AFTERWARD: Duration = Duration::from_secs(2);

/// Time that a client has to work again after everything is mended.
const RECOVER_WITHIN: Duration = Duration::from_secs(75);

/// Time that workers and subscribers have to catch up.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

/// Time without news after which nothing more is expected if nothing is missing, and otherwise. A worker
/// may wait for two seconds before it connects again.
const QUIET: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(5)];

/// Number of experiments at the same time.
const AT_ONCE: usize = 16;

/// Width of an exchange, in characters, and how many steps it shows before and after the fault.
const EXCHANGE: (usize, usize, usize) = (96, 3, 12);

/// What to do.
pub struct Plan {
    /// The rows.
    pub rows: Vec<&'static Row>,
    /// The faults.
    pub faults: Vec<&'static Breakage>,
    /// How many calls are in flight: once for each number.
    pub in_flight: Vec<u64>,
    /// Number of requests before the fault, and at least as many after it.
    pub requests: u64,
}

/// Makes all experiments of a plan, several at the same time. They mostly wait.
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
        // A broker that starts takes the processor from everyone else.
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
    /// Number of requests that should follow it.
    more: u64,
    /// Called right before that request.
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
        (enough && works) || since > RECOVER_WITHIN
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
        (log, killed) = (with_unfinished(calls, at, in_flight), Some((at, None)));
    }
    let client = (row.connect)(stage.place()).await.context("the client does not connect")?;
    let first = log.iter().map(|request| request.number).max().unwrap_or(0);
    let faults = stage.near_faults.clone();
    let load = Load {
        client,
        next: AtomicU64::new(first),
        strike: first + if killed.is_some() { 1 } else { requests },
        more: requests,
        arm: Box::new(move || match breakage.what {
            What::Connection(kind) if !is_of_the_subscriber(kind, row) => faults.arm_next(kind),
            _ => {}
        }),
        armed: Notify::new(),
        mended: OnceLock::new(),
        log: Mutex::new(log),
    };
    let breaking = async {
        load.armed.notified().await;
        let window = match killed {
            Some(window) => Ok(window),
            None => stage.break_and_mend(breakage).await,
        };
        let _ = load.mended.set(micros());
        window
    };
    let loading = join_all((0..in_flight).map(|_| load.run()));
    let (window, _) = tokio::join!(breaking, loading);
    let window = window?;
    let mut log = std::mem::take(&mut *load.log.lock().unwrap_or_else(PoisonError::into_inner));
    log.sort_by_key(|request| request.number);
    catch_up(&stage, &log).await;
    let mut experiment = count(row, breakage, in_flight, &log, &stage.truth(), &stage.lives, window);
    let (events, _) = stage.tape.events();
    // The clock of the tape starts elsewhere.
    let offset = (Instant::now(), micros());
    if matches!(breakage.what, What::Connection(_) | What::ClientKilled) {
        experiment.noticed_ms = noticed(&events, window.0, offset);
    }
    experiment.exchange = exchange(row, events, window.0, offset);
    block_in_place(|| drop(stage)); // It waits until all processes have ended.
    Ok(experiment)
}

/// Whether a subscriber, and not the publisher, is the client that stops reading.
fn is_of_the_subscriber(kind: WireFault, row: &Row) -> bool {
    matches!(kind, WireFault::StopReading(_)) && row.behind() == Some(Behind::Subscriber)
}

/// Adds the calls that a killed client had begun. Nobody was told anything about them.
fn with_unfinished(mut calls: Vec<Request>, killed: u64, in_flight: u64) -> Vec<Request> {
    let last = calls.iter().map(|call| call.number).max().unwrap_or(0);
    let known: Vec<_> = calls.iter().map(|call| call.number).collect();
    for number in (1..=last + in_flight).filter(|number| !known.contains(number)) {
        calls.push(Request { number, started: killed, ended: killed, told: Told::Unknown });
    }
    calls
}

/// Waits until everything that is done has arrived, or nothing more comes.
async fn catch_up(stage: &Stage<'_>, log: &[Request]) {
    let done = log.iter().filter(|request| request.told == Told::Done).count();
    let until = Instant::now() + CATCH_UP_WITHIN;
    let mut last = (stage.truth().len(), Instant::now());
    loop {
        sleep(QUIET[0] / 10).await;
        let now = stage.truth().len();
        if now != last.0 {
            last = (now, Instant::now());
        }
        if Instant::now() > until || last.1.elapsed() > QUIET[usize::from(now < done)] {
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
fn exchange(row: &Row, events: Vec<Event>, struck: u64, offset: (Instant, u64)) -> String {
    let (width, before, after) = EXCHANGE;
    let mut trace = Trace::new(events, row.format.decoder());
    let split = trace.steps.partition_point(|step| micros_of(&step.event, offset) + 1_000 < struck);
    trace.steps.truncate(split + after);
    trace.steps.drain(..split.saturating_sub(before));
    let lanes = vec!["client", row.format.server()];
    let conversations = vec![Conversation { trace, client: 0, server: 1 }];
    diagram::diagram(&Scene { title: row.name.into(), lanes, conversations }, width)
}

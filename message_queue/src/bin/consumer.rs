//! The consumer: a worker on the work queue, or a subscriber to readings.
//!
//! ```sh
//! cargo run -p message_queue --bin producer     # terminal 1
//! cargo run -p message_queue --bin consumer     # terminal 2, and 3, and 4
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use futures::StreamExt;
use message_queue::brokers::Kind;
use message_queue::cli::{BrokerArgs, logs};
use message_queue::job::{Attempt, DeadLetter, Outcome};
use message_queue::publish_subscribe::Event;
use message_queue::results::Results;
use message_queue::worker::Worker;
use message_queue::{rabbitmq, redis};
use tcp_socket::base::journal::Journal;
use tcp_socket::base::program::{output, shutdown_signal};
use tcp_socket::base::text::printable;
use tokio_util::sync::CancellationToken;

/// Does jobs from the work queue, one after another; start several consumers to share
/// the work. Ctrl-C finishes the current job and leaves the rest queued.
#[derive(Parser)]
#[command(name = "consumer")]
struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Folder for the results, the same for all workers
    #[arg(long, default_value = "results")]
    results: PathBuf,
    /// Extra milliseconds for each job, to simulate long jobs
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 0)]
    work_time: u64,
    /// RabbitMQ: maximum number of unacknowledged jobs sent to this worker, at least 1
    #[arg(long, default_value_t = message_queue::limits::rabbitmq::PREFETCH, value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
    /// Redis: claim the jobs of a worker after this many milliseconds of silence
    #[arg(long, value_name = "MILLISECONDS", default_value_t = message_queue::limits::redis::CLAIM_AFTER.as_millis() as u64)]
    claim_after: u64,
    /// RabbitMQ: maximum number of jobs in the queue, which is fixed when the queue is created
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_length: Option<u32>,
    #[command(flatten)]
    journal: Journal,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Show readings as they are published, until Ctrl-C
    Subscribe {
        /// RabbitMQ: routing keys with * for a word and # for any number of words,
        /// such as readings.*.wind. Redis: <station>:<metric> with * and ?, such as
        /// *:wind. Without a pattern: all readings
        patterns: Vec<String>,
    },
    /// List the jobs that failed for good
    DeadLetters {
        /// Put them back into the work queue
        #[arg(long)]
        redrive: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    args.broker.exit(run(&args).await)
}

async fn run(args: &Args) -> anyhow::Result<()> {
    logs()?;
    args.journal.open()?;
    let shutdown = shutdown_signal()?;
    match &args.command {
        None => work(args, &shutdown).await,
        Some(Command::Subscribe { patterns }) => {
            let subscription = subscribe(args, patterns);
            shutdown.run_until_cancelled(subscription).await.unwrap_or(Ok(()))
        }
        Some(Command::DeadLetters { redrive }) => {
            let letters = dead_letters(args, *redrive);
            // Ctrl-C drops this. A dead letter is removed only once its job is back in the
            // queue.
            let ended = shutdown.run_until_cancelled(letters).await;
            ended.unwrap_or_else(|| {
                Err(anyhow::anyhow!("interrupted; the remaining dead letters stay where they are"))
            })
        }
    }
}

async fn work(args: &Args, shutdown: &CancellationToken) -> anyhow::Result<()> {
    #[cfg(unix)]
    let _signal = errors_instead_of_a_signal()?;
    let results = Results::open(&args.results)?;
    let work_time = Duration::from_millis(args.work_time);
    let (mut done, mut duplicates, mut failed) = (0_u64, 0_u64, 0_u64);
    let report = |attempt: &Attempt| {
        match attempt {
            Attempt::Finished(Outcome::Done(_)) => done += 1,
            Attempt::Finished(Outcome::AlreadyDone(_)) => duplicates += 1,
            Attempt::Failed { .. } => failed += 1,
        }
        writeln!(output(), "{}", printable(&attempt.to_string()))
    };
    let (url, keys, mut topology) = (args.broker.url()?, args.broker.keys(), args.broker.topology());
    topology.max_length = args.max_length.unwrap_or(topology.max_length);
    // If stdout can't be written to, the report of the first job ends the worker.
    let ready = |queue: &str| {
        _ = writeln!(
            output(),
            "jobs come from {queue}, results go to {}; day 0 is 1970-01-01",
            args.results.display()
        );
    };
    match args.broker.broker {
        Kind::RabbitMq => {
            let (name, prefetch) = (topology.jobs(), args.prefetch);
            let max_wait = message_queue::limits::rabbitmq::MAX_WAIT;
            let queue = rabbitmq::worker::WorkQueue { url, topology, prefetch, max_wait };
            Worker { queue, results, work_time }.run(shutdown, || ready(&name), report).await?;
        }
        Kind::Redis => {
            let jobs = keys.jobs();
            let name = redis::worker::random_name()?;
            let claim_after = Duration::from_millis(args.claim_after);
            let remove_idle_after = message_queue::limits::redis::REMOVE_IDLE_AFTER;
            let queue = redis::worker::WorkQueue { url, keys, name, claim_after, remove_idle_after };
            Worker { queue, results, work_time }.run(shutdown, || ready(&jobs), report).await?;
        }
    }
    Ok(writeln!(output(), "stopped: {done} done, {duplicates} duplicates, {failed} failed attempts")?)
}

/// Makes a write beyond the file-size limit (`ulimit -f`) fail with an error. The system
/// kills a program that has no handler for SIGXFSZ.
#[cfg(unix)]
fn errors_instead_of_a_signal() -> io::Result<impl Sized> {
    use nix::sys::signal::Signal;
    use tokio::signal::unix::{SignalKind, signal};
    signal(SignalKind::from_raw(Signal::SIGXFSZ as i32))
}

async fn subscribe(args: &Args, patterns: &[String]) -> anyhow::Result<()> {
    let url = args.broker.url()?;
    let mut out = output();
    let everything = [match args.broker.broker {
        Kind::RabbitMq => "readings.#".to_owned(),
        Kind::Redis => "*".to_owned(),
    }];
    let patterns = if patterns.is_empty() { &everything } else { patterns };
    let mut events = match args.broker.broker {
        Kind::RabbitMq => {
            rabbitmq::publish_subscribe::subscribe(url, args.broker.topology(), patterns).await?
        }
        Kind::Redis => redis::publish_subscribe::subscribe(url, &args.broker.keys(), patterns).await?,
    };
    writeln!(out, "subscribed to {}", patterns.join(" "))?;
    let say = |text: &str| _ = writeln!(io::stderr(), "{}", printable(text)); // Stderr may be closed.
    while let Some(event) = events.next().await {
        match event? {
            Event::Reading { topic, reading } => writeln!(out, "{} {}", printable(&topic), reading.value)?,
            Event::Disconnected { reason } => say(&format!("connection lost: {reason}; reconnecting")),
            Event::Reconnected => say("connected again; readings published in the meantime are lost"),
            Event::Missed(count) => {
                say(&format!("this subscriber is too slow: it missed {count} readings"));
            }
        }
    }
    Ok(())
}

async fn dead_letters(args: &Args, redrive: bool) -> anyhow::Result<()> {
    let url = args.broker.url()?;
    let show = |letter: &DeadLetter| {
        let DeadLetter { id, error, attempts } = letter;
        writeln!(output(), "{} failed {attempts} times: {}", printable(id), printable(error))
    };
    let count = match args.broker.broker {
        Kind::RabbitMq => {
            let mut topology = args.broker.topology();
            topology.max_length = args.max_length.unwrap_or(topology.max_length);
            rabbitmq::worker::dead_letters(url, &topology, redrive, show).await?
        }
        Kind::Redis => redis::worker::dead_letters(url, &args.broker.keys(), redrive, show).await?,
    };
    let what = if redrive { "put back into the work queue" } else { "in all" };
    Ok(writeln!(output(), "{count} {what}")?)
}

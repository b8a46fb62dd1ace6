//! The programs of an experiment that run in processes of their own, so that they can be killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use message_queue::results::Results;
use message_queue::worker::{Queue, Worker};
use message_queue::{limits, rabbitmq, redis};
use tcp_socket::base::journal::{self, Journal};

use super::client::{Place, Request, micros, pause};
use super::rows::by_id;
use super::unsafe_clients::rabbitmq_automatic;
use crate::run::server::{owner_is_gone, until_owner_is_gone};

/// Time of silence after which another worker claims a Redis worker's jobs. The chapter's default, 30
/// seconds, would only make the experiment longer.
const CLAIM_AFTER: Duration = Duration::from_secs(2);

/// A worker, a server behind a broker, or a client.
#[derive(Debug, clap::Args)]
pub struct Program {
    /// Name of the program, or client: and the ID of a row
    name: String,
    /// Address to connect to, as host:port
    #[arg(long)]
    address: String,
    /// Prefix of all names on the broker
    #[arg(long)]
    prefix: String,
    /// Folder for the results of the jobs
    #[arg(long)]
    results: PathBuf,
    /// Time that each job takes, in milliseconds
    #[arg(long, default_value_t = 0)]
    work_time: u64,
    /// Number of calls that a client has in flight
    #[arg(long, default_value_t = 1)]
    in_flight: u64,
    #[command(flatten)]
    journal: Journal,
}

/// Runs a program until the process that started it is gone.
///
/// # Errors
/// If it can't connect or open its journal, or if there is no such program.
pub async fn run(options: &Program) -> anyhow::Result<()> {
    options.journal.open()?;
    let place = Place::new(options.address.clone(), options.prefix.clone());
    let ready = || println!("listening on {}", options.address);
    let shutdown = until_owner_is_gone();
    match options.name.split_once(':').map_or((&options.name[..], ""), |parts| parts) {
        ("rabbitmq_jobs", _) => {
            let prefetch = limits::rabbitmq::PREFETCH;
            let max_wait = limits::rabbitmq::MAX_WAIT;
            let (url, topology) = (place.amqp().into(), place.topology());
            work(options, rabbitmq::worker::WorkQueue { url, topology, prefetch, max_wait }).await
        }
        ("redis_jobs", _) => {
            let queue = redis::worker::WorkQueue {
                url: place.redis().into(),
                keys: place.keys(),
                name: redis::worker::random_name()?,
                claim_after: CLAIM_AFTER,
                remove_idle_after: limits::redis::REMOVE_IDLE_AFTER,
            };
            work(options, queue).await
        }
        ("rabbitmq_automatic", _) => {
            let work_time = Duration::from_millis(options.work_time);
            let work = rabbitmq_automatic::work(&place, work_time, ready);
            shutdown.run_until_cancelled(work).await.unwrap_or(Ok(()))
        }
        ("rabbitmq_requests", _) => {
            Ok(rabbitmq::server::serve(&place.amqp(), &place.topology(), &shutdown, ready).await?)
        }
        ("redis_requests", _) => {
            Ok(redis::server::serve(&place.redis(), &place.keys(), &shutdown, ready).await?)
        }
        ("client", row) => client(row, place, options.in_flight).await,
        (name, _) => bail!("there is no program {name:?}"),
    }
}

async fn work(options: &Program, queue: impl Queue) -> anyhow::Result<()> {
    let results = Results::open(&options.results)?;
    let worker = Worker { queue, results, work_time: Duration::from_millis(options.work_time) };
    let ready = || println!("listening on {}", options.address);
    Ok(worker.run(&until_owner_is_gone(), ready, |_attempt| Ok(())).await?)
}

/// Records readings until it is killed. Its journal has a line for each call.
async fn client(row: &str, place: Place, in_flight: u64) -> anyhow::Result<()> {
    let row = by_id(row).with_context(|| format!("there is no row {row:?}"))?;
    let address = place.address.clone();
    let (client, next) = ((row.connect)(place).await?, Arc::new(AtomicU64::new(0)));
    println!("listening on {address}");
    for _ in 0..in_flight {
        let (client, next) = (client.clone(), next.clone());
        tokio::spawn(async move {
            loop {
                let (number, started) = (next.fetch_add(1, Relaxed) + 1, micros());
                journal::append([format!("begun {number}")]);
                let told = client.record(number).await;
                let request = Request { number, started, ended: micros(), told };
                journal::append(serde_json::to_string(&request));
                pause(started).await;
            }
        });
    }
    owner_is_gone().await;
    Ok(())
}

//! One producer, one fault, and what became of its jobs.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use message_queue::brokers::{Cluster, Kind};
use message_queue::job::Job;
use message_queue::rabbitmq::connection::Deliveries;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker::message;
use message_queue::redis::names::KeyNames;
use message_queue::redis::producer::Producer;
use redis::streams::StreamRangeReply;
use serde::{Deserialize, Serialize};
use tokio::time::{interval, timeout};

use super::fault::{Fault, What};

/// Time before the fault.
const BEFORE: Duration = Duration::from_secs(2);

/// Maximum number of unconfirmed jobs on RabbitMQ.
const WINDOW: usize = 100;

/// Time between two steps of the producer. In each step, it publishes one job on RabbitMQ, or
/// [`PER_STEP`] on Redis.
const STEP: Duration = Duration::from_millis(1);

/// Number of jobs that a step publishes on Redis, where the producer sends 100 jobs together.
const PER_STEP: u64 = 4;

/// Time without a delivery after which a queue counts as empty.
const EMPTY_AFTER: Duration = Duration::from_secs(3);

/// The outcome of one experiment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The ID of the fault.
    pub fault: String,
    /// Number of jobs that the broker acknowledged to the producer: all that it published.
    pub acknowledged: u64,
    /// Number of those that are gone.
    pub lost: u64,
    /// Number of jobs that are there more than once.
    pub twice: u64,
    /// Longest time between two acknowledgements, in seconds.
    pub pause: f64,
    /// Time from the fault until the end of that pause, in seconds.
    pub recovery: f64,
}

/// Returns the memory of each node, in bytes, where the system reports it.
pub fn memory(cluster: &Cluster) -> Vec<(String, u64)> {
    let of = |name: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(name).ok()?.pid()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
    };
    let names = ["n1", "n2", "n3", "r1", "r2", "r3", "s1", "s2", "s3"];
    names.iter().filter_map(|name| Some(((*name).to_owned(), of(name)?))).collect()
}

enum Producing {
    RabbitMq(Box<Publisher>, Topology),
    Redis(Box<Producer>),
}

impl Producing {
    async fn step(&mut self, number: &mut u64) -> anyhow::Result<()> {
        let mut next = || {
            *number += 1;
            Job::example(format!("job-{number}"), *number)
        };
        match self {
            Self::RabbitMq(publisher, topology) => publisher.publish(message(topology, &next())?).await?,
            Self::Redis(producer) => {
                for _ in 0..PER_STEP {
                    producer.publish(&next()).await?;
                }
            }
        }
        Ok(())
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        match self {
            Self::RabbitMq(publisher, _) => publisher.flush().await?,
            Self::Redis(producer) => producer.flush().await?,
        }
        Ok(())
    }

    fn confirmed(&self) -> u64 {
        match self {
            Self::RabbitMq(publisher, _) => publisher.confirmed(),
            Self::Redis(producer) => producer.confirmed(),
        }
    }
}

fn locked(cluster: &Mutex<Cluster>) -> MutexGuard<'_, Cluster> {
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Publishes jobs, breaks something, and counts what is left in the queue. At the end, all nodes run.
pub(super) async fn run(
    cluster: &Arc<Mutex<Cluster>>,
    fault: &Fault,
    prefix: &str,
) -> anyhow::Result<Outcome> {
    let url = locked(cluster).url(fault.kind);
    let topology = Topology { prefix: prefix.to_owned(), max_length: 1_000_000, ..Topology::default() };
    let keys = KeyNames { prefix: prefix.to_owned() };
    let (mut producing, node) = match fault.kind {
        Kind::RabbitMq => {
            // The leader of a queue is on the node through which it is declared.
            drop(Publisher::connect(&url, topology.clone(), 1).await?);
            let mut nodes: Vec<_> = url.split(',').collect();
            nodes.rotate_left(usize::from(fault.connected - 1));
            let publisher = Publisher::connect(nodes.join(","), topology.clone(), WINDOW).await?;
            (Producing::RabbitMq(Box::new(publisher), topology.clone()), format!("n{}", fault.node))
        }
        Kind::Redis => {
            let producer = Producer::connect(&url, keys.clone(), usize::MAX).await?;
            let producer = producer.with_replicas(fault.replicas);
            (Producing::Redis(Box::new(producer)), locked(cluster).primary()?.to_owned())
        }
    };
    let mut outcome = publish(&mut producing, cluster, fault, &node).await?;
    drop(producing);
    repair(cluster, &node)?;
    let copies = match fault.kind {
        Kind::RabbitMq => drain(&url, &topology).await?,
        Kind::Redis => read(cluster, &keys).await?,
    };
    outcome.lost = outcome.acknowledged - copies.len() as u64;
    outcome.twice = copies.values().filter(|count| **count > 1).count() as u64;
    Ok(outcome)
}

async fn publish(
    producing: &mut Producing,
    cluster: &Arc<Mutex<Cluster>>,
    fault: &Fault,
    node: &str,
) -> anyhow::Result<Outcome> {
    let (mut number, mut confirmed, mut broken) = (0, 0, None);
    let (began, mut last, mut pause, mut recovery) =
        (Instant::now(), Instant::now(), Duration::ZERO, Duration::ZERO);
    let mut steps = interval(STEP);
    loop {
        steps.tick().await;
        if broken.is_none() && began.elapsed() > BEFORE {
            let (cluster, what, node) = (cluster.clone(), fault.what, node.to_owned());
            broken = Some((Instant::now(), thread::spawn(move || break_node(&cluster, what, &node))));
        }
        let done = broken.as_ref().is_some_and(|(at, _)| at.elapsed() > fault.time);
        if done {
            producing.flush().await?;
        } else {
            producing.step(&mut number).await?;
        }
        if producing.confirmed() > confirmed {
            confirmed = producing.confirmed();
            if let Some((at, _)) = &broken
                && last.elapsed() > pause
            {
                (pause, recovery) = (last.elapsed(), at.elapsed());
            }
            last = Instant::now();
        }
        if done {
            break;
        }
    }
    if let Some((_, breaking)) = broken {
        breaking.join().map_err(|_panic| anyhow::anyhow!("the fault panicked"))??;
    }
    let (pause, recovery) = (pause.as_secs_f64(), recovery.as_secs_f64());
    Ok(Outcome { fault: fault.id.into(), acknowledged: confirmed, lost: 0, twice: 0, pause, recovery })
}

fn break_node(cluster: &Mutex<Cluster>, what: What, node: &str) -> anyhow::Result<()> {
    match what {
        What::Killed => locked(cluster).kill(node)?,
        What::MostKilled(time) => {
            locked(cluster).kill(node)?;
            locked(cluster).kill("n2")?;
            thread::sleep(time);
            locked(cluster).start_again(node)?;
        }
        What::Frozen(time) => {
            locked(cluster).node(node)?.freeze();
            thread::sleep(time);
            locked(cluster).node(node)?.wake();
        }
    }
    Ok(())
}

/// Starts every node that was killed.
fn repair(cluster: &Mutex<Cluster>, node: &str) -> anyhow::Result<()> {
    for name in [node, "n2"] {
        let mut cluster = locked(cluster);
        if !cluster.is_running(name) {
            cluster.start_again(name)?;
        }
    }
    Ok(())
}

/// Takes all jobs from RabbitMQ. Returns how many copies of each job there were.
async fn drain(url: &str, topology: &Topology) -> anyhow::Result<HashMap<String, u64>> {
    let mut copies = HashMap::new();
    let mut deliveries = Deliveries::open(url, &topology.jobs(), 1_000, 500).await?;
    while let Ok(delivery) = timeout(EMPTY_AFTER, deliveries.next()).await {
        let delivery = delivery?;
        let id = Job::parse(&delivery.data).map_err(|error| anyhow::anyhow!("not a job: {error}"))?.id;
        *copies.entry(id).or_default() += 1;
        deliveries.done(delivery).await?;
    }
    deliveries.finish().await?;
    Ok(copies)
}

/// Reads all jobs of the current primary, and deletes them. Returns how many copies of each there were.
async fn read(cluster: &Mutex<Cluster>, keys: &KeyNames) -> anyhow::Result<HashMap<String, u64>> {
    let primary = {
        let cluster = locked(cluster);
        cluster.node(cluster.primary()?)?.url()
    };
    let mut connection = redis::Client::open(primary)?.get_multiplexed_async_connection().await?;
    let (mut copies, mut after) = (HashMap::new(), "-".to_owned());
    loop {
        let mut range = redis::cmd("XRANGE");
        range.arg(keys.jobs()).arg(&after).arg("+").arg("COUNT").arg(500);
        let page: StreamRangeReply = range.query_async(&mut connection).await?;
        let Some(last) = page.ids.last() else { break };
        after = format!("({}", last.id);
        for entry in &page.ids {
            let job: Vec<u8> = entry.get("job").context("an entry without a job")?;
            let id = Job::parse(&job).map_err(|error| anyhow::anyhow!("not a job: {error}"))?.id;
            *copies.entry(id).or_default() += 1;
        }
    }
    redis::cmd("UNLINK").arg(keys.jobs()).exec_async(&mut connection).await?;
    Ok(copies)
}

//! The producer: puts jobs into the work queue, or publishes readings.
//!
//! ```sh
//! cargo run -p message_queue --bin producer     # terminal 1
//! cargo run -p message_queue --bin consumer     # terminal 2, and 3, and 4
//! ```

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use message_queue::brokers::Kind;
use message_queue::cli::{BrokerArgs, logs};
use message_queue::job::Job;
use message_queue::model::{Metric, Reading};
use message_queue::{rabbitmq, redis};
use tcp_socket::base::program::{output, shutdown_signal};

/// Puts jobs into the work queue: each asks for the summary of a station's day.
/// Exits when the broker has confirmed all of them.
#[derive(Parser)]
#[command(name = "producer")]
struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    /// Number of jobs
    #[arg(long, default_value_t = 10)]
    count: u64,
    /// Number of further jobs that no worker can do
    #[arg(long, default_value_t = 0)]
    poison: u64,
    /// Prefix of the job IDs; jobs with the same IDs are duplicates
    #[arg(long)]
    batch: Option<String>,
    /// Maximum number of jobs in the queue; RabbitMQ fixes it when the queue is created
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    max_length: Option<u32>,
    /// Redis: confirm a job only when this many replicas have it, too
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    wait_replicas: u32,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Publish one reading to the current subscribers
    Publish {
        /// The station's ID (1 to 32 characters: a-z, 0-9, and -)
        station: String,
        /// temperature, humidity, pressure, or wind
        #[arg(value_parser = metric)]
        metric: Metric,
        /// The value, in °C, percent, hPa, or m/s
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
}

fn metric(name: &str) -> Result<Metric, &'static str> {
    Metric::from_name(name).ok_or("use temperature, humidity, pressure, or wind")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    args.broker.exit(run(&args).await)
}

async fn run(args: &Args) -> anyhow::Result<()> {
    logs()?;
    let shutdown = shutdown_signal()?;
    let work = async {
        match &args.command {
            None => jobs(args).await,
            Some(Command::Publish { station, metric, value }) => {
                let recorded_at = std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?;
                let recorded_at = u64::try_from(recorded_at.as_millis())?;
                publish(
                    args,
                    &Reading { station: station.clone(), metric: *metric, value: *value, recorded_at },
                )
                .await
            }
        }
    };
    // Ctrl-C drops this: an unconfirmed job may or may not be in the queue.
    match shutdown.run_until_cancelled(work).await {
        Some(ended) => ended,
        None => anyhow::bail!("interrupted; unconfirmed jobs may or may not be in the queue"),
    }
}

enum Producer {
    RabbitMq(Box<rabbitmq::producer::Publisher>),
    Redis(Box<redis::producer::Producer>),
}

impl Producer {
    fn confirmed(&self) -> u64 {
        match self {
            Self::RabbitMq(publisher) => publisher.confirmed(),
            Self::Redis(producer) => producer.confirmed(),
        }
    }
}

async fn jobs(args: &Args) -> anyhow::Result<()> {
    let (url, mut topology, keys) = (args.broker.url()?, args.broker.topology(), args.broker.keys());
    topology.max_length = args.max_length.unwrap_or(topology.max_length);
    let (mut producer, queue) = match args.broker.broker {
        Kind::RabbitMq => {
            let window = message_queue::limits::rabbitmq::WINDOW;
            let publisher = rabbitmq::producer::Publisher::connect(url, topology.clone(), window).await?;
            (Producer::RabbitMq(Box::new(publisher)), topology.jobs())
        }
        Kind::Redis => {
            let max = args.max_length.map_or(message_queue::limits::redis::MAX_LENGTH, |max| max as usize);
            let producer = redis::producer::Producer::connect(url, keys.clone(), max).await?;
            (Producer::Redis(Box::new(producer.with_replicas(args.wait_replicas))), keys.jobs())
        }
    };
    let batch = args.batch.clone().unwrap_or_else(|| format!("b{:07x}", fastrand::u32(..1 << 28)));
    let total = args.count + args.poison;
    let mut out = output();
    writeln!(out, "{total} jobs for {queue}: {batch}-1 to {batch}-{total}")?;
    let mut shown = 0;
    for number in 1..=total {
        let id = format!("{batch}-{number}");
        let job = if number > args.count { Job::poison(id, number) } else { Job::example(id, number) };
        match &mut producer {
            Producer::RabbitMq(publisher) => {
                publisher.publish(rabbitmq::worker::message(&topology, &job)?).await?;
            }
            Producer::Redis(producer) => producer.publish(&job).await?,
        }
        if producer.confirmed() / 1_000 > shown / 1_000 {
            shown = producer.confirmed();
            writeln!(out, "confirmed {shown} of {total}")?;
        }
    }
    match &mut producer {
        Producer::RabbitMq(publisher) => publisher.flush().await?,
        Producer::Redis(producer) => producer.flush().await?,
    }
    Ok(writeln!(out, "all confirmed: {}", producer.confirmed())?)
}

async fn publish(args: &Args, reading: &Reading) -> anyhow::Result<()> {
    let url = args.broker.url()?;
    let mut out = output();
    match args.broker.broker {
        Kind::RabbitMq => {
            let topology = args.broker.topology();
            let message = rabbitmq::publish_subscribe::message(&topology, reading)?;
            let key = message.routing_key.clone();
            let mut publisher = rabbitmq::producer::Publisher::connect(url, topology, 1).await?;
            publisher.publish(message).await?;
            publisher.flush().await?;
            Ok(writeln!(out, "published {key}")?)
        }
        Kind::Redis => {
            let mut publisher = redis::publish_subscribe::Publisher::connect(url, args.broker.keys()).await?;
            let heard = publisher.publish(std::slice::from_ref(reading)).await?;
            let heard: u64 = heard.iter().sum();
            let (station, metric) = (&reading.station, reading.metric.name());
            Ok(writeln!(out, "published {station}:{metric}; subscribers reached: {heard}")?)
        }
    }
}

//! The client of the message-queue chapter: a guided tour, or a single request.
//!
//! ```sh
//! cargo run -p message_queue --bin server     # terminal 1
//! cargo run -p message_queue --bin client     # terminal 2
//! ```

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use message_queue::brokers::Kind;
use message_queue::cli::{BrokerArgs, logs};
use message_queue::client::Client;
use message_queue::error::Error;
use message_queue::model::{Metric, Reading};
use tcp_socket::base::program::output;
use tcp_socket::base::text::printable;
use tcp_socket::base::tour::{StepByStep, simulate};

/// Sends requests to the weather server through a broker, and waits for the replies.
/// Without a subcommand, it runs a short guided tour and exits.
#[derive(Parser)]
#[command(name = "client")]
struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    /// In the tour, wait for Enter before each step
    #[arg(long)]
    step: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Record a reading of the station "simulated" every second, until Ctrl-C
    Simulate {
        /// Stop after this many readings
        #[arg(long)]
        count: Option<u64>,
    },
    /// Record one reading, with the current time
    Record {
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

/// Connects to a broker. The suffix becomes part of the prefix of all names on it.
async fn connect(args: &BrokerArgs, suffix: &str) -> anyhow::Result<Client> {
    let (mut topology, mut keys) = (args.topology(), args.keys());
    topology.prefix.push_str(suffix);
    keys.prefix.push_str(suffix);
    Ok(match args.broker {
        Kind::RabbitMq => Client::connect(args.url()?, topology).await?,
        Kind::Redis => Client::connect(args.url()?, keys).await?,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse();
    args.broker.exit(run(&args).await)
}

async fn run(args: &Args) -> anyhow::Result<()> {
    logs()?;
    let client = connect(&args.broker, "").await?;
    let out = &mut StepByStep::new(output(), args.step);
    match &args.command {
        None => tour(&args.broker, &client, out).await,
        Some(Command::Simulate { count }) => {
            let record = async |value, recorded_at| {
                let (station, metric) = ("simulated".to_owned(), Metric::Temperature);
                client.record(&[Reading { station, metric, value, recorded_at }]).await
            };
            simulate(*count, out, record).await
        }
        Some(Command::Record { station, metric, value }) => {
            let recorded_at = std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?;
            let recorded_at = u64::try_from(recorded_at.as_millis())?;
            let (station, metric, value) = (station.clone(), *metric, *value);
            let accepted = client.record(&[Reading { station, metric, value, recorded_at }]).await?;
            Ok(writeln!(out, "accepted {accepted}")?)
        }
    }
}

/// The tour. The README shows its output, and a test compares the two.
async fn tour(args: &BrokerArgs, client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    let reading = |metric, value, second: u64| Reading {
        station: "oslo-1".to_owned(),
        metric,
        value,
        recorded_at: 1_767_225_600_000 + second * 1000, // From 2026-01-01T00:00:00Z on.
    };

    let batch = [reading(Metric::Temperature, -3.5, 0), reading(Metric::Wind, 7.2, 1)];
    let accepted = client.record(&batch).await?; // If there is no server, print only the error.
    writeln!(
        out,
        "1. record a batch of two: a request to the servers' queue, with an address for the reply"
    )?;
    writeln!(out, "   accepted {accepted}")?;

    writeln!(out, "2. a hundred requests at once on one connection: each reply repeats its request's ID")?;
    let calls = (0..100_u64).map(|second| {
        let (client, reading) = (client.clone(), reading(Metric::Wind, 5.0, second));
        async move { client.record(&[reading]).await }
    });
    let accepted: usize = futures::future::try_join_all(calls).await?.into_iter().sum();
    writeln!(out, "   accepted {accepted}")?;

    writeln!(out, "3. one impossible value: the server refuses the whole batch")?;
    let batch = [reading(Metric::Wind, 1.0, 2), reading(Metric::Humidity, 130.0, 2)];
    match client.record(&batch).await {
        Err(refused @ Error::Refused { .. }) => {
            writeln!(out, "   {}", printable(&refused.to_string()))?;
        }
        Err(other) => return Err(other.into()),
        Ok(_) => anyhow::bail!("the server accepted a batch that it should refuse"),
    }

    writeln!(out, "4. a request that no server listens for: the error comes before any timeout")?;
    match connect(args, "-nobody").await?.record(&[reading(Metric::Wind, 1.0, 3)]).await {
        Err(no_server @ Error::NoServer(_)) => writeln!(out, "   {no_server}")?,
        Err(other) => return Err(other.into()),
        Ok(_) => anyhow::bail!("a reply came although no server should listen"),
    }
    Ok(())
}

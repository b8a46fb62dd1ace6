//! The client of the TCP chapter: a guided tour, or one command at a time.
//!
//! ```sh
//! cargo run -p tcp_socket --bin server     # terminal 1
//! cargo run -p tcp_socket --bin client     # terminal 2
//! ```

use std::io::{ErrorKind, Write, stderr};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use clap::{Parser, Subcommand};
use tcp_socket::base::tour::{StepByStep, simulate};
use tcp_socket::base::{program, tls};
use tcp_socket::{Client, Error, Metric, Reading};
use tokio::task::JoinSet;

mod tour;
mod watch;

/// Talks to the weather server over a protocol of our own. Without a subcommand, it runs a
/// short guided tour that shows each message byte by byte.
#[derive(Parser)]
#[command(name = "client")]
struct Args {
    /// Address of the server; you can leave out tcp:// and :7878, and tls:// encrypts
    #[arg(long, default_value = "tcp://127.0.0.1:7878", global = true)]
    url: String,
    #[command(flatten)]
    tls: tls::ClientOptions,
    /// In the tour, wait for Enter before each step
    #[arg(long)]
    step: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Record one reading, taken now
    Record {
        /// The station's ID, 1 to 32 characters: a-z, 0-9, and -
        station: String,
        /// temperature, humidity, pressure, or wind
        #[arg(value_parser = metric)]
        metric: Metric,
        /// The value in °C, percent, hPa, or m/s
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
    /// Show a station's readings as they are recorded, until Ctrl-C
    Watch {
        /// The station's ID; the server must already have a reading for it
        station: String,
        /// Stop after this many readings
        #[arg(long)]
        count: Option<u64>,
    },
    /// Record a reading of the station "simulated" every second, until Ctrl-C
    Simulate {
        /// Stop after this many readings
        #[arg(long)]
        count: Option<u64>,
    },
    /// Check that the server responds, and how quickly
    Ping {
        /// Number of pings to send
        #[arg(long, default_value_t = 4)]
        count: u32,
    },
    /// Record many readings for the station "flood", with many requests in flight
    Flood {
        /// Number of requests, each with one batch
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
        requests: u32,
        /// Number of requests in flight at a time, 1 to 256
        #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
        in_flight: u32,
        /// Number of readings in a batch, 1 to 10,000
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        batch: u32,
    },
}

fn metric(name: &str) -> Result<Metric, &'static str> {
    Metric::from_name(name).ok_or("use temperature, humidity, pressure, or wind")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    program::finish(run(Args::parse()).await.map_err(|error| match error.downcast_ref() {
        Some(Error::Unreachable { url, source }) if source.kind() == ErrorKind::ConnectionRefused => {
            let option = if url.starts_with("tls:") { " -- --tls" } else { "" };
            anyhow!("no server at {url}; start one with: cargo run -p tcp_socket --bin server{option}")
        }
        _ => error,
    }))
}

async fn run(args: Args) -> anyhow::Result<()> {
    program::start_logs("info")?;
    let mut out = StepByStep::new(program::output(), args.step);
    let Some(command) = args.command else { return tour::tour(&args.url, &args.tls, &mut out).await };
    let client = Client::connect_with_tls(&args.url, &args.tls).await?;
    match command {
        Command::Record { station, metric, value } => {
            let accepted = client.record(&[Reading { station, metric, value, recorded_at: now()? }]).await?;
            writeln!(out, "accepted {accepted}")?;
        }
        Command::Watch { station, count } => {
            watch::watch(&client, &station, count, &mut out, &mut stderr()).await?;
        }
        Command::Simulate { count } => {
            let record = async |value, recorded_at| {
                let (station, metric) = ("simulated".to_owned(), Metric::Temperature);
                client.record(&[Reading { station, metric, value, recorded_at }]).await
            };
            simulate(count, &mut out, record).await?;
        }
        Command::Ping { count } => {
            for _ in 0..count {
                writeln!(out, "answered in {:.1?}", client.ping().await?)?;
            }
        }
        Command::Flood { requests, in_flight, batch } => {
            flood(&client, requests, in_flight, batch, &mut out).await?;
        }
    }
    client.close().await;
    Ok(())
}

async fn flood(
    client: &Client,
    requests: u32,
    in_flight: u32,
    batch: u32,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let reading = Reading { station: "flood".into(), metric: Metric::Wind, value: 7.0, recorded_at: now()? };
    let batch = vec![reading; batch as usize];
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..in_flight {
        let (client, batch) = (client.clone(), batch.clone());
        callers.spawn(async move {
            let mut accepted = 0;
            for _ in (caller..requests).step_by(in_flight as usize) {
                accepted += client.record(&batch).await?;
            }
            Ok::<usize, Error>(accepted)
        });
    }
    let mut accepted = 0;
    while let Some(caller) = callers.join_next().await {
        accepted += caller??;
    }
    let took = started.elapsed();
    let rate = f64::from(requests) / took.as_secs_f64();
    writeln!(
        out,
        "{accepted} readings in {requests} requests, {in_flight} at a time: {took:.1?}, {rate:.0} requests/s"
    )?;
    ensure!(accepted == requests as usize * batch.len(), "the server accepted only {accepted} readings");
    Ok(())
}

fn now() -> anyhow::Result<u64> {
    let since = std::time::UNIX_EPOCH.elapsed().context("the system clock is set to a time before 1970")?;
    Ok(u64::try_from(since.as_millis())?)
}

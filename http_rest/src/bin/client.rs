//! The client of the HTTP/REST chapter: a guided tour, or one thing at a time.
//!
//! ```sh
//! cargo run -p http_rest --bin server     # terminal 1
//! cargo run -p http_rest --bin client     # terminal 2
//! ```

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use http_rest::client::{Client, Error};
use http_rest::model::{Metric, Reading};

/// Talks to the weather server over HTTP/1.1. Without a subcommand it takes you
/// on a tour: what is sent, and what comes back.
#[derive(Parser)]
#[command(name = "client")]
struct Args {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8080", global = true)]
    url: String,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Record one reading, taken now
    Record {
        /// The station's id: 1 to 32 of a-z, 0-9 and -
        station: String,
        /// temperature, humidity, pressure or wind
        #[arg(value_parser = |name: &str| Metric::from_name(name).ok_or("one of temperature, humidity, pressure, wind"))]
        metric: Metric,
        /// In °C, percent, hPa or m/s
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
    /// Show the newest readings of a station
    Readings {
        /// The station's id
        station: String,
        /// How many, 1 to 500
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match error.downcast_ref() {
                Some(Error::Unreachable { base, .. }) => {
                    eprintln!(
                        "error: no server at {base}; start one with: cargo run -p http_rest --bin server"
                    );
                }
                _ => eprintln!("error: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::new(&args.url)?;
    let mut out = stdout();
    match args.command {
        None => tour(&client, &mut out).await,
        Some(Command::Record { station, metric, value }) => {
            let recorded_at = std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?;
            let recorded_at = u64::try_from(recorded_at.as_millis())?;
            let accepted = client.record(&[Reading { station, metric, value, recorded_at }]).await?;
            writeln!(out, "accepted {accepted}")?;
            Ok(())
        }
        Some(Command::Readings { station, limit }) => {
            for reading in client.readings(&station, limit).await? {
                writeln!(out, "{}", serde_json::to_string(&reading)?)?;
            }
            Ok(())
        }
    }
}

/// The tour. Its output stands in the README, and a test compares the two.
async fn tour(client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    let reading = |metric, value, second: u64| Reading {
        station: "oslo-1".to_owned(),
        metric,
        value,
        recorded_at: 1_767_225_600_000 + second * 1000, // 2026-01-01T00:00:00Z and on
    };

    writeln!(out, "1. POST /readings: record a batch of two")?;
    let batch = [reading(Metric::Temperature, -3.5, 0), reading(Metric::Wind, 7.2, 1)];
    let accepted = client.record(&batch).await?;
    writeln!(out, "   200: {accepted} accepted")?;

    writeln!(out, "2. GET /readings?station=oslo-1&limit=2: read them back")?;
    for reading in client.readings("oslo-1", 2).await? {
        writeln!(out, "   {}", serde_json::to_string(&reading)?)?;
    }

    writeln!(out, "3. POST /readings: a batch with an impossible value; nothing of it is kept")?;
    show(
        out,
        client.record(&[reading(Metric::Temperature, 1.0, 2), reading(Metric::Humidity, 130.0, 2)]).await,
    )?;

    writeln!(out, "4. GET /readings?station=atlantis: a station that nobody has heard of")?;
    show(out, client.readings("atlantis", 1).await)?;
    Ok(())
}

/// Prints the problem that a deliberate mistake was answered with; anything
/// else ends the tour.
fn show<T>(out: &mut impl Write, answer: Result<T, Error>) -> anyhow::Result<()> {
    match answer {
        Err(Error::Problem(problem)) => Ok(writeln!(out, "   {problem}")?),
        Err(other) => Err(other.into()),
        Ok(_) => anyhow::bail!("the server accepted what it should refuse"),
    }
}

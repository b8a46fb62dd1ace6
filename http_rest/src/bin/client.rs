//! The client of the HTTP/REST chapter: a guided tour, or a single command.
//!
//! ```sh
//! cargo run -p http_rest --bin server     # terminal 1
//! cargo run -p http_rest --bin client     # terminal 2
//! ```

use std::io::{Write, stderr};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args as Arguments, Parser, Subcommand};
use futures::TryStreamExt;
use http_rest::client::{LiveEvent, Page, ReadingQuery, Versioned};
use http_rest::limits::MAX_LIMIT;
use http_rest::protocol::model::{Gap, StationPatch};
use http_rest::{Client, Error, Metric, Reading, Station};
use serde::Serialize;
use tcp_socket::base::text::printable;
use tcp_socket::base::tour::{StepByStep, simulate};
use tcp_socket::base::{program, tls};

/// Talks to the weather server over HTTP/1.1. Without a subcommand, it runs a short
/// guided tour of requests and their responses.
#[derive(Parser)]
#[command(name = "client")]
struct Args {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8080", global = true)]
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
    /// List, read, and change stations
    #[command(subcommand)]
    Stations(Stations),
    /// Record one reading, taken now
    Record {
        /// The station's ID (1 to 32 characters: a-z, 0-9, and -)
        station: String,
        /// temperature, humidity, pressure, or wind
        #[arg(value_parser = metric)]
        metric: Metric,
        /// Value in °C, percent, hPa, or m/s
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
    /// Record a reading of the station "simulated" every second, until Ctrl-C
    Simulate {
        /// Stop after this many readings
        #[arg(long)]
        count: Option<u64>,
    },
    /// Show a station's readings, latest recorded first
    Readings {
        /// The station's ID
        station: String,
        /// Show only temperature, humidity, pressure, or wind
        #[arg(long, value_parser = metric)]
        metric: Option<Metric>,
        /// Start of the time range, in ms since the Unix epoch
        #[arg(long, value_name = "MILLISECONDS")]
        from: Option<u64>,
        /// End of the time range (exclusive), in ms since the Unix epoch
        #[arg(long, value_name = "MILLISECONDS")]
        to: Option<u64>,
        /// Maximum number of readings to show
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Show readings as they are recorded, until Ctrl-C
    Watch {
        /// Show only this station's readings
        station: Option<String>,
    },
}

#[derive(Subcommand)]
enum Stations {
    /// Show all stations
    List,
    /// Show a station and its version
    Get {
        /// The station's ID
        id: String,
    },
    /// Create a station
    Create {
        /// Its ID (1 to 32 characters: a-z, 0-9, and -)
        id: String,
        /// Its name
        name: String,
        #[command(flatten)]
        position: Position,
    },
    /// Change some fields of a station
    Update {
        /// The station's ID
        id: String,
        /// A new name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        position: Position,
        /// ETag of the version that you have seen; by default, the current one
        #[arg(long)]
        etag: Option<String>,
    },
    /// Delete a station and its readings
    Delete {
        /// The station's ID
        id: String,
        /// ETag of the version that you have seen; by default, the current one
        #[arg(long)]
        etag: Option<String>,
    },
}

#[derive(Arguments)]
struct Position {
    /// Degrees north, -90 to 90
    #[arg(long, allow_negative_numbers = true)]
    latitude: Option<f64>,
    /// Degrees east, -180 to 180
    #[arg(long, allow_negative_numbers = true)]
    longitude: Option<f64>,
}

fn metric(name: &str) -> Result<Metric, &'static str> {
    Metric::from_name(name).ok_or("must be temperature, humidity, pressure, or wind")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let result = run(Args::parse()).await.map_err(|error| match error.downcast_ref() {
        Some(Error::Unreachable { url, .. }) => {
            let option = if url.starts_with("https:") { " -- --tls" } else { "" };
            anyhow::anyhow!("no server at {url}; start one with: cargo run -p http_rest --bin server{option}")
        }
        _ => error,
    });
    program::finish(result)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::with_tls(&args.url, &args.tls)?;
    let out = &mut StepByStep::new(program::output(), args.step);
    match args.command {
        None => tour(&client, out).await,
        Some(Command::Stations(command)) => stations(&client, command, out).await,
        Some(Command::Record { station, metric, value }) => {
            let recorded_at =
                std::time::UNIX_EPOCH.elapsed().context("the system clock shows a time before 1970")?;
            let recorded_at = u64::try_from(recorded_at.as_millis())?;
            let accepted = client.record(&[Reading { station, metric, value, recorded_at }]).await?;
            Ok(writeln!(out, "accepted {accepted}")?)
        }
        Some(Command::Simulate { count }) => {
            let record = async |value, recorded_at| {
                let (station, metric) = ("simulated".to_owned(), Metric::Temperature);
                client.record(&[Reading { station, metric, value, recorded_at }]).await
            };
            simulate(count, out, record).await
        }
        Some(Command::Readings { station, metric, from, to, limit }) => {
            let limit_of_page = Some(limit.clamp(1, MAX_LIMIT));
            let query = ReadingQuery { station, metric, from, to, limit: limit_of_page, cursor: None };
            let first = client.readings(&query).await?;
            pages(out, first, limit, async |next| client.more_readings(&next).await).await
        }
        Some(Command::Watch { station }) => watch(&client, station.as_deref(), out).await,
    }
}

/// Prints readings to stdout, and notes about the connection to stderr.
async fn watch(client: &Client, station: Option<&str>, out: &mut impl Write) -> anyhow::Result<()> {
    let mut watch = client.watch(station).await?;
    let mut returning = false;
    while let Some(event) = watch.try_next().await? {
        let note = match &event {
            LiveEvent::Disconnected { reason } => {
                format!("connection lost: {}; reconnecting", printable(reason))
            }
            LiveEvent::NothingMissed => "connected again; nothing was missed".to_owned(),
            LiveEvent::Gap(Gap { missed: None }) => {
                "connected again; the server restarted and has forgotten earlier readings".to_owned()
            }
            LiveEvent::Gap(Gap { missed: Some(missed) }) if returning => {
                format!("connected again; {missed} readings were missed")
            }
            LiveEvent::Gap(Gap { missed: Some(missed) }) => format!("{missed} readings were missed"),
            LiveEvent::Reading(_) if returning => "connected again; here is what was missed".to_owned(),
            LiveEvent::Reading(_) => String::new(),
        };
        if !note.is_empty() {
            // `eprintln!` would panic if nobody reads stderr anymore.
            let _ = writeln!(stderr(), "{note}");
        }
        returning = matches!(event, LiveEvent::Disconnected { .. });
        if let LiveEvent::Reading(reading) = &event {
            line(out, reading)?;
        }
    }
    Ok(())
}

async fn stations(client: &Client, command: Stations, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Stations::List => {
            let first = client.stations(MAX_LIMIT).await?;
            pages(out, first, usize::MAX, async |next| client.more_stations(&next).await).await
        }
        Stations::Get { id } => versioned(out, &client.station(&id).await?),
        Stations::Create { id, name, position: Position { latitude, longitude } } => {
            versioned(out, &client.create_station(&Station { id, name, latitude, longitude }).await?)
        }
        Stations::Update { id, name, position, etag } => {
            let etag = seen_or_current(client, &id, etag).await?;
            let patch = StationPatch {
                name,
                latitude: position.latitude.map(Some),
                longitude: position.longitude.map(Some),
            };
            versioned(out, &client.patch_station(&id, &patch, &etag).await?)
        }
        Stations::Delete { id, etag } => {
            let etag = seen_or_current(client, &id, etag).await?;
            client.delete_station(&id, &etag).await?;
            Ok(writeln!(out, "deleted")?)
        }
    }
}

async fn seen_or_current(client: &Client, id: &str, seen: Option<String>) -> Result<String, Error> {
    match seen {
        Some(etag) => Ok(etag),
        None => Ok(client.station(id).await?.etag),
    }
}

fn line(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    Ok(writeln!(out, "{}", serde_json::to_string(value)?)?)
}

fn versioned(out: &mut impl Write, station: &Versioned<Station>) -> anyhow::Result<()> {
    line(out, &station.value)?;
    Ok(writeln!(out, "ETag {}", station.etag)?)
}

/// Prints up to `limit` items of a list, page after page.
async fn pages<T: Serialize, F: Future<Output = Result<Page<T>, Error>>>(
    out: &mut impl Write,
    mut page: Page<T>,
    mut limit: usize,
    more: impl Fn(String) -> F,
) -> anyhow::Result<()> {
    loop {
        for item in page.items.iter().take(limit) {
            line(out, item)?;
        }
        limit = limit.saturating_sub(page.items.len());
        match page.next {
            Some(next) if limit > 0 => page = more(next).await?,
            _ => return Ok(()),
        }
    }
}

/// The tour. The README shows parts of its output, and a test compares the two.
async fn tour(client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    // An earlier tour may have been interrupted.
    match client.station("oslo-1").await {
        Ok(left) => client.delete_station("oslo-1", &left.etag).await?,
        Err(error) if error.status() == Some(404) => {}
        // Report it before the tour announces a step that would fail in the same way.
        Err(error) => return Err(error.into()),
    }

    writeln!(out, "1. POST /stations: create a station; the response's ETag names its version")?;
    let station =
        Station { id: "oslo-1".into(), name: "Oslo".into(), latitude: Some(59.94), longitude: None };
    let created = client.create_station(&station).await?;
    show(out, 201, &created)?;

    writeln!(out, "2. GET /stations/oslo-1: read it")?;
    show(out, 200, &client.station("oslo-1").await?)?;

    writeln!(out, "3. GET again with If-None-Match: has it changed since?")?;
    match client.station_if_changed("oslo-1", &created.etag).await? {
        None => writeln!(out, "   304: no, and the body was not sent again")?,
        Some(changed) => show(out, 200, &changed)?,
    }

    writeln!(out, "4. PATCH with If-Match: add the longitude, unless the station has changed meanwhile")?;
    let patch = StationPatch { longitude: Some(Some(10.72)), ..StationPatch::default() };
    let patched = client.patch_station("oslo-1", &patch, &created.etag).await?;
    show(out, 200, &patched)?;

    writeln!(out, "5. PUT with the ETag of step 1: the server refuses, as this would undo step 4")?;
    refused(out, client.replace_station(&created.value, &created.etag).await)?;

    writeln!(out, "6. POST /readings: record a batch of two")?;
    let reading = |metric, value, second: u64| Reading {
        station: "oslo-1".to_owned(),
        metric,
        value,
        recorded_at: 1_767_225_600_000 + second * 1000, // From 2026-01-01T00:00:00Z on.
    };
    let accepted =
        client.record(&[reading(Metric::Temperature, -3.5, 0), reading(Metric::Wind, 7.2, 1)]).await?;
    writeln!(out, "   200: accepted {accepted}")?;

    writeln!(out, "7. GET /readings?station=oslo-1: read them back, the latest recorded first")?;
    let query = ReadingQuery { station: "oslo-1".into(), ..ReadingQuery::default() };
    for reading in client.readings(&query).await?.items {
        write!(out, "   ")?;
        line(out, &reading)?;
    }

    writeln!(out, "8. POST /readings: one value is impossible, so none of the batch is recorded")?;
    refused(out, client.record(&[reading(Metric::Wind, 1.0, 2), reading(Metric::Humidity, 130.0, 2)]).await)?;

    writeln!(out, "9. DELETE with If-Match: delete the station")?;
    client.delete_station("oslo-1", &patched.etag).await?;
    writeln!(out, "   204: deleted")?;

    writeln!(out, "10. GET /stations/oslo-1: it no longer exists")?;
    refused(out, client.station("oslo-1").await)
}

fn show(out: &mut impl Write, status: u16, station: &Versioned<Station>) -> anyhow::Result<()> {
    write!(out, "   {status}, ETag {}: ", station.etag)?;
    line(out, &station.value)
}

/// Prints the problem with which the server responded to a request that it should refuse. Any
/// other result ends the tour.
fn refused<T>(out: &mut impl Write, result: Result<T, Error>) -> anyhow::Result<()> {
    match result {
        Err(Error::Problem(problem)) => {
            let body = serde_json::to_string_pretty(&problem)?;
            Ok(writeln!(out, "   {}", body.replace('\n', "\n   "))?)
        }
        Err(other) => Err(other.into()),
        Ok(_) => anyhow::bail!("the server accepted a request that it should have refused"),
    }
}

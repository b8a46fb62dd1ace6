//! The client of the gRPC chapter: a guided tour, or one call at a time.
//!
//! ```sh
//! cargo run -p grpc --bin server     # terminal 1
//! cargo run -p grpc --bin client     # terminal 2
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write, stderr, stdin};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use futures::stream::{self, TryStreamExt};
use grpc::client::{self, Monitoring};
use grpc::proto::monitor_response::Event;
use grpc::proto::threshold::Bound;
use grpc::proto::watch_request::Start;
use grpc::proto::{Metric, Reading, RecordedReading, Threshold, UploadResponse};
use grpc::{Client, Error, Options};
use tcp_socket::base::text::printable;
use tcp_socket::base::tour::{StepByStep, simulate};
use tcp_socket::base::{program, tls};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Calls the weather server over gRPC. Without a subcommand, it runs a short guided tour
/// of the four kinds of call and exits.
#[derive(Parser)]
#[command(name = "client")]
struct Args {
    /// Address of the server; repeat it, or separate addresses by commas, to spread the calls over
    /// several servers
    #[arg(long, default_value = "http://127.0.0.1:50051", value_delimiter = ',', global = true)]
    url: Vec<String>,
    /// Token to send as the metadata "authorization: Bearer TOKEN"
    #[arg(long, global = true)]
    token: Option<String>,
    /// Compress messages; start the server with --gzip, too
    #[arg(long, global = true)]
    gzip: bool,
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
    /// Record one reading, with the current time
    Record {
        /// The station's ID, 1 to 32 characters: a-z, 0-9, and -
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
    /// Show a station's readings as they are recorded, until Ctrl-C
    Watch {
        /// The station's ID
        station: String,
        /// Begin with this many of the newest readings
        #[arg(long, default_value_t = 0)]
        newest: u32,
        /// Stop after this many seconds
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
        deadline: Option<u32>,
    },
    /// Upload the readings in a file, as one stream
    Upload {
        /// File with one reading per line: station,metric,value,recorded_at (ms since
        /// 1970)
        file: PathBuf,
    },
    /// Read commands from stdin, such as "add hot oslo-1 temperature above 30" and
    /// "remove hot", and print alerts
    Monitor,
}

fn metric(name: &str) -> Result<Metric, &'static str> {
    Metric::from_name(name).ok_or("use temperature, humidity, pressure, or wind")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    program::finish(run(Args::parse()).await.map_err(|error| match error.downcast_ref() {
        // Only the last cause in the transport's chain says anything new.
        Some(failed @ Error::Unreachable { url, .. }) => match failed.disconnect_reason() {
            Some(reason) if !is_refused(&error) => anyhow!("no server at {url}: {reason}"),
            _ => {
                let option = if url.starts_with("https:") { " -- --tls" } else { "" };
                anyhow!("no server at {url}; start one with: cargo run -p grpc --bin server{option}")
            }
        },
        _ => error,
    }))
}

/// Returns whether the host refused the connection, which means that no program listens
/// on the port.
fn is_refused(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::ConnectionRefused)
}

/// Reports on stderr what happens to the connection, since stdout is for data.
fn note(text: &str) {
    // `eprintln!` would panic if nobody reads stderr anymore.
    let _ = writeln!(stderr(), "{}", printable(text));
}

async fn run(args: Args) -> anyhow::Result<()> {
    let Args { url, token, gzip, tls, step, command } = args;
    let client = Client::balanced(&url, &Options { token, gzip, tls, ..Options::default() })?;
    let mut out = StepByStep::new(program::output(), step);
    match command {
        None => tour(&client, &mut out).await,
        Some(Command::Record { station, metric, value }) => {
            let recorded_at =
                std::time::UNIX_EPOCH.elapsed().context("the system clock is set to a time before 1970")?;
            let recorded_at = u64::try_from(recorded_at.as_millis())?;
            let accepted =
                client.record(&[Reading { station, metric: metric.into(), value, recorded_at }]).await?;
            writeln!(out, "accepted {accepted}")?;
            Ok(())
        }
        Some(Command::Simulate { count }) => {
            let record = async |value, recorded_at| {
                let (station, metric) = ("simulated".to_owned(), Metric::Temperature.into());
                client.record(&[Reading { station, metric, value, recorded_at }]).await
            };
            simulate(count, &mut out, record).await
        }
        Some(Command::Watch { station, newest, deadline }) => {
            let deadline = deadline.map(|seconds| Instant::now() + Duration::from_secs(seconds.into()));
            let mut watching = client.watch(&station, Some(Start::Newest(newest)), deadline).await?;
            while let Some(event) = watching.try_next().await? {
                match event {
                    client::Event::Recorded(recorded) => writeln!(out, "{}", line(&recorded))?,
                    client::Event::Disconnected(reason) => {
                        note(&format!("connection lost: {reason}; reconnecting"));
                    }
                    client::Event::Reconnected(missed) => note(&format!("connected again; {missed}")),
                }
            }
            Ok(())
        }
        Some(Command::Upload { file }) => upload(&client, &file, &mut out).await,
        Some(Command::Monitor) => monitor(client.monitor().await?, &mut out).await,
    }
}

async fn upload(client: &Client, path: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let file = BufReader::new(File::open(path).with_context(|| path.display().to_string())?);
    // The stream can carry only readings, so the first invalid line ends it. The error in
    // that line is kept here, and reported after the summary of the lines before.
    let wrong = Arc::new(Mutex::new(None));
    let found = wrong.clone();
    let readings = file.lines().enumerate().map_while(move |(index, line)| {
        let reading = line.map_err(Into::into).and_then(|line| parse(&line));
        reading
            .map_err(|error| {
                *found.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(error.context(format!("line {}", index + 1)));
            })
            .ok()
    });
    let summary = client.upload(stream::iter(readings), None).await?;
    show_summary(out, "", &summary)?;
    match wrong.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(error) => Err(error.context(format!("stopped sending {}", path.display()))),
        None => Ok(()),
    }
}

/// Parses a line `station,metric,value,recorded_at`. The server checks the values.
fn parse(line: &str) -> anyhow::Result<Reading> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [station, name, value, recorded_at] = fields[..] else {
        bail!("expected the 4 fields station,metric,value,recorded_at, but found {}", fields.len());
    };
    Ok(Reading {
        station: station.to_owned(),
        metric: metric(name).map_err(anyhow::Error::msg).context("metric")?.into(),
        value: value.parse().context("value")?,
        recorded_at: recorded_at.parse().context("recorded_at")?,
    })
}

async fn monitor(mut monitoring: Monitoring, out: &mut impl Write) -> anyhow::Result<()> {
    let (send, mut lines) = mpsc::channel(1);
    // Reading from a terminal blocks. On its own thread, it does not hold up the alerts.
    std::thread::spawn(move || {
        for line in stdin().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                break;
            }
        }
    });
    let mut open = true;
    loop {
        // Cancel safe: a line or event that is not received stays in its channel or
        // stream.
        select! {
            line = lines.recv(), if open => match line.as_deref() {
                None => {
                    open = false;
                    monitoring.finish();
                }
                Some(line) => match line.split_whitespace().collect::<Vec<_>>()[..] {
                    ["add", id, station, name, above_or_below, bound] => {
                        match threshold(id, station, name, above_or_below, bound) {
                            Ok(threshold) => ignore_ended(monitoring.add(threshold).await)?,
                            Err(error) => writeln!(out, "{error:#}")?,
                        }
                    }
                    ["remove", id] => ignore_ended(monitoring.remove(id).await)?,
                    [] => {}
                    _ => writeln!(out, "use: add ID STATION METRIC above|below VALUE, or: remove ID")?,
                },
            },
            event = monitoring.try_next() => match event {
                Ok(Some(event)) => show_event(out, "", &event)?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    // If stdin has ended, the call was about to end, too, so the client
                    // does not reconnect.
                    let reason = error.disconnect_reason().filter(|_| open).ok_or(error)?;
                    note(&format!("connection lost: {reason}; reconnecting"));
                    monitoring.reconnect().await?;
                    note("connected again; alerts for readings recorded in the meantime were missed");
                }
            },
        }
    }
}

/// Ignores the error that says that the call has ended: `Monitoring` keeps the request, and
/// its `reconnect` sends it again.
fn ignore_ended(sent: Result<(), Error>) -> Result<(), Error> {
    match sent {
        Err(Error::Ended) => Ok(()),
        other => other,
    }
}

fn threshold(id: &str, station: &str, name: &str, side: &str, bound: &str) -> anyhow::Result<Threshold> {
    let value = bound.parse().context("bound")?;
    let bound = match side {
        "above" => Bound::Above(value),
        "below" => Bound::Below(value),
        _ => bail!("use above or below, not {side}"),
    };
    let metric = metric(name).map_err(anyhow::Error::msg).context("metric")?.into();
    Ok(Threshold { id: id.to_owned(), station: station.to_owned(), metric, bound: Some(bound) })
}

/// Runs the tour. The README shows parts of its output, and a test compares them.
async fn tour(client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    let reading = |metric: Metric, value, second: u64| Reading {
        station: "oslo-1".to_owned(),
        metric: metric.into(),
        value,
        recorded_at: 1_767_225_600_000 + second * 1000, // 2026-01-01T00:00:00Z and later
    };

    let batch = [reading(Metric::Temperature, -3.5, 0), reading(Metric::Wind, 7.2, 1)];
    let accepted = client.record(&batch).await?; // Announce nothing if there is no server.
    writeln!(out, "1. Record, unary: a batch of two")?;
    writeln!(out, "   OK: accepted {accepted}")?;

    writeln!(
        out,
        "2. Watch, server streaming: the two newest readings, each after its number, then new ones"
    )?;
    let mut watching = client.watch("oslo-1", Some(Start::Newest(2)), None).await?;
    client.record(&[reading(Metric::Temperature, -3.4, 2)]).await?;
    for _ in 0..3 {
        let recorded = watching.next_reading().await?.context("the stream ended")?;
        writeln!(out, "   {}", line(&recorded))?;
    }

    writeln!(out, "3. Upload, client streaming: four readings, one of them impossible")?;
    let values = [-3.3, -3.2, 999.0, -3.1];
    let readings: Vec<_> = values
        .into_iter()
        .zip(3..)
        .map(|(value, second)| reading(Metric::Temperature, value, second))
        .collect();
    show_summary(out, "   OK: ", &client.upload(stream::iter(readings), None).await?)?;

    writeln!(out, "4. Monitor, bidirectional: add a threshold, exceed it, remove it")?;
    let mut monitoring = client.monitor().await?;
    monitoring.add(threshold("storm", "oslo-1", "wind", "above", "25")?).await?;
    show_event(out, "   ", &monitoring.try_next().await?.context("the stream ended")?)?;
    client.record(&[reading(Metric::Wind, 31.0, 7)]).await?;
    show_event(out, "   ", &monitoring.try_next().await?.context("the stream ended")?)?;
    monitoring.remove("storm").await?;
    show_event(out, "   ", &monitoring.try_next().await?.context("the stream ended")?)?;
    monitoring.finish();
    while monitoring.try_next().await?.is_some() {}
    writeln!(out, "   OK")?;

    writeln!(out, "5. Record: a batch with an impossible value, so none of it is kept")?;
    let batch = [reading(Metric::Temperature, 1.0, 8), reading(Metric::Humidity, 130.0, 8)];
    show_failure(out, client.record(&batch).await)?;

    writeln!(out, "6. Watch: a station that the server does not know")?;
    show_failure(out, client.watch("atlantis", None, None).await)?;

    writeln!(out, "7. Watch: a deadline of 200 ms, and no reading arrives")?;
    let deadline = Instant::now() + Duration::from_millis(200);
    let mut quiet = client.watch("oslo-1", None, Some(deadline)).await?;
    show_failure(out, quiet.next_reading().await)?;

    writeln!(out, "8. The Watch of step 2: the client drops it, which cancels the call")?;
    drop(watching);
    Ok(())
}

fn line(recorded: &RecordedReading) -> String {
    match &recorded.reading {
        Some(Reading { station, metric, value, recorded_at }) => {
            let metric = Metric::try_from(*metric).unwrap_or_default().name();
            let station = printable(station);
            format!("{}: {station} {metric} {value} at {recorded_at}", recorded.sequence)
        }
        None => format!("{}: no reading", recorded.sequence),
    }
}

fn show_summary(out: &mut impl Write, indent: &str, summary: &UploadResponse) -> anyhow::Result<()> {
    writeln!(out, "{indent}accepted {}, rejected {}", summary.accepted, summary.rejected)?;
    let indent = " ".repeat(indent.len().min(3));
    for rejection in &summary.rejections {
        let (field, description) = (printable(&rejection.field), printable(&rejection.description));
        writeln!(out, "{indent}message {}: {field} {description}", rejection.index)?;
    }
    Ok(())
}

fn show_event(out: &mut impl Write, indent: &str, event: &Event) -> anyhow::Result<()> {
    match event {
        Event::Added(id) => writeln!(out, "{indent}added {}", printable(id))?,
        Event::Removed(id) => writeln!(out, "{indent}removed {}", printable(id))?,
        Event::Refused(refusal) => {
            let (field, description) = (printable(&refusal.field), printable(&refusal.description));
            writeln!(out, "{indent}refused: {field} {description}")?;
        }
        Event::Alert(alert) => {
            let line = alert.recorded.as_ref().map(line).unwrap_or_default();
            writeln!(out, "{indent}alert {}: {line}", printable(&alert.id))?;
        }
    }
    Ok(())
}

/// Prints the status of a call that is meant to fail. Any other result ends the tour.
fn show_failure<T>(out: &mut impl Write, result: Result<T, Error>) -> anyhow::Result<()> {
    match result {
        Err(Error::Status(failure)) => Ok(writeln!(out, "   {failure}")?),
        Err(other) => Err(other.into()),
        Ok(_) => bail!("the server responded with OK to a call that should have failed"),
    }
}

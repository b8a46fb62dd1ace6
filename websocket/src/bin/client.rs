//! The client of the WebSocket chapter: a guided tour, or one command at a time.
//!
//! ```sh
//! cargo run -p websocket --bin server     # terminal 1
//! cargo run -p websocket --bin client     # terminal 2
//! ```

use std::collections::BTreeSet;
use std::io::{BufRead, Write, stderr, stdin};
use std::process::ExitCode;

use anyhow::{Context, anyhow, bail};
use clap::{Parser, Subcommand};
use futures::StreamExt;
use tcp_socket::base::program::{finish, output, shutdown_signal};
use tcp_socket::base::text::printable;
use tcp_socket::base::tls;
use tcp_socket::base::tour::{StepByStep, simulate};
use tokio::select;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use websocket::client::{ChatEvent, ChatEvents, Client, Error, LiveEvent};
use websocket::limits::Timeouts;
use websocket::protocol::message::Change;
use websocket::{Metric, Reading};

/// Talks to the chat and weather server over WebSocket. Without a command, it runs a short
/// guided tour and exits.
#[derive(Parser)]
#[command(name = "client")]
struct Args {
    /// Address of the server
    #[arg(long, default_value = "http://127.0.0.1:8081", global = true)]
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
    /// Chat in a room: each line you type is a message, /who lists the members, and Ctrl-D leaves
    Chat {
        /// The room's name, 1 to 32 characters: a-z, 0-9, and -
        #[arg(long, default_value = "lobby")]
        room: String,
        /// Your name in the room, 1 to 32 characters: letters, digits, -, _, and .
        #[arg(long)]
        name: String,
    },
    /// Show readings as they are recorded, until Ctrl-C
    Live {
        /// Show only this station; repeat the option to show several
        #[arg(long)]
        station: Vec<String>,
        /// Show only this metric; repeat the option to show several
        #[arg(long, value_parser = metric)]
        metric: Vec<Metric>,
    },
    /// Record one reading, with the current time
    Record {
        /// The station's ID, 1 to 32 characters: a-z, 0-9, and -
        station: String,
        /// What was measured: temperature, humidity, pressure, or wind
        #[arg(value_parser = metric)]
        metric: Metric,
        /// The value, in °C, percent, hPa, or m/s
        #[arg(allow_negative_numbers = true)]
        value: f64,
    },
    /// Record a reading of the station "simulated" every second, until Ctrl-C
    Simulate {
        /// Stop after this many readings
        #[arg(long)]
        count: Option<u64>,
    },
    /// Show the newest readings of a station, oldest first
    Readings {
        /// The station's ID
        station: String,
        /// Maximum number of readings, 1 to 500
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
}

fn metric(name: &str) -> Result<Metric, &'static str> {
    Metric::from_name(name).ok_or("use temperature, humidity, pressure, or wind")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    finish(run(Args::parse()).await.map_err(|error| match error.downcast_ref() {
        Some(Error::Unreachable { url, .. }) => {
            let tls = if url.starts_with("https") || url.starts_with("wss") { " -- --tls" } else { "" };
            anyhow!("no server at {url}; start one with: cargo run -p websocket --bin server{tls}")
        }
        _ => error,
    }))
}

async fn run(args: Args) -> anyhow::Result<()> {
    let client = Client::with_tls(&args.url, Timeouts::default(), &args.tls);
    let mut out = StepByStep::new(output(), args.step);
    match args.command {
        None => tour(&client, &mut out).await?,
        Some(Command::Chat { room, name }) => chat(&client, &room, &name, &mut out).await?,
        Some(Command::Live { station, metric }) => live(&client, &station, &metric, &mut out).await?,
        Some(Command::Record { station, metric, value }) => {
            let reading = Reading { station, metric, value, recorded_at: now()? };
            let accepted = client.record(&[reading]).await?;
            writeln!(out, "accepted {accepted}")?;
        }
        Some(Command::Simulate { count }) => {
            let record = async |value, recorded_at| {
                let (station, metric) = ("simulated".to_owned(), Metric::Temperature);
                client.record(&[Reading { station, metric, value, recorded_at }]).await
            };
            simulate(count, &mut out, record).await?;
        }
        Some(Command::Readings { station, limit }) => {
            for reading in client.readings(&station, limit).await? {
                write_reading(&mut out, "", &reading)?;
            }
        }
    }
    client.close().await;
    Ok(())
}

fn now() -> anyhow::Result<u64> {
    let since = std::time::UNIX_EPOCH.elapsed().context("the clock is before 1970")?;
    Ok(u64::try_from(since.as_millis())?)
}

/// Runs the tour. The README shows its output, and a test compares the two.
async fn tour(client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    let reading = |metric, value, second: u64| Reading {
        station: "oslo-1".to_owned(),
        metric,
        value,
        recorded_at: 1_767_225_600_000 + second * 1000, // Seconds after 2026-01-01T00:00:00Z.
    };

    let batch = [reading(Metric::Temperature, -3.5, 0), reading(Metric::Wind, 7.2, 1)];
    // The first call comes before the first line, so that nothing is printed without a server.
    let accepted = client.record(&batch).await?;
    writeln!(out, "1. /live: record a batch of two readings and read them back")?;
    writeln!(out, "   accepted {accepted}")?;
    for reading in client.readings("oslo-1", 2).await? {
        write_reading(out, "   ", &reading)?;
    }

    writeln!(out, "2. /live: record a batch with an impossible value; the server refuses all of it")?;
    let batch = [reading(Metric::Temperature, 1.0, 2), reading(Metric::Humidity, 130.0, 2)];
    match client.record(&batch).await {
        Err(Error::Refused { reason, .. }) => writeln!(out, "   error: {}", printable(&reason))?,
        Err(other) => return Err(other.into()),
        Ok(_) => bail!("the server accepted a batch that it should refuse"),
    }

    writeln!(out, "3. /live: subscribe to temperatures, then record one; the server sends it on its own")?;
    let mut live = client.live(&["oslo-1"], &[Metric::Temperature]).await?;
    client.record(&[reading(Metric::Wind, 8.0, 3), reading(Metric::Temperature, -3.4, 3)]).await?;
    match live.next().await {
        Some(Ok(LiveEvent::Reading { sequence, reading })) => {
            write_reading(out, &format!("   number {sequence}: "), &reading)?;
        }
        other => bail!("expected a reading, not {other:?}"),
    }
    live.close().await;

    writeln!(out, "4. /chat: ana and ben join a room; the server tells both who is there")?;
    let (ana, mut at_ana) = client.chat("tour", "ana").await?;
    let mut ana_has_seen = join(out, "ana", &mut at_ana).await?;
    let (ben, mut at_ben) = client.chat("tour", "ben").await?;
    join(out, "ben", &mut at_ben).await?;
    show(out, "ana", &mut at_ana, 1, &mut ana_has_seen).await?;

    writeln!(out, "5. /chat: ben says something; everybody gets it with the same number")?;
    ben.say("good morning").await?;
    show(out, "ana", &mut at_ana, 1, &mut ana_has_seen).await?;

    writeln!(out, "6. /chat: ana's connection fails; her client reconnects on its own and misses nothing")?;
    ana.break_connection().await;
    ben.say("it is cold in Oslo").await?;
    ben.say("-3.4 °C").await?;
    show(out, "ana", &mut at_ana, 4, &mut ana_has_seen).await?;

    writeln!(out, "7. /chat: both leave; each connection ends with a close frame")?;
    ben.leave().await;
    show(out, "ana", &mut at_ana, 1, &mut ana_has_seen).await?;
    ana.leave().await;
    Ok(())
}

/// Shows who is in the room, and returns the number of the newest event.
async fn join(out: &mut impl Write, who: &str, events: &mut ChatEvents) -> anyhow::Result<u64> {
    match events.next().await.context("the membership ended")?? {
        ChatEvent::Joined { present, sequence, .. } => {
            writeln!(out, "   {who} sees: in the room: {}", printable(&present.join(", ")))?;
            Ok(sequence)
        }
        other => bail!("expected to join the room, but the first event is {other:?}"),
    }
}

/// Shows the next `count` new events. If the tour has run before, the server first sends the room's
/// last messages, which are not shown.
async fn show(
    out: &mut impl Write,
    who: &str,
    events: &mut ChatEvents,
    count: usize,
    seen: &mut u64,
) -> anyhow::Result<()> {
    let mut shown = 0;
    while shown < count {
        let event = events.next().await.context("the membership ended")??;
        if let ChatEvent::Message { sequence, .. } | ChatEvent::Presence { sequence, .. } = event {
            if sequence <= *seen {
                continue;
            }
            *seen = sequence;
        }
        writeln!(out, "   {who} sees: {}", line(&event))?;
        shown += 1;
    }
    Ok(())
}

fn line(event: &ChatEvent) -> String {
    match event {
        ChatEvent::Joined { present, resumed, .. } => {
            let how = if *resumed { "connected again" } else { "joined" };
            format!("* {how}; in the room: {}", printable(&present.join(", ")))
        }
        ChatEvent::Message { sequence, name, text, .. } => {
            format!("{sequence}  {}: {}", printable(name), printable(text))
        }
        ChatEvent::Presence { sequence, name, change: Change::Joined } => {
            format!("{sequence}  * {} joined", printable(name))
        }
        ChatEvent::Presence { sequence, name, change: Change::Left } => {
            format!("{sequence}  * {} left", printable(name))
        }
        ChatEvent::Gap { missed } => format!("* {missed} events are too old to be shown"),
        ChatEvent::Disconnected { reason } => {
            format!("* connection lost: {}; reconnecting", printable(reason))
        }
    }
}

/// Writes a reading as one line of JSON.
fn write_reading(out: &mut impl Write, before: &str, reading: &Reading) -> anyhow::Result<()> {
    writeln!(out, "{before}{}", printable(&serde_json::to_string(reading)?))?;
    Ok(())
}

/// Writes a line about the connection to stderr, because stdout carries only the results.
fn note(line: &str) {
    let _ = writeln!(stderr(), "{}", printable(line)); // Fails if stderr is closed.
}

async fn chat(client: &Client, room: &str, name: &str, out: &mut impl Write) -> anyhow::Result<()> {
    let (chat, mut events) = client.chat(room, name).await?;
    let mut lines = typed_lines();
    let mut present = BTreeSet::new();
    // Numbers of the newest event at the last join, and of the newest event shown.
    let (mut known, mut shown) = (0, None);
    // Tasks that send a message and wait for its response. Meanwhile, this loop must keep showing
    // events, such as a lost connection.
    let mut unanswered: JoinSet<Result<u64, Error>> = JoinSet::new();
    let mut typing = true;
    let interrupted = shutdown_signal()?;
    while typing || !unanswered.is_empty() {
        // All four are cancel safe.
        select! {
            event = events.next() => {
                let Some(event) = event.transpose()? else { return Ok(()) };
                match &event {
                    ChatEvent::Joined { present: here, sequence, resumed } => {
                        present = here.iter().cloned().collect();
                        known = *sequence;
                        let before = shown;
                        if !resumed {
                            shown = Some(*sequence);
                        }
                        if let Some(before) = before {
                            note(match resumed {
                                false => "connected again; the server restarted and has forgotten earlier messages",
                                true if before < *sequence => "connected again; here is what was missed",
                                true => "connected again; nothing was missed",
                            });
                            write_present(out, &present)?;
                            continue;
                        }
                    }
                    ChatEvent::Presence { sequence, name, change } => {
                        shown = shown.max(Some(*sequence));
                        // The list from `Joined` already includes earlier changes.
                        match change {
                            _ if *sequence <= known => {}
                            Change::Joined => drop(present.insert(name.clone())),
                            Change::Left => drop(present.remove(name)),
                        }
                    }
                    ChatEvent::Message { sequence, .. } => shown = shown.max(Some(*sequence)),
                    ChatEvent::Gap { missed } => {
                        note(&format!("{missed} of the missed events are too old to be shown"));
                        continue;
                    }
                    ChatEvent::Disconnected { reason } => {
                        note(&format!("connection lost: {reason}; reconnecting"));
                        continue;
                    }
                }
                writeln!(out, "{}", line(&event))?;
            }
            Some(said) = unanswered.join_next() => if let Err(error) = said? {
                note(&format!("message not sent: {error}"));
            },
            typed = lines.recv(), if typing => match typed.as_deref().map(str::trim_end) {
                None => typing = false,
                Some("") => {}
                Some("/who") => write_present(out, &present)?,
                Some(text) => {
                    let (chat, text) = (chat.clone(), text.to_owned());
                    unanswered.spawn(async move { chat.say(&text).await });
                }
            },
            () = interrupted.cancelled() => break,
        }
    }
    chat.leave().await;
    Ok(())
}

fn write_present(out: &mut impl Write, present: &BTreeSet<String>) -> anyhow::Result<()> {
    let names: Vec<_> = present.iter().map(String::as_str).collect();
    writeln!(out, "* in the room: {}", printable(&names.join(", ")))?;
    Ok(())
}

/// Reads the lines of standard input in a separate thread, because waiting for a terminal blocks.
fn typed_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

async fn live(
    client: &Client,
    stations: &[String],
    metrics: &[Metric],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let stations: Vec<&str> = stations.iter().map(String::as_str).collect();
    let mut events = client.live(&stations, metrics).await?;
    let interrupted = shutdown_signal()?;
    loop {
        // Both are cancel safe.
        select! {
            event = events.next() => match event.transpose()? {
                Some(LiveEvent::Reading { reading, .. }) => write_reading(out, "", &reading)?,
                Some(LiveEvent::Skipped { readings }) => {
                    note(&format!("{readings} readings were skipped: this client reads too slowly"));
                }
                Some(LiveEvent::Disconnected { reason }) => {
                    note(&format!("connection lost: {reason}; reconnecting"));
                }
                Some(LiveEvent::Resubscribed { same_server, recovered, lost }) => {
                    note(&format!("connected again; {}", match (same_server, recovered, lost) {
                        (false, ..) => "the server restarted and has forgotten earlier readings".to_owned(),
                        (true, 0, 0) => "nothing was missed".to_owned(),
                        (true, 0, lost) => format!("{lost} readings were missed"),
                        (true, _, 0) => "here is what was missed".to_owned(),
                        (true, _, lost) => format!("here is what was missed, except for {lost} readings"),
                    }));
                }
                None => return Ok(()),
            },
            () = interrupted.cancelled() => break,
        }
    }
    events.close().await;
    Ok(())
}

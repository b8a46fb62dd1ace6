//! What the binaries share: options, logs, the signal to stop, and the line that
//! says why it did not work.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::brokers::{HOW_TO_START, Kind};
use crate::error::{Error, without_password};
use crate::rabbitmq::topology::Topology;
use crate::redis::Keys;

/// Options of every binary that uses a broker.
#[derive(Debug, Clone, clap::Args)]
pub struct BrokerArgs {
    /// Which broker to use
    #[arg(long, value_enum, default_value = "rabbitmq", global = true)]
    pub broker: Kind,
    /// Address of the broker; otherwise that of RABBITMQ_URL or REDIS_URL, or the
    /// standard port on this machine
    #[arg(long, global = true)]
    url: Option<String>,
    /// First word of all names on the broker: other words are another world
    #[arg(long, default_value = "weather", value_parser = prefix, global = true)]
    prefix: String,
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let valid = crate::model::is_station_id(text);
    if valid { Ok(text.to_owned()) } else { Err("1 to 32 of a-z, 0-9 and -") }
}

impl BrokerArgs {
    /// The broker's address.
    pub fn url(&self) -> String {
        self.url.clone().unwrap_or_else(|| self.broker.default_url())
    }

    /// Names on RabbitMQ.
    pub fn topology(&self) -> Topology {
        Topology { prefix: self.prefix.clone(), ..Topology::default() }
    }

    /// Names on Redis.
    pub fn keys(&self) -> Keys {
        Keys { prefix: self.prefix.clone() }
    }

    /// Ends a program: on failure with one line that says why, and what to do about it.
    pub fn exit(&self, result: anyhow::Result<()>) -> ExitCode {
        let Err(error) = result else { return ExitCode::SUCCESS };
        match error.downcast_ref() {
            Some(no_broker @ Error::NoBroker { .. }) => eprintln!("error: {no_broker}; {HOW_TO_START}"),
            Some(Error::NoServer(_)) => {
                let option = if self.broker == Kind::Redis { " -- --broker redis" } else { "" };
                eprintln!(
                    "error: no server at {}; start one with: cargo run -p message_queue --bin server{option}",
                    without_password(&self.url())
                );
            }
            _ => eprintln!("error: {error:#}"),
        }
        ExitCode::FAILURE
    }
}

/// Sends logs from `info` on to stderr, but none of lapin's own: what it reports as
/// errors is handled here, and said once. `RUST_LOG` overrides.
///
/// # Errors
/// If `RUST_LOG` can't be understood.
pub fn logs() -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info,lapin=off".into());
    let filter: Targets = filter.parse().context("RUST_LOG")?;
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(to_stderr).with(filter).init();
    Ok(())
}

/// A token that is cancelled at Ctrl-C or, on Unix, SIGTERM.
///
/// # Errors
/// If the system refuses a signal handler.
pub fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            // Cancel safe: either signal is enough.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        });
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.cancel();
    });
    Ok(token)
}

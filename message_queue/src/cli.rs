//! What the binaries share besides [`tcp_socket::base::program`]: their options, and the advice
//! in their error messages.

use std::process::ExitCode;

use tcp_socket::base::program::{finish, start_logs};
use tcp_socket::base::tls::ClientOptions;

use crate::address::BrokerUrl;
use crate::brokers::{HOW_TO_START, Kind};
use crate::error::{Error, SPEAKS_TLS};
use crate::rabbitmq::topology::Topology;
use crate::redis::names::KeyNames;

/// Options of every binary that uses a broker.
#[derive(Debug, Clone, clap::Args)]
pub struct BrokerArgs {
    /// Which broker to use
    #[arg(long, value_enum, default_value = "rabbitmq", global = true)]
    pub broker: Kind,
    /// Address of the broker; without it, RABBITMQ_URL or REDIS_URL, or else the
    /// standard port on this machine. For a cluster, repeat it, or separate the addresses of
    /// the nodes by commas
    #[arg(long, global = true)]
    url: Vec<String>,
    #[command(flatten)]
    tls: ClientOptions,
    /// Prefix for all queue and channel names
    #[arg(long, default_value = "weather", value_parser = prefix, global = true)]
    prefix: String,
}

fn prefix(text: &str) -> Result<String, &'static str> {
    let valid = crate::model::is_station_id(text);
    if valid { Ok(text.to_owned()) } else { Err("use 1 to 32 characters: a-z, 0-9, and -") }
}

impl BrokerArgs {
    /// Returns the broker's address.
    ///
    /// # Errors
    /// If a file that TLS needs is missing or unusable.
    pub fn url(&self) -> anyhow::Result<BrokerUrl> {
        BrokerUrl::with_tls(&self.url_text(), &self.tls)
    }

    fn url_text(&self) -> String {
        if self.url.is_empty() { self.broker.default_url() } else { self.url.join(",") }
    }

    /// Returns the names on RabbitMQ.
    pub fn topology(&self) -> Topology {
        Topology { prefix: self.prefix.clone(), ..Topology::default() }
    }

    /// Returns the names on Redis.
    pub fn keys(&self) -> KeyNames {
        KeyNames { prefix: self.prefix.clone() }
    }

    /// Returns the exit code for the result of a program's work. For an error, it also prints one
    /// line that says what happened and what to do about it.
    pub fn exit(&self, result: anyhow::Result<()>) -> ExitCode {
        let result = result.map_err(|error| match error.downcast_ref() {
            Some(no_broker @ Error::NoBroker { reached, .. }) => {
                anyhow::anyhow!("{no_broker}; {}", if *reached { SPEAKS_TLS } else { HOW_TO_START })
            }
            Some(Error::NoServer(_)) => {
                let option = if self.broker == Kind::Redis { " -- --broker redis" } else { "" };
                let url = BrokerUrl::from(self.url_text());
                anyhow::anyhow!(
                    "no server at {url}; start one with: cargo run -p message_queue --bin server{option}"
                )
            }
            _ => error,
        });
        finish(result)
    }
}

/// Starts the logs at level `info`, without lapin's own: this library handles lapin's errors
/// and reports each one once. `RUST_LOG` overrides that.
///
/// # Errors
/// If `RUST_LOG` is not valid.
pub fn logs() -> anyhow::Result<()> {
    start_logs("info,lapin=off")
}

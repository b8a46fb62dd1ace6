//! Runs both brokers in a terminal, without Docker.
//!
//! ```sh
//! cargo run -p message_queue --bin brokers      # terminal 1
//! cargo run -p message_queue --bin producer     # terminal 2
//! cargo run -p message_queue --bin consumer     # terminal 3
//! ```

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{ExitCode, exit};
use std::time::Duration;

use clap::Parser;
use message_queue::brokers::{Broker, Kind, Options, install, install_is_wanted};
use tcp_socket::base::program::{finish, output, shutdown_signal};
use tcp_socket::base::text::printable;
use tcp_socket::base::tls::ServerOptions;

/// RabbitMQ's usual port for TLS.
const AMQPS_PORT: u16 = 5671;

/// Starts the RabbitMQ and the Redis that are installed on this machine. Ctrl-C stops
/// both and deletes their data, unless --data names a folder for it.
#[derive(Parser)]
#[command(name = "brokers")]
struct Args {
    /// Start only this broker
    #[arg(long, value_enum)]
    only: Option<Kind>,
    /// Port of RabbitMQ [default: 5672, or 5671 with --tls]
    #[arg(long)]
    rabbitmq_port: Option<u16>,
    /// Port of Redis
    #[arg(long, default_value_t = Kind::Redis.standard_port())]
    redis_port: u16,
    /// Folder for data that outlives this program
    #[arg(long)]
    data: Option<PathBuf>,
    /// Install missing brokers first, as BROKERS=install does (Debian, Ubuntu)
    #[arg(long)]
    install: bool,
    #[command(flatten)]
    tls: ServerOptions,
}

#[tokio::main]
async fn main() -> ExitCode {
    finish(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    let shutdown = shutdown_signal()?;
    let starting = tokio::task::spawn_blocking(move || start(&args));
    // Ctrl-C during the start: when this process ends, the brokers end too.
    let mut brokers = tokio::select! {
        started = starting => started??,
        () = shutdown.cancelled() => exit(0),
    };
    writeln!(output(), "Ctrl-C stops {}", if brokers.len() == 1 { "it" } else { "both" })?;
    while shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(500))).await.is_some() {
        for broker in &mut brokers {
            if !broker.is_running() {
                // The output may be long, so the error comes last.
                for line in broker.output().lines() {
                    _ = writeln!(io::stderr(), "{}", printable(line)); // Stderr may be closed.
                }
                anyhow::bail!("{} has ended; the end of its output is above", broker.url());
            }
        }
    }
    writeln!(output(), "stopping")?;
    tokio::task::spawn_blocking(move || brokers.iter_mut().for_each(Broker::stop)).await?;
    Ok(())
}

fn start(args: &Args) -> anyhow::Result<Vec<Broker>> {
    if args.install || install_is_wanted() {
        install()?;
    }
    let mut brokers = Vec::new();
    // Redis first: it is ready at once, and if its port is taken, the error does not have to wait
    // for RabbitMQ.
    let rabbitmq_port = if args.tls.tls { AMQPS_PORT } else { Kind::RabbitMq.standard_port() };
    let rabbitmq_port = args.rabbitmq_port.unwrap_or(rabbitmq_port);
    for (kind, port) in [(Kind::Redis, args.redis_port), (Kind::RabbitMq, rabbitmq_port)] {
        if args.only.is_some_and(|only| only != kind) {
            continue;
        }
        // A power cut should not lose the last second of data that is kept.
        let durable = ["--appendonly", "yes", "--appendfsync", "always"].map(String::from);
        let durable = if kind == Kind::Redis && args.data.is_some() { durable.to_vec() } else { Vec::new() };
        let data = args.data.as_ref().map(|folder| folder.join(kind.to_string().to_lowercase()));
        let broker = Broker::start(
            kind,
            Options { port: Some(port), data, settings: durable, tls: args.tls.clone() },
        )?;
        writeln!(output(), "{kind} at {}", broker.url())?;
        if args.tls.tls || port != kind.standard_port() {
            let variable = if kind == Kind::Redis { "REDIS_URL" } else { "RABBITMQ_URL" };
            writeln!(output(), "  for the other programs: export {variable}={}", broker.url())?;
        }
        brokers.push(broker);
    }
    Ok(brokers)
}

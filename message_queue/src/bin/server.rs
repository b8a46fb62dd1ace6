//! The server of the message-queue chapter: takes requests from the broker.
//!
//! ```sh
//! cargo run -p message_queue --bin server     # terminal 1
//! cargo run -p message_queue --bin client     # terminal 2
//! ```

use std::process::ExitCode;

use clap::Parser;
use message_queue::brokers::Kind;
use message_queue::cli::{BrokerArgs, logs, shutdown_signal};
use message_queue::error::without_password;
use message_queue::{rabbitmq, redis};

/// Keeps the readings of weather stations, which clients send across a broker.
/// Ctrl-C stops it after the requests in hand are answered.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse().broker;
    args.exit(run(&args).await)
}

async fn run(args: &BrokerArgs) -> anyhow::Result<()> {
    logs()?;
    let shutdown = shutdown_signal()?;
    let url = args.url();
    let listening = |where_from: String| {
        println!("listening on {}", without_password(&url));
        println!("requests come from {where_from}");
    };
    match args.broker {
        Kind::RabbitMq => {
            let topology = args.topology();
            let listening = || listening(format!("the queue {}", topology.requests()));
            rabbitmq::request_reply::serve(&url, &topology, &shutdown, listening).await?;
        }
        Kind::Redis => {
            let keys = args.keys();
            let listening = || listening(format!("the channel {}", keys.requests()));
            redis::request_reply::serve(&url, &keys, &shutdown, listening).await?;
        }
    }
    Ok(())
}

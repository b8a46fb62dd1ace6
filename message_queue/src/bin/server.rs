//! The server of the message-queue chapter, which takes requests from a broker.
//!
//! ```sh
//! cargo run -p message_queue --bin server     # terminal 1
//! cargo run -p message_queue --bin client     # terminal 2
//! ```

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use message_queue::brokers::Kind;
use message_queue::cli::{BrokerArgs, logs};
use message_queue::{rabbitmq, redis};
use tcp_socket::base::journal::Journal;
use tcp_socket::base::program::{output, shutdown_signal};

/// Counts the weather readings that clients send through a broker. On Ctrl-C, it
/// replies to the requests that it has taken, and stops.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    journal: Journal,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    args.broker.exit(run(&args).await)
}

async fn run(Args { broker: args, journal }: &Args) -> anyhow::Result<()> {
    logs()?;
    journal.open()?;
    let shutdown = shutdown_signal()?;
    let url = args.url()?;
    let connected = |source: String| {
        // If stdout can't be written to, the server can still serve.
        _ = writeln!(output(), "connected to {url}, taking requests from {source}");
    };
    match args.broker {
        Kind::RabbitMq => {
            let topology = args.topology();
            let connected = || connected(format!("the queue {}", topology.requests()));
            rabbitmq::server::serve(url.clone(), &topology, &shutdown, connected).await?;
        }
        Kind::Redis => {
            let keys = args.keys();
            let connected = || connected(format!("the channel {}", keys.requests()));
            redis::server::serve(url.clone(), &keys, &shutdown, connected).await?;
        }
    }
    Ok(())
}

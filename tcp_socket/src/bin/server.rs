//! The server of the TCP chapter.
//!
//! ```sh
//! cargo run -p tcp_socket --bin server     # terminal 1
//! cargo run -p tcp_socket --bin client     # terminal 2
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, value_parser};
use tcp_socket::base::program;
use tcp_socket::limits::Limits;

/// Keeps the readings of weather stations and serves them over a protocol of our own.
/// Ctrl-C stops it after what it has received is answered; a second Ctrl-C stops it at once.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:7878")]
    addr: SocketAddr,
    /// Close a connection on which no byte arrives for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = value_parser!(u64).range(1..=4_000_000))]
    idle_timeout: u64,
    /// Seconds that any frame may take to arrive
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = value_parser!(u64).range(1..=4_000_000))]
    frame_grace: u64,
    /// Lowest rate at which a frame may arrive after --frame-grace
    #[arg(long, value_name = "BYTES_PER_SECOND", default_value_t = 4_000, value_parser = value_parser!(u32).range(1..))]
    min_frame_rate: u32,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::finish(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    program::start_logs("info")?;
    // Handlers first: a signal that comes after the line below must find them.
    let shutdown = program::shutdown_signal()?;
    let listener = program::listen(args.addr, "tcp_socket").await?;
    let limits = Limits {
        idle_timeout: Duration::from_secs(args.idle_timeout),
        frame_grace: Duration::from_secs(args.frame_grace),
        min_frame_rate: args.min_frame_rate,
        ..Limits::default()
    };
    writeln!(program::output(), "listening on tcp://{}", listener.local_addr()?)?;
    tcp_socket::server::serve(listener, limits, shutdown.cancelled_owned()).await.context("serve")
}

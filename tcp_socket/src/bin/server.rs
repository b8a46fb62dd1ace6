//! The server of the TCP chapter.
//!
//! ```sh
//! cargo run -p tcp_socket --bin server     # terminal 1
//! cargo run -p tcp_socket --bin client     # terminal 2
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tcp_socket::Limits;
use tcp_socket::base::journal::Journal;
use tcp_socket::base::tls::{self, Listener};
use tcp_socket::base::{principals, program};

/// Keeps the readings of weather stations and serves them over a protocol of our own.
/// Ctrl-C stops it once all received requests are answered; a second Ctrl-C stops it at once.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:7878")]
    addr: SocketAddr,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    tls: tls::ServerOptions,
    #[command(flatten)]
    principals: principals::Options,
    #[command(flatten)]
    journal: Journal,
}

#[tokio::main]
async fn main() -> ExitCode {
    program::finish(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    program::start_logs("info")?;
    args.journal.open()?;
    let tls = args.tls.config(None)?;
    // The signal handlers come first: a signal may arrive as soon as the line below is printed.
    let shutdown = program::shutdown_signal()?;
    let principals = args.principals.read()?;
    principals::warn_if_open(args.addr, tls.is_some(), principals.is_some());
    let listener = Listener { tcp: program::listen(args.addr, "tcp_socket").await?, tls, principals };
    let scheme = if args.tls.tls { "tls" } else { "tcp" };
    writeln!(program::output(), "listening on {scheme}://{}", listener.tcp.local_addr()?)?;
    tcp_socket::serve(listener, args.limits, shutdown.cancelled_owned()).await.context("cannot serve")
}

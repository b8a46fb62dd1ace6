//! The server of the HTTP/REST chapter.
//!
//! ```sh
//! cargo run -p http_rest --bin server     # terminal 1
//! cargo run -p http_rest --bin client     # terminal 2
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use http_rest::Limits;
use tcp_socket::base::journal::Journal;
use tcp_socket::base::tls::{self, HTTP_1_1, Listener};
use tcp_socket::base::{principals, program};

/// Keeps the readings of weather stations and serves them over HTTP/1.1.
/// After Ctrl-C, it finishes the requests in flight and exits; a second Ctrl-C stops it at once.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
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
    let tls = args.tls.config(Some(HTTP_1_1))?;
    // Signal handlers first: a signal may come as soon as `listening on` is printed.
    let shutdown = program::shutdown_signal()?;
    let principals = args.principals.read()?;
    principals::warn_if_open(args.addr, tls.is_some(), principals.is_some());
    let listener = Listener { tcp: program::listen(args.addr, "http_rest").await?, tls, principals };
    let scheme = if args.tls.tls { "https" } else { "http" };
    writeln!(program::output(), "listening on {scheme}://{}", listener.tcp.local_addr()?)?;
    http_rest::serve(listener, args.limits, shutdown.cancelled_owned()).await.context("cannot serve")
}

//! The server of the gRPC chapter.
//!
//! ```sh
//! cargo run -p grpc --bin server     # terminal 1
//! cargo run -p grpc --bin client     # terminal 2
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use grpc::protocol::is_token;
use grpc::{Config, Limits};
use tcp_socket::base::journal::Journal;
use tcp_socket::base::tls::{self, H2, Listener};
use tcp_socket::base::{principals, program};

/// Keeps the readings of weather stations and serves them over gRPC. On Ctrl-C, it ends
/// open Watch and Monitor calls, lets other calls finish, and stops.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:50051")]
    addr: SocketAddr,
    /// Refuse calls to the weather service without the metadata "authorization: Bearer
    /// TOKEN"; other users of this machine can see TOKEN in the list of processes
    #[arg(long, value_parser = token, conflicts_with = "principals")]
    token: Option<String>,
    /// Accept gzip from clients, and compress responses for clients that accept it
    #[arg(long)]
    gzip: bool,
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
    let tls = args.tls.config(Some(H2))?;
    // Install the handlers first: a signal can arrive as soon as the line below is
    // printed.
    let shutdown = program::shutdown_signal()?;
    let principals = args.principals.read()?;
    principals::warn_if_open(args.addr, tls.is_some(), principals.is_some() || args.token.is_some());
    let listener = Listener { tcp: program::listen(args.addr, "grpc").await?, tls, principals };
    let scheme = if args.tls.tls { "https" } else { "http" };
    writeln!(program::output(), "listening on {scheme}://{}", listener.tcp.local_addr()?)?;
    let config = Config { limits: args.limits, token: args.token, gzip: args.gzip };
    grpc::serve(listener, config, shutdown.cancelled_owned()).await.context("cannot serve")
}

fn token(text: &str) -> Result<String, &'static str> {
    is_token(text)
        .then(|| text.to_owned())
        .ok_or("a token must be one or more visible ASCII characters, without spaces")
}

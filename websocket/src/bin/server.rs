//! The server of the WebSocket chapter.
//!
//! ```sh
//! cargo run -p websocket --bin server     # terminal 1
//! cargo run -p websocket --bin client     # terminal 2
//! ```

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use tcp_socket::base::journal::Journal;
use tcp_socket::base::principals;
use tcp_socket::base::program::{finish, listen, output, shutdown_signal, start_logs};
use tcp_socket::base::tls::{self, HTTP_1_1, Listener};
use websocket::Limits;
use websocket::server::origin::Origin;

/// Serves chat rooms and live weather readings over WebSocket. Open the printed address in a
/// browser to see both. Ctrl-C closes every connection and stops the server.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:8081")]
    addr: SocketAddr,
    /// Also let web pages from this origin connect (such as https://weather.example); repeat the
    /// option to allow several
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<Origin>,
    #[command(flatten)]
    tls: tls::ServerOptions,
    #[command(flatten)]
    principals: principals::Options,
    #[command(flatten)]
    journal: Journal,
    #[command(flatten, next_help_heading = "Limits")]
    limits: Limits,
}

#[tokio::main]
async fn main() -> ExitCode {
    finish(run(Args::parse()).await)
}

async fn run(Args { addr, allow_origin, tls, principals, journal, limits }: Args) -> anyhow::Result<()> {
    start_logs("info")?;
    journal.open()?;
    let scheme = if tls.tls { "https" } else { "http" };
    let tls = tls.config(Some(HTTP_1_1))?;
    // Handle signals before printing `listening on`: one may follow as soon as somebody reads it.
    let shutdown = shutdown_signal()?;
    let principals = principals.read()?;
    principals::warn_if_open(addr, tls.is_some(), principals.is_some());
    let listener = Listener { tcp: listen(addr, "websocket").await?, tls, principals };
    writeln!(output(), "listening on {scheme}://{}", listener.tcp.local_addr()?)?;
    websocket::serve(listener, limits, allow_origin, shutdown.cancelled_owned()).await.context("serve")
}

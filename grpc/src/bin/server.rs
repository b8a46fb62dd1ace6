//! The server of the gRPC chapter.
//!
//! ```sh
//! cargo run -p grpc --bin server     # terminal 1
//! cargo run -p grpc --bin client     # terminal 2
//! ```

use std::future::Future;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use grpc::server::Config;
use tokio::net::TcpListener;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Keeps the readings of weather stations and serves them over gRPC.
/// Ctrl-C stops it after the calls in flight are answered.
#[derive(Parser)]
#[command(name = "server")]
struct Args {
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:50051")]
    addr: SocketAddr,
    /// Refuse calls without the metadata "authorization: Bearer TOKEN"; other
    /// users of the machine can read it in the list of processes
    #[arg(long)]
    token: Option<String>,
    /// Accept gzip from clients, and compress for those that accept it
    #[arg(long)]
    gzip: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let filter: Targets =
        std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()).parse().context("RUST_LOG")?;
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(to_stderr).with(filter).init();

    // Each connection takes a descriptor; the soft limit is often only 1024.
    rlimit::increase_nofile_limit(u64::MAX).context("raise the descriptor limit")?;
    // Handlers first: a signal that comes after the line below must find them.
    let shutdown = shutdown_signal()?;
    let listener = TcpListener::bind(args.addr).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on {}: {error}; --addr 127.0.0.1:0 picks a free port", args.addr)
    })?;
    println!("listening on http://{}", listener.local_addr()?);
    let config = Config { token: args.token, gzip: args.gzip, ..Config::default() };
    grpc::server::serve(listener, config, shutdown).await.context("serve")
}

/// Completes at Ctrl-C or, on Unix, SIGTERM.
fn shutdown_signal() -> anyhow::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    #[cfg(unix)]
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    Ok(async move {
        #[cfg(unix)]
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    })
}

//! The lab: measures what an exchange costs.
//!
//! ```sh
//! cargo run --release
//! ```
//!
//! It starts the HTTP server as a process of its own, records a thousand
//! readings one at a time and prints how long each took.

use std::io::{Write, stdout};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use http_rest::client::Client;
use http_rest::limits::Limits;
use http_rest::model::{Metric, Reading};
use lab::{Server, owner_is_gone, pin, runtime};
use tokio::net::TcpListener;

/// Requests that are measured.
const REQUESTS: u32 = 1000;

/// Requests before that, not measured: connect, fill caches, settle the clock.
const WARM_UP: u32 = 200;

/// Measures one protocol against another on this machine.
#[derive(Parser)]
#[command(name = "lab")]
struct Args {
    #[command(subcommand)]
    command: Option<Mode>,
}

#[derive(Subcommand)]
enum Mode {
    /// A server for the lab itself; stops when its stdin ends
    #[command(hide = true)]
    Serve {
        /// Which one
        role: String,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(Mode::Serve { role }) = &args.command {
        ensure!(role == "http_rest", "no server named {role:?}");
        return runtime()?.block_on(serve());
    }
    if cfg!(debug_assertions) {
        bail!("a debug build measures the compiler's haste; use: cargo run --release");
    }
    // Both ends share one core: across cores a virtual machine measures how long
    // it takes to wake a sleeping one. The server inherits this choice.
    let placement =
        if pin(0) { "client and server on the same core" } else { "cores left to the system: expect noise" };
    let server = Server::start("http_rest", None)?;
    runtime()?.block_on(measure(server.address(), placement))
}

async fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    http_rest::server::serve(listener, Limits::default(), owner_is_gone()).await.context("serve")
}

async fn measure(url: &str, placement: &str) -> anyhow::Result<()> {
    let client = Client::new(url)?;
    let reading = [Reading {
        station: "oslo-1".into(),
        metric: Metric::Temperature,
        value: -3.5,
        recorded_at: 1_767_225_600_000,
    }];
    let mut nanoseconds = Histogram::<u64>::new(3)?;
    for _ in 0..WARM_UP {
        client.record(&reading).await?;
    }
    let started = Instant::now();
    for _ in 0..REQUESTS {
        let sent = Instant::now();
        let accepted = client.record(&reading).await?;
        nanoseconds.record(u64::try_from(sent.elapsed().as_nanos())?)?;
        ensure!(accepted == 1, "the server accepted {accepted} readings of 1");
    }
    let rate = f64::from(REQUESTS) / started.elapsed().as_secs_f64();
    let at = |quantile| Duration::from_nanos(nanoseconds.value_at_quantile(quantile));
    let mut out = stdout();
    writeln!(out, "HTTP/REST: {REQUESTS} readings recorded one at a time, {placement}")?;
    writeln!(out, "  p50 {:.1?}   p99 {:.1?}   {rate:.0} requests/s", at(0.5), at(0.99))?;
    Ok(())
}

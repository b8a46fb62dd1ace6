//! Checks your own server, in any language: `cargo run --bin check`.

use std::net::TcpListener;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use tests::contract::{Contract, Failure, all, failures};
use tests::signal::{Pid, Signal, killpg, own_group};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

/// Time within which the server has to accept a connection.
const START: Duration = Duration::from_secs(20);

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Checks a server that you wrote against a chapter's contract, stage by stage, and stops after the
/// first stage that it does not pass.
#[derive(Debug, Parser)]
#[command(name = "check")]
struct Args {
    /// Chapter whose protocol the server speaks
    #[arg(value_parser = all().iter().map(|contract| contract.chapter).collect::<Vec<_>>())]
    chapter: String,
    /// Command that starts the server; {addr} becomes the host:port to listen on, and {port} the port
    #[arg(long, value_name = "COMMAND", required_unless_present = "addr")]
    server: Option<String>,
    /// host:port of a server that is already running
    #[arg(long, value_name = "ADDR", conflicts_with = "server")]
    addr: Option<String>,
    /// Check only this stage, counted from 1
    #[arg(long, value_name = "NUMBER")]
    stage: Option<usize>,
    /// Go on after a stage that the server does not pass
    #[arg(long)]
    all: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Args::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether the server passes all stages that were checked.
async fn run(args: Args) -> anyhow::Result<bool> {
    let contract = all().into_iter().find(|contract| contract.chapter == args.chapter);
    let contract = contract.context("this chapter has no contract")?;
    if args.stage.is_some_and(|stage| stage == 0 || stage > contract.stages.len()) {
        bail!("there are {} stages, counted from 1", contract.stages.len());
    }
    let mut passed = true;
    for (number, stage) in (1..).zip(&contract.stages) {
        if args.stage.is_some_and(|wanted| wanted != number) {
            continue;
        }
        // Each stage gets a new server, so that it does not depend on those before it.
        let server = match &args.server {
            Some(command) => Some(Server::start(command).await?),
            None => None,
        };
        let addr = server.as_ref().map(|server| &server.addr).or(args.addr.as_ref());
        let failed = failures(contract.format, stage, addr.map_or("", String::as_str)).await;
        let total = stage.cases.len();
        println!("stage {number}, {}: {} of {total}", stage.name, total - failed.len());
        if !failed.is_empty() {
            explain(&contract, &failed);
            passed = false;
            if !args.all {
                break;
            }
        }
    }
    Ok(passed)
}

/// Shows the first failure with what traveled, and the others in one line each.
fn explain(contract: &Contract, failed: &[Failure]) {
    let Some((first, others)) = failed.split_first() else { return };
    println!("\nnot yet: {}\n\nWhat traveled last:\n\n{}", first.case, first.traveled);
    println!("  wanted: {}\n  got:    {}", first.wrong.wanted, first.wrong.got);
    for failure in others {
        println!("\nnot yet: {}", failure.case);
        println!("  wanted: {}\n  got:    {}", failure.wrong.wanted, failure.wrong.got);
    }
    println!("\nWhat the server has to do is in {}.\n", contract.document);
}

/// The server under test. Dropping it kills the server and all programs that it started.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    async fn start(command: &str) -> anyhow::Result<Self> {
        // The port stays free until the server uses it, unless another program is faster.
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let addr = addr.context("no free port")?;
        let command =
            command.replace("{addr}", &addr.to_string()).replace("{port}", &addr.port().to_string());
        let words = shlex::split(&command).with_context(|| format!("a quote is not closed: {command}"))?;
        let (program, args) = words.split_first().context("--server is empty")?;
        let mut start = std::process::Command::new(program);
        start.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        own_group(&mut start);
        let child = Command::from(start).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("cannot start {program:?}"))?;
        let mut server = Self { child, addr: addr.to_string() };
        let connected = async {
            while TcpStream::connect(addr).await.is_err() {
                if let Some(status) = server.child.try_wait()? {
                    bail!("the server ended with {status} before it listened on {addr}: {command}");
                }
                sleep(PAUSE).await;
            }
            Ok(())
        };
        timeout(START, connected).await.unwrap_or_else(|_| {
            bail!("the server did not listen on {addr} within {START:?}: does its command use {{addr}}?")
        })?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(id) = self.child.id() {
            let _ = killpg(Pid::from_raw(id.cast_signed()), Signal::SIGKILL);
        }
    }
}

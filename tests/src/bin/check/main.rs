//! Checks your own program, in any language: `cargo run --bin check`.

use std::net::TcpListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use lab::wire::decode::Format;
use message_queue::brokers::{Broker, Kind, Options};
use tests::contract::{Contract, Failure, Program, Tested, all, failures};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Time within which the server has to accept a connection.
const START: Duration = Duration::from_secs(20);

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(50);

/// Checks a program that you wrote against a chapter's contract, stage by stage, and stops after the
/// first stage that it does not pass.
#[derive(Debug, Parser)]
#[command(name = "check")]
struct Args {
    /// Chapter whose protocol the program speaks
    #[arg(value_parser = all().iter().map(|contract| contract.name).collect::<Vec<_>>())]
    contract: String,
    /// Command that starts the program; {addr} becomes the host:port to listen on, and {port} the
    /// port. In the queue chapter, {url} is that of Redis, {prefix} the first word of all names, and
    /// {results} the folder for results
    #[arg(long, visible_aliases = ["worker", "client"], value_name = "COMMAND", required_unless_present = "addr")]
    server: Option<String>,
    /// host:port of a server that is already running; in the queue chapter, of Redis
    #[arg(long, value_name = "ADDR")]
    addr: Option<String>,
    /// Check only this stage, counted from 1
    #[arg(long, value_name = "NUMBER")]
    stage: Option<usize>,
    /// Go on after a stage that the program does not pass
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

/// Returns whether the program passes all stages that were checked.
async fn run(args: Args) -> anyhow::Result<bool> {
    let contract = all().into_iter().find(|contract| contract.name == args.contract);
    let contract = contract.context("there is no such contract")?;
    if args.stage.is_some_and(|stage| stage == 0 || stage > contract.stages.len()) {
        bail!("there are {} stages, counted from 1", contract.stages.len());
    }
    // The programs of the queue chapter are not servers, and each case starts them anew.
    let needs_broker = contract.format == Format::Redis && args.addr.is_none();
    let broker = needs_broker.then(|| Broker::start(Kind::Redis, Options::default())).transpose()?;
    let mut passed = true;
    for (number, stage) in (1..).zip(&contract.stages) {
        if args.stage.is_some_and(|wanted| wanted != number) {
            continue;
        }
        // Each stage gets a new server, so that it does not depend on those before it.
        let command = args.server.clone().unwrap_or_default();
        let (_server, addr) = match (&broker, &args.addr) {
            (_, Some(addr)) => (None, addr.clone()),
            (Some(broker), None) => (None, broker.url().replace("redis://", "")),
            (None, None) => start(&command).await.map(|(server, addr)| (Some(server), addr))?,
        };
        let failed = failures(contract.format, stage, &Tested { addr, command }).await;
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
    println!("\nWhat the program has to do is in {}.\n", contract.document);
}

/// Starts a server, and waits until it accepts connections.
async fn start(command: &str) -> anyhow::Result<(Program, String)> {
    // The port stays free until the server uses it, unless another program is faster.
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let addr = addr.context("no free port")?;
    let command = command.replace("{addr}", &addr.to_string()).replace("{port}", &addr.port().to_string());
    let mut server = Program::start(&command)?;
    let connected = async {
        while TcpStream::connect(addr).await.is_err() {
            if let Some(status) = server.ended()? {
                bail!("the server ended with {status} before it listened on {addr}: {command}");
            }
            sleep(PAUSE).await;
        }
        Ok(())
    };
    timeout(START, connected).await.unwrap_or_else(|_| {
        bail!("the server did not listen on {addr} within {START:?}: does its command use {{addr}}?")
    })?;
    Ok((server, addr.to_string()))
}

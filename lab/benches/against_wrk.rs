//! Does the lab disturb what it measures? Compares the HTTP server's CPU time per request when the
//! lab's client sends the requests and when wrk does.
//!
//! ```sh
//! cargo bench -p lab --bench against_wrk     # needs wrk
//! ```
//!
//! Both send `POST /readings` with one reading, with 64 requests in flight on 64 connections, and
//! take turns, round after round. The server runs on core 0, the client on core 1. wrk sends the
//! same body and headers, including an idempotency key that is new for each request.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use lab::compare::measure::{self, Span};
use lab::protocols::by_id;
use lab::run::meter::Meter;
use lab::{Server, Spread, pin, run_as_child, runtime};

const ROUNDS: usize = 5;
const SECONDS_EACH: u64 = 2;
const CONNECTIONS: u64 = 64;

/// A script that makes wrk send the same requests as the lab's client.
const SCRIPT: &str = r#"
local count = 0
request = function()
    count = count + 1
    return wrk.format("POST", "/readings", {
        ["content-type"] = "application/json",
        ["accept"] = "*/*",
        ["idempotency-key"] = string.format("%032x", count),
    }, '{"readings":[{"station":"oslo-1","metric":"temperature","value":-3.5,"recorded_at":1767225600000}]}')
end
"#;

fn main() -> anyhow::Result<()> {
    if run_as_child()? { Ok(()) } else { compare() }
}

fn compare() -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "refusing to benchmark a debug build; use `cargo bench`");
    let script = std::env::temp_dir().join(format!("lab-against-wrk-{}.lua", std::process::id()));
    fs::write(&script, SCRIPT)?;
    let server = Server::start("http_rest", Some(0))?;
    ensure!(pin(1), "this comparison needs two cores");
    let http = by_id("http_rest").context("there is no protocol http_rest")?;
    let runtime = runtime()?;
    let recorder = runtime.block_on((http.connect)(server.address().into(), 1))?;
    let meter = Meter { server: Some(server.process()), broker: None };
    let span = Span { warm_up: Duration::from_millis(300), measured: Duration::from_secs(SECONDS_EACH) };
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        let measured = runtime.block_on(measure::in_flight(&recorder, CONNECTIONS, span, &meter));
        ensure!(measured.errors.count == 0, "{:?}", measured.errors);
        let used = measured.cpu.server.context("CPU times need Linux")?;
        let lab = used.as_secs_f64() * 1e6 / measured.completed as f64;
        let wrk = under_wrk(&server, &script)?;
        if round > 0 {
            // Round 0 is the warm-up.
            ours.push(lab);
            theirs.push(wrk);
            ratios.push(lab / wrk);
        }
    }
    fs::remove_file(script)?;
    println!("server CPU time per request, {CONNECTIONS} connections, median (range) of {ROUNDS} rounds");
    println!("  under the lab  {:.2} µs", Spread::of(&ours));
    println!("  under wrk      {:.2} µs", Spread::of(&theirs));
    println!("  ratio          {:.2}", Spread::of(&ratios));
    Ok(())
}

/// Returns the server's CPU time per request under wrk, in µs.
fn under_wrk(server: &Server, script: &std::path::Path) -> anyhow::Result<f64> {
    let before = server.cpu_time()?;
    let wrk = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{SECONDS_EACH}s"), "-s"])
        .arg(script)
        .arg(format!("http://{}", server.address()))
        .output()
        .context("this comparison needs wrk; to install it, run apt-get install wrk")?;
    let used = server.cpu_time()? - before;
    let printed = String::from_utf8_lossy(&wrk.stdout);
    ensure!(!printed.contains("Non-2xx"), "{printed}");
    let requests = printed.lines().find_map(|line| line.trim().split_once(" requests in"));
    let requests: f64 = requests.context("wrk printed no count of requests")?.0.parse()?;
    Ok(used.as_secs_f64() * 1e6 / requests)
}

//! What the HTTP/REST server costs, compared with the least that axum can do.
//!
//! ```sh
//! cargo bench -p lab --bench http_rest     # needs wrk
//! ```
//!
//! Runs `wrk -t1 -c32` against `GET /stations/{id}` of this chapter's server and against a bare
//! axum handler that returns the same JSON as a constant. They take turns, round after round. The
//! server runs on core 0, wrk on core 1, and logs are off. The figure is the server's CPU time per
//! request, which varies less than requests per second do.

use std::process::Command;

use anyhow::{Context, ensure};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use http_rest::Client;
use http_rest::Limits;
use http_rest::Station;
use lab::{Server, Spread, owner_is_gone, pin, role, runtime};
use tokio::net::TcpListener;

const ROUNDS: usize = 7;
const SECONDS_EACH: u32 = 2;
const PATH: &str = "/stations/oslo-1";
const BODY: &str = r#"{"id":"oslo-1","name":"Oslo, Blindern","latitude":59.94,"longitude":10.72}"#;

fn main() -> anyhow::Result<()> {
    match role() {
        Some(role) => runtime()?.block_on(serve(&role)),
        None => compare(),
    }
}

async fn serve(role: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on http://{}", listener.local_addr()?);
    if role == "chapter" {
        http_rest::serve(listener, Limits::default(), owner_is_gone()).await?;
    } else {
        let bare =
            Router::new().route("/stations/{id}", get(async || ([(CONTENT_TYPE, "application/json")], BODY)));
        axum::serve(listener, bare).with_graceful_shutdown(owner_is_gone()).await?;
    }
    Ok(())
}

fn compare() -> anyhow::Result<()> {
    let chapter = Server::start("chapter", Some(0))?;
    let bare = Server::start("bare", Some(0))?;
    ensure!(pin(1), "this comparison needs two cores");
    let oslo: Station = serde_json::from_str(BODY)?;
    runtime()?.block_on(async {
        Client::new(chapter.address())?.create_station(&oslo).await.context("cannot create the station")
    })?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    load(&chapter, 1)?; // Warm-up, not counted.
    load(&bare, 1)?;
    for _ in 0..ROUNDS {
        let (a, b) = (load(&chapter, SECONDS_EACH)?, load(&bare, SECONDS_EACH)?);
        ours.push(a);
        theirs.push(b);
        ratios.push(a / b);
    }
    println!("server CPU time per request, wrk -t1 -c32, median (range) of {ROUNDS} rounds");
    println!("  chapter    {:.2} µs", Spread::of(&ours));
    println!("  bare axum  {:.2} µs", Spread::of(&theirs));
    println!("  ratio      {:.2}", Spread::of(&ratios));
    Ok(())
}

/// Runs wrk for this many seconds and returns the server's CPU time per request, in µs.
fn load(server: &Server, seconds: u32) -> anyhow::Result<f64> {
    let before = server.cpu_time()?;
    let url = format!("{}{PATH}", server.address());
    let wrk = Command::new("wrk")
        .args(["-t1", "-c32", &format!("-d{seconds}s"), &url])
        .output()
        .context("this comparison needs wrk; to install it, run apt-get install wrk")?;
    let used = server.cpu_time()? - before;
    let printed = String::from_utf8_lossy(&wrk.stdout);
    ensure!(!printed.contains("Non-2xx"), "{printed}");
    let requests = printed.lines().find_map(|line| line.trim().split_once(" requests in"));
    let requests: f64 = requests.context("wrk printed no count of requests")?.0.parse()?;
    Ok(used.as_secs_f64() * 1e6 / requests)
}

//! What the protocol over TCP costs, compared with a bare echo of the same number of bytes.
//!
//! ```sh
//! cargo bench -p lab --bench tcp_socket
//! ```
//!
//! A `record` of one reading is a frame of 50 bytes and a response of 20. The echo gets 50 bytes
//! and returns them. The two take turns, round after round, with both ends on core 0 and logs off.
//! There are two figures:
//!
//! - One request in flight: the median time from the call to its response. The caller is a task, as
//!   in most programs. `block_on` itself polls the system for events once more per call.
//! - 4 connections with 64 requests in flight each: the server's CPU time per request. The echo
//!   returns everything from one read in one write, so it batches, too.

use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::{Server, Spread, owner_is_gone, pin, role, runtime};
use tcp_socket::{Client, Limits, Metric, Reading};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ROUNDS: usize = 9;
const ONE_BY_ONE: usize = 10_000;
const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;
/// Number of requests per connection in a round.
const MANY: usize = 50_000;
/// Bytes of a `RECORD` with one reading, including its header.
const MESSAGE: usize = 50;

fn main() -> anyhow::Result<()> {
    match role() {
        Some(role) => runtime()?.block_on(serve(&role)),
        None => compare(),
    }
}

async fn serve(role: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on {}", listener.local_addr()?);
    if role == "chapter" {
        tcp_socket::serve(listener, Limits::default(), owner_is_gone()).await?;
    } else {
        tokio::select! {
            ended = echo(listener) => ended?,
            () = owner_is_gone() => {}
        }
    }
    Ok(())
}

async fn echo(listener: TcpListener) -> anyhow::Result<()> {
    loop {
        let (mut stream, _peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 8 * 1024];
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn compare() -> anyhow::Result<()> {
    ensure!(!cfg!(debug_assertions), "refusing to benchmark a debug build; use `cargo bench`");
    ensure!(pin(0), "this comparison has to choose its core, which this system does not allow");
    let (chapter, bare) = (Server::start("chapter", Some(0))?, Server::start("echo", Some(0))?);
    let runtime = runtime()?;
    let mut alone = Table::default();
    let mut together = Table::default();
    for round in 0..=ROUNDS {
        let a = runtime.block_on(in_a_task(record_one_by_one(chapter.address().to_owned())))?;
        let b = runtime.block_on(in_a_task(echo_one_by_one(bare.address().to_owned())))?;
        let c = cpu_per_request(&chapter, || runtime.block_on(record_many(chapter.address())))?;
        let d = cpu_per_request(&bare, || runtime.block_on(echo_many(bare.address())))?;
        if round > 0 {
            // Round 0 is the warm-up.
            alone.add(a, b);
            together.add(c, d);
        }
    }
    println!("median (range) of {ROUNDS} rounds, both ends on one core");
    println!("one in flight, p50 of {ONE_BY_ONE} requests");
    alone.print();
    println!("{CONNECTIONS} connections with {IN_FLIGHT} in flight each, server CPU time per request");
    together.print();
    Ok(())
}

/// A figure, in µs, for the chapter's server and for the echo.
#[derive(Default)]
struct Table {
    chapter: Vec<f64>,
    echo: Vec<f64>,
    ratio: Vec<f64>,
}

impl Table {
    fn add(&mut self, chapter: f64, echo: f64) {
        self.chapter.push(chapter);
        self.echo.push(echo);
        self.ratio.push(chapter / echo);
    }

    fn print(&self) {
        println!("  record  {:.2} µs", Spread::of(&self.chapter));
        println!("  echo    {:.2} µs", Spread::of(&self.echo));
        println!("  ratio   {:.2}", Spread::of(&self.ratio));
    }
}

fn reading() -> [Reading; 1] {
    let recorded_at = 1_767_225_600_000;
    [Reading { station: "oslo-1".into(), metric: Metric::Temperature, value: -3.5, recorded_at }]
}

fn p50(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e6
}

async fn in_a_task(work: impl Future<Output = anyhow::Result<f64>> + Send + 'static) -> anyhow::Result<f64> {
    tokio::spawn(work).await?
}

async fn record_one_by_one(addr: String) -> anyhow::Result<f64> {
    let client = Client::connect(&addr).await?;
    let reading = reading();
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    for _ in 0..ONE_BY_ONE {
        let sent = Instant::now();
        ensure!(client.record(&reading).await? == 1, "not recorded");
        times.push(sent.elapsed());
    }
    client.close().await;
    Ok(p50(times))
}

async fn echo_one_by_one(addr: String) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let mut buffer = [7; MESSAGE];
    let mut times = Vec::with_capacity(ONE_BY_ONE);
    for _ in 0..ONE_BY_ONE {
        let sent = Instant::now();
        stream.write_all(&buffer).await?;
        stream.read_exact(&mut buffer).await?;
        times.push(sent.elapsed());
    }
    Ok(p50(times))
}

fn cpu_per_request(server: &Server, load: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let before = server.cpu_time()?;
    load()?;
    Ok((server.cpu_time()? - before).as_secs_f64() * 1e6 / (CONNECTIONS * MANY) as f64)
}

async fn record_many(addr: &str) -> anyhow::Result<()> {
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let client = Client::connect(addr).await?;
        for caller in 0..IN_FLIGHT {
            let client = client.clone();
            callers.spawn(async move {
                let reading = reading();
                for _ in (caller..MANY).step_by(IN_FLIGHT) {
                    ensure!(client.record(&reading).await? == 1, "not recorded");
                }
                Ok(())
            });
        }
    }
    all(callers).await
}

async fn echo_many(addr: &str) -> anyhow::Result<()> {
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        callers.spawn(async move {
            // For each message that comes back, another one goes out.
            let mut buffer = vec![7; IN_FLIGHT * MESSAGE];
            stream.write_all(&buffer).await?;
            let mut left = (MANY - IN_FLIGHT) * MESSAGE;
            let mut unread = IN_FLIGHT * MESSAGE;
            while unread > 0 {
                let count = stream.read(&mut buffer).await?;
                ensure!(count > 0, "the echo closed the connection");
                let more = count.min(left);
                stream.write_all(&buffer[..more]).await?;
                left -= more;
                unread -= count - more;
            }
            Ok(())
        });
    }
    all(callers).await
}

async fn all(mut callers: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(())
}

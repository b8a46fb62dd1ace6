//! Two servers: which one gets a call, and what happens when one of them dies.
//!
//! ```sh
//! cargo run -p grpc --example balancing
//! ```

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::join_all;
use grpc::proto::weather_service_client::WeatherServiceClient;
use grpc::proto::{Reading, RecordRequest};
use grpc::{Client, Config, Options, serve};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

const CALLS: u64 = 1000;
const IN_FLIGHT: usize = 8;
const DURATION: Duration = Duration::from_secs(2);

/// A server with a runtime of its own. When the runtime ends, so do all its connections, as if
/// somebody had killed the server's process.
struct Server {
    addr: SocketAddr,
    runtime: Runtime,
}

impl Server {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?.into_std()?;
        let addr = listener.local_addr()?;
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.spawn(async {
            serve(TcpListener::from_std(listener)?, Config::default(), std::future::pending()).await
        });
        Ok(Self { addr, runtime })
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn kill(self) {
        self.runtime.shutdown_background();
    }

    /// Returns how many readings the server has recorded: the number of the newest one.
    async fn recorded(&self) -> u64 {
        let Ok(client) = Client::new(&self.url(), &Options::default()) else { return 0 };
        client.watch("oslo-1", None, None).await.map_or(0, |watching| watching.position().sequence)
    }
}

/// Starts a forwarder, and returns its address. It gives each new connection to the next server,
/// and copies bytes in both directions. It works on TCP, which is layer 4, so it sees no calls.
async fn forwarder(servers: Vec<SocketAddr>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        for server in servers.into_iter().cycle() {
            let Ok((mut client, _)) = listener.accept().await else { return };
            tokio::spawn(async move {
                copy_bidirectional(&mut client, &mut TcpStream::connect(server).await?).await
            });
        }
    });
    Ok(addr)
}

fn readings() -> Vec<Reading> {
    let (station, recorded_at) = ("oslo-1".to_owned(), 1_767_225_600_000);
    vec![Reading { station, metric: 1, value: 21.5, recorded_at }]
}

/// Makes calls through `client`, and shows which server got how many.
async fn spread(title: &str, client: &Client, servers: &[Server; 2]) -> anyhow::Result<()> {
    let [a, b] = servers;
    let before = (a.recorded().await, b.recorded().await);
    for _ in 0..CALLS {
        client.record(&readings()).await?;
    }
    println!("{title}");
    println!(
        "   server a: {} calls, server b: {}",
        a.recorded().await - before.0,
        b.recorded().await - before.1
    );
    Ok(())
}

/// Calls for [`DURATION`], kills `victim` after a quarter of it, and shows how many calls failed.
async fn survive(title: &str, victim: Server, call: impl AsyncFn() -> bool) {
    let end = Instant::now() + DURATION;
    let caller = async || {
        let (mut calls, mut failed, mut slowest) = (0, 0, Duration::ZERO);
        while Instant::now() < end {
            let start = Instant::now();
            failed += u32::from(!call().await);
            calls += 1;
            slowest = slowest.max(start.elapsed());
            sleep(Duration::from_millis(1)).await;
        }
        (calls, failed, slowest)
    };
    let kill = async {
        sleep(DURATION / 4).await;
        victim.kill();
    };
    let (results, ()) = tokio::join!(join_all((0..IN_FLIGHT).map(|_| caller())), kill);
    let calls: u32 = results.iter().map(|result| result.0).sum();
    let failed: u32 = results.iter().map(|result| result.1).sum();
    let slowest = results.iter().map(|result| result.2).max().unwrap_or_default();
    println!("   {title:<28} {calls:>5} calls, {failed:>4} failed, slowest {} ms", slowest.as_millis());
}

/// Calls without this chapter's client: tonic's own channel balances, and no more.
async fn bare(channel: &Channel) -> Result<(), Status> {
    let request = RecordRequest { readings: readings() };
    WeatherServiceClient::new(channel.clone()).record(request).await.map(|_accepted| ())
}

/// The same, but tries again when no server has executed the call.
async fn retried(channel: &Channel) -> Result<(), Status> {
    for pause in [50, 100, 200, 400] {
        match bare(channel).await {
            Err(status) if status.code() == Code::Unavailable => sleep(Duration::from_millis(pause)).await,
            result => return result,
        }
    }
    bare(channel).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let servers = [Server::start().await?, Server::start().await?];
    let forwarder = forwarder(servers.iter().map(|server| server.addr).collect()).await?;
    let through = Client::new(&format!("http://{forwarder}"), &Options::default())?;
    spread("1. Through a layer-4 forwarder, which chooses a server for each connection:", &through, &servers)
        .await?;
    let client = Client::balanced(&servers.each_ref().map(Server::url), &Options::default())?;
    spread("2. The client knows both addresses, and chooses a server for each call:", &client, &servers)
        .await?;
    servers.into_iter().for_each(Server::kill);

    println!("3. Server b is killed while {IN_FLIGHT} callers make calls for {DURATION:?}:");
    for (title, kind) in
        [("no retry, no health check", 0), ("retry on UNAVAILABLE", 1), ("retry and health check", 2)]
    {
        let (a, b) = (Server::start().await?, Server::start().await?);
        let urls = [a.url(), b.url()];
        let endpoints: Result<Vec<_>, _> = urls.iter().cloned().map(Endpoint::from_shared).collect();
        let channel = Channel::balance_list(endpoints.context("an address")?.into_iter());
        let client = Client::balanced(&urls, &Options::default())?;
        match kind {
            0 => survive(title, b, async || bare(&channel).await.is_ok()).await,
            1 => survive(title, b, async || retried(&channel).await.is_ok()).await,
            _ => survive(title, b, async || client.record(&readings()).await.is_ok()).await,
        }
        a.kill();
    }
    Ok(())
}

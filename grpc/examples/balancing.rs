//! Two servers: which one gets a call, and what happens when one of them dies.
//!
//! ```sh
//! cargo run -p grpc --example balancing
//! ```

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context;
use backon::{ExponentialBuilder, Retryable};
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
    let (a_before, b_before) = (a.recorded().await, b.recorded().await);
    for _ in 0..CALLS {
        client.record(&readings()).await?;
    }
    let (at_a, at_b) = (a.recorded().await - a_before, b.recorded().await - b_before);
    println!("{title}\n   server a: {at_a} calls, server b: {at_b}");
    Ok(())
}

/// Calls for [`DURATION`], kills `victim` after a quarter of it, and shows how many calls failed.
async fn survive(title: &str, victim: Server, call: impl AsyncFn() -> bool) {
    let end = Instant::now() + DURATION;
    let (calls, failed, slowest) = (Cell::new(0), Cell::new(0), Cell::new(Duration::ZERO));
    let caller = async || {
        while Instant::now() < end {
            let start = Instant::now();
            let succeeded = call().await;
            calls.set(calls.get() + 1);
            failed.set(failed.get() + u32::from(!succeeded));
            slowest.set(slowest.get().max(start.elapsed()));
            sleep(Duration::from_millis(1)).await;
        }
    };
    let kill = async {
        sleep(DURATION / 4).await;
        victim.kill();
    };
    tokio::join!(join_all((0..IN_FLIGHT).map(|_| caller())), kill);
    let (calls, failed, slowest) = (calls.get(), failed.get(), slowest.get().as_millis());
    println!("   {title:<28} {calls:>5} calls, {failed:>4} failed, slowest {slowest} ms");
}

/// Calls without this chapter's client: tonic's own channel balances, and no more.
async fn bare(channel: &Channel) -> Result<(), Status> {
    let request = RecordRequest { readings: readings() };
    WeatherServiceClient::new(channel.clone()).record(request).await.map(|_accepted| ())
}

/// The same, but with up to four retries if no server has executed the call.
async fn retried(channel: &Channel) -> Result<(), Status> {
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(50)).with_max_times(4);
    (|| bare(channel)).retry(pauses).when(|status| status.code() == Code::Unavailable).await
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let servers = [Server::start().await?, Server::start().await?];
    let forwarder = forwarder(servers.iter().map(|server| server.addr).collect()).await?;
    let through = Client::new(&format!("http://{forwarder}"), &Options::default())?;
    let per_connection = "1. Through a layer-4 forwarder, which chooses a server for each connection:";
    spread(per_connection, &through, &servers).await?;
    let client = Client::balanced(&servers.each_ref().map(Server::url), &Options::default())?;
    let per_call = "2. The client knows both addresses, and chooses a server for each call:";
    spread(per_call, &client, &servers).await?;
    servers.into_iter().for_each(Server::kill);

    println!("3. Server b is killed while {IN_FLIGHT} callers make calls for {DURATION:?}:");
    for title in ["no retry, no health check", "retry on UNAVAILABLE", "retry and health check"] {
        let (a, b) = (Server::start().await?, Server::start().await?);
        let urls = [a.url(), b.url()];
        let endpoints: Result<Vec<_>, _> = urls.iter().cloned().map(Endpoint::from_shared).collect();
        let channel = Channel::balance_list(endpoints.context("an address")?.into_iter());
        let client = Client::balanced(&urls, &Options::default())?;
        match title {
            "no retry, no health check" => survive(title, b, async || bare(&channel).await.is_ok()).await,
            "retry on UNAVAILABLE" => survive(title, b, async || retried(&channel).await.is_ok()).await,
            _ => survive(title, b, async || client.record(&readings()).await.is_ok()).await,
        }
        a.kill();
    }
    Ok(())
}

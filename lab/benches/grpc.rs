//! What the gRPC server costs, compared with the least that tonic can do.
//!
//! ```sh
//! cargo bench -p lab --bench grpc
//! ```
//!
//! Measures three things, which take turns, round after round:
//!
//! - A hello-world on tonic's own server, with one call and with 32 calls in flight.
//! - `Record` with one reading, in the same two ways. It is called through the bare stub and
//!   through this chapter's client, which adds a request ID and a deadline.
//! - `Upload`.
//!
//! The servers run on core 0, the client on core 1, and logs are off. The figure is the server's
//! CPU time per call or, for `Upload`, per reading.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures::future::try_join_all;
use futures::stream;
use grpc::Config;
use grpc::proto::weather_service_client::WeatherServiceClient;
use grpc::proto::{Metric, Reading, RecordRequest};
use grpc::{Client, Options};
use http::uri::PathAndQuery;
use http::{Request, Response};
use lab::{Server, Spread, owner_is_gone, pin, role, runtime};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, codegen::Service};
use tonic_prost::ProstCodec;

const ROUNDS: usize = 7;
const EACH: Duration = Duration::from_millis(450);
const IN_FLIGHT: usize = 32;
/// Number of readings in one `Upload`.
const UPLOADED: usize = 50_000;

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
        grpc::serve(listener, Config::default(), owner_is_gone()).await?;
    } else {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tonic::transport::Server::builder()
            .add_service(Greeter)
            .serve_with_incoming_shutdown(incoming, owner_is_gone())
            .await?;
    }
    Ok(())
}

/// The request and the response of tonic's hello-world example. Each has one string.
#[derive(Clone, PartialEq, prost::Message)]
struct Hello {
    #[prost(string, tag = "1")]
    text: String,
}

/// The service, as tonic would generate it from a `.proto` file.
#[derive(Clone)]
struct Greeter;

impl NamedService for Greeter {
    const NAME: &'static str = "helloworld.Greeter";
}

impl Service<Request<Body>> for Greeter {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default());
            Ok(grpc.unary(SayHello, request).await)
        })
    }
}

struct SayHello;

impl UnaryService<Hello> for SayHello {
    type Response = Hello;
    type Future = Ready<Result<tonic::Response<Hello>, Status>>;

    fn call(&mut self, request: tonic::Request<Hello>) -> Self::Future {
        ready(Ok(tonic::Response::new(Hello { text: format!("Hello {}!", request.get_ref().text) })))
    }
}

async fn say_hello(channel: Channel) -> anyhow::Result<()> {
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await?;
    let path = PathAndQuery::from_static("/helloworld.Greeter/SayHello");
    let request = tonic::Request::new(Hello { text: "Tonic".into() });
    let response = grpc.unary::<_, Hello, _>(request, path, ProstCodec::default()).await?;
    ensure!(response.get_ref().text == "Hello Tonic!");
    Ok(())
}

fn reading() -> Reading {
    Reading {
        station: "oslo-1".into(),
        metric: Metric::Temperature.into(),
        value: -3.5,
        recorded_at: 1_767_225_600_000,
    }
}

async fn record(client: Client) -> anyhow::Result<()> {
    ensure!(client.record(&[reading()]).await? == 1);
    Ok(())
}

async fn record_bare(channel: Channel) -> anyhow::Result<()> {
    let request = RecordRequest { readings: vec![reading()] };
    let response = WeatherServiceClient::new(channel).record(request).await?;
    ensure!(response.get_ref().accepted == 1);
    Ok(())
}

/// Repeats `call` for the time `each`, with `at_once` calls in flight, and returns how many were
/// made.
async fn repeat<F>(at_once: usize, each: Duration, call: impl Fn() -> F) -> anyhow::Result<usize>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let end = Instant::now() + each;
    let one_after_the_other = async || {
        let mut calls = 0;
        while Instant::now() < end {
            call().await?;
            calls += 1;
        }
        anyhow::Ok(calls)
    };
    Ok(try_join_all((0..at_once).map(|_| one_after_the_other())).await?.into_iter().sum())
}

async fn upload(client: &Client, each: Duration) -> anyhow::Result<usize> {
    let end = Instant::now() + each;
    let mut readings = 0;
    while Instant::now() < end {
        let summary = client.upload(stream::iter((0..UPLOADED).map(|_| reading())), None).await?;
        ensure!(summary.accepted == UPLOADED as u64);
        readings += UPLOADED;
    }
    Ok(readings)
}

/// Returns the server's CPU time, in µs, for each of the calls or readings that `work` counts.
async fn cost(server: &Server, work: impl Future<Output = anyhow::Result<usize>>) -> anyhow::Result<f64> {
    let before = server.cpu_time()?;
    let count = work.await?;
    Ok((server.cpu_time()? - before).as_secs_f64() * 1e6 / count as f64)
}

fn compare() -> anyhow::Result<()> {
    let chapter = Server::start("chapter", Some(0))?;
    let bare = Server::start("bare", Some(0))?;
    ensure!(pin(1), "this comparison needs two cores");
    runtime()?.block_on(async {
        let client = Client::new(chapter.address(), &Options::default())?;
        let connect = async |server: &Server| {
            Endpoint::from_shared(server.address().to_owned())?.tcp_nodelay(true).connect().await
        };
        let (to_chapter, to_bare) = (connect(&chapter).await?, connect(&bare).await?);
        let hello = || say_hello(to_bare.clone());
        let stub = || record_bare(to_chapter.clone());
        let full = || record(client.clone());
        let mut costs = [const { Vec::new() }; 7];
        for round in 0..=ROUNDS {
            let measured = [
                cost(&bare, repeat(1, EACH, hello)).await?,
                cost(&chapter, repeat(1, EACH, stub)).await?,
                cost(&chapter, repeat(1, EACH, full)).await?,
                cost(&bare, repeat(IN_FLIGHT, EACH, hello)).await?,
                cost(&chapter, repeat(IN_FLIGHT, EACH, stub)).await?,
                cost(&chapter, repeat(IN_FLIGHT, EACH, full)).await?,
                cost(&chapter, upload(&client, EACH)).await?,
            ];
            if round > 0 {
                // Round 0 is the warm-up.
                costs.iter_mut().zip(measured).for_each(|(costs, cost)| costs.push(cost));
            }
        }
        let ratio =
            |of: &[f64], to: &[f64]| Spread::of(&of.iter().zip(to).map(|(a, b)| a / b).collect::<Vec<_>>());
        let [hello_1, stub_1, full_1, hello_32, stub_32, full_32, uploaded] = &costs;
        println!("server CPU time in µs, one connection, median (range) of {ROUNDS} rounds");
        for (in_flight, hello, stub, full) in
            [(1, hello_1, stub_1, full_1), (IN_FLIGHT, hello_32, stub_32, full_32)]
        {
            println!("  {in_flight} in flight, per call");
            println!("    tonic hello-world      {}", Spread::of(hello));
            println!("    Record, bare stub      {}, ratio {}", Spread::of(stub), ratio(stub, hello));
            println!("    Record, our client     {}, ratio {}", Spread::of(full), ratio(full, hello));
        }
        println!("  Upload, per reading      {}", Spread::of(uploaded));
        println!("    ratio to Record, bare stub, {IN_FLIGHT} in flight: {:.3}", ratio(uploaded, stub_32));
        Ok(())
    })
}

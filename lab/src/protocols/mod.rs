//! The protocols, behind one small trait: connect, then `record`.

use std::io;

use ::message_queue::brokers;
use anyhow::{Context, bail};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::net::TcpListener;

use crate::server::owner_is_gone;

mod blocking_echo;
mod grpc;
mod http_rest;
mod message_queue;
mod rabbitmq;
mod redis;
mod tcp_socket;
mod tokio_echo;
mod websocket;

/// The station that all readings are of.
pub const STATION: &str = "oslo-1";

/// Bytes of information in a reading of [`STATION`]: its id, one byte for the
/// metric, eight each for value and time. What a protocol sends beyond that is
/// its overhead.
pub const INFORMATION: usize = STATION.len() + 1 + 8 + 8;

/// One connection's client, with a batch prepared to be recorded again and again.
pub trait Recorder: Send + Sync {
    /// Records the batch once and verifies the reply. May be called many times
    /// side by side, unless [`Protocol::one_at_a_time`].
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// A client, shared by all that call it.
pub type Connected = anyhow::Result<Arc<dyn Recorder>>;

/// A protocol: how to serve it and how to connect to it.
pub struct Protocol {
    /// Its name in `--protocols`, in `results.json` and in `serve <id>`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// What its figures may be compared with.
    pub kind: Kind,
    /// A call blocks its thread, so that there is only ever one in flight.
    pub one_at_a_time: bool,
    /// Who takes the requests.
    pub served: Served,
    /// Connects to the server, or to the broker, at this `host:port` and prepares a
    /// batch of so many readings. Some clients connect with the first call only.
    pub connect: fn(address: String, readings: usize) -> BoxFuture<'static, Connected>,
}

/// Who takes the requests. A server is a process of its own, and serves until the
/// lab closes its stdin.
pub enum Served {
    /// A server that listens here.
    Directly(fn(TcpListener) -> BoxFuture<'static, anyhow::Result<()>>),
    /// A server that takes them from the broker at this `host:port` and replies
    /// through it; it calls `listening` when it is ready.
    ThroughBroker(
        brokers::Kind,
        fn(broker: String, listening: Listening) -> BoxFuture<'static, anyhow::Result<()>>,
    ),
    /// The broker itself.
    ByBroker(brokers::Kind),
}

/// Called when requests can be taken.
pub type Listening = Box<dyn FnOnce() + Send>;

/// What a reply means, and so what may be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The same number of bytes, returned as they are: what TCP itself costs.
    Floor,
    /// Checked and stored by the server.
    Recorded,
    /// Accepted by the broker; nobody has looked at it yet.
    Accepted,
}

/// All of them, in the order of the tables: the floors first.
pub const ALL: [&Protocol; 11] = [
    &blocking_echo::PROTOCOL,
    &tokio_echo::PROTOCOL,
    &tcp_socket::PROTOCOL,
    &websocket::PROTOCOL,
    &grpc::UNARY,
    &grpc::STREAM,
    &http_rest::PROTOCOL,
    &redis::REQUEST_REPLY,
    &rabbitmq::REQUEST_REPLY,
    &redis::APPEND,
    &rabbitmq::PUBLISH,
];

/// The protocol of that id.
pub fn by_id(id: &str) -> Option<&'static Protocol> {
    ALL.into_iter().find(|protocol| protocol.id == id)
}

/// A protocol's server, as the process that [`Server::start`](crate::Server::start)
/// makes. `role` is its id, for one through a broker followed by `@` and the broker's
/// `host:port`; that is then also what it prints as its address.
///
/// # Errors
/// If there is no such protocol, or it cannot listen.
pub async fn serve(role: &str) -> anyhow::Result<()> {
    let (id, broker) =
        role.split_once('@').map_or((role, None), |(id, broker)| (id, Some(broker.to_owned())));
    let protocol = by_id(id).with_context(|| format!("no protocol {id:?}"))?;
    match (&protocol.served, broker) {
        (Served::Directly(serve), None) => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("listening on {}", listener.local_addr()?);
            serve(listener).await
        }
        (Served::ThroughBroker(_, serve), Some(broker)) => {
            let address = broker.clone();
            serve(broker, Box::new(move || println!("listening on {address}"))).await
        }
        _ => bail!("{role:?} is no server"),
    }
}

/// What every protocol records; each turns it into its own type.
#[derive(Clone, Copy)]
struct Sample {
    /// Air temperature in °C.
    temperature: f64,
    /// In ms since the Unix epoch.
    recorded_at: u64,
}

/// So many of them, a second apart.
fn samples(count: usize) -> impl Iterator<Item = Sample> {
    (0..count as u64).map(|index| Sample {
        temperature: ((index % 100) as f64 - 35.0) / 10.0,
        recorded_at: 1_767_225_600_000 + 1000 * index,
    })
}

/// The information of so many readings as bytes, for the echoes.
fn information(readings: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(readings * INFORMATION);
    for sample in samples(readings) {
        bytes.extend_from_slice(STATION.as_bytes());
        bytes.push(1);
        bytes.extend_from_slice(&sample.temperature.to_be_bytes());
        bytes.extend_from_slice(&sample.recorded_at.to_be_bytes());
    }
    bytes
}

/// An echo's reply must be what was sent.
fn verify_echo(sent: &[u8], reply: &[u8]) -> anyhow::Result<()> {
    anyhow::ensure!(sent == reply, "the echo differs");
    Ok(())
}

/// A recording's reply must count all readings of the batch.
fn verify_count(accepted: usize, sent: usize) -> anyhow::Result<()> {
    anyhow::ensure!(accepted == sent, "the server accepted {accepted} readings of {sent}");
    Ok(())
}

/// Accepts until the lab closes this process's stdin. For the echoes, whose only
/// peer is the lab.
async fn accept_each(
    listener: TcpListener,
    mut each: impl FnMut(tokio::net::TcpStream) -> io::Result<()>,
) -> anyhow::Result<()> {
    let accept = async {
        loop {
            let (stream, _peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            each(stream)?;
        }
    };
    // Cancel safe: whatever has not been accepted by then is not wanted any more.
    tokio::select! {
        ended = accept => ended,
        () = owner_is_gone() => Ok(()),
    }
}

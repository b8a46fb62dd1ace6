//! Streams that stay open: many messages over one connection, without a pause between them.

use std::collections::VecDeque;
use std::iter;
use std::time::{Duration, Instant};

use ::grpc::proto::monitor_response::Event;
use ::grpc::proto::threshold::Bound;
use ::grpc::proto::{Metric, Reading, Threshold};
use anyhow::{Context, ensure};
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::batch::{STATION, samples, verify_count};
use super::grpc;
use super::protocol::{Protocol, Recorder};
use super::{tcp_socket, websocket};

/// Maximum number of messages without an acknowledgement, where each message has one.
const UNACKNOWLEDGED: usize = 64;

enum Way {
    Pipelined,
    Upload,
    Monitor,
}

/// A way to send many messages over one connection.
pub struct Streamed {
    way: Way,
    /// How it is served, and its name in the tables.
    pub protocol: Protocol,
    /// The ID in `--protocols` that selects it.
    pub selected_by: &'static str,
    /// What is acknowledged, and when: one sentence.
    pub acknowledged: &'static str,
}

const fn streamed(
    way: Way,
    id: &'static str,
    name: &'static str,
    base: Protocol,
    acknowledged: &'static str,
) -> Streamed {
    Streamed { way, selected_by: base.id, protocol: Protocol { id, name, ..base }, acknowledged }
}

/// All of them, in the order of the tables.
pub static STREAMS: [Streamed; 5] = [
    streamed(
        Way::Pipelined,
        "tcp_pipelined",
        "TCP, pipelined",
        tcp_socket::PROTOCOL,
        "The server answers each message once it has stored the reading.",
    ),
    streamed(
        Way::Pipelined,
        "websocket_pipelined",
        "WebSocket, pipelined",
        websocket::PROTOCOL,
        "The server answers each message once it has stored the reading.",
    ),
    streamed(
        Way::Upload,
        "grpc_upload",
        "gRPC Upload",
        grpc::STREAM,
        "The server stores each reading as it arrives, but answers only once, after the last one.",
    ),
    streamed(
        Way::Monitor,
        "grpc_monitor",
        "gRPC Monitor",
        grpc::STREAM,
        "A message adds or removes a threshold, and the server answers it once it has done so; it stores no reading.",
    ),
    streamed(
        Way::Pipelined,
        "grpc_calls",
        "gRPC unary, for comparison",
        grpc::UNARY,
        "Each message is a call of its own, which the server answers once it has stored the reading.",
    ),
];

impl Streamed {
    /// Connects to the server at `address`, sends one reading, and then this many messages. Calls
    /// `begin` in between. Returns each message's time until its acknowledgement.
    ///
    /// # Errors
    /// If it can't connect, or the server does not accept a message.
    pub async fn send(
        &self,
        address: &str,
        messages: usize,
        begin: impl FnOnce(),
    ) -> anyhow::Result<Vec<Duration>> {
        let client = ::grpc::Client::new(&format!("http://{address}"), &::grpc::Options::default())?;
        let batch: Vec<_> = samples(1).map(grpc::reading).collect();
        if let Way::Pipelined = self.way {
            let recorder = (self.protocol.connect)(address.to_owned().into(), 1).await?;
            recorder.record().await?;
            begin();
            return pipelined(&*recorder, messages).await;
        }
        client.record(&batch).await?; // It also creates the station that a threshold names.
        begin();
        if let Way::Monitor = self.way {
            return monitored(&client, messages).await;
        }
        uploaded(&client, batch, messages).await
    }
}

async fn pipelined(recorder: &dyn Recorder, messages: usize) -> anyhow::Result<Vec<Duration>> {
    let message = async |_| {
        let sent = Instant::now();
        recorder.record().await?;
        anyhow::Ok(sent.elapsed())
    };
    stream::iter(0..messages).map(message).buffer_unordered(UNACKNOWLEDGED).try_collect().await
}

async fn uploaded(
    client: &::grpc::Client,
    batch: Vec<Reading>,
    messages: usize,
) -> anyhow::Result<Vec<Duration>> {
    let (sent, mut times) = mpsc::unbounded_channel();
    let readings = batch.into_iter().cycle().take(messages).inspect(move |_| _ = sent.send(Instant::now()));
    let summary = client.upload(stream::iter(readings), None).await?;
    let acknowledged = Instant::now();
    verify_count(usize::try_from(summary.accepted)?, messages)?;
    Ok(iter::from_fn(|| times.try_recv().ok()).map(|sent| acknowledged - sent).collect())
}

async fn monitored(client: &::grpc::Client, messages: usize) -> anyhow::Result<Vec<Duration>> {
    let mut monitoring = client.monitor().await?;
    let mut sent = VecDeque::new();
    let mut times = Vec::with_capacity(messages);
    for number in 0..messages + UNACKNOWLEDGED {
        if number >= UNACKNOWLEDGED.min(messages) && times.len() < messages {
            let event = monitoring.next().await.context("the server ended the call")??;
            ensure!(matches!(event, Event::Added(_) | Event::Removed(_)), "the server refused: {event:?}");
            times.extend(sent.pop_front().map(|sent: Instant| sent.elapsed()));
        }
        if number < messages {
            sent.push_back(Instant::now());
            if number % 2 == 0 {
                monitoring.add(threshold()).await?;
            } else {
                monitoring.remove(STATION).await?;
            }
        }
    }
    Ok(times)
}

/// Returns a threshold that no reading exceeds.
fn threshold() -> Threshold {
    let (id, station) = (STATION.to_owned(), STATION.to_owned());
    Threshold { id, station, metric: Metric::Temperature.into(), bound: Some(Bound::Above(70.0)) }
}

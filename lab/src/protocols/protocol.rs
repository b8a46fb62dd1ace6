//! What the lab has to know about a protocol, behind one small trait: connect, then
//! `record`.

use std::sync::Arc;

use ::message_queue::brokers;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A client with a batch of readings that it can record again and again.
pub trait Recorder: Send + Sync {
    /// Records the batch once and verifies the reply. Many calls may run at the same
    /// time, unless the protocol is [`Protocol::one_at_a_time`].
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// A client that all callers share.
pub type Connected = anyhow::Result<Arc<dyn Recorder>>;

/// Wraps a client as [`Protocol::connect`] returns it.
pub(super) fn connected(recorder: impl Recorder + 'static) -> Connected {
    Ok(Arc::new(recorder))
}

/// A protocol: how to serve it and how to connect to it.
pub struct Protocol {
    /// Its name in `--protocols`, in `results.json`, and in `serve <id>`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// Says which figures it can be compared with.
    pub kind: Kind,
    /// A call blocks its thread, so only one can be in flight.
    pub one_at_a_time: bool,
    /// Says who receives the requests.
    pub served: Served,
    /// Connects to the server, or to the broker, at this `host:port`, and prepares a
    /// batch of this many readings. Some clients only connect with their first call.
    pub connect: fn(address: String, readings: usize) -> BoxFuture<'static, Connected>,
}

/// Says who receives a protocol's requests. A server runs in a process of its own, until
/// the token is cancelled.
pub enum Served {
    /// A server that listens on this socket.
    Directly(fn(TcpListener, CancellationToken) -> BoxFuture<'static, anyhow::Result<()>>),
    /// A server that receives requests from the broker at this `host:port` and replies
    /// through it. It calls `listening` when it is ready.
    ThroughBroker(
        brokers::Kind,
        fn(broker: String, CancellationToken, listening: Listening) -> BoxFuture<'static, anyhow::Result<()>>,
    ),
    /// The broker itself.
    ByBroker(brokers::Kind),
}

impl Served {
    /// Returns the broker that the protocol needs.
    pub fn broker(&self) -> Option<brokers::Kind> {
        match self {
            Self::Directly(_) => None,
            Self::ThroughBroker(kind, _) | Self::ByBroker(kind) => Some(*kind),
        }
    }
}

/// Called when the server is ready for requests.
pub type Listening = Box<dyn FnOnce() + Send>;

/// What a reply means. Compare only protocols whose replies mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server returned the same bytes: a baseline, the cost of TCP alone.
    Floor,
    /// The server checked and stored the readings.
    Recorded,
    /// The broker accepted the message. No program has processed it yet.
    Accepted,
}

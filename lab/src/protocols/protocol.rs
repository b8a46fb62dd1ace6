//! What the lab has to know about a protocol: how to serve it, how to connect a client, and how
//! that client records a batch.

use std::sync::Arc;

use ::message_queue::address::BrokerUrl;
use ::message_queue::brokers;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use tcp_socket::base::tls::{ClientOptions, Listener};
use tokio_util::sync::CancellationToken;

/// A client with a batch of readings that it can record again and again.
pub trait Recorder: Send + Sync {
    /// Records the batch once and verifies the reply. Many calls may run at the same time, unless
    /// [`Protocol::one_at_a_time`] is set.
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// Maximum number of connections of a server: more than any measurement opens.
pub(super) const MAX_CONNECTIONS: usize = 20_000;

/// The outcome of connecting: a client that all callers share.
pub type Connected = anyhow::Result<Arc<dyn Recorder>>;

/// Wraps a client in the type that [`Protocol::connect`] returns.
pub(super) fn connected(recorder: impl Recorder + 'static) -> Connected {
    Ok(Arc::new(recorder))
}

/// A protocol: how to serve it and how to connect to it.
pub struct Protocol {
    /// Its name in `--protocols`, in `results.json`, and in `serve <id>`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// What a reply means. Only protocols of the same kind can be compared.
    pub kind: Kind,
    /// Whether a call blocks its thread, so that only one can be in flight.
    pub one_at_a_time: bool,
    /// The program that receives the requests.
    pub served: Served,
    /// Connects to the server, or to the broker, and prepares a batch of this many readings. Some
    /// clients do not connect until their first call.
    pub connect: fn(address: Address, readings: usize) -> BoxFuture<'static, Connected>,
}

/// Where a client connects to.
#[derive(Debug, Clone)]
pub struct Address {
    /// `host:port`.
    pub place: String,
    /// How a client encrypts the connection, or `None` if it doesn't.
    pub tls: Option<ClientOptions>,
}

impl<T: Into<String>> From<T> for Address {
    fn from(place: T) -> Self {
        Self { place: place.into(), tls: None }
    }
}

impl Address {
    /// Returns the URL with the first scheme, or with the second one if the connection is encrypted.
    pub(crate) fn url(&self, [plain, encrypted]: [&str; 2]) -> String {
        format!("{}://{}", if self.tls.is_some() { encrypted } else { plain }, self.place)
    }

    /// Returns the same as the URL of a broker.
    pub(crate) fn broker(&self, schemes: [&str; 2]) -> anyhow::Result<BrokerUrl> {
        BrokerUrl::with_tls(&self.url(schemes), &self.options())
    }

    /// Returns what a client needs besides the URL.
    pub(crate) fn options(&self) -> ClientOptions {
        self.tls.clone().unwrap_or_default()
    }
}

/// The program that receives a protocol's requests. A server runs in its own process, until the
/// token is cancelled.
pub enum Served {
    /// A server that listens on this socket.
    Directly(fn(Listener, CancellationToken) -> BoxFuture<'static, anyhow::Result<()>>),
    /// A server that receives requests from the broker at this address and replies through the
    /// broker. It calls `listening` when it is ready.
    ThroughBroker(
        brokers::Kind,
        fn(
            broker: Address,
            CancellationToken,
            listening: Listening,
        ) -> BoxFuture<'static, anyhow::Result<()>>,
    ),
    /// The broker itself, without a server.
    ByBroker(brokers::Kind),
}

impl Served {
    /// Returns the broker that the protocol needs, if any.
    pub fn broker(&self) -> Option<brokers::Kind> {
        match self {
            Self::Directly(_) => None,
            Self::ThroughBroker(kind, _) | Self::ByBroker(kind) => Some(*kind),
        }
    }
}

/// Yields one item for each reading that arrives, and ends with its connection.
pub type Subscription = BoxStream<'static, ()>;

/// Called when the server is ready for requests.
pub type Listening = Box<dyn FnOnce() + Send>;

/// What a reply means. Compare a protocol only with the baselines and with its own kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The server returned the same bytes. This is the baseline: the cost of TCP alone.
    #[serde(rename = "floor")]
    Baseline,
    /// The server checked and stored the readings.
    Recorded,
    /// The broker accepted the message. No program has processed it yet.
    Accepted,
}

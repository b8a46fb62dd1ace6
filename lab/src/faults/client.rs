//! A client of an experiment, and its calls.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use futures::future::BoxFuture;
use message_queue::job::Job;
use message_queue::rabbitmq::topology::Topology;
use message_queue::redis::names::KeyNames;
use serde::{Deserialize, Serialize};
use tcp_socket::base::tls::ClientOptions;
use tokio::time::sleep;

/// Time between the starts of two calls of the same task.
const PACE: Duration = Duration::from_millis(5);

/// What a client says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It was done, in the sense of [`Row::done`](super::row::Row::done).
    Done,
    /// It was certainly not executed.
    NotDone,
    /// Nobody knows: the request may have been executed.
    Unknown,
}

/// Turns the result of a call to a chapter's client into a [`Told`].
macro_rules! told {
    ($result:expr) => {
        match $result {
            Ok(_) => Told::Done,
            Err(error) if error.may_have_been_executed() => Told::Unknown,
            Err(_) => Told::NotDone,
        }
    };
}

/// A client that records numbered readings. Many calls may run at the same time.
pub(super) trait Client: Send + Sync {
    /// Records the reading with this number, and returns what the client says about it.
    fn record(&self, number: u64) -> BoxFuture<'_, Told>;
}

/// A client made from a function.
struct Calls<F>(F);

impl<F: Fn(u64) -> BoxFuture<'static, Told> + Send + Sync> Client for Calls<F> {
    fn record(&self, number: u64) -> BoxFuture<'_, Told> {
        (self.0)(number)
    }
}

pub(super) type Connected = anyhow::Result<Arc<dyn Client>>;

pub(super) fn calls(record: impl Fn(u64) -> BoxFuture<'static, Told> + Send + Sync + 'static) -> Connected {
    Ok(Arc::new(Calls(record)))
}

/// Where a client connects.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The `host:port` of the proxy in front of the server or broker.
    pub address: String,
    /// Prefix of all names on a broker.
    pub prefix: String,
    /// How the client encrypts the connection, or `None` if it doesn't.
    pub tls: Option<ClientOptions>,
    /// What the errors of the client said, each text once.
    pub errors: Arc<Mutex<BTreeSet<String>>>,
}

impl Place {
    /// Returns a place without TLS.
    pub(super) fn new(address: String, prefix: String) -> Self {
        Self { address, prefix, tls: None, errors: Arc::default() }
    }

    pub(super) fn http(&self) -> String {
        self.url(["http", "https"])
    }

    /// Returns the URL with the first scheme, or with the second one if the connection is encrypted.
    pub(super) fn url(&self, [plain, encrypted]: [&str; 2]) -> String {
        format!("{}://{}", if self.tls.is_some() { encrypted } else { plain }, self.address)
    }

    pub(super) fn options(&self) -> ClientOptions {
        self.tls.clone().unwrap_or_default()
    }

    pub(super) fn note(&self, error: &impl Display) {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).insert(error.to_string());
    }

    pub(super) fn amqp(&self) -> String {
        format!("amqp://{}", self.address)
    }

    pub(super) fn redis(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(super) fn topology(&self) -> Topology {
        Topology { prefix: self.prefix.clone(), ..Topology::default() }
    }

    pub(super) fn keys(&self) -> KeyNames {
        KeyNames { prefix: self.prefix.clone() }
    }
}

/// A call of a client. Times are in microseconds since 1970.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Request {
    /// The number of the reading, from 1.
    pub number: u64,
    /// When the call began.
    pub started: u64,
    /// When it ended.
    pub ended: u64,
    /// What the client said.
    pub told: Told,
}

/// Returns the microseconds since 1970.
pub(super) fn micros() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |time| time.as_micros() as u64)
}

/// Waits until it is time for the next call.
pub(super) async fn pause(started: u64) {
    sleep(PACE.saturating_sub(Duration::from_micros(micros().saturating_sub(started)))).await;
}

/// Returns the job with this number.
pub(super) fn job(number: u64) -> Job {
    Job::example(number.to_string(), number)
}

pub(super) use told;

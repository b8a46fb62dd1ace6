//! The client's side of request/reply, with either broker: it sends `record` requests.
//!
//! Many requests are in flight on one connection, and replies come in any order. Each request
//! has an ID, and its reply repeats it, so the client knows which request the reply belongs to.
//! [`rabbitmq`](crate::rabbitmq::client) and [`redis`](crate::redis::client) show how a request
//! travels.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::address::BrokerUrl;
use crate::error::Error;
use crate::limits::{CALL_TIMEOUT, MAX_IN_FLIGHT};
use crate::model::Reading;
use crate::reconnect::Retry;
use crate::record::{Reason, Reply};

/// A kind of broker, and the names to use on it:
/// [`Topology`](crate::rabbitmq::topology::Topology) for RabbitMQ or
/// [`KeyNames`](crate::redis::names::KeyNames) for Redis.
#[async_trait]
pub trait Broker: Send + Sync + 'static {
    /// Connects, and from then on passes each reply to its call in `calls`.
    async fn open(&self, url: &BrokerUrl, calls: Arc<Calls>) -> Result<Box<dyn Connection>, Error>;
}

/// A connection that carries requests.
#[async_trait]
pub trait Connection: Send + Sync {
    /// Returns whether it can still be used.
    fn is_open(&self) -> bool;

    /// Sends a request. If the broker supports it, no server begins the request after `timeout`.
    async fn send(&self, id: u64, readings: &[Reading], timeout: Duration) -> Result<(), Error>;
}

/// The calls on one connection that wait for their replies.
#[derive(Default)]
pub struct Calls {
    last_id: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Result<Reply, Error>>>>,
}

impl Calls {
    /// Ends a call. Does nothing if it has ended already, since its caller has given up or another
    /// server was faster.
    pub(crate) fn end(&self, id: u64, result: Result<Reply, Error>) {
        if let Some(call) = self.lock().remove(&id) {
            let _ = call.send(result);
        }
    }

    /// Ends all calls, since the connection for their replies is lost.
    pub(crate) fn end_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Reply, Error>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets a call however it ends, even if its future is dropped.
struct Forget<'a> {
    calls: &'a Calls,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.lock().remove(&self.id);
    }
}

/// A client. Clones share a connection, and calls can run at the same time.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    url: BrokerUrl,
    broker: Box<dyn Broker>,
    session: tokio::sync::Mutex<Arc<Session>>,
    in_flight: Semaphore,
}

/// A connection and its calls.
struct Session {
    connection: Box<dyn Connection>,
    calls: Arc<Calls>,
}

impl Client {
    /// Connects to the broker.
    ///
    /// # Errors
    /// If no broker answers, or if it can't be used.
    pub async fn connect(url: impl Into<BrokerUrl>, broker: impl Broker) -> Result<Self, Error> {
        let url = url.into();
        let session = Retry::new().first(|| Session::open(&url, &broker)).await?;
        let shared = Shared {
            url,
            broker: Box::new(broker),
            session: tokio::sync::Mutex::new(Arc::new(session)),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        };
        Ok(Self { shared: Arc::new(shared), timeout: CALL_TIMEOUT })
    }

    /// Returns the same client with another timeout for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Records the whole batch or nothing, and returns the number of accepted readings. Never
    /// sends the request twice.
    ///
    /// # Errors
    /// After [`Error::NoServer`] or [`Error::Refused`], the request was certainly not executed.
    /// After [`Error::TimedOut`] or [`Error::OutcomeUnknown`], it may have been. For any error,
    /// see [`Error::may_have_been_executed`].
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let call = async {
            let Ok(_permit) = self.shared.in_flight.acquire().await else { return Err(Error::Disconnected) };
            self.session().await?.call(readings, self.timeout).await
        };
        match timeout(self.timeout, call).await.map_err(|_| Error::TimedOut)?? {
            Reply::Accepted(count) => Ok(count),
            Reply::Refused { reason: Reason::Interrupted, .. } => Err(Error::OutcomeUnknown),
            Reply::Refused { reason, detail } => Err(Error::Refused { reason, detail }),
        }
    }

    /// Returns the session, or a new one if its connection was lost.
    async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut session = self.shared.session.lock().await;
        if !session.connection.is_open() {
            *session = Arc::new(Session::open(&self.shared.url, &*self.shared.broker).await?);
        }
        Ok(session.clone())
    }
}

impl Session {
    async fn open(url: &BrokerUrl, broker: &dyn Broker) -> Result<Self, Error> {
        let calls = Arc::new(Calls::default());
        Ok(Self { connection: broker.open(url, calls.clone()).await?, calls })
    }

    async fn call(&self, readings: &[Reading], timeout: Duration) -> Result<Reply, Error> {
        let calls = &*self.calls;
        let id = calls.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, reply) = oneshot::channel();
        calls.lock().insert(id, sender);
        let _forget = Forget { calls, id };
        self.connection.send(id, readings, timeout).await?;
        reply.await.map_err(|_| Error::OutcomeUnknown)?
    }
}

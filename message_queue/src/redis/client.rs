//! The client's side of request/reply over Pub/Sub: `record` across Redis.
//!
//! `PUBLISH` returns how many subscribers it reached. Without any, there is no server, and
//! the call fails at once. If there are several, the request runs on each of them: Pub/Sub
//! can't choose one. That is what Streams and RabbitMQ's queues are for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::connection::{Subscriber, message};
use super::names::KeyNames;
use super::protocol::{ReplyMessage, Request};
use crate::error::{self, Error};
use crate::limits::redis::REPLY_BATCH;
use crate::limits::{CALL_TIMEOUT, MAX_IN_FLIGHT};
use crate::model::{Reading, from_json};
use crate::reconnect::Retry;
use crate::record::Reply;

/// What a call brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// How many readings the server accepted that answered first.
    pub accepted: usize,
    /// How many servers got the request; it ran on each.
    pub servers: u64,
}

type Pending = Mutex<HashMap<u64, oneshot::Sender<Reply>>>;

/// A client. Clones share a connection; calls may run side by side.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    url: String,
    keys: KeyNames,
    session: tokio::sync::Mutex<Option<Arc<Calls>>>,
    in_flight: Semaphore,
}

/// The calls of one connection.
struct Calls {
    connection: MultiplexedConnection,
    reply_to: String,
    pending: Arc<Pending>,
    last_id: AtomicU64,
    replies: AbortOnDropHandle<()>,
}

impl Client {
    /// Connects and subscribes to a channel of its own for replies.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn connect(url: &str, keys: KeyNames) -> Result<Self, Error> {
        let calls = Arc::new(Retry::new().first(|| Calls::open(url, &keys)).await?);
        let shared = Shared {
            url: url.to_owned(),
            keys,
            session: tokio::sync::Mutex::new(Some(calls)),
            in_flight: Semaphore::new(MAX_IN_FLIGHT),
        };
        Ok(Self { shared: Arc::new(shared), timeout: CALL_TIMEOUT })
    }

    /// Returns the same client with another timeout for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Records a batch, all of it or nothing, and returns how many readings were
    /// accepted. Never sent twice.
    ///
    /// # Errors
    /// [`Error::NoServer`] and [`Error::Refused`] if certainly nothing happened;
    /// [`Error::TimedOut`] and [`Error::OutcomeUnknown`] if it may have.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        Ok(self.record_and_count(readings).await?.accepted)
    }

    /// [`Client::record`], and how many servers the request ran on.
    ///
    /// # Errors
    /// As [`Client::record`].
    pub async fn record_and_count(&self, readings: &[Reading]) -> Result<Recorded, Error> {
        timeout(self.timeout, self.call(readings)).await.map_err(|_| Error::TimedOut)?
    }

    async fn call(&self, readings: &[Reading]) -> Result<Recorded, Error> {
        let Ok(_permit) = self.shared.in_flight.acquire().await else { return Err(Error::Disconnected) };
        self.calls().await?.call(&self.shared.keys, readings).await
    }

    /// The connection, opened again if it was lost.
    async fn calls(&self) -> Result<Arc<Calls>, Error> {
        let mut session = self.shared.session.lock().await;
        match &*session {
            Some(calls) if !calls.replies.is_finished() => Ok(calls.clone()),
            _ => {
                let calls = Arc::new(Calls::open(&self.shared.url, &self.shared.keys).await?);
                *session = Some(calls.clone());
                Ok(calls)
            }
        }
    }
}

impl Calls {
    async fn open(url: &str, keys: &KeyNames) -> Result<Self, Error> {
        let mut subscriber = Subscriber::connect(url, MAX_IN_FLIGHT * 2).await?;
        let reply_to = format!("{}{:032x}", keys.replies(), fastrand::u128(..));
        subscriber.connection.subscribe(&reply_to).await?;
        let pending = Arc::new(Pending::default());
        let connection = subscriber.connection.clone();
        let replies = AbortOnDropHandle::new(tokio::spawn(dispatch(subscriber, pending.clone())));
        Ok(Self { connection, reply_to, pending, last_id: AtomicU64::new(0), replies })
    }

    async fn call(&self, keys: &KeyNames, readings: &[Reading]) -> Result<Recorded, Error> {
        let Self { reply_to, pending, .. } = self;
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let request =
            serde_json::to_vec(&Request { id, reply_to, readings }).map_err(std::io::Error::from)?;
        let (answered, answer) = oneshot::channel();
        lock(pending).insert(id, answered);
        // Forgets the call however it ends, its future dropped included.
        let _forget = Forget { pending, id };
        let mut connection = self.connection.clone();
        let published = cmd("PUBLISH").arg(keys.requests()).arg(request).query_async(&mut connection).await;
        let servers = match published {
            Ok(0) => return Err(Error::NoServer(keys.prefix.clone())),
            Ok(servers) => servers,
            // It may have been sent before the connection broke.
            Err(error) if error.is_io_error() => return Err(Error::OutcomeUnknown),
            Err(error) => return Err(error.into()),
        };
        if servers > 1 {
            warn!("{servers} servers got the request; it runs on each");
        }
        let accepted = error::accepted(answer.await.map_err(|_| Error::OutcomeUnknown)?)?;
        Ok(Recorded { accepted, servers })
    }
}

struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(self.pending).remove(&self.id);
    }
}

fn lock(pending: &Pending) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Reply>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives each reply to its call. When the connection breaks, every call fails: the
/// replies would be published while nobody listens.
async fn dispatch(mut subscriber: Subscriber, pending: Arc<Pending>) {
    let mut pushes = Vec::with_capacity(REPLY_BATCH);
    while subscriber.receive(&mut pushes, REPLY_BATCH).await.is_ok() {
        for (_, body) in pushes.drain(..).filter_map(message) {
            let Ok(reply) = from_json::<ReplyMessage>(&body) else { continue };
            // Without a call, its caller has given up, or another server was faster.
            if let Some(call) = lock(&pending).remove(&reply.id) {
                let _ = call.send(reply.answer);
            }
        }
    }
    lock(&pending).clear();
}

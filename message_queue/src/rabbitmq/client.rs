//! The client's side of request/reply: `record` across the broker.
//!
//! The request goes to the servers' queue and names where to reply
//! (`amq.rabbitmq.reply-to`, RabbitMQ's direct reply-to: no queue per client) and
//! under which correlation id. Many requests are in flight on one channel, and
//! replies come in any order; the id pairs them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Consumer};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Session, connect};
use super::topology::{REPLY_TO, Topology};
use crate::error::{Error, accepted};
use crate::limits::{CALL_TIMEOUT, MAX_IN_FLIGHT};
use crate::model::Reading;
use crate::reconnect::Retry;
use crate::record::{Reply, Request};

type Pending = Mutex<HashMap<u64, oneshot::Sender<Result<Reply, Error>>>>;

/// A client. Clones share a connection; calls may run side by side.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
}

struct Shared {
    url: String,
    topology: Topology,
    session: tokio::sync::Mutex<Option<Arc<Calls>>>,
    in_flight: Semaphore,
}

/// The calls of one session.
struct Calls {
    session: Session,
    pending: Arc<Pending>,
    last_id: AtomicU64,
    _replies: AbortOnDropHandle<()>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn connect(url: &str, topology: Topology) -> Result<Self, Error> {
        let calls = Arc::new(Retry::new().first(|| Calls::open(url)).await?);
        let shared = Shared {
            url: url.to_owned(),
            topology,
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
        let request = serde_json::to_vec(&Request { readings }).map_err(std::io::Error::from)?;
        let call = async {
            let Ok(_permit) = self.shared.in_flight.acquire().await else { return Err(Error::Disconnected) };
            let calls = self.calls().await?;
            calls.call(&self.shared.topology, &request, self.timeout).await
        };
        accepted(timeout(self.timeout, call).await.map_err(|_| Error::TimedOut)??)
    }

    /// The session, opened again if it was lost.
    async fn calls(&self) -> Result<Arc<Calls>, Error> {
        let mut session = self.shared.session.lock().await;
        match &*session {
            Some(calls) if calls.session.channel.status().connected() => Ok(calls.clone()),
            _ => {
                let calls = Arc::new(Calls::open(&self.shared.url).await?);
                *session = Some(calls.clone());
                Ok(calls)
            }
        }
    }
}

impl Calls {
    async fn open(url: &str) -> Result<Self, Error> {
        let session = connect(url).await?;
        // With confirms, a returned message comes back at once, with its confirm.
        session.channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies =
            session.channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
        let pending = Arc::new(Pending::default());
        let replies = AbortOnDropHandle::new(tokio::spawn(dispatch(replies, pending.clone())));
        Ok(Self { session, pending, last_id: AtomicU64::new(0), _replies: replies })
    }

    async fn call(&self, topology: &Topology, request: &[u8], timeout: Duration) -> Result<Reply, Error> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let (answered, answer) = oneshot::channel();
        lock(&self.pending).insert(id, answered);
        // Forgets the call however it ends, its future dropped included.
        let _forget = Forget { pending: &self.pending, id };
        let properties = BasicProperties::default()
            .with_reply_to(REPLY_TO.into())
            .with_correlation_id(id.to_string().into())
            .with_content_type("application/json".into())
            // No request waits for a caller that has given up.
            .with_expiration(timeout.as_millis().to_string().into());
        let queue = topology.requests();
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let published =
            self.session.channel.basic_publish("".into(), queue.into(), options, request, properties);
        // First the confirm, which comes before the answer can: it may bring back a
        // request, this one or that of another call, which then ends there.
        let confirmation = published.await?.await.map_err(|_| Error::OutcomeUnknown)?;
        if let Some(returned) = confirmation.take_message()
            && let Some(id) = correlation_id(&returned.properties)
            && let Some(call) = lock(&self.pending).remove(&id)
        {
            let _ = call.send(Err(Error::NoServer(topology.prefix.clone())));
        }
        answer.await.map_err(|_| Error::OutcomeUnknown)?
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

/// Gives each reply to its call, until the session ends; then every call fails.
async fn dispatch(mut replies: Consumer, pending: Arc<Pending>) {
    while let Some(Ok(reply)) = replies.next().await {
        let call = correlation_id(&reply.properties).and_then(|id| lock(&pending).remove(&id));
        // Without a call, its caller has given up.
        if let Some(call) = call {
            let _ = call.send(
                serde_json::from_slice(&reply.data).map_err(|error| Error::Unexpected(error.to_string())),
            );
        }
    }
    lock(&pending).clear();
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Reply, Error>>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

fn correlation_id(properties: &BasicProperties) -> Option<u64> {
    properties.correlation_id().as_ref()?.as_str().parse().ok()
}

//! Request/reply: `record` across the broker.
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
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Consumer};
use tokio::select;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::connection::{Session, connect};
use super::deliveries::Deliveries;
use super::topology::Topology;
use crate::error::Error;
use crate::model::Reading;
use crate::reconnect::Retry;
use crate::record::{Answer, Reason, Request, Store};

/// Longest time for one call, unless [`Client::with_timeout`] says otherwise. A
/// request that no server has taken by then is dropped by RabbitMQ.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls in flight per client; further ones wait.
pub const MAX_IN_FLIGHT: usize = 1_024;

/// Requests sent to a server ahead of their acknowledgement.
const PREFETCH: u16 = 256;

/// Requests acknowledged together, at most.
const ACK_BATCH: usize = 64;

/// After a shutdown signal, how long the last acknowledgements may take.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

type Pending = Mutex<HashMap<u64, oneshot::Sender<Result<Answer, Error>>>>;

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

    /// The same client with another time for each call.
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
            let Ok(_permit) = self.shared.in_flight.acquire().await else { return Err(Error::Lost) };
            let calls = self.calls().await?;
            calls.call(&self.shared.topology, &request, self.timeout).await
        };
        timeout(self.timeout, call).await.map_err(|_| Error::TimedOut)??.into_result()
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
        // With confirms a returned message comes at once, with its confirm.
        session.channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let replies =
            session.channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
        let pending = Arc::new(Pending::default());
        let replies = AbortOnDropHandle::new(tokio::spawn(dispatch(replies, pending.clone())));
        Ok(Self { session, pending, last_id: AtomicU64::new(0), _replies: replies })
    }

    async fn call(&self, topology: &Topology, request: &[u8], timeout: Duration) -> Result<Answer, Error> {
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

fn lock(
    pending: &Pending,
) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Answer, Error>>>> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

fn correlation_id(properties: &BasicProperties) -> Option<u64> {
    properties.correlation_id().as_ref()?.as_str().parse().ok()
}

/// Serves requests until `shutdown`. `listening` is called when the first one can
/// be taken.
///
/// # Errors
/// If there is no broker at first; later it connects again by itself.
pub async fn serve(
    url: &str,
    topology: &Topology,
    shutdown: &CancellationToken,
    listening: impl FnOnce(),
) -> Result<(), Error> {
    let store = Store::default();
    let open = async || {
        let session = connect(url).await?;
        topology.declare_requests(&session.channel).await?;
        Deliveries::start(session, topology.requests().into(), PREFETCH, ACK_BATCH).await
    };
    let mut retry = Retry::new();
    let mut deliveries = retry.first(&open).await?;
    listening();
    loop {
        let ended = answer_all(deliveries, &store, &mut retry, shutdown).await;
        let Err(error) = ended else { return Ok(()) };
        // Cancel safe: nothing is held while there is no connection.
        select! {
            connected = retry.reconnect(error, &open) => deliveries = connected?,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

async fn answer_all(
    mut deliveries: Deliveries,
    store: &Store,
    retry: &mut Retry,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    loop {
        // Cancel safe, both: see `Deliveries::next`.
        let request = select! {
            biased;
            () = shutdown.cancelled() => break,
            next = deliveries.next() => next?,
        };
        // A request that was given to another server, or to us before the connection
        // broke, may have run: it gets an answer, but not a second run.
        let answer = if request.redelivered {
            Answer::refused(Reason::Interrupted, "may have been executed by a server that went away")
        } else {
            store.answer(&request.data)
        };
        // To direct reply-to only: a request must not make the server write elsewhere.
        if let Some(reply_to) = request.properties.reply_to()
            && reply_to.as_str().starts_with(REPLY_TO)
        {
            let correlation = request.properties.correlation_id().clone().unwrap_or_default();
            reply(&deliveries, reply_to.clone(), correlation, &answer).await?;
        }
        deliveries.done(request).await?;
        retry.progress();
    }
    info!("stopping: no new requests, those in hand are answered");
    // Bounded, since the broker may be gone.
    select! {
        finished = deliveries.finish() => finished,
        () = sleep(DRAIN_TIMEOUT) => Ok(()),
    }
}

async fn reply(
    deliveries: &Deliveries,
    reply_to: ShortString,
    correlation: ShortString,
    answer: &Answer,
) -> Result<(), Error> {
    let body = serde_json::to_vec(answer).map_err(std::io::Error::from)?;
    let properties = BasicProperties::default()
        .with_correlation_id(correlation)
        .with_content_type("application/json".into());
    // Not mandatory: a caller that has gone needs no reply.
    let options = BasicPublishOptions::default();
    deliveries.channel().basic_publish("".into(), reply_to, options, &body, properties).await?;
    Ok(())
}

//! The client: many calls at a time over one connection.
//!
//! A call hands its request to a task and waits for the outcome. The task (`connection.rs`)
//! writes all waiting requests at once, gives each answer to the call with the same request
//! ID, and reconnects when the connection is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::limits::{CALL_TIMEOUT, MAX_BATCH, MAX_IN_FLIGHT, MAX_STATION_ID, WATCH_QUEUE};
use crate::protocol::frame::kind;
use crate::protocol::handshake::Id;
use crate::protocol::message::put_batch;
use crate::protocol::model::{Reading, is_station_id};

use connection::{Call, Command, Status, Task, Updates};
use connector::Connector;

mod address;
mod connection;
mod connector;
mod error;
mod watch;

pub use address::server_addr;
pub use error::Error;
pub use watch::Watch;

/// A client of one server. Clones share its one connection, and many calls may be in flight.
/// When the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub struct Client {
    /// To the task. The permits limit the number of calls in it.
    commands: mpsc::UnboundedSender<Command>,
    permits: Arc<Semaphore>,
    status: tokio::sync::watch::Receiver<Status>,
    last_batch: Arc<AtomicU64>,
    timeout: Duration,
}

impl Client {
    /// Connects to the server at `url`, such as `tcp://127.0.0.1:7878` or `[::1]`; see
    /// [`server_addr`]. If the connection is lost later, the client reconnects for as
    /// long as it takes. It gives up only when it meets a server that speaks another version or
    /// another protocol, or that keeps too few replies.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`], [`Error::Protocol`], or
    /// [`Error::Address`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let connector = Connector::new(url)?;
        let first = connector.connect().await?;
        let (commands, received) = mpsc::unbounded_channel();
        let (status_sender, status) = tokio::sync::watch::channel(Some(Ok(first.welcome.instance_id)));
        tokio::spawn(Task::new(received, status_sender).run(connector, first));
        Ok(Self {
            commands,
            permits: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            status,
            last_batch: Arc::default(),
            timeout: CALL_TIMEOUT,
        })
    }

    /// Returns the same client, with another time limit for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(Duration::from_secs(u32::MAX.into())); // More could overflow the clock.
        self
    }

    /// Records a batch, all of it or nothing, and returns how many readings were
    /// accepted.
    ///
    /// If the connection is lost, the client sends the batch again under the same number, so
    /// the server counts it once: effectively once, as long as the same server runs and the
    /// call has time.
    ///
    /// If this future is dropped before it completes, the batch may still be recorded.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server refuses the batch. For the others,
    /// [`Error::may_have_been_executed`] says whether the batch may have been recorded.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        // The server checks the rest. The layout of the frame depends on these two.
        if readings.len() > MAX_BATCH {
            return Err(Error::Invalid(format!("a batch holds up to {MAX_BATCH} readings")));
        }
        if let Some(reading) = readings.iter().find(|reading| reading.station.len() > MAX_STATION_ID) {
            return Err(Error::Invalid(format!(
                "a station ID has up to {MAX_STATION_ID} bytes: {reading:?}"
            )));
        }
        let put = |payload: &mut BytesMut| {
            // A batch gets its number when its turn has come, and keeps its permit until it is
            // answered. So it never grows older than the server's window.
            let batch_id = self.last_batch.fetch_add(1, Ordering::Relaxed) + 1;
            put_batch(payload, batch_id, readings);
        };
        Ok(self.call(kind::RECORD, None, put).await? as usize)
    }

    /// Checks that the server answers. Returns how long the answer took.
    ///
    /// # Errors
    /// As [`Client::record`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let started = Instant::now();
        self.call(kind::PING, None, |_payload| {}).await?;
        Ok(started.elapsed())
    }

    /// Streams the readings of a station: each one that any client records after this has
    /// returned.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server has no such station; otherwise as
    /// [`Client::record`].
    pub async fn watch(&self, station: &str) -> Result<Watch, Error> {
        if !is_station_id(station.as_bytes()) {
            return Err(Error::Invalid(format!(
                "{station:?} is not of the form [a-z0-9-]{{1,{MAX_STATION_ID}}}"
            )));
        }
        let (sender, updates) = mpsc::channel(WATCH_QUEUE + 1); // One more, for the reason of its end.
        let put = |payload: &mut BytesMut| payload.extend_from_slice(station.as_bytes());
        let request_id = self.call(kind::WATCH, Some(sender), put).await?;
        Ok(Watch { request_id, updates, commands: self.commands.clone() })
    }

    /// Waits until there is a connection, and returns the server's instance ID. If it has
    /// changed, the server has restarted and forgotten everything.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Protocol`] if the client has given up reconnecting;
    /// [`Error::NotExecuted`] if it is closed.
    pub async fn connected(&self) -> Result<Id, Error> {
        let mut status = self.status.clone();
        let status = status.wait_for(Option::is_some).await;
        status.ok().and_then(|status| status.clone()).unwrap_or_else(|| Err(self.closed()))
    }

    /// Says `GOODBYE`, waits for the server's, and closes the connection. New calls of other
    /// clones fail. Calls in flight still get the answers that arrive until then.
    pub async fn close(self) {
        let _ = self.commands.send(Command::Close); // It may be closed already.
        self.commands.closed().await;
    }

    /// Returns the reason why the task has ended.
    fn closed(&self) -> Error {
        match &*self.status.borrow() {
            Some(Err(error)) => error.clone(),
            _ => Error::OutcomeUnknown("the client's task has ended"),
        }
    }

    /// Sends one request and waits for its answer. If the connection is lost, the task sends
    /// the request again as long as there is time, but a batch only to a server that remembers
    /// the first time. `put` appends the payload.
    async fn call(
        &self,
        kind: u16,
        updates: Option<Updates>,
        put: impl FnOnce(&mut BytesMut),
    ) -> Result<u32, Error> {
        let deadline = Instant::now() + self.timeout;
        let Ok(Ok(permit)) = timeout_at(deadline, self.permits.clone().acquire_owned()).await else {
            return Err(Error::NotExecuted("too many other calls wait for their answers"));
        };
        let mut payload = BytesMut::with_capacity(64); // Room for a batch of one reading.
        put(&mut payload);
        let (outcome, answer) = oneshot::channel();
        let call = Call {
            kind,
            payload,
            deadline,
            outcome: Some(outcome),
            updates,
            sent: false,
            maybe_executed: false,
            _permit: permit,
        };
        let _ = self.commands.send(Command::Call(call)); // Fails after the task has ended.
        answer.await.unwrap_or_else(|_never| Err(self.closed()))
    }
}

//! The client: calls that may run side by side over one connection.
//!
//! A call puts its frame into a queue and waits for the answer with the same
//! request id (`calls.rs`). The task of the connection (`connection.rs`) writes whatever
//! is queued at once, hands each answer to the call that waits for it, and connects
//! again when the connection is lost.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::limits::{CALL_TIMEOUT, MAX_BATCH, MAX_STATION_ID, WATCH_QUEUE};
use crate::protocol::frame::kind;
use crate::protocol::handshake::Id;
use crate::protocol::message::{Update, put_batch};
use crate::protocol::model::{Reading, is_station_id};

use calls::{Calls, NotQueued, Outcome};
use connection::Connector;

mod address;
mod calls;
mod connection;
mod error;
mod watch;

pub use address::server_addr;
pub use error::Error;
pub use watch::Watch;

/// A client of one server. Clones share its one connection; calls may run side by
/// side. When the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub struct Client {
    calls: Arc<Calls>,
    timeout: Duration,
    /// The task of the connection.
    task: TaskTracker,
    closing: CancellationToken,
    /// Ends the task with the last clone.
    _open: Arc<DropGuard>,
}

impl Client {
    /// Connects to the server at `url`, such as `tcp://127.0.0.1:7878` or `[::1]`; see
    /// [`server_addr`]. If the connection is lost later, the client reconnects for as
    /// long as it takes. It gives up only when the server speaks another version or
    /// another protocol by then.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`], [`Error::Protocol`], or
    /// [`Error::Address`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        let connector = Connector::new(url)?;
        let first = connector.connect().await?;
        let calls = Arc::new(Calls::default());
        let closing = CancellationToken::new();
        let task = TaskTracker::new();
        task.spawn(connection::run(calls.clone(), connector, first, closing.clone()));
        task.close();
        let open = Arc::new(closing.clone().drop_guard());
        Ok(Self { calls, timeout: CALL_TIMEOUT, task, closing, _open: open })
    }

    /// The same client, with another time limit for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Records a batch, all of it or nothing, and returns how many readings were
    /// accepted.
    ///
    /// If the connection is lost, the batch is sent again under the same number, for
    /// which the server counts it once: effectively once, as long as the same
    /// server runs and the call has time.
    ///
    /// Dropped before it completes, it may still be executed.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server found something wrong with it;
    /// [`Error::may_have_been_executed`] says what the others mean.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        // The server checks the rest; of these the layout of the frame depends.
        if readings.len() > MAX_BATCH {
            return Err(Error::Invalid(format!("a batch holds up to {MAX_BATCH} readings")));
        }
        if let Some(reading) = readings.iter().find(|reading| reading.station.len() > MAX_STATION_ID) {
            return Err(Error::Invalid(format!(
                "a station id has up to {MAX_STATION_ID} bytes: {reading:?}"
            )));
        }
        let put = |payload: &mut BytesMut, batch_id| put_batch(payload, batch_id, readings);
        Ok(self.call(kind::RECORD, None, put).await? as usize)
    }

    /// Asks whether the server is there; returns how long its answer took.
    ///
    /// # Errors
    /// As [`Client::record`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let started = Instant::now();
        self.call(kind::PING, None, |_payload, _batch_id| {}).await?;
        Ok(started.elapsed())
    }

    /// Streams what is recorded for a station from now on: whatever is recorded
    /// after this has returned, by whomever, will come.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server has no such station, else as
    /// [`Client::record`].
    pub async fn watch(&self, station: &str) -> Result<Watch, Error> {
        if !is_station_id(station.as_bytes()) {
            return Err(Error::Invalid(format!(
                "{station:?} is not of the form [a-z0-9-]{{1,{MAX_STATION_ID}}}"
            )));
        }
        let (updates, received) = mpsc::channel(WATCH_QUEUE);
        let put = |payload: &mut BytesMut, _batch_id| payload.extend_from_slice(station.as_bytes());
        let before = self.calls.disconnects();
        let request_id = self.call(kind::WATCH, Some(updates), put).await?;
        let calls = self.calls.clone();
        let disconnected = async move { calls.disconnected_since(before).await };
        Ok(Watch {
            request_id,
            updates: received,
            calls: self.calls.clone(),
            disconnected: Some(Box::pin(disconnected)),
            _open: self._open.clone(),
        })
    }

    /// Waits until there is a connection, and returns the server's instance ID: another
    /// one means that the server has restarted and has forgotten everything.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Protocol`] if the client has given up reconnecting;
    /// [`Error::NotExecuted`] if it is closed.
    pub async fn connected(&self) -> Result<Id, Error> {
        self.calls.server().await.map(|(_session_epoch, instance_id)| instance_id)
    }

    /// Says `GOODBYE`, waits for the server's and closes the connection. Calls of
    /// other clones that are in flight fail.
    pub async fn close(self) {
        self.calls.close(None);
        self.closing.cancel();
        self.task.wait().await;
    }

    /// One request until its answer: sent again after the connection was lost, as
    /// long as there is time; a batch only to the server that remembers the first
    /// time. `put` appends the payload and gets the number of the batch, if it is one.
    async fn call(
        &self,
        kind: u16,
        updates: Option<mpsc::Sender<Update>>,
        put: impl Fn(&mut BytesMut, u64),
    ) -> Result<u32, Error> {
        // The session in which the server may have executed it.
        let mut sent_to: Option<u64> = None;
        let attempts = async {
            let mut permit = self.calls.permit().await?;
            // Numbered when its turn has come, and the permit kept until it is
            // answered: no batch grows older than the server's window meanwhile.
            let is_batch = kind == kind::RECORD;
            let batch_id = if is_batch { self.calls.next_batch_id() } else { 0 };
            loop {
                let (session_epoch, _instance_id) = self.calls.server().await?;
                if is_batch && sent_to.is_some_and(|epoch| epoch != session_epoch) {
                    return Err(Error::OutcomeUnknown("the server was restarted, or has forgotten"));
                }
                let put = |payload: &mut BytesMut| put(payload, batch_id);
                let outcome = match self.calls.submit(session_epoch, permit, kind, updates.clone(), put) {
                    Ok(outcome) => outcome,
                    Err(NotQueued::Disconnected(kept)) => {
                        permit = kept;
                        continue;
                    }
                    Err(NotQueued::TooLarge(limit)) => {
                        let text = format!("this server takes payloads of up to {limit} bytes");
                        return Err(Error::Invalid(text));
                    }
                };
                let before = sent_to.replace(session_epoch);
                permit = match outcome.await {
                    Ok(Outcome::Done(number)) => return Ok(number),
                    Ok(Outcome::Refused(refusal)) => return Err(Error::Refused(refusal)),
                    Ok(Outcome::NotExecuted(permit)) => {
                        sent_to = before;
                        permit
                    }
                    Ok(Outcome::Unknown(permit)) => permit,
                    Err(_never) => return Err(Error::OutcomeUnknown("the client's task has ended")),
                };
            }
        };
        let result = timeout(self.timeout, attempts).await;
        match result.unwrap_or(Err(Error::NotExecuted("no connection in time"))) {
            Err(Error::NotExecuted(_)) if sent_to.is_some() => {
                Err(Error::OutcomeUnknown("it was sent, but no answer came in time"))
            }
            other => other,
        }
    }
}

//! The client: calls that may run side by side over one connection.
//!
//! A call puts its frame into a queue and waits for the answer with the same
//! request id (`calls.rs`). The task of the connection (`link.rs`) writes whatever
//! is queued at once, hands answers to those who wait, and connects again when the
//! connection falls.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::calls::{Answer, NotQueued, Shared};
use crate::frame::kind;
use crate::handshake::Id;
pub use crate::link::server_addr;
use crate::link::{Dial, maintain};
use crate::message::{ErrorCode, Refusal, Update, put_batch};
use crate::model::{MAX_BATCH, MAX_STATION_ID, Reading, is_station_id};

/// Longest time to wait for a connection and its handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest time from a call to its result, reconnecting included, unless
/// [`Client::with_timeout`] says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls in flight at a time; more wait for their turn. A call that was given up
/// keeps its place until its answer comes or the connection falls. Far below
/// [`REPLIES_KEPT`](crate::replies::REPLIES_KEPT), so that a retry is still inside
/// of it even if hundreds of newer batches overtake it.
pub const MAX_IN_FLIGHT: usize = 256;

/// Updates that a [`Watch`] holds for a slow reader; what comes on top is
/// skipped and counted.
pub const WATCH_QUEUE: usize = 64;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum Error {
    /// Not the address of a server.
    #[error("{url:?} is not of the form tcp://host:port")]
    Address {
        /// What was given.
        url: String,
    },
    /// No connection: the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// What the transport said.
        #[source]
        source: io::Error,
    },
    /// The server answered, with an error.
    #[error("{0}")]
    Refused(Refusal),
    /// What answered does not speak this protocol.
    #[error("not a server of this protocol: {0}")]
    Protocol(String),
    /// The arguments can be seen to be wrong from here.
    #[error("not sent: {0}")]
    Invalid(String),
    /// It was certainly not executed.
    #[error("not executed: {0}")]
    NotExecuted(&'static str),
    /// It may have been executed, or not.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(&'static str),
}

impl Error {
    /// Whether what was asked for may have happened nevertheless. If not, asking
    /// again is safe.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::OutcomeUnknown(_) => true,
            Self::Refused(refusal) => refusal.code == ErrorCode::UnknownOutcome as u16,
            Self::Address { .. }
            | Self::Unreachable { .. }
            | Self::Protocol(_)
            | Self::Invalid(_)
            | Self::NotExecuted(_) => false,
        }
    }
}

/// A client of one server. Clones share its one connection; calls may run side by
/// side. When the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
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
        let dial = Dial::new(url)?;
        let first = dial.connect().await?;
        let shared = Arc::new(Shared::default());
        let closing = CancellationToken::new();
        let task = TaskTracker::new();
        task.spawn(maintain(shared.clone(), dial, first, closing.clone()));
        task.close();
        let open = Arc::new(closing.clone().drop_guard());
        Ok(Self { shared, timeout: CALL_TIMEOUT, task, closing, _open: open })
    }

    /// The same client, with another time limit for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Records a batch, all of it or nothing, and returns how many readings were
    /// accepted.
    ///
    /// If the connection falls, the batch is sent again under the same number, for
    /// which the server counts it once: effectively once, as long as the same
    /// server runs and the call has time.
    ///
    /// Dropped before it completes, it may still be executed.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server found something wrong with it;
    /// [`Error::may_have_been_executed`] tells what the others mean.
    pub async fn record(&self, readings: &[Reading]) -> Result<u32, Error> {
        // The server checks the rest; of these the layout of the frame depends.
        if readings.len() > MAX_BATCH {
            return Err(Error::Invalid(format!("a batch holds up to {MAX_BATCH} readings")));
        }
        if let Some(reading) = readings.iter().find(|reading| reading.station.len() > MAX_STATION_ID) {
            return Err(Error::Invalid(format!(
                "a station id has up to {MAX_STATION_ID} bytes: {reading:?}"
            )));
        }
        self.call(kind::RECORD, None, |payload, batch_id| put_batch(payload, batch_id, readings)).await
    }

    /// Asks for a sign of life; returns how long it took.
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
        let falls = self.shared.falls();
        let request_id = self.call(kind::WATCH, Some(updates), put).await?;
        Ok(Watch { request_id, received, falls, client: self.clone() })
    }

    /// Waits until there is a connection, and returns the server's boot id: another one
    /// means that the server has restarted and has forgotten everything.
    ///
    /// # Errors
    /// [`Error::Refused`] or [`Error::Protocol`] if the client has given up reconnecting;
    /// [`Error::NotExecuted`] if it is closed.
    pub async fn connected(&self) -> Result<Id, Error> {
        self.shared.server().await.map(|(_memory, boot_id)| boot_id)
    }

    /// Says `GOODBYE`, waits for the server's and closes the connection. Calls of
    /// other clones that are in flight fail.
    pub async fn close(self) {
        self.shared.close(None);
        self.closing.cancel();
        self.task.wait().await;
    }

    /// One request until its answer: sent again after the connection fell, as
    /// long as there is time; a batch only to the server that remembers the first
    /// time. `put` appends the payload and gets the number of the batch, if it is one.
    async fn call(
        &self,
        kind: u16,
        updates: Option<mpsc::Sender<Update>>,
        put: impl Fn(&mut BytesMut, u64),
    ) -> Result<u32, Error> {
        // In whose memory it may be.
        let mut sent_to: Option<u64> = None;
        let attempts = async {
            let mut place = self.shared.place().await?;
            // Numbered when its turn has come, and the place kept until it is
            // answered: no batch grows older than the server's window meanwhile.
            let is_batch = kind == kind::RECORD;
            let batch_id = if is_batch { self.shared.next_batch_id() } else { 0 };
            loop {
                let (server, _boot_id) = self.shared.server().await?;
                if is_batch && sent_to.is_some_and(|memory| memory != server) {
                    return Err(Error::OutcomeUnknown("the server was restarted, or has forgotten"));
                }
                let put = |payload: &mut BytesMut| put(payload, batch_id);
                let answer = match self.shared.submit(server, place, kind, updates.clone(), put) {
                    Ok(answer) => answer,
                    Err(NotQueued::Fallen(kept)) => {
                        place = kept;
                        continue;
                    }
                    Err(NotQueued::TooLarge(limit)) => {
                        let text = format!("this server takes payloads of up to {limit} bytes");
                        return Err(Error::Invalid(text));
                    }
                };
                let before = sent_to.replace(server);
                place = match answer.await {
                    Ok(Answer::Done(number)) => return Ok(number),
                    Ok(Answer::Refused(refusal)) => return Err(Error::Refused(refusal)),
                    Ok(Answer::NotExecuted(place)) => {
                        sent_to = before;
                        place
                    }
                    Ok(Answer::Unknown(place)) => place,
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

/// The readings of one station as they are recorded. Dropped, it is cancelled.
pub struct Watch {
    request_id: u32,
    received: mpsc::Receiver<Update>,
    /// Connections that had ended before it began.
    falls: u64,
    /// Keeps the connection open.
    client: Client,
}

impl Watch {
    /// The next readings, after those that had to be skipped; `None` when the
    /// connection has fallen or the server stops. What is recorded until another
    /// [`Client::watch`] is not seen. Cancel safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.received.recv().await
    }

    /// Waits until the connection of this watch is lost, and returns the reason, in
    /// words for people.
    pub async fn disconnect_reason(&self) -> String {
        self.client.shared.fallen_since(self.falls).await
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.client.shared.cancel(self.request_id);
    }
}

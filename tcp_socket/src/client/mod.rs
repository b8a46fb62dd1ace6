//! The client: many calls at a time over one connection.
//!
//! A call hands its request to a task and waits for the outcome. The task (`connection.rs`)
//! writes all waiting requests at once, gives each response to the call with the same
//! request ID, and reconnects when the connection is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::base::tls;
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
pub use connector::{Transport, open};
pub use error::Error;
pub use watch::Watch;

/// A client of one server. Its clones share one connection, on which many calls may be in
/// flight. When the last clone is dropped, the connection is closed.
#[derive(Clone)]
pub struct Client {
    /// Leads to the task. The permits limit the number of calls there.
    commands: mpsc::UnboundedSender<Command>,
    permits: Arc<Semaphore>,
    status: tokio::sync::watch::Receiver<Status>,
    last_batch: Arc<AtomicU64>,
    timeout: Duration,
}

impl Client {
    /// Connects to the server at `url`, such as `tcp://127.0.0.1:7878` or `[::1]`; see
    /// [`server_addr`]. If the connection is lost later, the client tries to reconnect for as
    /// long as it takes. It gives up only if the server speaks another version or another
    /// protocol, or keeps too few replies.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Refused`], [`Error::Protocol`], [`Error::Tls`], or
    /// [`Error::Address`].
    pub async fn connect(url: &str) -> Result<Self, Error> {
        Self::connect_with_tls(url, &tls::ClientOptions::default()).await
    }

    /// The same as [`Client::connect`]. For a `url` that begins with `tls://`, `options` says
    /// which servers to trust, and which certificate to show.
    ///
    /// # Errors
    /// The same as for [`Client::connect`].
    pub async fn connect_with_tls(url: &str, options: &tls::ClientOptions) -> Result<Self, Error> {
        let connector = Connector::new(url, options)?;
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

    /// Returns this client with another time limit for each call.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.min(Duration::from_secs(u32::MAX.into())); // More could overflow the clock.
        self
    }

    /// Records a batch, all of it or nothing, and returns how many readings were
    /// accepted.
    ///
    /// If the connection is lost, the client resends the batch under the same batch ID, so the
    /// server records it only once: effectively once, as long as the same server runs and the
    /// call has time.
    ///
    /// If this future is dropped before it completes, the batch may still be recorded.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server refuses the batch. For any error,
    /// [`Error::may_have_been_executed`] says whether the batch may have been recorded.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        // The layout of the frame depends on these two limits. The server checks the rest.
        if readings.len() > MAX_BATCH {
            return Err(Error::Invalid(format!("a batch holds up to {MAX_BATCH} readings")));
        }
        if let Some(reading) = readings.iter().find(|reading| reading.station.len() > MAX_STATION_ID) {
            return Err(Error::Invalid(format!(
                "a station ID has up to {MAX_STATION_ID} bytes: {reading:?}"
            )));
        }
        let put = |payload: &mut BytesMut| {
            // A batch gets its ID only when it has a permit, and keeps the permit until it is
            // answered. So it never becomes too old for the server's window.
            let batch_id = self.last_batch.fetch_add(1, Ordering::Relaxed) + 1;
            put_batch(payload, batch_id, readings);
        };
        Ok(self.call(kind::RECORD, None, put).await? as usize)
    }

    /// Checks that the server responds. Returns how long the response took.
    ///
    /// # Errors
    /// The same as for [`Client::record`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let started = Instant::now();
        self.call(kind::PING, None, |_payload| {}).await?;
        Ok(started.elapsed())
    }

    /// Streams the readings of a station: all that any client records after this call has
    /// returned.
    ///
    /// # Errors
    /// [`Error::Refused`] if the server has no such station; otherwise the same as for
    /// [`Client::record`].
    pub async fn watch(&self, station: &str) -> Result<Watch, Error> {
        if !is_station_id(station.as_bytes()) {
            return Err(Error::Invalid(format!(
                "the station ID {station:?} must have 1 to {MAX_STATION_ID} characters: a-z, 0-9, and -"
            )));
        }
        let (sender, updates) = mpsc::channel(WATCH_QUEUE + 1); // One more, for the reason why it ends.
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

    /// Sends `GOODBYE`, waits for the server's, and closes the connection. New calls of other
    /// clones fail. Calls in flight still get the responses that arrive until then.
    pub async fn close(self) {
        let _ = self.commands.send(Command::Close); // The client may already be closed.
        self.commands.closed().await;
    }

    /// Returns the reason why the task has ended.
    fn closed(&self) -> Error {
        match &*self.status.borrow() {
            Some(Err(error)) => error.clone(),
            _ => Error::OutcomeUnknown("the client's task has ended"),
        }
    }

    /// Sends one request and waits for its response. If the connection is lost, the task
    /// resends the request as long as there is time, but a batch only if the server remembers
    /// this client. `put` appends the payload.
    async fn call(
        &self,
        kind: u16,
        updates: Option<Updates>,
        put: impl FnOnce(&mut BytesMut),
    ) -> Result<u32, Error> {
        let deadline = Instant::now() + self.timeout;
        let Ok(Ok(permit)) = timeout_at(deadline, self.permits.clone().acquire_owned()).await else {
            return Err(Error::NotExecuted("too many other calls are waiting for their responses"));
        };
        let mut payload = BytesMut::with_capacity(64); // Room for a batch of one reading.
        put(&mut payload);
        let (sender, outcome) = oneshot::channel();
        let call = Call {
            kind,
            payload,
            deadline,
            outcome: Some(sender),
            updates,
            sent: false,
            maybe_executed: false,
            _permit: permit,
        };
        let _ = self.commands.send(Command::Call(call)); // Fails after the task has ended.
        outcome.await.unwrap_or_else(|_never| Err(self.closed()))
    }
}

//! The client: calls of [`Client::record`] and [`Client::readings`] over one connection, and
//! streams of [`chat`](Client::chat) and [`live`](Client::live) events that survive a broken
//! connection.

mod chat;
mod connection;
mod error;
mod live;
mod reconnect;

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tcp_socket::base::tls::{self, HTTP_1_1};
use tokio::select;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

pub use chat::{Chat, ChatEvent, ChatEvents};
pub use error::Error;
pub use live::{LiveEvent, LiveEvents};

use self::connection::{Connection, Target};
use self::error::unless_refused;
use crate::limits::{MAX_IN_FLIGHT, READING_BYTES, Timeouts};
use crate::protocol::message::{LiveRequest, ReadBack, Record, ServerMessage};
use crate::protocol::model::{Metric, Reading};

/// A client of one server. Clones share one connection, on which many tasks can have calls in
/// flight at once: each request carries an ID, and its response repeats it. The first call
/// makes the connection. If it breaks, the next call makes a new one.
#[derive(Debug, Clone)]
pub struct Client {
    target: Target,
    ids: Arc<AtomicU64>,
    commands: mpsc::Sender<Command>,
}

enum Command {
    Call { id: u64, text: String, reply: Reply },
    Close(oneshot::Sender<()>),
}

type Reply = oneshot::Sender<Result<ServerMessage, Error>>;

impl Client {
    /// Makes a client of the server at `url`, such as `http://127.0.0.1:8081`, but doesn't connect
    /// yet. Call this inside a Tokio runtime.
    pub fn new(url: &str) -> Self {
        Self::with_timeouts(url, Timeouts::default())
    }

    /// Like [`Client::new`], but with these timeouts.
    pub fn with_timeouts(url: &str, timeouts: Timeouts) -> Self {
        Self::with_tls(url, timeouts, &tls::ClientOptions::default())
    }

    /// Like [`Client::with_timeouts`]. For a `url` that begins with `https` or `wss`, `options` says
    /// which servers to trust, and which certificate to show. If their files are not usable, calls
    /// fail with [`Error::Tls`].
    pub fn with_tls(url: &str, timeouts: Timeouts, options: &tls::ClientOptions) -> Self {
        let encrypted = url.starts_with("https://") || url.starts_with("wss://");
        let tls = options.config(encrypted, Some(HTTP_1_1));
        let tls = tls.map_err(|error| Error::Tls(format!("{error:#}")));
        let token = options.token().map_err(|error| Error::Token(format!("{error:#}")));
        let target = Target { url: url.into(), timeouts, tls, token };
        let (commands, receiver) = mpsc::channel(MAX_IN_FLIGHT);
        tokio::spawn(calls(target.clone(), receiver));
        Self { target, ids: Arc::default(), commands }
    }

    /// Records a batch, all or nothing, and returns the number of readings recorded.
    ///
    /// # Errors
    /// [`Error::Refused`] names the first invalid field, or the limit that the batch exceeds. Check
    /// [`Error::may_have_been_executed`] before you send the batch again.
    pub async fn record(&self, readings: &[Reading]) -> Result<usize, Error> {
        let call = |id| LiveRequest::Record(Record { id, readings: Cow::Borrowed(readings) });
        match self.call(call, 0).await? {
            ServerMessage::Recorded { accepted, .. } => Ok(accepted),
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    /// Returns the newest `limit` readings of a station, oldest first.
    ///
    /// # Errors
    /// [`Error::Refused`] if the limit is not 1 to 500.
    pub async fn readings(&self, station: &str, limit: usize) -> Result<Vec<Reading>, Error> {
        let call = |id| LiveRequest::Readings(ReadBack { id, station: station.to_owned(), limit });
        match self.call(call, limit.saturating_mul(READING_BYTES)).await? {
            ServerMessage::Readings { readings, .. } => {
                Ok(readings.into_iter().map(|numbered| numbered.reading).collect())
            }
            other => Err(Error::Unexpected(format!("{other:?}"))),
        }
    }

    /// Joins a room under a name, over a separate connection.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`ErrorCode::NameTaken`](crate::protocol::message::ErrorCode::NameTaken)
    /// if somebody else has the name.
    pub async fn chat(&self, room: &str, name: &str) -> Result<(Chat, ChatEvents), Error> {
        chat::join(self.target.clone(), room, name).await
    }

    /// Subscribes to these metrics of these stations, over a separate connection. An empty list
    /// means all.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is wrong with the stations.
    pub async fn live(&self, stations: &[&str], metrics: &[Metric]) -> Result<LiveEvents, Error> {
        live::subscribe(self.target.clone(), stations, metrics).await
    }

    /// Closes the connection with a close frame, for all clones.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.commands.send(Command::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Sends a request and waits for its response. The timeout leaves time to transfer the request
    /// and a response of `response_bytes` bytes.
    async fn call<'a>(
        &self,
        request: impl FnOnce(u64) -> LiveRequest<'a>,
        response_bytes: usize,
    ) -> Result<ServerMessage, Error> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let text =
            serde_json::to_string(&request(id)).map_err(|error| Error::Unexpected(error.to_string()))?;
        let timeouts = &self.target.timeouts;
        let bytes = text.len().saturating_add(response_bytes) as u64;
        let transfer = Duration::from_secs(bytes / timeouts.min_rate.max(1));
        let (reply, response) = oneshot::channel();
        self.commands.send(Command::Call { id, text, reply }).await.map_err(|_| Error::Gone)?;
        let limit = timeouts.response.saturating_add(transfer);
        timeout(limit, response).await.map_err(|_| Error::TimedOut(limit))?.map_err(|_| Error::Gone)?
    }
}

/// Owns the connection of all clones of a [`Client`]. Ends when the last one is dropped.
async fn calls(target: Target, mut commands: mpsc::Receiver<Command>) {
    while let Some(command) = commands.recv().await {
        let done = match command {
            Command::Close(done) => Some(done),
            first @ Command::Call { .. } => match Connection::connect(&target, "/live").await {
                Ok(connection) => connected(connection, first, &mut commands, target.timeouts.response).await,
                Err(error) => {
                    reply_to(first, Err(error));
                    None
                }
            },
        };
        drop(done); // Now `Client::close` returns.
    }
}

/// Serves calls until the connection ends. If a `Close` ended it, returns the sender that
/// notifies the caller.
async fn connected(
    mut connection: Connection,
    first: Command,
    commands: &mut mpsc::Receiver<Command>,
    response_timeout: Duration,
) -> Option<oneshot::Sender<()>> {
    let mut in_flight: HashMap<u64, Reply> = HashMap::new();
    let mut queued = vec![first];
    loop {
        for command in queued.drain(..) {
            match command {
                Command::Call { id, text, reply } => {
                    connection.send_text(text);
                    in_flight.insert(id, reply);
                }
                Command::Close(done) => {
                    connection.close().await;
                    return Some(done);
                }
            }
        }
        if in_flight.len() == MAX_IN_FLIGHT {
            in_flight.retain(|_id, reply| !reply.is_closed()); // Their callers have given up.
        }
        let room = MAX_IN_FLIGHT - in_flight.len();
        // All three are cancel safe. Incoming messages come first, so that the callers' next requests
        // are sent together.
        select! {
            biased;
            message = connection.next() => match message {
                Ok(message) => deliver(message, &mut in_flight),
                Err(error) => {
                    for (_id, reply) in in_flight {
                        let _ = reply.send(Err(error.clone()));
                    }
                    return None;
                }
            },
            count = commands.recv_many(&mut queued, room), if room > 0 => if count == 0 {
                connection.close().await;
                return None;
            },
            () = sleep(response_timeout / 4), if room == 0 => {} // Look again for callers that gave up.
        }
    }
}

/// Passes a response on to the call that waits for it.
fn deliver(message: ServerMessage, in_flight: &mut HashMap<u64, Reply>) {
    let id = match &message {
        ServerMessage::Recorded { id, .. } | ServerMessage::Readings { id, .. } => Some(*id),
        ServerMessage::Error { id, .. } => *id,
        _ => None,
    };
    if let Some(reply) = id.and_then(|id| in_flight.remove(&id)) {
        let _ = reply.send(unless_refused(message)); // Fails if the caller has given up.
    }
}

fn reply_to(command: Command, outcome: Result<ServerMessage, Error>) {
    if let Command::Call { reply, .. } = command {
        let _ = reply.send(outcome);
    }
}

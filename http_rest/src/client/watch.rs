//! A live stream that outlives its connection: it reads server-sent events and, when the
//! connection ends, opens another one and sends the ID of the last event.

use std::io;

use futures::stream::{self, BoxStream, StreamExt};
use reqwest::{Method, Response};
use tcp_socket::base::retry::Pauses;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::error::Error;
use super::retry::{Repeat, may_pass, retry};
use super::transport::{Transport, read_error};
use crate::limits::{
    ATTEMPT_TIMEOUT, MAX_EVENT, MAX_RECONNECT_PAUSE, MIN_RECONNECT_PAUSE, SILENCE, TOTAL_TIMEOUT,
};
use crate::protocol::headers::{EVENT_STREAM, LAST_EVENT_ID, is_type};
use crate::protocol::model::{Gap, Reading};

/// An event of a live stream.
#[derive(Debug, Clone, PartialEq)]
pub enum LiveEvent {
    /// A reading was recorded.
    Reading(Reading),
    /// Some readings were recorded that this stream did not get.
    Gap(Gap),
    /// The connection was lost. The stream reconnects, and its next event says what was
    /// missed: a gap, the first missed reading, or [`LiveEvent::NothingMissed`].
    Disconnected {
        /// Why, in the words of this client or its HTTP library.
        reason: String,
    },
    /// The stream is connected again, and none of its readings were missed.
    NothingMissed,
}

/// The lines of a response.
type Lines = BoxStream<'static, Result<String, LinesCodecError>>;

/// The state of a live stream.
pub(super) struct Watch {
    transport: Transport,
    station: Option<String>,
    last_id: Option<String>,
    /// The part of the next event that has arrived.
    event: Event,
    connected_at: Instant,
    /// Whether the connection was lost and no event has arrived since.
    returning: bool,
    pauses: Pauses,
}

impl Watch {
    /// Connects, and returns the events. The stream ends after an error.
    ///
    /// Its `next` is cancel safe: the stream keeps an unfinished call of `Watch::next`.
    pub(super) async fn start(
        transport: Transport,
        station: Option<&str>,
    ) -> Result<BoxStream<'static, Result<LiveEvent, Error>>, Error> {
        let mut watch = Self {
            transport,
            station: station.map(str::to_owned),
            last_id: None,
            event: Event::default(),
            connected_at: Instant::now(),
            returning: false,
            pauses: Pauses::new(MIN_RECONNECT_PAUSE, MAX_RECONNECT_PAUSE),
        };
        let response = retry(Repeat::Idempotent, || watch.connect()).await?;
        let lines = Some(watch.connected(response));
        let events = stream::try_unfold((watch, lines), async |(mut watch, mut lines)| {
            Ok(Some((watch.next(&mut lines).await?, (watch, lines))))
        });
        Ok(events.boxed())
    }

    /// Waits for the next event. If the connection ends or falls silent, it reconnects,
    /// however long that takes, unless the server responds with an error that another
    /// attempt would get too. `lines` is `None` while there is no connection.
    async fn next(&mut self, lines: &mut Option<Lines>) -> Result<LiveEvent, Error> {
        loop {
            let Some(connected) = lines else {
                *lines = self.reconnect().await?;
                continue;
            };
            let reason = match timeout(SILENCE, connected.next()).await {
                Ok(Some(Ok(line))) if line.is_empty() => {
                    let event = std::mem::take(&mut self.event);
                    let Some(event) = self.interpret(event) else { continue };
                    self.returning = false;
                    return Ok(event);
                }
                Ok(Some(Ok(line))) if self.event.data.len() + line.len() <= MAX_EVENT => {
                    self.event.add(&line);
                    continue;
                }
                Ok(Some(Ok(_) | Err(LinesCodecError::MaxLineLengthExceeded))) => {
                    format!("the server sent an event of more than {MAX_EVENT} bytes")
                }
                Ok(Some(Err(LinesCodecError::Io(error)))) => root_cause(&error),
                Ok(None) => "the server ended the stream".to_owned(),
                Err(_elapsed) => format!("nothing arrived for {SILENCE:?}"),
            };
            *lines = None;
            if self.connected_at.elapsed() > MAX_RECONNECT_PAUSE {
                self.pauses.reset();
            }
            if !std::mem::replace(&mut self.returning, true) {
                return Ok(LiveEvent::Disconnected { reason });
            }
        }
    }

    /// Makes one attempt after a pause, which grows from attempt to attempt.
    async fn reconnect(&mut self) -> Result<Option<Lines>, Error> {
        sleep(self.pauses.next_pause()).await;
        match timeout(ATTEMPT_TIMEOUT, self.connect()).await.unwrap_or(Err(Error::TimedOut)) {
            Ok(response) => Ok(Some(self.connected(response))),
            Err(error) if may_pass(&error, Repeat::Idempotent) || matches!(error, Error::TimedOut) => {
                sleep(error.retry_after().unwrap_or_default().min(TOTAL_TIMEOUT)).await;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn connected(&mut self, response: Response) -> Lines {
        self.event = Event::default(); // Discard an incomplete event of the old connection.
        self.connected_at = Instant::now();
        let bytes = stream::try_unfold(response, async |mut response| {
            let chunk = response.chunk().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(chunk.map(|chunk| (chunk, response)))
        });
        let reader = StreamReader::new(Box::pin(bytes));
        FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_EVENT)).boxed()
    }

    async fn connect(&self) -> Result<Response, Error> {
        let mut request = self.transport.request(Method::GET, "/readings/live");
        if let Some(station) = &self.station {
            request = request.query(&[("station", station)]);
        }
        if let Some(id) = &self.last_id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let response = self.transport.send(request).await?;
        if response.status().is_success() && is_type(response.headers(), EVENT_STREAM) {
            return Ok(response);
        }
        Err(read_error(response).await)
    }

    /// Returns the meaning of an event, or `None` for one that the caller doesn't need to see, such
    /// as a comment.
    fn interpret(&mut self, event: Event) -> Option<LiveEvent> {
        let id_alone = event.data.is_empty() && !event.id.is_empty();
        if !event.id.is_empty() {
            self.last_id = Some(event.id);
        }
        match event.kind.as_str() {
            "reading" => {
                self.pauses.reset();
                serde_json::from_str(&event.data).ok().map(LiveEvent::Reading)
            }
            "gap" => serde_json::from_str(&event.data).ok().map(LiveEvent::Gap),
            // An ID alone: the server has sent everything up to it, so nothing was missed.
            _ => (id_alone && self.returning).then_some(LiveEvent::NothingMissed),
        }
    }
}

/// Returns the last error in the chain, which is usually the most specific one.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// One event: a block of lines that ends with an empty one (HTML standard, section 9.2.6).
#[derive(Debug, Default)]
struct Event {
    id: String,
    kind: String,
    data: String,
}

impl Event {
    /// Adds a line that is not empty.
    fn add(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.kind),
            "data" => self.data.extend([value, "\n"]),
            _ => {} // A comment (an empty field name), or `retry`.
        }
    }
}

//! A live stream that outlives its connection: it reads server-sent events and, when the
//! connection ends, comes back with the ID of the last one.

use std::collections::VecDeque;

use futures::stream::{self, BoxStream, StreamExt};
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use tcp_socket::base::retry::Pauses;
use tokio::time::{Instant, sleep, timeout};

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

/// The state of a live stream.
pub(super) struct Watch {
    transport: Transport,
    station: Option<String>,
    last_id: Option<String>,
    response: Option<Response>,
    connected_at: Instant,
    /// Whether the connection was lost and the next one has brought no event yet.
    returning: bool,
    pauses: Pauses,
    parser: Parser,
}

impl Watch {
    pub(super) async fn start(transport: Transport, station: Option<&str>) -> Result<Self, Error> {
        let mut watch = Self {
            transport,
            station: station.map(str::to_owned),
            last_id: None,
            response: None,
            connected_at: Instant::now(),
            returning: false,
            pauses: Pauses::new(MIN_RECONNECT_PAUSE, MAX_RECONNECT_PAUSE),
            parser: Parser::default(),
        };
        let response = retry(Repeat::Idempotent, || watch.connect()).await?;
        watch.connected(response);
        Ok(watch)
    }

    /// Returns the events. The stream ends after an error.
    ///
    /// Its `next` is cancel safe: what `Watch::next` has begun is kept in the stream.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<LiveEvent, Error>> {
        stream::try_unfold(self, async |mut watch| Ok(Some((watch.next().await?, watch)))).boxed()
    }

    /// Waits for the next event. If the connection ends or falls silent, it reconnects for
    /// as long as it takes, unless the server responds with an error that another attempt
    /// would get too.
    async fn next(&mut self) -> Result<LiveEvent, Error> {
        loop {
            while let Some(event) = self.parser.events.pop_front() {
                if let Some(event) = self.interpret(&event) {
                    self.returning = false;
                    return Ok(event);
                }
            }
            let Some(response) = &mut self.response else {
                self.reconnect().await?;
                continue;
            };
            let reason = match timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(bytes))) if self.parser.feed(&bytes) => continue,
                Ok(Ok(Some(_))) => format!("the server sent an event of more than {MAX_EVENT} bytes"),
                Ok(Ok(None)) => "the server ended the stream".to_owned(),
                Ok(Err(error)) => root_cause(&error),
                Err(_elapsed) => format!("nothing came for {SILENCE:?}"),
            };
            self.response = None;
            if self.connected_at.elapsed() > MAX_RECONNECT_PAUSE {
                self.pauses.reset();
            }
            if !std::mem::replace(&mut self.returning, true) {
                return Ok(LiveEvent::Disconnected { reason });
            }
        }
    }

    /// Makes one attempt after a pause, which grows from attempt to attempt.
    async fn reconnect(&mut self) -> Result<(), Error> {
        sleep(self.pauses.next_pause()).await;
        match timeout(ATTEMPT_TIMEOUT, self.connect()).await.unwrap_or(Err(Error::TimedOut)) {
            Ok(response) => self.connected(response),
            Err(error) if may_pass(&error, Repeat::Idempotent) || matches!(error, Error::TimedOut) => {
                sleep(error.retry_after().unwrap_or_default().min(TOTAL_TIMEOUT)).await;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn connected(&mut self, response: Response) {
        self.parser = Parser::default(); // Half an event of the old connection is lost with it.
        self.response = Some(response);
        self.connected_at = Instant::now();
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

    /// Returns what an event means, or `None` if it is of a kind that this client doesn't
    /// know yet.
    fn interpret(&mut self, event: &Event) -> Option<LiveEvent> {
        fn parsed<T: DeserializeOwned>(event: &Event) -> Option<T> {
            serde_json::from_str(&event.data).ok()
        }
        if !event.id.is_empty() {
            self.last_id = Some(event.id.clone());
        }
        match event.kind.as_str() {
            "reading" => {
                self.pauses.reset();
                parsed(event).map(LiveEvent::Reading)
            }
            "gap" => parsed(event).map(LiveEvent::Gap),
            // An ID alone: the server has nothing more to send at the moment.
            _ if event.data.is_empty() => self.returning.then_some(LiveEvent::NothingMissed),
            _ => None,
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

/// One event: a block of lines that ends with an empty one.
#[derive(Debug, Default)]
struct Event {
    id: String,
    kind: String,
    data: String,
}

/// Splits a stream of bytes into events (HTML standard, section 9.2.6). Lines end with LF
/// or CRLF; a lone CR, which the standard also allows, is not used here.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    event: Event,
    events: VecDeque<Event>,
}

impl Parser {
    /// Adds bytes, however they are cut. Returns false if an event is too long.
    fn feed(&mut self, bytes: &[u8]) -> bool {
        for part in bytes.split_inclusive(|b| *b == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.event.data.len() > MAX_EVENT {
                return false;
            }
            if self.line.ends_with(b"\n") {
                self.end_of_line();
            }
        }
        true
    }

    fn end_of_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\n', '\r']);
        if line.is_empty() {
            // A block with only an ID is kept too: it moves the place to resume from.
            let event = std::mem::take(&mut self.event);
            if !event.data.is_empty() || !event.id.is_empty() {
                self.events.push_back(event);
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => value.clone_into(&mut self.event.id),
            "event" => value.clone_into(&mut self.event.kind),
            "data" if self.event.data.is_empty() => value.clone_into(&mut self.event.data),
            "data" => {
                self.event.data.push('\n');
                self.event.data.push_str(value);
            }
            _ => {} // A comment (an empty field name), or `retry`.
        }
    }
}

//! The client's side of `/readings/live`: reads server-sent events and, when the
//! connection ends, comes back with the id of the last one.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use tcp_socket::base::retry::Pauses;
use tokio::time::{Instant, sleep, timeout};

use crate::body::is_type;
use crate::client::{ATTEMPT_TIMEOUT, Client, Error};
use crate::live::{Gap, LAST_EVENT_ID};
use crate::model::Reading;
use crate::retry::{Repeat, TOTAL_TIMEOUT, may_pass, retry};

/// The media type of the stream.
const EVENT_STREAM: &str = "text/event-stream";

/// A stream that brings nothing, not even a heartbeat, for so long is dead: three
/// times the server's interval.
pub const SILENCE: Duration = Duration::from_secs(45);

/// Longest event, in bytes; a reading takes about 150.
pub const MAX_EVENT: usize = 64 * 1024;

/// Shortest pause before reconnecting; it doubles up to [`MAX_RECONNECT_PAUSE`].
pub const MIN_RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before reconnecting; a server's `Retry-After` may ask for more. A
/// connection that lasted longer makes the pauses start again with the shortest.
pub const MAX_RECONNECT_PAUSE: Duration = Duration::from_secs(5);

/// What a stream of live readings tells.
#[derive(Debug, Clone, PartialEq)]
pub enum LiveEvent {
    /// A reading was recorded.
    Reading(Reading),
    /// Some were recorded that this stream did not get.
    Gap(Gap),
    /// The connection was lost. The next call reconnects, and its event says what was
    /// missed: a gap, a reading that can still be had, or [`LiveEvent::NothingMissed`].
    Disconnected {
        /// Why, in words that may be the server's.
        reason: String,
    },
    /// The stream is connected again, and no reading was recorded meanwhile.
    NothingMissed,
}

/// A stream of live readings.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    station: Option<String>,
    last_id: Option<String>,
    response: Option<Response>,
    connected_at: Instant,
    /// From a lost connection to the first event of the next one.
    returning: bool,
    pauses: Pauses,
    parser: Parser,
}

impl Watch {
    pub(crate) async fn start(client: Client, station: Option<&str>) -> Result<Self, Error> {
        let mut watch = Self {
            client,
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

    /// The next event. Waits for as long as nothing is recorded; reconnects when
    /// the connection ends or falls silent, for as long as it takes. Cancel safe.
    ///
    /// # Errors
    /// If the server refuses to go on, with an error that another attempt would get too.
    pub async fn next(&mut self) -> Result<LiveEvent, Error> {
        loop {
            while let Some(event) = self.parser.events.pop_front() {
                if let Some(event) = self.take(&event) {
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

    /// Makes one attempt after a pause, which a failed one makes longer.
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
        let mut request = self.client.request(Method::GET, "/readings/live");
        if let Some(station) = &self.station {
            request = request.query(&[("station", station)]);
        }
        if let Some(id) = &self.last_id {
            request = request.header(LAST_EVENT_ID, id);
        }
        let answer = self.client.send(request).await?;
        if answer.0.status().is_success() && is_type(answer.0.headers(), EVENT_STREAM) {
            return Ok(answer.0);
        }
        Err(answer.into_error().await)
    }

    /// What an event means to us; `None` for one of a kind that came later than
    /// this client.
    fn take(&mut self, event: &Event) -> Option<LiveEvent> {
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
            // The server has nothing more for us at the moment.
            _ if event.data.is_empty() => self.returning.then_some(LiveEvent::NothingMissed),
            _ => None,
        }
    }
}

/// The last error of the chain, which says most.
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

/// Splits a stream of bytes into events (HTML standard, section 9.2.6). Lines end
/// with LF or CRLF; the lone CR that the standard also allows is not used here.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    event: Event,
    events: VecDeque<Event>,
}

impl Parser {
    /// Takes bytes as they come, however they are cut. False if an event is too long.
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
            // An id counts even without data, which makes it no event for the reader.
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

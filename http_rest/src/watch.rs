//! The client's side of `/readings/live`: reads server-sent events and, when the
//! connection ends, comes back with the id of the last one.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, Response};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::client::{Client, Error};
use crate::live::Gap;
use crate::model::Reading;
use crate::retry::{Repeat, retry};

/// A stream that brings nothing, not even a heartbeat, for so long is dead: three
/// times the server's interval.
pub const SILENCE: Duration = Duration::from_secs(45);

/// Longest event, in bytes; a reading takes about 150.
pub const MAX_EVENT: usize = 64 * 1024;

/// What a stream of live readings tells.
#[derive(Debug, Clone, PartialEq)]
pub enum LiveEvent {
    /// A reading was recorded.
    Reading(Reading),
    /// Some were recorded that this stream did not get.
    Gap(Gap),
}

/// A stream of live readings.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    station: Option<String>,
    last_id: Option<String>,
    response: Option<Response>,
    parser: Parser,
}

impl Watch {
    pub(crate) async fn start(client: Client, station: Option<&str>) -> Result<Self, Error> {
        let station = station.map(str::to_owned);
        let mut watch = Self { client, station, last_id: None, response: None, parser: Parser::default() };
        watch.connect().await?;
        Ok(watch)
    }

    /// The next event. Waits for as long as nothing is recorded; reconnects when
    /// the connection ends or falls silent. Cancel safe.
    ///
    /// # Errors
    /// If reconnecting fails for good; a later call tries again.
    pub async fn next(&mut self) -> Result<LiveEvent, Error> {
        loop {
            while let Some(event) = self.parser.events.pop_front() {
                if let Some(event) = self.take(&event) {
                    return Ok(event);
                }
            }
            let Some(response) = &mut self.response else {
                self.connect().await?;
                continue;
            };
            match timeout(SILENCE, response.chunk()).await {
                Ok(Ok(Some(bytes))) if self.parser.feed(&bytes) => {}
                _ => self.response = None,
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        self.parser = Parser::default(); // Half an event of the old connection is lost with it.
        let response = retry(Repeat::Idempotent, || async {
            let mut request = self.client.request(Method::GET, "/readings/live");
            if let Some(station) = &self.station {
                request = request.query(&[("station", station)]);
            }
            if let Some(id) = &self.last_id {
                request = request.header("Last-Event-ID", id);
            }
            let answer = self.client.send(request).await?;
            let media_type = answer.0.headers().get(CONTENT_TYPE);
            if answer.0.status().is_success() && media_type.is_some_and(|value| value == "text/event-stream")
            {
                return Ok(answer.0);
            }
            Err(answer.into_error().await)
        });
        self.response = Some(response.await?);
        Ok(())
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
            "reading" => parsed(event).map(LiveEvent::Reading),
            "gap" => parsed(event).map(LiveEvent::Gap),
            _ => None,
        }
    }
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
            let event = std::mem::take(&mut self.event);
            if !event.data.is_empty() {
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

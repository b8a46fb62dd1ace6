//! `/readings/live`: readings as they are recorded, as server-sent events (the
//! HTML standard, section 9.2): one long answer, a block of lines for each event.
//!
//! The server keeps the newest readings in one ring for all streams, and each
//! stream reads on from where it is. So a slow reader costs the recorder nothing,
//! and takes no memory of its own: it falls out of the ring and is told of the gap.
//!
//! An event's id is `<boot id>-<sequence number>`. A client that comes back
//! sends the last one it saw as `Last-Event-ID` and misses nothing that the ring
//! still holds. A block with an id and nothing else moves that place without being an
//! event: the server sends one when the stream has everything, so that a client whose
//! station is quiet does not fall behind the ring.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use crate::conditional::Conditions;
use crate::model::Reading;
use crate::problem::Problem;
use crate::server::App;
use crate::validation::is_station_id;

/// Readings that a stream takes out of the ring at a time; bounds what a stream
/// holds while its client does not read.
const CHUNK: usize = 64;

/// The header with which a client comes back.
pub const LAST_EVENT_ID: &str = "last-event-id";

/// Data of a `gap` event: some readings are not in this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// How many readings that this stream asks for were recorded and are no longer kept
    /// for it; `null` if the server was restarted and can't tell.
    pub missed: Option<u64>,
}

/// Where a stream of this server stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) boot_id: u64,
    pub(crate) sequence: u64,
}

impl EventId {
    /// From `<boot id>-<sequence number>`, both hexadecimal.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (boot_id, sequence) = text.split_once('-')?;
        if text.contains('+') {
            return None; // Rust's integers may have a sign.
        }
        Some(Self {
            boot_id: u64::from_str_radix(boot_id, 16).ok()?,
            sequence: u64::from_str_radix(sequence, 16).ok()?,
        })
    }
}

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}-{:x}", self.boot_id, self.sequence)
    }
}

/// The newest readings of all stations, for all streams.
pub(crate) struct Feed {
    capacity: usize,
    ring: Mutex<Ring>,
    /// The sequence number of the newest reading; wakes the streams.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    readings: VecDeque<Reading>,
    /// The sequence number of the last of them; they are numbered without gaps.
    last: u64,
}

/// What a stream finds in the ring.
struct Found {
    /// Readings that it missed: recorded after its last one, no longer kept.
    lost: u64,
    /// The next ones, with their sequence numbers.
    readings: Vec<(u64, Reading)>,
}

impl Feed {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Takes over a batch; `last` is the sequence number of its last reading.
    pub(crate) fn publish(&self, batch: Vec<Reading>, last: u64) {
        let mut ring = self.lock();
        let surplus = (ring.readings.len() + batch.len()).saturating_sub(self.capacity);
        let from_ring = surplus.min(ring.readings.len());
        ring.readings.drain(..from_ring);
        ring.readings.extend(batch.into_iter().skip(surplus - from_ring));
        ring.last = last;
        drop(ring);
        self.newest.send_replace(last);
    }

    /// The next up to [`CHUNK`] readings after the one of that sequence number.
    fn after(&self, seen: u64) -> Found {
        let ring = self.lock();
        let first = ring.last + 1 - ring.readings.len() as u64;
        let next = first.max(seen + 1);
        let skip = usize::try_from(next - first).unwrap_or(usize::MAX);
        Found {
            lost: next - (seen + 1),
            readings: (next..).zip(ring.readings.iter().skip(skip).take(CHUNK).cloned()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The query string of `GET /readings/live`.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LiveFilter {
    /// Only this station's readings; without it those of all stations.
    #[param(pattern = "^[a-z0-9-]{1,32}$", nullable = false)]
    station: Option<String>,
}

/// Readings as they are recorded
///
/// Events: `reading` (data: a reading) and `gap` (data: how many were missed), both with an id to
/// send as `Last-Event-ID`. An id alone moves that place without an event. Comments are heartbeats.
#[utoipa::path(get, path = "/readings/live", operation_id = "watch_readings", tag = "readings",
    params(LiveFilter, ("Last-Event-ID" = Option<String>, Header, description = "Resume after this event")),
    responses(
        (status = 200, description = "A stream without end", content_type = "text/event-stream", body = String,
            example = "event: reading\nid: 5be3f0d1c2a49687-1f\ndata: {\"station\":\"oslo-1\",\"metric\":\"temperature\",\"value\":-3.5,\"recorded_at\":1767225600000}\n\n"),
        (status = 304, description = "If-None-Match: * excludes what exists"),
        (status = 400, description = "Not an event id of this service, or an unknown or wrong parameter"),
        (status = 412, description = "If-Match is false")))]
pub(crate) async fn live(
    State(app): State<App>,
    filter: Result<Query<LiveFilter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let Query(filter) = filter.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    if filter.station.as_deref().is_some_and(|station| !is_station_id(station)) {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "station is not a station's id"));
    }
    let wake = app.store.feed.newest.subscribe();
    let newest = app.store.feed.lock().last;
    let (seen, restarted) = match headers.get(LAST_EVENT_ID) {
        None => (newest, false),
        Some(value) => match value.to_str().ok().and_then(EventId::parse) {
            None => {
                let detail = "unknown Last-Event-ID: use the id of an event of this stream";
                return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
            }
            Some(id) if id.boot_id == app.store.boot_id => (id.sequence.min(newest), false),
            // Of an earlier life: all that this life still holds is news.
            Some(_) => (app.store.feed.after(0).lost, true),
        },
    };
    if Conditions::of(&headers)?.not_modified(None)? {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let heartbeat = KeepAlive::new().interval(app.limits.heartbeat).text("heartbeat");
    let stopping = app.stopping.clone().cancelled_owned();
    let id = EventId { boot_id: app.store.boot_id, sequence: seen };
    let restarted = stream::iter(restarted.then(|| gap(id, None)));
    let events = restarted.chain(events(app, seen, wake, filter.station)).take_until(stopping);
    Ok(Sse::new(events).keep_alive(heartbeat).into_response())
}

/// What is recorded after the reading `seen`, without end.
fn events(
    app: App,
    seen: u64,
    wake: watch::Receiver<u64>,
    station: Option<String>,
) -> impl Stream<Item = Result<Event, axum::Error>> {
    // `told` is the place that the client would come back to.
    stream::unfold((app, seen, None, wake), move |(app, seen, told, mut wake)| {
        let station = station.clone();
        async move {
            let id = |sequence| EventId { boot_id: app.store.boot_id, sequence };
            // Cancel safe: `changed` only takes note of a version.
            let found = loop {
                wake.mark_unchanged(); // Before the look, so that no wake-up is lost after it.
                let found = app.store.feed.after(seen);
                if found.lost > 0 || !found.readings.is_empty() {
                    break found;
                }
                if told != Some(seen) {
                    let place = vec![Ok(Event::default().id(id(seen).to_string()))];
                    return Some((stream::iter(place), (app, seen, Some(seen), wake)));
                }
                wake.changed().await.ok()?;
            };
            let kept = seen + found.lost;
            let missed = match &station {
                None => found.lost,
                Some(station) => app.store.count(station, seen, kept),
            };
            let mut events: Vec<_> =
                (missed > 0).then(|| (kept, gap(id(kept), Some(missed)))).into_iter().collect();
            let last = kept + found.readings.len() as u64;
            for (sequence, reading) in found.readings {
                if station.as_ref().is_none_or(|station| *station == reading.station) {
                    let event = Event::default().event("reading").id(id(sequence).to_string());
                    events.push((sequence, event.json_data(reading)));
                }
            }
            let told = events.last().map(|(sequence, _)| *sequence).or(told);
            let events: Vec<_> = events.into_iter().map(|(_, event)| event).collect();
            Some((stream::iter(events), (app, last, told, wake)))
        }
    })
    .flatten()
}

fn gap(id: EventId, missed: Option<u64>) -> Result<Event, axum::Error> {
    Event::default().event("gap").id(id.to_string()).json_data(Gap { missed })
}

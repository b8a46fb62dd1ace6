//! `/readings/live`: readings as they are recorded, as server-sent events (the
//! HTML standard, section 9.2): one long answer, a block of lines for each event.
//!
//! The server keeps the newest readings in one ring for all streams, and each
//! stream reads on from where it is. So a slow reader costs the recorder nothing,
//! and takes no memory of its own: it falls out of the ring and is told of the gap.
//!
//! An event's id is `<boot id>-<sequence number>`. A client that comes back
//! sends the last one it saw as `Last-Event-ID` and misses nothing that the ring
//! still holds.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};

use crate::model::Reading;
use crate::problem::Problem;
use crate::server::App;

/// Readings that a stream takes out of the ring at a time; bounds what a stream
/// holds while its client does not read.
const CHUNK: usize = 64;

/// Data of a `gap` event: some readings are not in this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Gap {
    /// How many readings, of all stations, were recorded and are no longer kept;
    /// `null` if the server was restarted and can't tell.
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
/// Events: `reading` (data: a reading, id: what to send as `Last-Event-ID`), `gap` (data: how many
/// were missed), and comments as heartbeats.
#[utoipa::path(get, path = "/readings/live", operation_id = "watch_readings", tag = "readings",
    params(LiveFilter, ("Last-Event-ID" = Option<String>, Header, description = "Resume after this event")),
    responses(
        (status = 200, description = "A stream without end", content_type = "text/event-stream", body = String,
            example = "event: reading\nid: 5be3f0d1c2a49687-1f\ndata: {\"station\":\"oslo-1\",\"metric\":\"temperature\",\"value\":-3.5,\"recorded_at\":1767225600000}\n\n"),
        (status = 400, description = "Not an event id of this service, or an unknown parameter")))]
pub(crate) async fn live(
    State(app): State<App>,
    filter: Result<Query<LiveFilter>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, axum::Error>>>, Problem> {
    let Query(filter) = filter.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let wake = app.store.feed.newest.subscribe();
    let newest = app.store.feed.lock().last;
    let (seen, restarted) = match headers.get("last-event-id") {
        None => (newest, false),
        Some(value) => match value.to_str().ok().and_then(EventId::parse) {
            None => {
                return Err(Problem::new(
                    StatusCode::BAD_REQUEST,
                    "Last-Event-ID is none that this service gave",
                ));
            }
            Some(id) if id.boot_id == app.store.boot_id => (id.sequence.min(newest), false),
            // Of an earlier life: all that this life still holds is news.
            Some(_) => (app.store.feed.after(0).lost, true),
        },
    };
    let heartbeat = KeepAlive::new().interval(app.limits.heartbeat).text("heartbeat");
    let stopping = app.stopping.clone().cancelled_owned();
    let restarted = stream::iter(restarted.then(|| gap(Gap { missed: None })));
    let events = restarted.chain(events(app, seen, wake, filter.station)).take_until(stopping);
    Ok(Sse::new(events).keep_alive(heartbeat))
}

/// What is recorded after the reading `seen`, without end.
fn events(
    app: App,
    seen: u64,
    wake: watch::Receiver<u64>,
    station: Option<String>,
) -> impl Stream<Item = Result<Event, axum::Error>> {
    stream::unfold((app, seen, wake), move |(app, seen, mut wake)| {
        let station = station.clone();
        async move {
            // Cancel safe: `changed` only takes note of a version.
            let found = loop {
                wake.mark_unchanged(); // Before the look, so that no wake-up is lost after it.
                let found = app.store.feed.after(seen);
                if found.lost > 0 || !found.readings.is_empty() {
                    break found;
                }
                wake.changed().await.ok()?;
            };
            let seen = seen + found.lost + found.readings.len() as u64;
            let lost = (found.lost > 0).then(|| gap(Gap { missed: Some(found.lost) }));
            let boot_id = app.store.boot_id;
            let readings = found
                .readings
                .into_iter()
                .filter(move |(_, reading)| {
                    station.as_ref().is_none_or(|station| *station == reading.station)
                })
                .map(move |(sequence, reading)| {
                    let id = EventId { boot_id, sequence };
                    Event::default().event("reading").id(id.to_string()).json_data(reading)
                });
            Some((stream::iter(lost.into_iter().chain(readings)), (app, seen, wake)))
        }
    })
    .flatten()
}

fn gap(gap: Gap) -> Result<Event, axum::Error> {
    Event::default().event("gap").json_data(gap)
}

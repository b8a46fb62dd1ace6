//! `/readings/live` sends readings, as soon as they are recorded, in server-sent events (HTML
//! standard, section 9.2): one long response with a block of lines for each event.
//!
//! Each stream reads the store's [`Feed`](super::store::Feed) at its own pace. A slow reader
//! neither holds up the recorder nor needs a queue of its own. If it falls too far behind,
//! the ring has dropped its next readings, and it gets a `gap` event.
//!
//! An event's ID is `<instance ID>-<sequence number>`. A client that reconnects sends the
//! last one it saw as `Last-Event-ID`, and misses nothing that the ring still holds. The
//! server also sends blocks that consist of an ID alone. They are not events, but they tell
//! the client that it has everything up to that ID. So a client whose station is quiet does
//! not fall behind the ring.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use super::conditional::Conditions;
use super::store::{EventId, Store};
use crate::limits::Limits;
use crate::protocol::headers::LAST_EVENT_ID;
use crate::protocol::model::Gap;
use crate::protocol::problem::Problem;
use crate::protocol::validation::is_station_id;

/// The query string of `GET /readings/live`.
#[derive(Deserialize, IntoParams, FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct LiveFilter {
    /// ID of a station: send only its readings. By default, those of all stations are sent.
    #[param(nullable = false)]
    station: Option<String>,
}

/// Readings as they are recorded
///
/// The events are `reading` (its data is a reading) and `gap` (how many were missed). Each has an
/// ID; send the last one as `Last-Event-ID` to resume. A block may also consist of an ID alone.
/// Comments are heartbeats.
#[utoipa::path(get, path = "/readings/live", operation_id = "watch_readings", tag = "readings",
    params(LiveFilter, ("Last-Event-ID" = Option<String>, Header, description = "Resume after this event")),
    responses(
        (status = 200, description = "An endless stream", content_type = "text/event-stream", body = String,
            example = "event: reading\nid: 5be3f0d1c2a49687-1f\ndata: {\"station\":\"oslo-1\",\"metric\":\"temperature\",\"value\":-3.5,\"recorded_at\":1767225600000}\n\n"),
        (status = 304, description = "If-None-Match is `*`, which matches every existing resource"),
        (status = 400, description = "Not an event ID of this service, or an unknown or invalid parameter")))]
pub(crate) async fn live(
    State(store): State<Arc<Store>>,
    State(limits): State<Arc<Limits>>,
    State(stopping): State<CancellationToken>,
    filter: LiveFilter,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if filter.station.as_deref().is_some_and(|station| !is_station_id(station)) {
        return Err(Problem::bad_request("station must have 1 to 32 characters: a-z, 0-9, and -"));
    }
    let (newest, changes) = store.feed.subscribe();
    let (seen, restarted) = match headers.get(LAST_EVENT_ID) {
        None => (newest, false),
        Some(value) => match value.to_str().ok().and_then(EventId::parse) {
            None => {
                let detail = "unknown Last-Event-ID: use the ID of an event from this stream";
                return Err(Problem::bad_request(detail));
            }
            Some(id) if id.instance_id == store.instance_id => (id.sequence.min(newest), false),
            // From an earlier run of the server: everything that this one holds is new.
            Some(_) => (store.feed.after(0).lost, true),
        },
    };
    if Conditions::of(&headers)?.not_modified(None)? {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    let id = EventId { instance_id: store.instance_id, sequence: seen };
    let restarted = stream::iter(restarted.then(|| gap(id, None)));
    let follower = Follower { store, station: filter.station, changes, seen, announced: None };
    let followed = stream::unfold(follower, async |mut follower| {
        let events = follower.next().await?;
        Some((stream::iter(events), follower))
    });
    let events = restarted.chain(followed.flatten()).take_until(stopping.cancelled_owned());
    let heartbeat = KeepAlive::new().interval(limits.heartbeat).text("heartbeat");
    Ok(Sse::new(events).keep_alive(heartbeat).into_response())
}

/// Follows the feed for one stream.
struct Follower {
    store: Arc<Store>,
    /// Send only this station's readings; `None` sends those of all stations.
    station: Option<String>,
    changes: watch::Receiver<u64>,
    /// Sequence number of the last reading that was examined.
    seen: u64,
    /// Sequence number in the last ID that was sent.
    announced: Option<u64>,
}

impl Follower {
    /// Waits for the next events. Returns `None` if the store is gone.
    async fn next(&mut self) -> Option<Vec<Result<Event, axum::Error>>> {
        // Cancel safe: a `changed` that is dropped has not marked anything as seen.
        let found = loop {
            self.changes.mark_unchanged(); // Before `after`, so that no later change is missed.
            let found = self.store.feed.after(self.seen);
            if found.lost > 0 || !found.readings.is_empty() {
                break found;
            }
            if self.announced != Some(self.seen) {
                let id_alone = Event::default().id(self.announce(self.seen).to_string());
                return Some(vec![Ok(id_alone)]);
            }
            self.changes.changed().await.ok()?;
        };
        let mut events = Vec::new();
        let lost_until = self.seen + found.lost;
        let missed = match &self.station {
            None => found.lost,
            Some(station) => self.store.count(station, self.seen, lost_until),
        };
        if missed > 0 {
            events.push(gap(self.announce(lost_until), Some(missed)));
        }
        self.seen = lost_until + found.readings.len() as u64;
        for (sequence, reading) in found.readings {
            if self.station.as_ref().is_none_or(|station| *station == reading.station) {
                let event = Event::default().event("reading").id(self.announce(sequence).to_string());
                events.push(event.json_data(reading));
            }
        }
        Some(events)
    }

    /// Returns the ID of an event, and remembers it as sent.
    fn announce(&mut self, sequence: u64) -> EventId {
        self.announced = Some(sequence);
        EventId { instance_id: self.store.instance_id, sequence }
    }
}

fn gap(id: EventId, missed: Option<u64>) -> Result<Event, axum::Error> {
    Event::default().event("gap").id(id.to_string()).json_data(Gap { missed })
}

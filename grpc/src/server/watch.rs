//! `Watch`, server streaming: one request, then responses until either side ends the
//! call.
//!
//! The stream has no queue of its own. It remembers the number of the last reading that
//! it sent, and reads on from the store when HTTP/2 flow control lets it send. So a slow
//! reader costs hardly any memory, and a reader that reconnects resumes after the last
//! number that it received.

use std::sync::Arc;
use std::vec;

use futures::stream::{self, BoxStream};
use tokio::sync::watch;
use tonic::Status;
use tonic_types::FieldViolation;
use tracing::debug;

use super::store::{Station, Store};
use crate::limits::CHUNK;
use crate::protocol::model::check_id;
use crate::protocol::proto::watch_request::Start;
use crate::protocol::proto::watch_response::Event;
use crate::protocol::proto::{Position, RecordedReading, WatchRequest, WatchResponse};
use crate::protocol::status::{fell_behind, invalid, no_station, restarted};

/// Returns the stream of responses. It does nothing while it is not polled, and is dropped
/// when the client leaves.
pub(super) fn watch(
    store: &Store,
    request: &WatchRequest,
) -> Result<BoxStream<'static, Result<WatchResponse, Status>>, Status> {
    check_id(&request.station).map_err(|wrong| invalid(vec![FieldViolation::new("station", wrong)], 1))?;
    let station = store.station(&request.station).ok_or_else(|| no_station(&request.station))?;
    // Subscribe before choosing the start, so that no reading in between is missed.
    let changes = station.changes();
    let sent = match request.start {
        None => station.start_of_newest(0),
        Some(Start::Newest(count)) => station.start_of_newest(count),
        Some(Start::After(position)) if position.boot_id == store.instance_id() => position.sequence,
        Some(Start::After(_)) => return Err(restarted(store.instance_id())),
    };
    if sent > station.start_of_newest(0) {
        let wrong = "is greater than the number of the newest reading".to_owned();
        return Err(invalid(vec![FieldViolation::new("after.sequence", wrong)], 1));
    }
    // The first reading to send may already be gone. Report that now, not after
    // `started`.
    station.read(sent, 1).map_err(|gone| fell_behind(gone.oldest))?;
    let started = Event::Started(Position { boot_id: store.instance_id(), sequence: sent });
    let watching = Watching { station, changes, sent, started: Some(started), chunk: Vec::new().into_iter() };
    Ok(Box::pin(stream::try_unfold(watching, Watching::next)))
}

struct Watching {
    station: Arc<Station>,
    changes: watch::Receiver<()>,
    /// The number of the last reading copied into `chunk`; before the first, the start.
    sent: u64,
    started: Option<Event>,
    chunk: vec::IntoIter<RecordedReading>,
}

impl Watching {
    async fn next(mut self) -> Result<Option<(WatchResponse, Self)>, Status> {
        if let Some(started) = self.started.take() {
            return Ok(Some((WatchResponse { event: Some(started) }, self)));
        }
        loop {
            if let Some(recorded) = self.chunk.next() {
                return Ok(Some((WatchResponse { event: Some(Event::Recorded(recorded)) }, self)));
            }
            // Mark changes as seen before reading the store. Otherwise, a reading
            // recorded in between would wait for the one after it.
            self.changes.borrow_and_update();
            let readings = self.station.read(self.sent, CHUNK).map_err(|gone| fell_behind(gone.oldest))?;
            self.sent += readings.len() as u64;
            if readings.is_empty() && self.changes.changed().await.is_err() {
                return Ok(None); // The station is gone, and so is the server.
            }
            self.chunk = readings.into_iter();
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        debug!("no longer watching {}", self.station.id());
    }
}

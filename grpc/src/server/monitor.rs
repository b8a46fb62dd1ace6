//! `Monitor`, bidirectional streaming: both sides send whenever they like, on one stream.
//!
//! As in [`super::watch`], everything happens while the response stream is polled. If a
//! client does not read its alerts, this code does not read its requests, so no queue can
//! grow.

use std::collections::{HashMap, VecDeque};
use std::future::ready;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use tokio::select;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{StreamExt, StreamMap};
use tonic::{Status, Streaming};
use tracing::debug;

use super::store::{Gone, Station, Store};
use crate::limits::{CHUNK, MAX_QUOTED, MAX_THRESHOLDS};
use crate::protocol::model::{check_id, check_metric, shorten};
use crate::protocol::proto::monitor_request::Action;
use crate::protocol::proto::monitor_response::Event;
use crate::protocol::proto::threshold::Bound;
use crate::protocol::proto::{Alert, MonitorRequest, MonitorResponse, RecordedReading, Refusal, Threshold};
use crate::protocol::status::fell_behind;

/// Returns the responses to the requests of one call.
pub(super) fn monitor(
    store: Arc<Store>,
    requests: Streaming<MonitorRequest>,
) -> BoxStream<'static, Result<MonitorResponse, Status>> {
    let monitor = Monitor {
        store,
        requests,
        watched: HashMap::new(),
        changes: StreamMap::new(),
        unread: VecDeque::new(),
        responses: VecDeque::new(),
    };
    Box::pin(stream::try_unfold(monitor, Monitor::next))
}

struct Monitor {
    store: Arc<Store>,
    requests: Streaming<MonitorRequest>,
    /// The stations that have a threshold.
    watched: HashMap<String, WatchedStation>,
    /// Yields the ID of such a station when it has new readings.
    changes: StreamMap<String, WatchStream<()>>,
    /// The IDs of such stations that have readings to compare.
    unread: VecDeque<String>,
    /// At most one acknowledgement or the alerts of one chunk.
    responses: VecDeque<Event>,
}

struct WatchedStation {
    station: Arc<Station>,
    /// The number of the last reading that was compared.
    seen: u64,
    thresholds: Vec<Threshold>,
}

impl Monitor {
    async fn next(mut self) -> Result<Option<(MonitorResponse, Self)>, Status> {
        loop {
            if let Some(event) = self.responses.pop_front() {
                return Ok(Some((MonitorResponse { event: Some(event) }, self)));
            }
            // Requests first: a flood of readings must not keep a client from
            // removing its threshold. All three are cancel safe: what a stream
            // has not yielded stays in it.
            select! {
                biased;
                request = self.requests.message() => match request? {
                    Some(request) => self.handle(request),
                    None => return Ok(None),
                },
                () = ready(()), if !self.unread.is_empty() => {
                    self.compare().map_err(|gone| fell_behind(gone.oldest))?;
                    // Catching up can take a while, and must not starve other calls.
                    tokio::task::yield_now().await;
                }
                Some((station, ())) = self.changes.next() => self.unread.push_back(station),
            }
        }
    }

    /// Handles a request. The next response acknowledges or refuses it.
    fn handle(&mut self, request: MonitorRequest) {
        let event = match request.action {
            Some(Action::Add(threshold)) => {
                let id = threshold.id.clone();
                match self.add(threshold) {
                    Ok(()) => Event::Added(id),
                    Err((field, wrong)) => refused(&id, field, wrong),
                }
            }
            Some(Action::Remove(id)) => {
                if self.remove(&id) {
                    Event::Removed(id)
                } else {
                    refused(&id, "remove", "names an unknown threshold".to_owned())
                }
            }
            None => refused("", "action", "is missing, or newer than this server".to_owned()),
        };
        self.responses.push_back(event);
    }

    fn add(&mut self, threshold: Threshold) -> Result<(), (&'static str, String)> {
        check_id(&threshold.id).map_err(|wrong| ("add.id", wrong))?;
        let mut all = self.watched.values().flat_map(|watched| &watched.thresholds);
        if all.clone().any(|other| other.id == threshold.id) {
            return Err(("add.id", "is already in use".to_owned()));
        }
        if all.by_ref().count() == MAX_THRESHOLDS {
            return Err(("add", format!("would exceed the maximum of {MAX_THRESHOLDS} thresholds")));
        }
        check_metric(threshold.metric).map_err(|wrong| ("add.metric", wrong))?;
        match threshold.bound {
            None => return Err(("add.bound", "is missing".to_owned())),
            Some(Bound::Above(bound) | Bound::Below(bound)) if !bound.is_finite() => {
                return Err(("add.bound", format!("{bound} is not a finite number")));
            }
            Some(_) => {}
        }
        check_id(&threshold.station).map_err(|wrong| ("add.station", wrong))?;
        let Some(station) = self.store.station(&threshold.station) else {
            return Err(("add.station", "has no readings yet".to_owned()));
        };
        let id = threshold.station.clone();
        let watched = self.watched.entry(id.clone()).or_insert_with(|| {
            self.changes.insert(id, WatchStream::from_changes(station.changes()));
            WatchedStation { seen: station.start_of_newest(0), station, thresholds: Vec::new() }
        });
        watched.thresholds.push(threshold);
        Ok(())
    }

    fn remove(&mut self, id: &str) -> bool {
        let has_it = |watched: &WatchedStation| watched.thresholds.iter().any(|threshold| threshold.id == id);
        let found = self.watched.iter().find(|(_, watched)| has_it(watched));
        let Some(station) = found.map(|(station, _)| station.clone()) else {
            return false;
        };
        if let Some(watched) = self.watched.get_mut(&station) {
            watched.thresholds.retain(|threshold| threshold.id != id);
            if watched.thresholds.is_empty() {
                self.watched.remove(&station);
                self.changes.remove(&station);
                self.unread.retain(|other| *other != station);
            }
        }
        true
    }

    /// Compares the next chunk of a station's readings with its thresholds.
    fn compare(&mut self) -> Result<(), Gone> {
        let Some(id) = self.unread.pop_front() else { return Ok(()) };
        let Some(watched) = self.watched.get_mut(&id) else { return Ok(()) };
        let readings = watched.station.read(watched.seen, CHUNK)?;
        watched.seen += readings.len() as u64;
        if readings.len() == CHUNK && !self.unread.contains(&id) {
            self.unread.push_back(id); // There may be more.
        }
        for recorded in &readings {
            for threshold in watched.thresholds.iter().filter(|threshold| is_beyond(recorded, threshold)) {
                let alert = Alert { id: threshold.id.clone(), recorded: Some(recorded.clone()) };
                self.responses.push_back(Event::Alert(alert));
            }
        }
        Ok(())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        debug!("no longer monitoring; stations with thresholds: {}", self.watched.len());
    }
}

fn is_beyond(recorded: &RecordedReading, threshold: &Threshold) -> bool {
    let Some(reading) = &recorded.reading else { return false };
    reading.metric == threshold.metric
        && match threshold.bound {
            Some(Bound::Above(bound)) => reading.value > bound,
            Some(Bound::Below(bound)) => reading.value < bound,
            None => false,
        }
}

fn refused(id: &str, field: &str, description: String) -> Event {
    // An invalid ID may be long.
    let id = shorten(id, MAX_QUOTED).into_owned();
    Event::Refused(Refusal { id, field: field.to_owned(), description })
}

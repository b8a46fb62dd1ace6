//! `/live`: clients record readings, and subscribers receive them as they arrive.
//!
//! Each recorded reading goes into one ring that all subscribers read, each at its own position.
//! Recording a reading therefore costs as much for a thousand subscribers as for one, and no
//! subscriber has a queue that could grow. If a subscriber reads too slowly, the ring overwrites
//! readings that it has not seen. The server then tells it how many it missed, and sends it the
//! newest one of each series, because the current value matters most.
//!
//! Each subscriber needs 8 bytes of memory for each series that exists (32 kB for 4,000), and
//! its list of stations (64 kB for 1,000).

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tcp_socket::base::journal;
use tcp_socket::base::principals::{Caller, Denied, Operation};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::store::{Place, Store};
use crate::limits::{EVENTS_PER_TURN, MAX_ID, MAX_READ_BACK, MAX_STATIONS, RING};
use crate::protocol::message::{ErrorCode, LiveRequest, Numbered, ReadBack, Series, ServerMessage};
use crate::protocol::model::{Metric, Reading, check_batch, is_id, shorten};
use crate::protocol::parse::Refusal;

/// All recorded readings, and the ring that brings them to the subscribers.
pub(crate) struct Live {
    instance_id: String,
    state: Mutex<State>,
}

/// One lock protects all of it, so that the readings of a series enter the ring in order.
struct State {
    store: Store,
    ring: broadcast::Sender<Arc<Published>>,
    /// The newest reading in the ring, by series.
    newest: Vec<Option<Arc<Published>>>,
}

/// A reading on its way to the subscribers. They all share it.
struct Published {
    place: Place,
    reading: Reading,
    /// The reading as JSON. The first subscriber's task serializes it, and all others reuse it.
    text: OnceLock<Utf8Bytes>,
}

impl Published {
    fn text(&self) -> Utf8Bytes {
        let Place { sequence, .. } = self.place;
        let write = || ServerMessage::Reading(Numbered { sequence, reading: self.reading.clone() }).to_text();
        self.text.get_or_init(write).clone()
    }
}

impl Live {
    /// Creates a store without readings. `instance_id` identifies this run of the server.
    pub(crate) fn new(instance_id: String) -> Self {
        let state = State { store: Store::default(), ring: broadcast::Sender::new(RING), newest: Vec::new() };
        Self { instance_id, state: Mutex::new(state) }
    }

    fn record(&self, id: u64, batch: Vec<Reading>) -> Result<ServerMessage, Refusal> {
        check_batch(&batch).map_err(|reason| Refusal::new(id, ErrorCode::Invalid, reason))?;
        let mut state = self.lock();
        if !state.store.has_room_for(&batch) {
            let reason = format!("this server keeps at most {MAX_STATIONS} stations");
            return Err(Refusal::new(id, ErrorCode::Full, reason));
        }
        journal::append(batch.iter().map(|reading| {
            let Reading { station, metric, value, recorded_at } = reading;
            format!("{station} {} {value} {recorded_at}", metric.name())
        }));
        let accepted = batch.len();
        let watched = state.ring.receiver_count() > 0;
        for reading in batch {
            let place = state.store.keep(&reading);
            if watched {
                state.publish(Published { place, reading, text: OnceLock::new() });
            }
        }
        Ok(ServerMessage::Recorded { id, accepted })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock. Even if something did, the state would still be
        // consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn publish(&mut self, published: Published) {
        let published = Arc::new(published);
        let series = published.place.series;
        if self.newest.len() <= series {
            self.newest.resize(series + 1, None);
        }
        self.newest[series] = Some(published.clone());
        let _ = self.ring.send(published); // Fails if the last subscriber has just left.
    }
}

/// A set of metrics, one bit each.
type Metrics = u8;

/// One connection to `/live`.
pub(crate) struct LiveSession {
    live: Arc<Live>,
    caller: Caller,
    /// Metrics subscribed to at every station.
    everywhere: Metrics,
    /// Metrics subscribed to at single stations.
    stations: HashMap<String, Metrics>,
    /// `Some` while there is a subscription.
    ring: Option<broadcast::Receiver<Arc<Published>>>,
    /// What `wait_for_events` received; `events` handles it.
    woken: Option<Result<Arc<Published>, RecvError>>,
    /// Sequence number of the last reading that was sent or counted as skipped, by series.
    done: Vec<u64>,
}

impl LiveSession {
    pub(crate) fn new(live: Arc<Live>, caller: Caller) -> Self {
        Self {
            live,
            caller,
            everywhere: 0,
            stations: HashMap::new(),
            ring: None,
            woken: None,
            done: Vec::new(),
        }
    }

    /// Handles a request, unless the caller may not make it.
    pub(crate) fn respond(&mut self, text: &str) -> Result<Result<ServerMessage, Refusal>, Denied> {
        let request = match LiveRequest::parse(text) {
            Ok(request) => request,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match &request {
            LiveRequest::Record(record) => {
                self.caller.may_record(record.readings.iter().map(|reading| &*reading.station))
            }
            LiveRequest::Readings(_) => self.caller.may(Operation::Read),
            LiveRequest::Subscribe(_) | LiveRequest::Unsubscribe(_) => self.caller.may(Operation::Subscribe),
        }?;
        Ok(self.handle(request))
    }

    fn handle(&mut self, request: LiveRequest<'_>) -> Result<ServerMessage, Refusal> {
        match request {
            LiveRequest::Record(record) => self.live.record(record.id, record.readings.into_owned()),
            LiveRequest::Readings(ReadBack { id, station, limit }) => {
                if !(1..=MAX_READ_BACK).contains(&limit) {
                    let reason = format!("limit: {limit} is outside 1 to {MAX_READ_BACK}");
                    return Err(Refusal::new(id, ErrorCode::Invalid, reason));
                }
                Ok(ServerMessage::Readings { id, readings: self.live.lock().store.readings(&station, limit) })
            }
            LiveRequest::Subscribe(series) => {
                let (stations, recorded) = self.subscribe(&series)?;
                let (id, instance_id) = (series.id, self.live.instance_id.clone());
                Ok(ServerMessage::Subscribed { id, instance_id, stations, recorded })
            }
            LiveRequest::Unsubscribe(series) => {
                self.unsubscribe(&series);
                Ok(ServerMessage::Unsubscribed { id: series.id })
            }
        }
    }

    /// Subscribes. Returns those of the subscription's stations that exist, and the number of
    /// readings ever recorded in its series.
    fn subscribe(&mut self, series: &Series) -> Result<(Vec<String>, u64), Refusal> {
        if let Some(wrong) = series.stations.iter().find(|station| !is_id(station)) {
            let wrong = shorten(wrong);
            let reason = format!("stations: {wrong:?} must be 1 to {MAX_ID} characters: a-z, 0-9, and -");
            return Err(Refusal::new(series.id, ErrorCode::Invalid, reason));
        }
        let named: HashSet<&str> = series.stations.iter().map(String::as_str).collect();
        let new = named.iter().filter(|station| !self.stations.contains_key(**station)).count();
        if self.stations.len() + new > MAX_STATIONS {
            let reason = format!("a subscription can name at most {MAX_STATIONS} stations");
            return Err(Refusal::new(series.id, ErrorCode::Full, reason));
        }
        // The subscription to the new series starts here. While the lock is held, nothing can be
        // recorded between taking the position in the ring and noting the numbers in `done`.
        let state = self.live.lock();
        self.ring.get_or_insert_with(|| state.ring.subscribe());
        let wanted = metrics(series);
        let is_named = |station: &&str| named.is_empty() || named.contains(station);
        let mut recorded = 0;
        for (station, metric, place) in state.store.places() {
            let before = self.everywhere | self.stations.get(station).copied().unwrap_or(0);
            if is_named(&station) && wanted & bit(metric) != 0 {
                recorded += place.sequence;
                if before & bit(metric) == 0 {
                    set(&mut self.done, place);
                }
            }
        }
        let stations = state.store.stations().filter(is_named).map(str::to_owned).collect();
        drop(state);
        if series.stations.is_empty() {
            self.everywhere |= wanted;
        }
        for station in &series.stations {
            *self.stations.entry(station.clone()).or_default() |= wanted;
        }
        Ok((stations, recorded))
    }

    /// Unsubscribes. If the list of stations is empty, this ends all subscriptions to these
    /// metrics. Otherwise, a subscription to all stations continues.
    fn unsubscribe(&mut self, series: &Series) {
        let unwanted = metrics(series);
        if series.stations.is_empty() {
            self.everywhere &= !unwanted;
            self.stations.values_mut().for_each(|wanted| *wanted &= !unwanted);
        }
        for station in &series.stations {
            self.stations.entry(station.clone()).and_modify(|wanted| *wanted &= !unwanted);
        }
        self.stations.retain(|_station, wanted| *wanted != 0);
        if self.everywhere == 0 && self.stations.is_empty() {
            (self.ring, self.woken) = (None, None);
        }
    }

    /// Completes when there may be something to send. Cancel safe: a received reading is kept in
    /// `woken`.
    pub(crate) async fn wait_for_events(&mut self) {
        match &mut self.ring {
            Some(_) if self.woken.is_some() => {}
            Some(ring) => self.woken = Some(ring.recv().await),
            None => pending().await,
        }
    }

    /// Takes the events to send next.
    pub(crate) fn events(&mut self, into: &mut Vec<Utf8Bytes>) {
        for _ in 0..EVENTS_PER_TURN {
            let Some(ring) = &mut self.ring else { return };
            let received = self.woken.take().unwrap_or_else(|| {
                ring.try_recv().map_err(|error| match error {
                    TryRecvError::Lagged(count) => RecvError::Lagged(count),
                    TryRecvError::Empty | TryRecvError::Closed => RecvError::Closed,
                })
            });
            match received {
                Ok(published) if self.wants(&published) => {
                    set(&mut self.done, published.place);
                    into.push(published.text());
                }
                Ok(_unwanted) => {}
                Err(RecvError::Lagged(_count)) => self.catch_up(into),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn wants(&self, published: &Published) -> bool {
        let Place { series, sequence } = published.place;
        let reading = &published.reading;
        // For a subscription to all stations, the map need not be searched.
        let wanted = self.everywhere & bit(reading.metric) != 0
            || self.stations.get(&reading.station).is_some_and(|wanted| wanted & bit(reading.metric) != 0);
        wanted && sequence > self.done.get(series).copied().unwrap_or(0)
    }

    /// Continues at the newest end of the ring, because the ring has overtaken this subscriber.
    /// Takes the newest reading of each series, and counts the others as skipped.
    fn catch_up(&mut self, into: &mut Vec<Utf8Bytes>) {
        let state = self.live.lock();
        self.ring = Some(state.ring.subscribe());
        let newest: Vec<_> = state.newest.iter().flatten().filter(|p| self.wants(p)).cloned().collect();
        drop(state);
        let mut skipped = 0;
        let start = into.len();
        for published in newest {
            let Place { series, sequence } = published.place;
            skipped += sequence - self.done.get(series).copied().unwrap_or(0) - 1;
            set(&mut self.done, published.place);
            into.push(published.text());
        }
        if skipped > 0 {
            into.insert(start, ServerMessage::Skipped { readings: skipped }.to_text());
        }
    }
}

fn bit(metric: Metric) -> Metrics {
    1 << metric as u8
}

fn metrics(series: &Series) -> Metrics {
    let all: &[Metric] = &Metric::ALL;
    let named = if series.metrics.is_empty() { all } else { &series.metrics };
    named.iter().fold(0, |set, metric| set | bit(*metric))
}

fn set(done: &mut Vec<u64>, place: Place) {
    if done.len() <= place.series {
        done.resize(place.series + 1, 0);
    }
    done[place.series] = place.sequence;
}

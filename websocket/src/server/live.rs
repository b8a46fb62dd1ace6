//! `/live`: readings are recorded, and subscribers see them as they arrive.
//!
//! A recorded reading is put into one ring that all subscribers read, each at
//! its own place. Recording therefore costs the same for one subscriber and for
//! a thousand, and a subscriber owns no queue that could grow: one that reads
//! more slowly than the ring turns finds that its place was overwritten. It is
//! then told how many readings it missed, and given the newest one of each series: the
//! current value is what a person who looks at a thermometer wants.
//!
//! Memory for each subscriber: 8 bytes for each series that exists (32 kB for
//! 4,000) and its list of stations (64 kB for 1,000).

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::store::{Place, Store};
use crate::limits::{EVENTS_PER_TURN, MAX_ID, MAX_READ_BACK, MAX_STATIONS, RING};
use crate::protocol::message::{ErrorCode, LiveRequest, Numbered, ReadBack, Series, ServerMessage};
use crate::protocol::model::{Metric, Reading, check_batch, is_id, shorten};
use crate::protocol::parse::Refusal;

/// All recorded readings, and the ring that takes them to the subscribers.
pub(crate) struct Live {
    instance_id: String,
    state: Mutex<State>,
}

/// Everything is under one lock, so that the ring has each series in its order.
struct State {
    store: Store,
    ring: broadcast::Sender<Arc<Published>>,
    /// By series: the newest reading that was put into the ring.
    newest: Vec<Option<Arc<Published>>>,
}

/// A reading on its way to the subscribers, who share it.
struct Published {
    place: Place,
    reading: Reading,
    /// Its JSON, written by the first subscriber that sends it and used by all.
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
    /// Nothing recorded yet. `instance_id` identifies this run of the server.
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
        // Nothing panics while it holds the lock; if something ever does, the
        // state is still whole.
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
        let _ = self.ring.send(published); // Fails if the last subscriber left meanwhile.
    }
}

/// A set of metrics, one bit each.
type Metrics = u8;

/// One connection to `/live`.
pub(crate) struct LiveSession {
    live: Arc<Live>,
    /// Metrics wanted of every station.
    everywhere: Metrics,
    /// Metrics wanted of one station.
    stations: HashMap<String, Metrics>,
    /// Present while something is subscribed to.
    ring: Option<broadcast::Receiver<Arc<Published>>>,
    /// What ended the wait in `wait_for_events`.
    woken: Option<Result<Arc<Published>, RecvError>>,
    /// By series: the sequence number up to which everything was sent or counted
    /// as skipped.
    done: Vec<u64>,
}

impl LiveSession {
    pub(crate) fn new(live: Arc<Live>) -> Self {
        Self { live, everywhere: 0, stations: HashMap::new(), ring: None, woken: None, done: Vec::new() }
    }

    pub(crate) fn respond(&mut self, text: &str) -> Result<ServerMessage, Refusal> {
        match LiveRequest::parse(text)? {
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

    /// Subscribes. Returns the subscription's stations that exist, and the number of readings
    /// ever recorded in its series.
    fn subscribe(&mut self, series: &Series) -> Result<(Vec<String>, u64), Refusal> {
        if let Some(wrong) = series.stations.iter().find(|station| !is_id(station)) {
            let wrong = shorten(wrong);
            let reason = format!("stations: {wrong:?} is not of the form [a-z0-9-]{{1,{MAX_ID}}}");
            return Err(Refusal::new(series.id, ErrorCode::Invalid, reason));
        }
        let named: HashSet<&str> = series.stations.iter().map(String::as_str).collect();
        let new = named.iter().filter(|station| !self.stations.contains_key(**station)).count();
        if self.stations.len() + new > MAX_STATIONS {
            let reason = format!("a subscription names at most {MAX_STATIONS} stations");
            return Err(Refusal::new(series.id, ErrorCode::Full, reason));
        }
        // The new series start now. The lock keeps readings from being recorded between
        // taking the place in the ring and these numbers.
        let state = self.live.lock();
        self.ring.get_or_insert_with(|| state.ring.subscribe());
        let wanted = metrics(series);
        let meant = |station: &&str| named.is_empty() || named.contains(station);
        let mut recorded = 0;
        for (station, metric, place) in state.store.places() {
            let before = self.everywhere | self.stations.get(station).copied().unwrap_or(0);
            if meant(&station) && wanted & bit(metric) != 0 {
                recorded += place.sequence;
                if before & bit(metric) == 0 {
                    set(&mut self.done, place);
                }
            }
        }
        let stations = state.store.stations().filter(meant).map(str::to_owned).collect();
        drop(state);
        if series.stations.is_empty() {
            self.everywhere |= wanted;
        }
        for station in &series.stations {
            *self.stations.entry(station.clone()).or_default() |= wanted;
        }
        Ok((stations, recorded))
    }

    /// Unsubscribes. Without stations, it ends all subscriptions to these metrics. With some, a
    /// subscription to all stations goes on.
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

    /// Completes when there may be something to send. Cancel safe: a reading
    /// that was received is kept.
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
        // A subscriber to everything needs no look at the map.
        let wanted = self.everywhere & bit(reading.metric) != 0
            || self.stations.get(&reading.station).is_some_and(|wanted| wanted & bit(reading.metric) != 0);
        wanted && sequence > self.done.get(series).copied().unwrap_or(0)
    }

    /// Goes on at the newest end of the ring, because the ring has overtaken this subscriber.
    fn catch_up(&mut self, into: &mut Vec<Utf8Bytes>) {
        let state = self.live.lock();
        self.ring = Some(state.ring.subscribe());
        let newest: Vec<_> = state.newest.iter().flatten().filter(|p| self.wants(p)).cloned().collect();
        drop(state);
        let mut skipped = 0;
        let announced = into.len();
        for published in newest {
            let Place { series, sequence } = published.place;
            skipped += sequence - self.done.get(series).copied().unwrap_or(0) - 1;
            set(&mut self.done, published.place);
            into.push(published.text());
        }
        if skipped > 0 {
            into.insert(announced, ServerMessage::Skipped { readings: skipped }.to_text());
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

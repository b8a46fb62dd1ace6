//! The stations and readings: kept in memory, limited in number, and gone when the server
//! stops.
//!
//! [`Store`] holds the stations, each with its readings. [`Feed`] holds the newest readings
//! of all stations in the order in which they were recorded, in one ring for all live
//! streams.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use tcp_socket::base::journal;
use tokio::sync::watch;

use super::conditional::ETag;
use crate::limits::{CHUNK, MAX_STATIONS, READINGS_PER_STATION};
use crate::protocol::model::{Metric, Reading, ReadingQuery, Station};

/// Stations and their readings.
///
/// A plain mutex protects them. Each operation is short and never waits for anything while
/// it holds the lock, so an async mutex would only cost more.
pub(crate) struct Store {
    /// Chosen at random when the server starts. It is part of every ETag, event ID, and
    /// cursor of readings, so the server recognizes one from an earlier run.
    pub(crate) instance_id: u64,
    /// The newest readings, for live streams.
    pub(crate) feed: Feed,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    stations: BTreeMap<Arc<str>, StationEntry>,
    /// Number of the last change to any station. All stations share it, so one that is
    /// deleted and created again never gets an old tag.
    version: u64,
    /// Sequence number of the last reading.
    sequence: u64,
}

struct StationEntry {
    station: Station,
    shown: Representation,
    readings: VecDeque<StoredReading>,
}

/// A station as a `GET` returns it. It is built once for each version.
#[derive(Clone)]
pub(crate) struct Representation {
    pub(crate) tag: ETag,
    pub(crate) json: Bytes,
}

impl Representation {
    fn new(station: &Station, instance_id: u64, version: u64) -> Self {
        // Strings and finite numbers can always be serialized.
        let json = serde_json::to_vec(station).unwrap_or_default().into();
        Self { tag: ETag::new(instance_id, version), json }
    }
}

/// A reading without its station's ID, which the map already holds.
struct StoredReading {
    sequence: u64,
    metric: Metric,
    value: f64,
    recorded_at: u64,
}

/// Why a station was not created.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// A station with this ID exists.
    Exists,
    /// The server would have more than [`MAX_STATIONS`].
    Full,
}

impl Store {
    /// Returns an empty store whose feed keeps `live_kept` readings.
    pub(crate) fn new(live_kept: usize) -> Self {
        Self { instance_id: fastrand::u64(..), feed: Feed::new(live_kept), inner: Mutex::default() }
    }

    /// Stores the whole batch, and creates the stations that don't exist yet. If there is
    /// no room for them, it stores nothing and returns an error.
    pub(crate) fn record(&self, batch: Vec<Reading>) -> Result<usize, CreateError> {
        let mut inner = self.lock();
        let new: BTreeSet<&str> =
            batch.iter().map(|r| r.station.as_str()).filter(|id| !inner.stations.contains_key(*id)).collect();
        if inner.stations.len() + new.len() > MAX_STATIONS {
            return Err(CreateError::Full);
        }
        for id in new {
            let station = Station { id: id.to_owned(), name: id.to_owned(), latitude: None, longitude: None };
            inner.insert(station, self.instance_id);
        }
        let Inner { stations, sequence, .. } = &mut *inner;
        for reading in &batch {
            let Some(entry) = stations.get_mut(reading.station.as_str()) else { continue };
            *sequence += 1;
            if entry.readings.len() == READINGS_PER_STATION {
                entry.readings.pop_front();
            }
            entry.readings.push_back(StoredReading {
                sequence: *sequence,
                metric: reading.metric,
                value: reading.value,
                recorded_at: reading.recorded_at,
            });
        }
        journal::append(batch.iter().map(|reading| {
            let Reading { station, metric, value, recorded_at } = reading;
            format!("{station} {} {value} {recorded_at}", metric.name())
        }));
        let (accepted, last) = (batch.len(), inner.sequence);
        // The lock is still held, so the feed gets the readings in the same order.
        self.feed.publish(batch, last);
        Ok(accepted)
    }

    /// Returns the readings that match the query, the latest recorded first, each with its
    /// sequence number: at most `count`, and only those with a sequence number below
    /// `before`. Returns `None` if there is no such station.
    pub(crate) fn readings(
        &self,
        query: &ReadingQuery,
        before: Option<u64>,
        count: usize,
    ) -> Option<Vec<(u64, Reading)>> {
        let inner = self.lock();
        let kept = &inner.stations.get(query.station.as_str())?.readings;
        let end = before.map_or(kept.len(), |before| kept.partition_point(|r| r.sequence < before));
        let found = kept
            .range(..end)
            .rev()
            .filter(|r| query.metric.is_none_or(|metric| r.metric == metric))
            .filter(|r| query.from.is_none_or(|from| r.recorded_at >= from))
            .filter(|r| query.to.is_none_or(|to| r.recorded_at < to))
            .take(count)
            .map(|r| {
                let station = query.station.clone();
                (
                    r.sequence,
                    Reading { station, metric: r.metric, value: r.value, recorded_at: r.recorded_at },
                )
            });
        Some(found.collect())
    }

    /// Counts the stored readings of a station with sequence numbers from `seen + 1` to `last`.
    pub(crate) fn count(&self, station: &str, seen: u64, last: u64) -> u64 {
        let inner = self.lock();
        let Some(entry) = inner.stations.get(station) else { return 0 };
        let up_to = |sequence| entry.readings.partition_point(|r| r.sequence <= sequence);
        (up_to(last) - up_to(seen)) as u64
    }

    /// Returns up to `limit` stations whose IDs come after `after`, in the order of their IDs.
    pub(crate) fn stations(&self, after: Option<&str>, limit: usize) -> Vec<Station> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.lock();
        inner
            .stations
            .range::<str, _>((after, Bound::Unbounded))
            .take(limit)
            .map(|(_, entry)| entry.station.clone())
            .collect()
    }

    /// Returns a station.
    pub(crate) fn station(&self, id: &str) -> Option<Representation> {
        self.lock().stations.get(id).map(|entry| entry.shown.clone())
    }

    /// Creates a station.
    pub(crate) fn create(&self, station: Station) -> Result<Representation, CreateError> {
        let mut inner = self.lock();
        if inner.stations.contains_key(station.id.as_str()) {
            return Err(CreateError::Exists);
        }
        if inner.stations.len() >= MAX_STATIONS {
            return Err(CreateError::Full);
        }
        Ok(inner.insert(station, self.instance_id))
    }

    /// Replaces a station with the result of `change`, or returns `None` if there is no such
    /// station. Nobody else can change it while `change` runs, so `change` should make the final
    /// check of its version.
    pub(crate) fn update<E>(
        &self,
        id: &str,
        change: impl FnOnce(&Station, &ETag) -> Result<Station, E>,
    ) -> Option<Result<Representation, E>> {
        let mut inner = self.lock();
        let Inner { stations, version, .. } = &mut *inner;
        let entry = stations.get_mut(id)?;
        let changed = change(&entry.station, &entry.shown.tag);
        Some(changed.map(|station| {
            *version += 1;
            entry.shown = Representation::new(&station, self.instance_id, *version);
            entry.station = station;
            entry.shown.clone()
        }))
    }

    /// Deletes a station and its readings if `allow` accepts its version. Returns `None` if
    /// there is no such station.
    pub(crate) fn remove<E>(
        &self,
        id: &str,
        allow: impl FnOnce(&ETag) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        let mut inner = self.lock();
        let allowed = allow(&inner.stations.get(id)?.shown.tag);
        Some(allowed.map(|()| drop(inner.stations.remove(id))))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock would be a bug, but it would not invalidate the other data.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(&mut self, station: Station, instance_id: u64) -> Representation {
        self.version += 1;
        let id = Arc::from(station.id.as_str());
        let shown = Representation::new(&station, instance_id, self.version);
        self.stations.insert(id, StationEntry { station, shown: shown.clone(), readings: VecDeque::new() });
        shown
    }
}

/// The position of a reading among all that one run of the server has recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EventId {
    pub(crate) instance_id: u64,
    pub(crate) sequence: u64,
}

impl EventId {
    /// Reads `<instance ID>-<sequence number>`, both hexadecimal.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (instance_id, sequence) = text.split_once('-')?;
        if text.contains('+') {
            return None; // Rust would accept `+1` as an integer.
        }
        Some(Self {
            instance_id: u64::from_str_radix(instance_id, 16).ok()?,
            sequence: u64::from_str_radix(sequence, 16).ok()?,
        })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:x}", self.instance_id, self.sequence)
    }
}

/// The newest readings of all stations, for all live streams.
pub(crate) struct Feed {
    capacity: usize,
    ring: Mutex<Ring>,
    /// The sequence number of the newest reading. A change wakes the streams.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Ring {
    readings: VecDeque<Reading>,
    /// The sequence number of the last one. There are no gaps between the numbers.
    last: u64,
}

/// What a live stream finds in the ring.
pub(crate) struct Found {
    /// Number of readings that the stream missed: recorded after its last one, but no longer
    /// in the ring.
    pub(crate) lost: u64,
    /// The next readings, with their sequence numbers.
    pub(crate) readings: Vec<(u64, Reading)>,
}

impl Feed {
    fn new(capacity: usize) -> Self {
        Self { capacity, ring: Mutex::default(), newest: watch::Sender::new(0) }
    }

    /// Adds a batch; `last` is the sequence number of its last reading.
    fn publish(&self, batch: Vec<Reading>, last: u64) {
        let mut ring = self.lock();
        let surplus = (ring.readings.len() + batch.len()).saturating_sub(self.capacity);
        let from_ring = surplus.min(ring.readings.len());
        ring.readings.drain(..from_ring);
        ring.readings.extend(batch.into_iter().skip(surplus - from_ring));
        ring.last = last;
        drop(ring);
        self.newest.send_replace(last);
    }

    /// Returns the sequence number of the newest reading, and a receiver that waits for later ones.
    pub(crate) fn subscribe(&self) -> (u64, watch::Receiver<u64>) {
        let changes = self.newest.subscribe();
        (self.lock().last, changes)
    }

    /// Returns up to [`CHUNK`] readings after sequence number `seen`.
    pub(crate) fn after(&self, seen: u64) -> Found {
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

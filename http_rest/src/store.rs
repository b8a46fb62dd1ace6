//! What the server keeps: in memory, bounded, and gone when it stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::conditional::ETag;
use crate::live::Feed;
use crate::model::{Metric, Reading};
use crate::stations::Station;

/// Stations kept at most; a request that would create more is refused with 507.
pub const MAX_STATIONS: usize = 1_000;

/// Readings kept for each station; the oldest give way. At 32 bytes a reading
/// a full store takes 3.2 GB.
pub const READINGS_PER_STATION: usize = 100_000;

/// Stations and their readings.
///
/// A plain mutex: each operation is short and never waits for anything while it
/// holds the lock, so an async mutex or a database would only add steps.
pub struct Store {
    /// Drawn at random at start; in every number that a client may bring back later.
    pub(crate) boot_id: u64,
    /// Told of every reading in the order in which they are recorded.
    pub(crate) feed: Feed,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    stations: BTreeMap<Arc<str>, Kept>,
    /// Of the last change of any station, so that a station that is deleted and
    /// made again does not get an old tag.
    version: u64,
    /// Of the last reading.
    sequence: u64,
}

struct Kept {
    station: Station,
    version: u64,
    readings: VecDeque<Stored>,
}

/// A reading without its station's id, which the map already holds.
struct Stored {
    sequence: u64,
    metric: Metric,
    value: f64,
    recorded_at: u64,
}

/// Which readings [`Store::readings`] is asked for.
#[derive(Default)]
pub(crate) struct Wanted {
    pub(crate) metric: Option<Metric>,
    /// Earliest `recorded_at`.
    pub(crate) from: Option<u64>,
    /// Earliest `recorded_at` that is too late.
    pub(crate) to: Option<u64>,
    /// Only readings that were recorded before the one of this sequence number.
    pub(crate) before: Option<u64>,
    pub(crate) limit: usize,
}

/// Why a station was not made.
#[derive(Debug)]
pub(crate) enum NotCreated {
    /// There is one with this id.
    Exists,
    /// There are [`MAX_STATIONS`].
    Full,
}

impl Store {
    /// An empty store whose feed keeps so many readings.
    pub(crate) fn new(live_kept: usize) -> Self {
        let boot_id = fastrand::u64(..);
        Self { boot_id, feed: Feed::new(live_kept), inner: Mutex::default() }
    }

    /// Keeps the whole batch or, with `Err`, nothing of it: it names more new
    /// stations than there is room for. Creates the stations that it does not know.
    pub(crate) fn record(&self, batch: Vec<Reading>) -> Result<usize, NotCreated> {
        let mut inner = self.lock();
        let new: BTreeSet<&str> =
            batch.iter().map(|r| r.station.as_str()).filter(|id| !inner.stations.contains_key(*id)).collect();
        if inner.stations.len() + new.len() > MAX_STATIONS {
            return Err(NotCreated::Full);
        }
        for id in new {
            inner.insert(Station::named_after_its_id(id));
        }
        let Inner { stations, sequence, .. } = &mut *inner;
        for reading in &batch {
            let Some(kept) = stations.get_mut(reading.station.as_str()) else { continue };
            *sequence += 1;
            if kept.readings.len() == READINGS_PER_STATION {
                kept.readings.pop_front();
            }
            kept.readings.push_back(Stored {
                sequence: *sequence,
                metric: reading.metric,
                value: reading.value,
                recorded_at: reading.recorded_at,
            });
        }
        let (accepted, last) = (batch.len(), inner.sequence);
        // Under the lock, so that the feed has them in the same order.
        self.feed.publish(batch, last);
        Ok(accepted)
    }

    /// A station's readings, the latest recorded first, each with its sequence
    /// number; `None` if there is no such station.
    pub(crate) fn readings(&self, station: &str, wanted: &Wanted) -> Option<Vec<(u64, Reading)>> {
        let inner = self.lock();
        let kept = &inner.stations.get(station)?.readings;
        let end = wanted.before.map_or(kept.len(), |before| kept.partition_point(|r| r.sequence < before));
        let found = kept
            .range(..end)
            .rev()
            .filter(|r| wanted.metric.is_none_or(|metric| r.metric == metric))
            .filter(|r| wanted.from.is_none_or(|from| r.recorded_at >= from))
            .filter(|r| wanted.to.is_none_or(|to| r.recorded_at < to))
            .take(wanted.limit)
            .map(|r| {
                let station = station.to_owned();
                (
                    r.sequence,
                    Reading { station, metric: r.metric, value: r.value, recorded_at: r.recorded_at },
                )
            });
        Some(found.collect())
    }

    /// How many readings of a station have a sequence number after `seen` and up to
    /// `last`, of those that are kept.
    pub(crate) fn count(&self, station: &str, seen: u64, last: u64) -> u64 {
        let inner = self.lock();
        let Some(kept) = inner.stations.get(station) else { return 0 };
        let up_to = |sequence| kept.readings.partition_point(|r| r.sequence <= sequence);
        (up_to(last) - up_to(seen)) as u64
    }

    /// Up to `limit` stations in the order of their ids, from the one after `after` on.
    pub(crate) fn stations(&self, after: Option<&str>, limit: usize) -> Vec<Station> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.lock();
        inner
            .stations
            .range::<str, _>((after, Bound::Unbounded))
            .take(limit)
            .map(|(_, k)| k.station.clone())
            .collect()
    }

    /// A station and its version.
    pub(crate) fn station(&self, id: &str) -> Option<(Station, ETag)> {
        self.lock().stations.get(id).map(|kept| (kept.station.clone(), self.tag(kept.version)))
    }

    /// Makes a station.
    pub(crate) fn create(&self, station: Station) -> Result<ETag, NotCreated> {
        let mut inner = self.lock();
        if inner.stations.contains_key(station.id.as_str()) {
            return Err(NotCreated::Exists);
        }
        if inner.stations.len() >= MAX_STATIONS {
            return Err(NotCreated::Full);
        }
        Ok(self.tag(inner.insert(station)))
    }

    /// Replaces a station by what `change` makes of it. Nobody else can change it
    /// between the two, so `change` is the place for the last look at its
    /// version. `None` if there is no such station.
    pub(crate) fn update<E>(
        &self,
        id: &str,
        change: impl FnOnce(&Station, ETag) -> Result<Station, E>,
    ) -> Option<Result<(Station, ETag), E>> {
        let mut inner = self.lock();
        let Inner { stations, version, .. } = &mut *inner;
        let kept = stations.get_mut(id)?;
        let changed = change(&kept.station, self.tag(kept.version));
        Some(changed.map(|station| {
            *version += 1;
            kept.station = station.clone();
            kept.version = *version;
            (station, self.tag(*version))
        }))
    }

    /// Deletes a station and its readings if `allow` agrees to its version.
    pub(crate) fn remove<E>(
        &self,
        id: &str,
        allow: impl FnOnce(ETag) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        let mut inner = self.lock();
        let version = inner.stations.get(id)?.version;
        Some(allow(self.tag(version)).map(|()| drop(inner.stations.remove(id))))
    }

    fn tag(&self, version: u64) -> ETag {
        ETag { boot_id: self.boot_id, version }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock would be a bug; what was whole before it stays so.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn insert(&mut self, station: Station) -> u64 {
        self.version += 1;
        let id = Arc::from(station.id.as_str());
        self.stations.insert(id, Kept { station, version: self.version, readings: VecDeque::new() });
        self.version
    }
}

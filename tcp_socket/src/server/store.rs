//! What the server keeps: in memory, bounded, and gone when it stops.
//!
//! The readings of a station are also the queue of everyone who watches it: a
//! watch is only a number, the position of the next reading to send. A watcher
//! that is slow therefore costs no memory and delays no recorder; it falls
//! behind, and the distance says how much it missed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::limits::{MAX_STATIONS, READINGS_PER_STATION};
use crate::protocol::message::Batch;
use crate::protocol::model::Measurement;

/// Stations and their readings.
///
/// A plain mutex: each operation is short and never waits for anything while it
/// holds the lock.
#[derive(Default)]
pub struct Store {
    stations: Mutex<HashMap<String, Station>>,
}

#[derive(Default)]
struct Station {
    readings: VecDeque<Measurement>,
    /// How many were ever recorded: the position after the newest.
    recorded: u64,
    /// Notified at each batch that holds a reading of this station.
    watchers: Vec<Arc<Notify>>,
}

/// The store holds [`MAX_STATIONS`] and a batch named new ones.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Store {
    /// Keeps the whole batch or nothing of it, and creates the stations that it
    /// does not know.
    ///
    /// # Errors
    /// [`Full`] if the batch names more new stations than there is room for.
    pub fn record(&self, batch: &Batch<'_>) -> Result<u32, Full> {
        let mut stations = self.lock();
        // Counted exactly only when it could be too many: mostly nothing is new.
        if stations.len() + batch.run_count() as usize > MAX_STATIONS {
            let new = batch.runs().map(|run| run.station).filter(|id| !stations.contains_key(*id));
            if stations.len() + new.collect::<HashSet<_>>().len() > MAX_STATIONS {
                return Err(Full);
            }
        }
        for run in batch.runs() {
            let station = match stations.get_mut(run.station) {
                Some(station) => station,
                None => stations.entry(run.station.to_owned()).or_default(),
            };
            for reading in run.readings() {
                if station.readings.len() == READINGS_PER_STATION {
                    station.readings.pop_front();
                }
                station.readings.push_back(reading);
                station.recorded += 1;
            }
            for watcher in &station.watchers {
                watcher.notify_one();
            }
        }
        Ok(batch.count())
    }

    /// Notifies of whatever is recorded for the station from now on, until what
    /// this returns is dropped. `None` if there is no such station.
    pub fn watch(self: &Arc<Self>, station: &str, notify: Arc<Notify>) -> Option<Subscription> {
        let mut stations = self.lock();
        let watched = stations.get_mut(station)?;
        watched.watchers.push(notify.clone());
        let next = watched.recorded;
        Some(Subscription { store: self.clone(), station: station.to_owned(), notify, next })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Station>> {
        // Nothing panics while it holds the lock; if something ever does, the
        // map is still whole.
        self.stations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A position in the readings of a station.
pub struct Subscription {
    store: Arc<Store>,
    station: String,
    notify: Arc<Notify>,
    /// Position of the next reading, counted from the first that was ever recorded.
    next: u64,
}

impl Subscription {
    /// Hands up to `most` readings to `take`, the oldest that was not handed out
    /// first, and returns how many had to be skipped before it because they are more
    /// than `backlog` behind the newest or no longer kept.
    pub fn read_on(&mut self, backlog: usize, most: usize, mut take: impl FnMut(Measurement)) -> u64 {
        let stations = self.store.lock();
        let Some(station) = stations.get(&self.station) else { return 0 };
        let reachable = station.readings.len().min(backlog);
        let first = (station.recorded - reachable as u64).max(self.next);
        let skipped = first - self.next;
        let index = station.readings.len() - (station.recorded - first) as usize;
        self.next = first;
        for reading in station.readings.range(index..).take(most) {
            take(*reading);
            self.next += 1;
        }
        skipped
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(station) = self.store.lock().get_mut(&self.station)
            && let Some(found) = station.watchers.iter().position(|notify| Arc::ptr_eq(notify, &self.notify))
        {
            station.watchers.swap_remove(found);
        }
    }
}

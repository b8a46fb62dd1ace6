//! The readings that the server keeps: in memory, up to a limit, and lost when it stops.
//!
//! The readings of a station are also the queue for all of its watchers. A watch is only a
//! number: the position of the next reading to send. So a slow watcher costs no memory and
//! delays no client that records. It falls behind, and the distance shows how much it missed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::journal;
use crate::limits::{MAX_STATIONS, READINGS_PER_STATION};
use crate::protocol::message::Batch;
use crate::protocol::model::Measurement;

/// Stations and their readings.
///
/// A plain mutex is enough: each operation is short, and never waits for anything while it
/// holds the lock.
#[derive(Default)]
pub struct Store {
    stations: Mutex<HashMap<String, Station>>,
}

#[derive(Default)]
struct Station {
    readings: VecDeque<Measurement>,
    /// Number of readings ever recorded, which is the position after the newest.
    recorded: u64,
    /// Notified at each batch that holds a reading of this station.
    watchers: Vec<Arc<Notify>>,
}

/// The batch would create more than [`MAX_STATIONS`] stations.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Store {
    /// Records the whole batch or nothing, and creates the stations that do not exist yet.
    /// Returns the number of readings.
    ///
    /// # Errors
    /// [`Full`] if the batch names more new stations than there is room for.
    pub fn record(&self, batch: &Batch<'_>) -> Result<u32, Full> {
        let mut stations = self.lock();
        // New stations are counted only if there could be too many: usually, there are none.
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
        journal::append(batch.runs().flat_map(|run| {
            run.readings().map(move |Measurement { metric, value, recorded_at }| {
                format!("{} {} {value} {recorded_at}", run.station, metric.name())
            })
        }));
        Ok(batch.count())
    }

    /// Notifies `notify` of each batch with readings of the station from now on, until the
    /// returned value is dropped. Returns `None` if there is no such station.
    pub fn watch(self: &Arc<Self>, station: &str, notify: Arc<Notify>) -> Option<Subscription> {
        let mut stations = self.lock();
        let watched = stations.get_mut(station)?;
        watched.watchers.push(notify.clone());
        let next = watched.recorded;
        Some(Subscription { store: self.clone(), station: station.to_owned(), notify, next })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Station>> {
        // Nothing panics while it holds the lock. If something ever does, the map is still
        // consistent.
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
    /// Passes up to `max` new readings to `take`, the oldest first. Returns how many had to be
    /// skipped before them, because they were more than `backlog` behind the newest or are no
    /// longer kept.
    pub fn read_next(&mut self, backlog: usize, max: usize, mut take: impl FnMut(Measurement)) -> u64 {
        let stations = self.store.lock();
        let Some(station) = stations.get(&self.station) else { return 0 };
        let reachable = station.readings.len().min(backlog);
        let first = (station.recorded - reachable as u64).max(self.next);
        let skipped = first - self.next;
        let index = station.readings.len() - (station.recorded - first) as usize;
        self.next = first;
        for reading in station.readings.range(index..).take(max) {
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

//! What the server keeps: in memory, bounded, and gone when it stops.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{Metric, Reading};

/// Stations kept at most; a batch that would create more is refused with 507.
pub const MAX_STATIONS: usize = 1_000;

/// Readings kept for each station; the oldest give way. At 32 bytes a reading
/// a full store takes 3.2 GB.
pub const READINGS_PER_STATION: usize = 100_000;

/// Stations and their readings.
///
/// A plain mutex: each operation is short and never waits for anything while it
/// holds the lock, so an async mutex or a database would only add steps.
#[derive(Default)]
pub struct Store {
    stations: Mutex<BTreeMap<String, Station>>,
}

#[derive(Default)]
struct Station {
    readings: VecDeque<Stored>,
}

/// A reading without its station's name, which the map already holds.
struct Stored {
    metric: Metric,
    value: f64,
    recorded_at: u64,
}

/// The store holds [`MAX_STATIONS`] and a batch named new ones.
#[derive(Debug)]
pub struct Full;

impl Store {
    /// Keeps the whole batch or nothing of it, and creates the stations that it
    /// does not know.
    ///
    /// # Errors
    /// [`Full`] if the batch names more new stations than there is room for.
    pub fn record(&self, batch: Vec<Reading>) -> Result<usize, Full> {
        let mut stations = self.lock();
        let new: std::collections::BTreeSet<&str> =
            batch.iter().map(|r| r.station.as_str()).filter(|id| !stations.contains_key(*id)).collect();
        if stations.len() + new.len() > MAX_STATIONS {
            return Err(Full);
        }
        let accepted = batch.len();
        for Reading { station, metric, value, recorded_at } in batch {
            let kept = &mut stations.entry(station).or_default().readings;
            if kept.len() == READINGS_PER_STATION {
                kept.pop_front();
            }
            kept.push_back(Stored { metric, value, recorded_at });
        }
        Ok(accepted)
    }

    /// The newest `limit` readings of a station in the order in which they were
    /// recorded; `None` if there is no such station.
    pub fn readings(&self, station: &str, limit: usize) -> Option<Vec<Reading>> {
        let stations = self.lock();
        let kept = &stations.get(station)?.readings;
        let newest = kept.iter().skip(kept.len().saturating_sub(limit));
        Some(
            newest
                .map(|r| Reading {
                    station: station.to_owned(),
                    metric: r.metric,
                    value: r.value,
                    recorded_at: r.recorded_at,
                })
                .collect(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Station>> {
        // Nothing panics while it holds the lock; if something ever does, the
        // map is still whole.
        self.stations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

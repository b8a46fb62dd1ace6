//! The readings that the server keeps: in memory, bounded, and gone when it stops.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcp_socket::base::journal;
use tokio::sync::watch;

use crate::limits::{MAX_STATIONS, READINGS_PER_STATION};
use crate::protocol::proto::{Reading, RecordedReading};

/// Stations and their readings.
///
/// Plain mutexes are enough, since each operation is short and never awaits anything
/// while it holds a lock. There is one for the map and one for each station, so a stream
/// that reads from one station does not hold up the others.
pub(super) struct Store {
    instance_id: u64,
    stations: Mutex<HashMap<String, Arc<Station>>>,
}

/// One station.
pub(super) struct Station {
    id: String,
    readings: Mutex<Readings>,
    changes: watch::Sender<()>,
}

#[derive(Default)]
struct Readings {
    /// How many readings were ever recorded. This is also the number of the newest.
    recorded: u64,
    kept: VecDeque<StoredReading>,
}

/// A reading without its station's ID, which the [`Station`] already holds.
struct StoredReading {
    metric: i32,
    value: f64,
    recorded_at: u64,
}

/// There is no room for new stations: the store holds at most [`MAX_STATIONS`].
#[derive(Debug)]
pub(super) struct Full;

/// The next reading to send was dropped to make room for newer ones.
#[derive(Debug)]
pub(super) struct Gone {
    /// The number of the oldest reading that is still kept.
    pub(super) oldest: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self { instance_id: fastrand::u64(..), stations: Mutex::default() }
    }
}

impl Store {
    /// Returns the instance ID, which is chosen at random at the start. A sequence number
    /// is valid only together with it.
    pub(super) fn instance_id(&self) -> u64 {
        self.instance_id
    }

    /// Records the whole batch or none of it, and creates the stations that are new.
    ///
    /// # Errors
    /// [`Full`] if the batch names more new stations than there is room for.
    pub(super) fn record(&self, batch: &[Reading]) -> Result<(), Full> {
        let mut stations = lock(&self.stations);
        let new: BTreeSet<&str> =
            batch.iter().map(|r| r.station.as_str()).filter(|id| !stations.contains_key(*id)).collect();
        if stations.len() + new.len() > MAX_STATIONS {
            return Err(Full);
        }
        for id in new {
            stations.insert(id.to_owned(), Station::new(id));
        }
        // The map stays locked, so that batches reach all stations in the same order.
        for run in batch.chunk_by(|a, b| a.station == b.station) {
            if let Some(station) = stations.get(&run[0].station) {
                station.push(run);
            }
        }
        write_journal(batch);
        Ok(())
    }

    /// Returns the station with this ID.
    pub(super) fn station(&self, id: &str) -> Option<Arc<Station>> {
        lock(&self.stations).get(id).cloned()
    }

    /// Returns the station with this ID, and creates it if it is new.
    ///
    /// # Errors
    /// [`Full`] if there is no room for another.
    pub(super) fn station_or_new(&self, id: &str) -> Result<Arc<Station>, Full> {
        let mut stations = lock(&self.stations);
        if let Some(station) = stations.get(id) {
            return Ok(station.clone());
        }
        if stations.len() == MAX_STATIONS {
            return Err(Full);
        }
        let station = Station::new(id);
        stations.insert(id.to_owned(), station.clone());
        Ok(station)
    }
}

/// Writes accepted readings to the journal, if there is one.
pub(super) fn write_journal(batch: &[Reading]) {
    journal::append(batch.iter().map(|reading| {
        let Reading { station, value, recorded_at, .. } = reading;
        format!("{station} {} {value} {recorded_at}", reading.metric().name())
    }));
}

impl Station {
    fn new(id: &str) -> Arc<Self> {
        Arc::new(Self { id: id.to_owned(), readings: Mutex::default(), changes: watch::Sender::default() })
    }

    /// Returns the station's ID.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Records readings of this station.
    pub(super) fn push(&self, readings: &[Reading]) {
        let mut all = lock(&self.readings);
        for reading in readings {
            if all.kept.len() == READINGS_PER_STATION {
                all.kept.pop_front();
            }
            all.kept.push_back(StoredReading {
                metric: reading.metric,
                value: reading.value,
                recorded_at: reading.recorded_at,
            });
            all.recorded += 1;
        }
        drop(all);
        // A stream that subscribes after this check finds the readings in the store.
        if self.changes.receiver_count() > 0 {
            self.changes.send_replace(());
        }
    }

    /// Returns a receiver that is notified of new readings. Subscribe before you read
    /// those that are already there.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Returns the number after which the `count` newest readings follow, or as many as
    /// are kept.
    pub(super) fn start_of_newest(&self, count: u32) -> u64 {
        let all = lock(&self.readings);
        all.recorded - u64::from(count).min(all.kept.len() as u64)
    }

    /// Returns up to `max` readings that follow number `after`, in order: none if `after`
    /// is the newest number or beyond it.
    ///
    /// # Errors
    /// [`Gone`] if the first reading to return is no longer kept.
    pub(super) fn read(&self, after: u64, max: usize) -> Result<Vec<RecordedReading>, Gone> {
        let all = lock(&self.readings);
        let dropped = all.recorded - all.kept.len() as u64;
        let Some(skip) = after.checked_sub(dropped) else {
            return Err(Gone { oldest: dropped + 1 });
        };
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let following = all.kept.iter().skip(skip).take(max).zip(after.saturating_add(1)..);
        let reading = |stored: &StoredReading| Reading {
            station: self.id.clone(),
            metric: stored.metric,
            value: stored.value,
            recorded_at: stored.recorded_at,
        };
        Ok(following
            .map(|(stored, sequence)| RecordedReading { sequence, reading: Some(reading(stored)) })
            .collect())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds a lock. If something ever did, the readings would
    // still be intact.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

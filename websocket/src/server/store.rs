//! The readings that the server keeps: a limited number, in memory, until it stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::limits::{MAX_STATIONS, READINGS_PER_STATION};
use crate::protocol::message::Numbered;
use crate::protocol::model::{Metric, Reading};

/// The stations and their readings.
#[derive(Default)]
pub(crate) struct Store {
    stations: BTreeMap<String, Station>,
}

/// One station's readings. Its readings of one metric are a *series*.
struct Station {
    /// The station's position in the order of creation.
    index: usize,
    readings: VecDeque<StoredReading>,
    /// Number of readings ever recorded in each series.
    counts: [u64; Metric::ALL.len()],
}

/// A reading without its station's ID, which is the key of the map.
struct StoredReading {
    metric: Metric,
    value: f64,
    recorded_at: u64,
}

/// The place of a reading: its series, and its number there.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Number of the series, below 4 × [`MAX_STATIONS`].
    pub(crate) series: usize,
    /// Number of the reading in its series, from 1.
    pub(crate) sequence: u64,
}

impl Store {
    /// Returns whether there is room for the batch's new stations.
    pub(crate) fn has_room_for(&self, batch: &[Reading]) -> bool {
        if self.stations.len() + batch.len() <= MAX_STATIONS {
            return true; // Even if each reading creates a station.
        }
        let new: BTreeSet<&str> =
            batch.iter().map(|r| r.station.as_str()).filter(|id| !self.stations.contains_key(*id)).collect();
        self.stations.len() + new.len() <= MAX_STATIONS
    }

    /// Stores a reading, and creates its station if that is new.
    pub(crate) fn keep(&mut self, reading: &Reading) -> Place {
        if let Some(station) = self.stations.get_mut(&reading.station) {
            return station.keep(reading);
        }
        let new =
            Station { index: self.stations.len(), readings: VecDeque::new(), counts: [0; Metric::ALL.len()] };
        self.stations.entry(reading.station.clone()).or_insert(new).keep(reading)
    }

    /// Returns the newest `limit` readings of a station, in the order in which they were
    /// recorded. The list is empty if there is no such station.
    pub(crate) fn readings(&self, station: &str, limit: usize) -> Vec<Numbered> {
        let Some(Station { readings, counts, .. }) = self.stations.get(station) else {
            return Vec::new();
        };
        // The numbers are not stored: count backward from the newest reading.
        let mut numbers = *counts;
        let newest_first =
            readings.iter().rev().take(limit).map(|&StoredReading { metric, value, recorded_at }| {
                let sequence = numbers[metric as usize];
                numbers[metric as usize] -= 1;
                Numbered {
                    sequence,
                    reading: Reading { station: station.to_owned(), metric, value, recorded_at },
                }
            });
        let mut list: Vec<_> = newest_first.collect();
        list.reverse();
        list
    }

    /// Returns the stations' IDs, sorted.
    pub(crate) fn stations(&self) -> impl Iterator<Item = &str> {
        self.stations.keys().map(String::as_str)
    }

    /// Returns the place of the newest reading in every series.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&str, Metric, Place)> {
        self.stations.iter().flat_map(|(id, station)| {
            Metric::ALL.into_iter().map(move |metric| (id.as_str(), metric, station.place(metric)))
        })
    }
}

impl Station {
    fn keep(&mut self, &Reading { metric, value, recorded_at, .. }: &Reading) -> Place {
        if self.readings.len() == READINGS_PER_STATION {
            self.readings.pop_front();
        }
        self.readings.push_back(StoredReading { metric, value, recorded_at });
        self.counts[metric as usize] += 1;
        self.place(metric)
    }

    fn place(&self, metric: Metric) -> Place {
        let series = self.index * Metric::ALL.len() + metric as usize;
        Place { series, sequence: self.counts[metric as usize] }
    }
}

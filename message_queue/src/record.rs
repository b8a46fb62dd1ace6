//! `record`, whichever broker carries it: the request, the reply, and what the
//! server keeps in memory, bounded, until it stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::limits::MAX_BATCH;
use crate::limits::{MAX_REQUEST, MAX_STATIONS, READINGS_PER_STATION};
use crate::model::{Metric, Reading, from_json, objects};

/// A request as the client writes it.
#[derive(Serialize)]
pub(crate) struct Request<'a> {
    pub(crate) readings: &'a [Reading],
}

/// A request as the server reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Received {
    #[serde(deserialize_with = "objects")]
    readings: Vec<Reading>,
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// All readings are kept; this is their number.
    Accepted(usize),
    /// None is kept.
    Refused {
        /// What kind of reason.
        reason: Reason,
        /// What exactly, for a person.
        detail: String,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The request is malformed, too long, or a value is out of range.
    Invalid,
    /// More than [`MAX_STATIONS`] stations.
    Full,
    /// The request had been given to a server that went away. It may have been
    /// executed there, and is not executed again.
    Interrupted,
}

impl Reply {
    pub(crate) fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused { reason, detail: detail.into() }
    }
}

/// The stations' readings.
///
/// A plain mutex: each operation is short and waits for nothing while it holds it.
#[derive(Default)]
pub struct Store {
    stations: Mutex<BTreeMap<String, VecDeque<StoredReading>>>,
}

/// A reading without its station's id, which the map already holds.
#[expect(
    dead_code,
    reason = "this chapter is about the way to the server; queries are in the other chapters"
)]
struct StoredReading {
    metric: Metric,
    value: f64,
    recorded_at: u64,
}

impl Store {
    /// Executes a request.
    pub fn answer(&self, request: &[u8]) -> Reply {
        if request.len() > MAX_REQUEST {
            return Reply::refused(Reason::Invalid, format!("longer than {MAX_REQUEST} bytes"));
        }
        match from_json(request) {
            Ok(Received { readings }) => self.record(readings),
            Err(error) => Reply::refused(Reason::Invalid, error),
        }
    }

    /// Keeps the whole batch or nothing of it; creates the stations that it does
    /// not know.
    pub fn record(&self, batch: Vec<Reading>) -> Reply {
        if !(1..=MAX_BATCH).contains(&batch.len()) {
            let detail = format!("a batch holds 1 to {MAX_BATCH} readings, not {}", batch.len());
            return Reply::refused(Reason::Invalid, detail);
        }
        for (index, reading) in batch.iter().enumerate() {
            if let Err(wrong) = reading.check() {
                return Reply::refused(Reason::Invalid, format!("readings[{index}].{wrong}"));
            }
        }
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        let named: BTreeSet<&str> = batch.iter().map(|reading| reading.station.as_str()).collect();
        let new = named.iter().filter(|id| !stations.contains_key(**id)).count();
        if stations.len() + new > MAX_STATIONS {
            return Reply::refused(
                Reason::Full,
                format!("this server keeps at most {MAX_STATIONS} stations"),
            );
        }
        let accepted = batch.len();
        for Reading { station, metric, value, recorded_at } in batch {
            let kept = stations.entry(station).or_default();
            if kept.len() == READINGS_PER_STATION {
                kept.pop_front();
            }
            kept.push_back(StoredReading { metric, value, recorded_at });
        }
        Reply::Accepted(accepted)
    }

    /// Returns how many readings of a station are kept.
    pub fn count(&self, station: &str) -> usize {
        self.stations.lock().unwrap_or_else(PoisonError::into_inner).get(station).map_or(0, VecDeque::len)
    }
}

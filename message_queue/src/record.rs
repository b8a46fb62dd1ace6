//! `record`, whichever broker carries it: the request, the answer, and what the
//! server keeps in memory, bounded, until it stops.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::model::{MAX_BATCH, Metric, Reading, from_json, objects};

/// Stations kept at most; a batch that would create more is refused.
pub const MAX_STATIONS: usize = 1_000;

/// Readings kept for each station; the oldest give way. At 24 bytes a reading
/// a full store takes 2.4 GB.
pub const READINGS_PER_STATION: usize = 100_000;

/// Bytes in a request; 10,000 readings take about 1.1 MB.
pub const MAX_REQUEST: usize = 2 * 1024 * 1024;

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

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// All of so many readings are kept.
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

impl Answer {
    pub(crate) fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused { reason, detail: detail.into() }
    }

    /// The accepted count, or the refusal as an error.
    pub(crate) fn into_result(self) -> Result<usize, Error> {
        match self {
            Self::Accepted(count) => Ok(count),
            Self::Refused { reason: Reason::Interrupted, .. } => Err(Error::OutcomeUnknown),
            Self::Refused { reason, detail } => Err(Error::Refused { reason, detail }),
        }
    }
}

/// The stations' readings.
///
/// A plain mutex: each operation is short and waits for nothing while it holds it.
#[derive(Default)]
pub struct Store {
    stations: Mutex<BTreeMap<String, VecDeque<Stored>>>,
}

/// A reading without its station's id, which the map already holds.
#[expect(
    dead_code,
    reason = "this chapter is about the way to the server; queries are in the other chapters"
)]
struct Stored {
    metric: Metric,
    value: f64,
    recorded_at: u64,
}

impl Store {
    /// Executes a request.
    pub fn answer(&self, request: &[u8]) -> Answer {
        if request.len() > MAX_REQUEST {
            return Answer::refused(Reason::Invalid, format!("longer than {MAX_REQUEST} bytes"));
        }
        match from_json(request) {
            Ok(Received { readings }) => self.record(readings),
            Err(error) => Answer::refused(Reason::Invalid, error),
        }
    }

    /// Keeps the whole batch or nothing of it; creates the stations that it does
    /// not know.
    pub fn record(&self, batch: Vec<Reading>) -> Answer {
        if !(1..=MAX_BATCH).contains(&batch.len()) {
            let detail = format!("a batch holds 1 to {MAX_BATCH} readings, not {}", batch.len());
            return Answer::refused(Reason::Invalid, detail);
        }
        for (index, reading) in batch.iter().enumerate() {
            if let Err(wrong) = reading.check() {
                return Answer::refused(Reason::Invalid, format!("readings[{index}].{wrong}"));
            }
        }
        let mut stations = self.stations.lock().unwrap_or_else(PoisonError::into_inner);
        let named: BTreeSet<&str> = batch.iter().map(|reading| reading.station.as_str()).collect();
        let new = named.iter().filter(|id| !stations.contains_key(**id)).count();
        if stations.len() + new > MAX_STATIONS {
            return Answer::refused(
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
            kept.push_back(Stored { metric, value, recorded_at });
        }
        Answer::Accepted(accepted)
    }

    /// Returns how many readings of a station are kept.
    pub fn count(&self, station: &str) -> usize {
        self.stations.lock().unwrap_or_else(PoisonError::into_inner).get(station).map_or(0, VecDeque::len)
    }
}

//! `record` over either broker: the request, the reply, and the server's store, which is bounded
//! and lasts until the server stops.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tcp_socket::base::journal;

use crate::limits::{MAX_BATCH, MAX_REQUEST, MAX_STATIONS};
use crate::model::{Reading, from_json, objects, whole_number};

/// A request as the client writes it. On RabbitMQ, the message's properties hold the address for
/// the reply. Redis has no properties, so there the address is part of the request.
#[derive(Serialize)]
pub(crate) struct Request<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reply_to: Option<&'a str>,
    pub(crate) readings: &'a [Reading],
}

/// A request as the server reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Received {
    #[serde(deserialize_with = "objects")]
    readings: Vec<Reading>,
}

/// A request on Redis as the server reads it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Addressed {
    #[serde(deserialize_with = "whole_number")]
    id: u64,
    reply_to: String,
    #[serde(deserialize_with = "objects")]
    readings: Vec<Reading>,
}

/// The address for a reply on Redis. The server reads it even if it refuses the request.
#[derive(Deserialize)]
pub(crate) struct Address {
    #[serde(deserialize_with = "whole_number")]
    pub(crate) id: u64,
    pub(crate) reply_to: String,
}

/// A reply on Redis.
#[derive(Serialize, Deserialize)]
pub(crate) struct AddressedReply {
    pub(crate) id: u64,
    pub(crate) answer: Reply,
}

/// The reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// All readings were recorded; this is their number.
    Accepted(usize),
    /// No reading was recorded.
    Refused {
        /// The kind of reason.
        reason: Reason,
        /// The reason in words.
        detail: String,
    },
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The request is malformed or too long, or a value is out of range.
    Invalid,
    /// There would be more than [`MAX_STATIONS`] stations.
    Full,
    /// The request had been delivered before, to a server that then lost its connection. It may
    /// have been executed there, so it is not executed again.
    Interrupted,
}

impl Reply {
    pub(crate) fn refused(reason: Reason, detail: impl Into<String>) -> Self {
        Self::Refused { reason, detail: detail.into() }
    }
}

/// Counts the recorded readings of each station. It doesn't keep the readings themselves: this
/// chapter is about how they reach the server, and it has no queries.
///
/// A plain mutex is enough: each operation is short and waits for nothing while it holds the lock.
#[derive(Default)]
pub struct Store {
    stations: Mutex<BTreeMap<String, usize>>,
}

impl Store {
    /// Executes a request.
    pub fn execute(&self, request: &[u8]) -> Reply {
        match parse(request) {
            Ok(Received { readings }) => self.record(readings),
            Err(refused) => refused,
        }
    }

    /// Executes a request from Redis. Returns `None` if it holds no address for the reply.
    pub(crate) fn execute_addressed(&self, request: &[u8]) -> Option<(Address, Reply)> {
        match parse(request) {
            Ok(Addressed { id, reply_to, readings }) => {
                Some((Address { id, reply_to }, self.record(readings)))
            }
            Err(refused) => Some((from_json(request).ok()?, refused)),
        }
    }

    /// Records the whole batch or nothing. Adds the stations that it does not know yet.
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
        journal::append(batch.iter().map(|reading| {
            let Reading { station, metric, value, recorded_at } = reading;
            format!("{station} {} {value} {recorded_at}", metric.name())
        }));
        let accepted = batch.len();
        for reading in batch {
            *stations.entry(reading.station).or_default() += 1;
        }
        Reply::Accepted(accepted)
    }

    /// Returns how many readings of a station were recorded.
    pub fn count(&self, station: &str) -> usize {
        self.stations.lock().unwrap_or_else(PoisonError::into_inner).get(station).copied().unwrap_or_default()
    }
}

/// Reads a request, or returns the reply that refuses it.
fn parse<T: DeserializeOwned>(request: &[u8]) -> Result<T, Reply> {
    if request.len() > MAX_REQUEST {
        return Err(Reply::refused(Reason::Invalid, format!("longer than {MAX_REQUEST} bytes")));
    }
    from_json(request).map_err(|error| Reply::refused(Reason::Invalid, error))
}

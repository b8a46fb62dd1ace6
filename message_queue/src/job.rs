//! A job asks for the summary of a station's day. [`crate::results`] makes sure that its effect
//! happens once, however often it is delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_BATCH, MAX_JOB, MAX_JOB_ID, TRIES};
use crate::model::{Metric, Reading, is_id, objects, whole_number};

const DAY: u64 = 24 * 60 * 60 * 1000;

/// A task for a worker: summarize these readings, which are all of one station and day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// The job's ID, which also names its result: `[a-z0-9-]{1,64}`. A producer that publishes a
    /// job again keeps its ID.
    pub id: String,
    /// The station's ID.
    pub station: String,
    /// Days since 1970-01-01.
    #[serde(deserialize_with = "whole_number")]
    pub day: u64,
    /// 1 to 10,000 readings.
    #[serde(deserialize_with = "objects")]
    pub readings: Vec<Reading>,
}

/// The result of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The job's ID.
    pub job: String,
    /// The station's ID.
    pub station: String,
    /// Days since 1970-01-01.
    pub day: u64,
    /// The values of each metric that was measured.
    pub metrics: BTreeMap<Metric, Range>,
}

/// The values of one metric in one day.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Range {
    /// Number of readings.
    pub count: usize,
    /// The lowest value.
    pub low: f64,
    /// The arithmetic mean.
    pub mean: f64,
    /// The highest value.
    pub high: f64,
}

/// Why a job failed: it is bad, it kills its workers, or the worker panicked. A problem of the
/// machine is a [`Fault`](crate::results::Fault) instead.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// The message is not a job.
    #[error("not a job: {0}")]
    Malformed(String),
    /// The job can't be computed.
    #[error("{0}")]
    Invalid(String),
    /// It was delivered so often without a result that it must have killed its workers.
    #[error("delivered more than {0} times, and no worker finished it")]
    DeliveryLimitExceeded(usize),
    /// A bug in the worker's code ended the attempt.
    #[error("the worker panicked")]
    Panicked,
}

impl Job {
    /// Reads the job in a message.
    ///
    /// # Errors
    /// [`Failed::Malformed`] if the message is not a job.
    pub fn parse(message: &[u8]) -> Result<Self, Failed> {
        if message.len() > MAX_JOB {
            return Err(Failed::Malformed(format!("longer than {MAX_JOB} bytes")));
        }
        let job: Self = crate::model::from_json(message).map_err(Failed::Malformed)?;
        // The id becomes the name of a file.
        if !is_id(&job.id, MAX_JOB_ID) {
            let detail = format!("the id must be 1 to {MAX_JOB_ID} characters: a-z, 0-9, and -");
            return Err(Failed::Malformed(detail));
        }
        Ok(job)
    }

    /// Returns the ID of the job in a message, or `(no id)` if the message is not a job.
    pub(crate) fn id_in(message: &[u8]) -> String {
        Self::parse(message).map_or_else(|_| "(no id)".into(), |job| job.id)
    }

    /// Returns a job for trying things out: 24 temperatures of one day. They are invented, but
    /// always the same for the same `number`.
    pub fn example(id: String, number: u64) -> Self {
        let station = format!("station-{}", number % 100);
        let day = 20_454 + number / 100; // From 2026-01-01 on.
        let reading = |hour: u64| Reading {
            station: station.clone(),
            metric: Metric::Temperature,
            value: (((number * 7 + hour * 13) % 400) as f64 - 100.0) / 10.0,
            recorded_at: day * DAY + hour * 60 * 60 * 1000,
        };
        Self { id, day, readings: (0..24).map(reading).collect(), station: station.clone() }
    }

    /// Returns a job like [`Job::example`] that no worker can do, since a value is out of range.
    pub fn poison(id: String, number: u64) -> Self {
        let mut job = Self::example(id, number);
        job.readings[0].value = 1000.0;
        job
    }

    /// Computes the summary.
    ///
    /// # Errors
    /// [`Failed::Invalid`] if there are too few or too many readings, or if one is out of range or
    /// not of this station and day.
    pub fn summary(&self) -> Result<Summary, Failed> {
        if !(1..=MAX_BATCH).contains(&self.readings.len()) {
            return Err(Failed::Invalid(format!(
                "a job holds 1 to {MAX_BATCH} readings, not {}",
                self.readings.len()
            )));
        }
        let mut metrics: BTreeMap<Metric, Range> = BTreeMap::new();
        for (index, reading) in self.readings.iter().enumerate() {
            let wrong = |detail| Failed::Invalid(format!("readings[{index}].{detail}"));
            reading.check().map_err(wrong)?;
            if reading.station != self.station || reading.recorded_at / DAY != self.day {
                return Err(wrong("station: the reading is from another station or day".into()));
            }
            let value = reading.value;
            let range = metrics.entry(reading.metric).or_insert(Range {
                count: 0,
                low: value,
                mean: 0.0,
                high: value,
            });
            range.count += 1;
            range.low = range.low.min(value);
            range.high = range.high.max(value);
            range.mean += (value - range.mean) / range.count as f64; // A running mean can't overflow.
        }
        Ok(Summary { job: self.id.clone(), station: self.station.clone(), day: self.day, metrics })
    }
}

/// A job that failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The job's ID, or `(no id)` if the message has none.
    pub id: String,
    /// The reason for its last failure.
    pub error: String,
    /// Number of tries.
    pub attempts: u32,
}

/// The outcome of an attempt that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// This attempt did the work.
    Done(Summary),
    /// The job with this ID had been done before, so this delivery was a duplicate.
    AlreadyDone(String),
}

/// The outcome of one delivery of a job, which the consumer prints as one line.
#[derive(Debug)]
pub enum Attempt {
    /// The job was done, or had been done before.
    Finished(Outcome),
    /// The job failed.
    Failed {
        /// The job's ID.
        id: String,
        /// Number of the try, from 1.
        attempt: u32,
        /// The reason.
        error: Failed,
        /// What happens to the job now.
        next: Next,
    },
}

/// What happens to a job that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is tried again after this time.
    Try(Duration),
    /// It is a dead letter now.
    DeadLetter,
    /// It stays in the work queue, since there are too many dead letters.
    Stay,
}

impl std::fmt::Display for Next {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Try(delay) => write!(f, "next try in {delay:?}"),
            Self::DeadLetter => f.write_str("moved to the dead letters"),
            Self::Stay => f.write_str("it stays in the queue, since the dead letters are full"),
        }
    }
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finished(Outcome::Done(summary)) => {
                write!(f, "{} done: {} on day {}", summary.job, summary.station, summary.day)?;
                for (metric, Range { low, mean, high, .. }) in &summary.metrics {
                    write!(f, ", {} {low:.1} to {high:.1}, mean {mean:.1}", metric.name())?;
                }
                Ok(())
            }
            Self::Finished(Outcome::AlreadyDone(id)) => write!(f, "{id} already done: a duplicate"),
            Self::Failed { id, error: error @ Failed::DeliveryLimitExceeded(_), next, .. } => {
                write!(f, "{id} failed: {error}; {next}")
            }
            Self::Failed { id, attempt, error, next } => {
                write!(f, "{id} failed, try {attempt} of {TRIES}: {error}; {next}")
            }
        }
    }
}

//! The layout of `faults.json`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::client::Told;
use super::row::Keeps;
use super::{breakage, rows};
use crate::run::conditions::Conditions;

/// Version of the layout.
const SCHEMA: u32 = 1;

/// The results of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    /// Version of this layout.
    pub schema: u32,
    /// Where, when, and how the run was made.
    pub conditions: Conditions,
    /// The experiments, in the order of the plan.
    pub experiments: Vec<Experiment>,
    /// The experiments that failed, and why.
    pub failed: Vec<String>,
}

/// One client and one fault. Times are in milliseconds after the fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Experiment {
    /// The ID of its row.
    pub row: String,
    /// The ID of its fault.
    pub fault: String,
    /// Number of calls in flight.
    pub in_flight: u64,
    /// What came of the requests.
    pub counts: Counts,
    /// When the client knew that something was wrong: the first call failed or, if none did, the
    /// longest one ended. Missing if no call took noticeably long, or if the client was killed.
    pub knew_ms: Option<f64>,
    /// When the client worked again: the end of the longest time without a success.
    pub again_ms: Option<f64>,
    /// Whether a call succeeded that began after the fault was mended.
    pub recovered: bool,
    /// When the server or broker closed the connection.
    pub noticed_ms: Option<f64>,
    /// When the fault was mended, if it lasted for some time.
    pub mended_ms: Option<f64>,
    /// The requests, in the order of their numbers. If there are many, some are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dots: Vec<Dot>,
    /// What the errors of the client said, each text once. Only clients of our own servers report them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// A diagram of the messages around the fault.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub exchange: String,
}

/// What came of the requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All requests.
    pub requests: u64,
    /// The client said "done", and the reading is there.
    pub kept: u64,
    /// The reading is there, but not as it was sent.
    pub altered: u64,
    /// The reading is there more than once.
    pub doubled: u64,
    /// The client said "done", but the reading is gone, as the promise allows.
    pub lost: u64,
    /// Against the promise: lost, doubled, altered, or executed although the client said "not done".
    pub lies: u64,
    /// The client said "nobody knows".
    pub unknown: u64,
    /// Those of the unknown requests that were executed.
    pub unknown_executed: u64,
    /// The client said "not done".
    pub not_done: u64,
}

/// A request in the timeline.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dot {
    /// When the call began.
    pub at_ms: f64,
    /// How long it took.
    pub took_ms: f64,
    /// What the client said.
    pub told: Told,
    /// How often the reading is there. A server that restarted has forgotten earlier executions.
    pub executed: usize,
    /// Whether the reading is there, but not as it was sent.
    pub altered: bool,
    /// Whether this breaks the promise.
    pub lie: bool,
}

impl Results {
    /// Returns results without experiments.
    pub(super) fn new(conditions: Conditions) -> Self {
        Self { schema: SCHEMA, conditions, experiments: Vec::new(), failed: Vec::new() }
    }

    /// Reads results.
    ///
    /// # Errors
    /// If the text has another layout.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let results: Self = serde_json::from_str(text)?;
        anyhow::ensure!(
            results.schema == SCHEMA,
            "the results have layout {}, but this lab reads layout {SCHEMA}; run the experiments again",
            results.schema
        );
        Ok(results)
    }

    /// Leaves out the requests and diagrams, which only the page shows.
    pub fn without_details(mut self) -> Self {
        for experiment in &mut self.experiments {
            experiment.dots = Vec::new();
            experiment.errors = Vec::new();
            experiment.exchange = String::new();
        }
        self
    }

    /// Returns a sentence for each surprise: something is against the promise, doubled, altered, or lost
    /// (unless its server kept it only in memory), or the client did not work again.
    pub fn surprises(&self) -> Vec<String> {
        self.experiments.iter().filter_map(Experiment::surprise).collect()
    }
}

impl Experiment {
    /// Returns the name of its fault.
    pub fn fault_name(&self) -> &'static str {
        breakage::by_id(&self.fault).map_or("unknown fault", |breakage| breakage.name)
    }

    /// Returns the name of its row.
    pub fn row_name(&self) -> &'static str {
        rows::by_id(&self.row).map_or("unknown row", |row| row.name)
    }

    fn surprise(&self) -> Option<String> {
        let counts = &self.counts;
        // A server that restarts has lost what was in its memory.
        let forgets = rows::by_id(&self.row).is_some_and(|row| row.keeps == Keeps::WhileItRuns);
        let lost = if forgets { 0 } else { counts.lost };
        let mut parts = Vec::new();
        for (count, what) in [
            (counts.lies, "against the promise"),
            (counts.doubled, "counted twice"),
            (counts.altered, "altered"),
            (lost, "lost"),
        ] {
            if count > 0 {
                parts.push(format!("{count} of {} {what}", counts.requests));
            }
        }
        if !self.recovered {
            parts.push("the client did not work again".into());
        }
        if parts.is_empty() {
            return None;
        }
        Some(format!("{self}: {}", parts.join(", ")))
    }
}

impl fmt::Display for Experiment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.row_name(), self.fault_name())?;
        if self.in_flight > 1 { write!(f, ", {} in flight", self.in_flight) } else { Ok(()) }
    }
}

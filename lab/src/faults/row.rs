//! A client of the experiments, and what it promises.

use futures::future::BoxFuture;
use message_queue::brokers::Kind;

use super::client::{Connected, Place};
use crate::wire::decode::Format;

/// What has to run for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// A server: the protocol with this ID.
    Server(&'static str),
    /// A broker, and what is behind it.
    Broker(Kind, Behind),
}

/// What is behind a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// A server that replies: one of [`programs`](super::programs).
    Server(&'static str),
    /// A worker that does jobs: one of [`programs`](super::programs).
    Worker(&'static str),
    /// A subscriber.
    Subscriber,
}

/// How long a reading is kept after its client said "done".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// While the server runs, since it keeps the reading in memory.
    WhileItRuns,
    /// Always, whatever breaks.
    Always,
    /// There is no promise.
    Perhaps,
}

/// A client, and what it promises.
#[derive(Debug)]
pub struct Row {
    /// Its name in `--protocols` and `faults.json`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// What it means when the client says "done".
    pub done: &'static str,
    /// The file with the code that keeps the promise, from the root of the repository.
    pub code: &'static str,
    /// The test of the promise: its file, from the root of the repository, and its name.
    pub test: (&'static str, &'static str),
    /// Protocol between client and server or broker.
    pub format: Format,
    /// What has to run.
    pub runs: Runs,
    /// Settings of the private Redis of each experiment.
    pub settings: &'static [&'static str],
    /// How long a reading is kept after the client said "done".
    pub keeps: Keeps,
    /// Whether the receiver recognizes a request that arrives twice, by a key or an ID.
    pub recognizes: bool,
    /// Whether the client sends a request again although it may have been executed.
    pub repeats: bool,
    /// Whether the receiver notices changed bytes.
    pub checks: bool,
    /// Whether the row is measured by default.
    pub by_default: bool,
    pub(super) connect: fn(Place) -> BoxFuture<'static, Connected>,
    /// Returns the line about the request with this number in the journal, or what a subscriber receives.
    pub line: fn(u64) -> String,
}

impl Row {
    /// Returns the broker that the row needs, if any.
    pub fn broker(&self) -> Option<Kind> {
        match self.runs {
            Runs::Server(_) => None,
            Runs::Broker(kind, _) => Some(kind),
        }
    }

    /// Returns what is behind the broker, if there is one.
    pub(super) fn behind(&self) -> Option<Behind> {
        match self.runs {
            Runs::Server(_) => None,
            Runs::Broker(_, behind) => Some(behind),
        }
    }
}

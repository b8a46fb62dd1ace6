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

/// How long what is done is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// As long as the server runs, which has it in memory.
    WhileItRuns,
    /// Whatever breaks.
    Always,
    /// Nobody promises that it is kept.
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
    /// The file that makes it so, from the root of the repository.
    pub code: &'static str,
    /// The test that holds it: its file from the root of the repository, and its name.
    pub test: (&'static str, &'static str),
    /// What passes between client and server.
    pub format: Format,
    /// What has to run.
    pub runs: Runs,
    /// Settings of a private Redis.
    pub settings: &'static [&'static str],
    /// How long what is done is kept.
    pub keeps: Keeps,
    /// Whether a request that arrives twice is recognized, by a key or an ID.
    pub recognizes: bool,
    /// Whether the client sends a request again although it may have been executed.
    pub repeats: bool,
    /// Whether changed bytes are noticed.
    pub checks: bool,
    /// Whether it is measured by default.
    pub by_default: bool,
    pub(super) connect: fn(Place) -> BoxFuture<'static, Connected>,
    /// What the truth says about the request with this number.
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

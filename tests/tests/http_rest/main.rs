//! The HTTP/REST chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, run};

mod balancing;
mod errors;
mod exercises;
mod headers;
mod hostile;
mod idempotency;
mod live;
mod pair;
mod property;
mod python;
mod raw;
mod readings;
mod retries;
mod shapes;
mod stations;
mod wire;

const PAIR: Pair = tests::pair!("http_rest");

fn main() -> ExitCode {
    run()
}

//! Tests of the gRPC chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

mod balancing;
mod calls;
mod exercises;
mod faults;
mod hostile;
mod limits;
mod node;
mod options;
mod pair;
mod printable;
mod python;
mod reconnects;
mod requests;
mod retries;
mod services;
mod support;

fn main() -> ExitCode {
    run()
}

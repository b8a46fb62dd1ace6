//! Tests of the lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

mod bytes;
mod output;
mod program;
mod statistics;
mod whole;

fn main() -> ExitCode {
    // The lab runs its own program again for each server, and here that is this test program.
    if lab::run_as_child().unwrap() { ExitCode::SUCCESS } else { run() }
}

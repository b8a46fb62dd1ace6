//! Tests of what happens when something breaks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

mod delivery;
mod gate;
mod journal;
mod keys;
mod over_tls;

fn main() -> ExitCode {
    // The lab runs its own program again for each server, and here that is this test program.
    if lab::run_as_child().unwrap() { ExitCode::SUCCESS } else { run() }
}

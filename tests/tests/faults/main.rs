//! Tests of what happens when something breaks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

mod gate;
mod journal;

fn main() -> ExitCode {
    run()
}

//! The tested exercises: their texts, their runner, and their solutions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

mod clients;
mod contracts;
mod planted;
mod runner;
mod solutions;
mod texts;

fn main() -> ExitCode {
    tests::run()
}

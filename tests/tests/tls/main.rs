//! TLS in the chapters. Most tests are tables with one row for each chapter or fault.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

mod certificates;
mod chapters;
mod faults;
#[cfg(target_os = "linux")] // It reads /proc.
mod floods;
mod grpc;
mod hostile;
mod pairs;
mod queues;
mod streams;

fn main() -> ExitCode {
    tests::run()
}

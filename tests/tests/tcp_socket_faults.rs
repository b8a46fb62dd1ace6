//! The TCP chapter: the pair, its documents, and what the bytes on the wire do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;
use tests::run;

fn main() -> ExitCode {
    run([])
}

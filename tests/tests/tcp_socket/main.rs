//! The TCP chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, run};

mod base;
mod bounds;
mod client;
mod connections;
mod document;
mod exchange;
mod exercises;
mod framing;
mod once;
mod pair;
mod program;
mod proxy;
mod reconnecting;
mod slow;
mod stop;
mod support;

const PAIR: Pair = tests::pair!("tcp_socket");

fn main() -> ExitCode {
    if let Ok(text) = std::env::var(program::LOG_THIS) {
        return program::log_this(&text);
    }
    run()
}

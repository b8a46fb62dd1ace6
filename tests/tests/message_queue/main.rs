//! Tests of the message-queue chapter. They start real brokers of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::{Pair, run};

mod addresses;
mod bad_jobs;
mod brokers;
mod ends;
mod errors;
mod exercises;
mod fakes;
mod faults;
mod limits;
mod pair;
mod permissions;
mod publish_subscribe;
mod python;
mod reconnect;
mod refusals;
mod request_reply;
mod results;
mod slow_work;
mod support;
mod unusable;
mod work_queue;
mod workers;

const PAIR: Pair = tests::pair!("message_queue");

fn main() -> ExitCode {
    run()
}

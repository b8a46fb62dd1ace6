//! Tests of what the lab shows of the bytes on the wire.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use tests::run;

mod amqp;
mod hostile;
mod http1;
mod http2;
mod page;
mod pcap;
mod questions;
mod resp;
mod scenes;
mod streams;
mod tap;
mod tcp_socket;
mod tshark;
mod views;
mod websocket;

fn main() -> ExitCode {
    // The lab runs its own program again for each server, and here that is this test program.
    if lab::run_as_child().unwrap() { ExitCode::SUCCESS } else { run() }
}

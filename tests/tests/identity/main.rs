//! Who is calling, and what may they do: the same table for every chapter.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

mod attempts;
mod chapters;
mod compatibility;
mod http;
mod principals;
mod queues;
mod tools;
mod websocket;

fn main() -> ExitCode {
    tests::run()
}

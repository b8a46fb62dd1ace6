//! The lab.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

use lab::Spread;
use tests::{run, test};

async fn the_spread_of_known_values() {
    assert_eq!(Spread::of(&[3.0]), Spread { median: 3.0, low: 3.0, high: 3.0 });
    assert_eq!(Spread::of(&[4.0, 1.0]), Spread { median: 2.5, low: 1.0, high: 4.0 });
    assert_eq!(Spread::of(&[9.0, 1.0, 2.0]), Spread { median: 2.0, low: 1.0, high: 9.0 });
    assert!(Spread::of(&[]).median.is_nan());
}

fn main() -> ExitCode {
    run([test!(the_spread_of_known_values)])
}

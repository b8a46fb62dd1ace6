//! Feeds arbitrary bytes of both sides, in arbitrary pieces, to the decoder of AMQP 0-9-1.

#![no_main]

use lab::wire::decode::amqp::decoder;
use lab_fuzz::{Piece, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Piece>| check(decoder, &pieces));

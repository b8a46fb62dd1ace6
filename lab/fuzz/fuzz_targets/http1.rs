//! Feeds arbitrary bytes of both sides, in arbitrary pieces, to the decoder of HTTP/1.1.

#![no_main]

use lab::wire::decode::http1::decoder;
use lab_fuzz::{Piece, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Piece>| check(decoder, &pieces));

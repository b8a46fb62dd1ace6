//! Feeds arbitrary bytes of both sides, in arbitrary pieces, to the decoder of this repository's TCP protocol.

#![no_main]

use lab::wire::decode::tcp_socket::decoder;
use lab_fuzz::{Piece, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Piece>| check(decoder, &pieces));

//! Feeds arbitrary bytes of both sides, in arbitrary pieces, to the decoder of WebSocket.

#![no_main]

use lab::wire::decode::websocket::decoder;
use lab_fuzz::{Piece, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<Piece>| check(decoder, &pieces));

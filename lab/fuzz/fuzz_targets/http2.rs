//! Feeds arbitrary bytes of both sides, in arbitrary pieces, to the decoder of HTTP/2 and gRPC.

#![no_main]

use lab::wire::decode::http2::decoder;
use lab_fuzz::{Piece, check};
use libfuzzer_sys::fuzz_target;

const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

fuzz_target!(|input: (bool, Vec<Piece>)| {
    let (begins_well, mut pieces) = input;
    if begins_well {
        // A fuzzer rarely guesses what each side sends first.
        let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", SETTINGS].concat();
        pieces.splice(0..0, [(true, preface), (false, SETTINGS.to_vec())]);
    }
    check(decoder, &pieces);
});

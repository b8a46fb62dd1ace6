//! Feeds arbitrary bytes of both sides, in arbitrary pieces, to the decoder for HTTP/2. It may not
//! panic, and its messages must cover every byte. Run it with `-rss_limit_mb=512`, so that memory
//! without a bound counts as a crash.

#![no_main]

use lab::wire::decode::http2::decoder;
use lab::wire::message::{Message, Side};
use libfuzzer_sys::fuzz_target;

/// What each side sends first: a fuzzer rarely guesses it.
const BEGIN: [(bool, &[u8]); 2] =
    [(true, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"), (false, b"\0\0\0\x04\0\0\0\0\0")];

fuzz_target!(|input: (bool, Vec<(bool, &[u8])>)| {
    let (begins_well, pieces) = input;
    let first = if begins_well { &BEGIN[..] } else { &[] };
    let mut decoder = decoder();
    let mut at = [0; 2];
    for (is_client, bytes) in first.iter().chain(&pieces) {
        let side = if *is_client { Side::Client } else { Side::Server };
        check(&decoder.push(side, bytes), &mut at);
    }
    for side in [Side::Client, Side::Server] {
        check(decoder.end(side).as_slice(), &mut at);
        let sent = first.iter().chain(&pieces).filter(|(is_client, _)| *is_client == (side == Side::Client));
        assert_eq!(at[side as usize], sent.map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    }
});

/// Checks that each message begins where the one before ended, and that its leaves cover it.
fn check(messages: &[Message], at: &mut [u64; 2]) {
    for message in messages {
        let position = &mut at[message.from as usize];
        assert_eq!(message.span.start, *position);
        for leaf in message.leaves() {
            assert!(leaf.span.start == *position && leaf.span.end > leaf.span.start);
            *position = leaf.span.end;
        }
        assert_eq!(message.span.end, *position);
    }
}

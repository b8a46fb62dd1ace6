//! Feeds arbitrary bytes of both sides to the decoder for AMQP 0-9-1. It must not panic, its leaves must
//! cover all bytes, and single bytes must give the same messages as the pieces.

#![no_main]

use lab::wire::decode::amqp::decoder;
use lab::wire::message::{Message, Side};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|pieces: Vec<(bool, Vec<u8>)>| {
    let side = |is_client| if is_client { Side::Client } else { Side::Server };
    let whole: Vec<_> = pieces.iter().map(|(is_client, bytes)| (side(*is_client), &bytes[..])).collect();
    let single: Vec<_> =
        whole.iter().flat_map(|(from, bytes)| bytes.chunks(1).map(|byte| (*from, byte))).collect();
    let messages = decode(&whole);
    assert_eq!(decode(&single), messages);
    for from in [Side::Client, Side::Server] {
        let mut position = 0;
        for leaf in messages.iter().filter(|message| message.from == from).flat_map(Message::leaves) {
            assert_eq!(leaf.span.start, position);
            position = leaf.span.end;
        }
        let sent: usize = single.iter().filter(|(side, _)| *side == from).count();
        assert_eq!(position, sent as u64);
    }
});

/// Returns the messages of a whole conversation.
fn decode(pieces: &[(Side, &[u8])]) -> Vec<Message> {
    let mut decoder = decoder();
    let mut messages: Vec<_> = pieces.iter().flat_map(|(from, bytes)| decoder.push(*from, bytes)).collect();
    messages.extend([Side::Client, Side::Server].into_iter().filter_map(|from| decoder.end(from)));
    messages
}

//! What holds for every decoder, whatever bytes it gets: it does not panic, its leaves cover all bytes,
//! and single bytes give the same messages as larger pieces. Run the targets with
//! `-rss_limit_mb=1024`, so that memory without a bound counts as a crash, too.

use lab::wire::decode::NewDecoder;
use lab::wire::message::{Message, Side};

/// Bytes, and whether the client sent them.
pub type Piece = (bool, Vec<u8>);

/// Checks a decoder with a conversation.
pub fn check(new: NewDecoder, pieces: &[Piece]) {
    let side = |is_client| if is_client { Side::Client } else { Side::Server };
    let whole: Vec<_> = pieces.iter().map(|(is_client, bytes)| (side(*is_client), &bytes[..])).collect();
    let single: Vec<_> =
        whole.iter().flat_map(|(from, bytes)| bytes.chunks(1).map(|byte| (*from, byte))).collect();
    let messages = decode(new, &whole);
    assert_eq!(decode(new, &single), messages);
    for from in [Side::Client, Side::Server] {
        let mut position = 0;
        for leaf in messages.iter().filter(|message| message.from == from).flat_map(Message::leaves) {
            assert_eq!(leaf.span.start, position);
            position = leaf.span.end;
        }
        let sent: usize = single.iter().filter(|(side, _)| *side == from).count();
        assert_eq!(position, sent as u64);
    }
}

/// Returns the messages of a whole conversation.
fn decode(new: NewDecoder, pieces: &[(Side, &[u8])]) -> Vec<Message> {
    let mut decoder = new();
    let mut messages: Vec<_> = pieces.iter().flat_map(|(from, bytes)| decoder.push(*from, bytes)).collect();
    messages.extend([Side::Client, Side::Server].into_iter().filter_map(|from| decoder.end(from)));
    messages
}

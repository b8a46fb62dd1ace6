//! What holds for every decoder, and recordings of real programs to check it with.

use std::collections::HashMap;
use std::sync::Arc;

use lab::Server;
use lab::wire::message::{Decoder, Message, Purpose, Side};
use lab::wire::proxy::Proxy;
use lab::wire::tape::{Tape, What};

/// Bytes of one connection, in the order in which they passed.
pub type Conversation = Vec<(Side, Vec<u8>)>;

/// Runs `scene` against the lab's server for this protocol. Returns what passed on each connection.
pub async fn record(role: &str, scene: impl AsyncFnOnce(String)) -> Vec<Conversation> {
    let server = Server::start(role, None).unwrap();
    record_before(server.address(), scene).await
}

/// Runs `scene` against the program at this `host:port`.
pub async fn record_before(address: &str, scene: impl AsyncFnOnce(String)) -> Vec<Conversation> {
    let tape = Arc::new(Tape::default());
    let proxy = Proxy::start(address.to_owned(), Some(tape.clone())).unwrap();
    scene(proxy.address()).await;
    let mut connections: Vec<Conversation> = Vec::new();
    for event in tape.events().0 {
        connections.resize_with(connections.len().max(event.connection as usize + 1), Vec::new);
        if let What::Data(bytes) = event.what {
            connections[event.connection as usize].push((event.from, bytes));
        }
    }
    connections
}

/// Decodes a conversation to its end.
pub fn decode(decoder: &mut dyn Decoder, conversation: &[(Side, Vec<u8>)]) -> Vec<Message> {
    let mut messages: Vec<Message> =
        conversation.iter().flat_map(|(from, bytes)| decoder.push(*from, bytes)).collect();
    messages.extend([Side::Client, Side::Server].into_iter().filter_map(|side| decoder.end(side)));
    messages
}

/// Decodes a conversation as it was recorded and in pieces of several sizes. Checks that the messages
/// are the same, cover every byte of both streams, and consist of leaves without gaps. Returns them.
pub fn check(new: &dyn Fn() -> Box<dyn Decoder>, conversation: &[(Side, Vec<u8>)]) -> Vec<Message> {
    let messages = decode(&mut *new(), conversation);
    let mut at: HashMap<Side, u64> = HashMap::new();
    for message in &messages {
        let position = at.entry(message.from).or_default();
        assert_eq!(message.span.start, *position, "a gap or an overlap before {message:?}");
        for leaf in message.leaves() {
            assert_eq!(leaf.span.start, *position, "a gap or an overlap before {leaf:?} in {message:?}");
            assert!(leaf.span.end > leaf.span.start, "{leaf:?} has no bytes");
            *position = leaf.span.end;
        }
        assert_eq!(message.span.end, *position, "the leaves do not reach the end of {message:?}");
    }
    for side in [Side::Client, Side::Server] {
        let sent: usize = conversation.iter().filter(|(from, _)| *from == side).map(|(_, b)| b.len()).sum();
        assert_eq!(at.get(&side).copied().unwrap_or_default(), sent as u64, "bytes sent by {side:?}");
    }
    for size in [1, 2, 7, 61, 1_460] {
        let pieces: Conversation = conversation
            .iter()
            .flat_map(|(from, bytes)| bytes.chunks(size).map(|piece| (*from, piece.to_vec())))
            .collect();
        let again = decode(&mut *new(), &pieces);
        assert_eq!(again.len(), messages.len(), "in pieces of {size} bytes");
        for (again, message) in again.iter().zip(&messages) {
            assert_eq!(again, message, "in pieces of {size} bytes");
        }
    }
    messages
}

/// Checks that at least 95 % of the bytes that carry no information are in leaves of at most 16
/// bytes, or in headers.
pub fn check_detail(messages: &[Message]) {
    let (mut all, mut named) = (0, 0);
    for leaf in messages.iter().flat_map(Message::leaves) {
        let length = leaf.span.end - leaf.span.start;
        if leaf.purpose != Purpose::Information {
            all += length;
            if length <= 16 || leaf.purpose == Purpose::Header {
                named += length;
            }
        }
    }
    assert!(named * 100 >= all * 95, "only {named} of {all} bytes have names of their own");
}

/// Shows messages the way a failed assertion should: one line each.
pub fn summaries(messages: &[Message]) -> Vec<String> {
    let arrow = |message: &Message| if message.from == Side::Client { '>' } else { '<' };
    messages.iter().map(|message| format!("{} {}", arrow(message), message.summary)).collect()
}

//! Feeds arbitrary bytes, in arbitrary pieces, to the parsers. None of them may panic, and the
//! buffer must keep to its limit. Run it with `-malloc_limit_mb=1`: then a larger allocation
//! counts as a crash, too, for example one made only because a peer announced a length.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tcp_socket::protocol::frame::{Frame, FrameBuffer, HEADER, put_frame};
use tcp_socket::protocol::handshake::{Hello, Welcome};
use tcp_socket::protocol::message::{Batch, Refusal, Update, parse_station};

const LIMIT: u32 = 64 * 1024;

fuzz_target!(|input: (u16, &[u8])| {
    let (piece, bytes) = input;
    let _ = (bytes.first_chunk().map(Hello::decode), bytes.first_chunk().map(Welcome::decode));
    // A fuzzer rarely guesses a checksum, so the payload parsers also get the bytes directly.
    parse_payload(bytes);

    let mut framed = bytes::BytesMut::new();
    put_frame(&mut framed, piece, 0, 1, |payload| payload.extend_from_slice(bytes));
    for stream in [bytes, &framed] {
        let mut buffer = FrameBuffer::new(LIMIT);
        'stream: for mut rest in stream.chunks(usize::from(piece).max(1)) {
            while !rest.is_empty() {
                rest = &rest[buffer.push(rest)..];
                assert!(buffer.capacity() <= HEADER + LIMIT as usize);
                loop {
                    match buffer.next_frame() {
                        Ok(Some(frame)) => check_round_trip(&frame),
                        Ok(None) => break,
                        Err(_) => break 'stream,
                    }
                }
            }
        }
    }
});

fn check_round_trip(frame: &Frame<'_>) {
    parse_payload(frame.payload);
    let mut again = bytes::BytesMut::new();
    put_frame(&mut again, frame.kind, frame.flags, frame.request_id, |bytes| {
        bytes.extend_from_slice(frame.payload);
    });
    assert_eq!(Frame::parse(&again, LIMIT), Ok(Some(*frame)));
}

fn parse_payload(payload: &[u8]) {
    if let Ok(batch) = Batch::parse(payload) {
        let count: usize = batch.runs().map(|run| run.readings().count()).sum();
        assert_eq!(count, batch.count() as usize);
    }
    let _ = (Refusal::parse(payload), Update::parse(payload), parse_station(payload));
}

//! Property tests of frames, payloads, and the window of batch IDs, with arbitrary values.

use bytes::{BufMut, BytesMut};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use proptest::{prop_assert, prop_assert_eq};
use tcp_socket::limits::{MAX_RECORDED_AT, REPLIES_KEPT};
use tcp_socket::protocol::frame::{BadFrame, Frame, FrameBuffer, HEADER, READ, kind, put_frame};
use tcp_socket::protocol::handshake::{HELLO, Hello, WELCOME, Welcome};
use tcp_socket::protocol::message::{Batch, Refusal, Update, parse_station, put_batch, put_measurement};
use tcp_socket::protocol::model::Measurement;
use tcp_socket::server::dedup::{DedupWindow, Lookup};
use tcp_socket::{Metric, Reading};
use tests::{apply, test};

/// A limit that the arbitrary frames below come close to, and that arbitrary headers exceed.
const LIMIT: u32 = 40_000;

/// Checks a property for many random values, which are the same in each run.
fn check<S: Strategy>(cases: u32, strategy: &S, property: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(config, rng).run(strategy, property).unwrap();
}

/// The kind, flags, request ID, and payload of a frame.
type Parts = (u16, u16, u32, Vec<u8>);

fn parts() -> impl Strategy<Value = Parts> {
    // Most are small, but the buffer must grow for some.
    let length = prop_oneof![8 => 0..100usize, 1 => 5_000..40_000usize];
    let payload = length.prop_flat_map(|length| vec(any::<u8>(), length));
    (any::<u16>(), any::<u16>(), any::<u32>(), payload)
}

fn put((kind, flags, id, payload): &Parts, into: &mut BytesMut) {
    put_frame(into, *kind, *flags, *id, |bytes| bytes.put_slice(payload));
}

/// Returns the frames that a receiver gets from a stream that arrives in these pieces.
fn receive(stream: &[u8], pieces: impl IntoIterator<Item = usize>) -> Result<Vec<Parts>, BadFrame> {
    let mut input = FrameBuffer::new(LIMIT);
    let mut frames = Vec::new();
    let mut rest = stream;
    let mut pieces = pieces.into_iter();
    while !rest.is_empty() {
        let (mut piece, later) = rest.split_at(pieces.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        rest = later;
        while !piece.is_empty() {
            piece = &piece[input.push(piece)..];
            assert!(input.capacity() <= HEADER + LIMIT as usize, "{} bytes", input.capacity());
            while let Some(frame) = input.next_frame()? {
                frames.push((frame.kind, frame.flags, frame.request_id, frame.payload.to_vec()));
            }
        }
    }
    Ok(frames)
}

#[apply(test!)]
async fn frames_survive_any_split_and_merge_of_the_stream() {
    let strategy = (vec(parts(), 0..8), vec(1..3_000usize, 0..40));
    check(300, &strategy, |(frames, pieces)| {
        let mut stream = BytesMut::new();
        for frame in &frames {
            put(frame, &mut stream);
        }
        prop_assert_eq!(&receive(&stream, pieces).unwrap(), &frames);
        Ok(())
    });
}

#[apply(test!)]
async fn a_stream_read_byte_by_byte_gives_the_same_frames() {
    check(30, &vec(parts(), 1..4), |frames| {
        let mut stream = BytesMut::new();
        for frame in &frames {
            put(frame, &mut stream);
        }
        prop_assert_eq!(&receive(&stream, std::iter::repeat(1)).unwrap(), &frames);
        Ok(())
    });
}

#[apply(test!)]
async fn a_frame_is_incomplete_until_its_last_byte_arrives() {
    check(200, &(parts(), any::<Index>()), |(frame, cut)| {
        let mut stream = BytesMut::new();
        put(&frame, &mut stream);
        let cut = cut.index(stream.len());
        prop_assert_eq!(Frame::parse(&stream[..cut], LIMIT), Ok(None));
        Ok(())
    });
}

#[apply(test!)]
async fn a_frame_with_a_flipped_bit_is_never_accepted() {
    check(500, &(parts(), any::<Index>(), 0..8u32), |(frame, at, bit)| {
        let mut stream = BytesMut::new();
        put(&frame, &mut stream);
        let at = at.index(stream.len());
        stream[at] ^= 1 << bit;
        // A flipped bit in the length may announce more bytes, or too many. Otherwise, the
        // checksum is wrong.
        match Frame::parse(&stream, LIMIT) {
            Ok(None) | Err(BadFrame::TooLarge { .. }) => prop_assert!((8..12).contains(&at)),
            Err(BadFrame::Checksum { .. }) => {}
            Ok(Some(frame)) => prop_assert!(false, "accepted: {frame:?}"),
        }
        Ok(())
    });
}

/// Arbitrary bytes, some of which are valid enough to pass the first checks.
fn arbitrary_stream() -> impl Strategy<Value = Vec<u8>> {
    let framed = parts().prop_map(|parts| {
        let mut bytes = BytesMut::new();
        put(&parts, &mut bytes);
        bytes.to_vec()
    });
    let kinds =
        select(vec![kind::RECORD, kind::WATCH, kind::RECORDED, kind::READING, kind::ERROR, kind::PING]);
    let known = (kinds, parts()).prop_map(|(kind, (_, flags, id, payload))| {
        let mut bytes = BytesMut::new();
        put(&(kind, flags, id, payload), &mut bytes);
        bytes.to_vec()
    });
    let header = (any::<[u8; 8]>(), any::<u32>(), vec(any::<u8>(), 0..64))
        .prop_map(|(start, length, rest)| [&start[..], &length.to_be_bytes(), &rest].concat());
    vec(prop_oneof![vec(any::<u8>(), 0..64), framed, known, header], 0..5).prop_map(|parts| parts.concat())
}

/// Calls everything that parses bytes from a peer. None of it may panic; `receive` also
/// asserts that the buffer keeps to its limit.
fn read_everything(bytes: &[u8]) {
    let frames = receive(bytes, [1, 2, 3, 5, 8, 13, 21]).unwrap_or_default();
    for payload in frames.iter().map(|(.., payload)| payload.as_slice()).chain([bytes]) {
        if let Ok(batch) = Batch::parse(payload) {
            let count: usize = batch.runs().map(|run| run.readings().count()).sum();
            assert_eq!(count, batch.count() as usize);
        }
        let _ = (Refusal::parse(payload), Update::parse(payload), parse_station(payload));
    }
    if let Some(hello) = bytes.first_chunk::<HELLO>() {
        assert!(Hello::decode(hello).is_none_or(|decoded| decoded.encode() == *hello));
    }
    let _ = bytes.first_chunk::<WELCOME>().map(Welcome::decode);
    let _ = Hello::may_begin(bytes);
}

#[apply(test!)]
async fn arbitrary_bytes_never_make_the_decoder_panic_or_exceed_its_limit() {
    check(2_000, &arbitrary_stream(), |bytes| {
        read_everything(&bytes);
        Ok(())
    });
}

#[apply(test!)]
async fn a_header_alone_allocates_no_memory_for_its_payload() {
    let mut header = BytesMut::new();
    put_frame(&mut header, kind::RECORD, 0, 1, |_payload| {});
    header[8..12].copy_from_slice(&LIMIT.to_be_bytes());
    let mut input = FrameBuffer::new(LIMIT);
    assert_eq!(input.push(&header), HEADER);
    assert_eq!(input.next_frame(), Ok(None));
    input.push(&[0]);
    assert!(input.capacity() <= READ, "{} bytes", input.capacity());
}

fn metric() -> impl Strategy<Value = Metric> {
    select(Metric::ALL.to_vec())
}

fn measurement() -> impl Strategy<Value = Measurement> {
    let value = metric().prop_flat_map(|metric| {
        let (low, high) = metric.range();
        (Just(metric), low..=high)
    });
    (value, 0..=MAX_RECORDED_AT).prop_map(|((metric, value), recorded_at)| Measurement {
        metric,
        value,
        recorded_at,
    })
}

#[apply(test!)]
async fn batches_survive_encoding_and_decoding() {
    let station = select(vec!["a", "oslo-1", "0123456789abcdefghijklmnopqrstuv"]);
    let reading = (station, measurement()).prop_map(|(station, measurement)| Reading {
        station: station.to_owned(),
        metric: measurement.metric,
        value: measurement.value,
        recorded_at: measurement.recorded_at,
    });
    check(300, &(any::<u64>(), vec(reading, 1..60)), |(id, readings)| {
        let mut payload = BytesMut::new();
        put_batch(&mut payload, id, &readings);
        let batch = Batch::parse(&payload).unwrap();
        prop_assert_eq!((batch.id(), batch.count() as usize), (id, readings.len()));
        let back: Vec<_> = batch
            .runs()
            .flat_map(|run| run.readings().map(move |m| (run.station, m.metric, m.value, m.recorded_at)))
            .collect();
        let sent: Vec<_> =
            readings.iter().map(|r| (r.station.as_str(), r.metric, r.value, r.recorded_at)).collect();
        prop_assert_eq!(back, sent);
        Ok(())
    });
}

#[apply(test!)]
async fn updates_errors_and_handshakes_survive_encoding_and_decoding() {
    check(200, &(any::<u64>(), vec(measurement(), 0..40)), |(skipped, readings)| {
        let mut payload = BytesMut::new();
        payload.put_u64(skipped);
        readings.iter().for_each(|measurement| put_measurement(&mut payload, measurement));
        prop_assert_eq!(Update::parse(&payload), Some(Update { skipped, readings }));
        Ok(())
    });
    check(200, &(any::<u16>(), "\\PC{0,200}"), |(code, text)| {
        let mut payload = BytesMut::new();
        Refusal { code, text: text.clone() }.put(&mut payload);
        let back = Refusal::parse(&payload).unwrap();
        prop_assert!(back.code == code && text.starts_with(&back.text));
        prop_assert!(back.text == text || back.text.len() > 508, "the text was cut too early");
        Ok(())
    });
    check(200, &(any::<[u16; 3]>(), any::<[u8; 16]>(), any::<[u32; 4]>()), |(small, id, numbers)| {
        let hello = Hello { lowest: small[0], highest: small[1], client_id: id };
        prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        let [max_payload, window, max_watches, idle_timeout] = numbers;
        let welcome = Welcome {
            version: small[2],
            remembered: id[0] > 9,
            instance_id: id,
            max_payload,
            window,
            max_watches,
            idle_timeout,
        };
        prop_assert_eq!(Welcome::decode(&welcome.encode()), Some(welcome));
        Ok(())
    });
}

#[apply(test!)]
async fn the_window_agrees_with_a_complete_list_of_batches() {
    // IDs that mostly count up, with repetitions, gaps, and a jump now and then.
    let step = prop_oneof![6 => 0..3i64, 3 => -40..40i64, 1 => -2_000..5_000i64];
    check(200, &vec(step, 0..400), |steps| {
        let mut window = DedupWindow::default();
        let mut memory = std::collections::BTreeMap::new();
        let mut id = 100i64;
        for (count, step) in (1..).zip(steps) {
            id = (id + step).max(1);
            let highest = memory.last_key_value().map_or(0, |(highest, _)| *highest);
            let expected = match memory.get(&id) {
                _ if highest - id >= REPLIES_KEPT as i64 => Lookup::TooOld,
                Some(count) => Lookup::Recorded(*count),
                None => Lookup::New,
            };
            // The debug text shows everything that the window remembers, so it must stay short.
            let remembered = format!("{window:?}");
            prop_assert!(remembered.len() < 10 * REPLIES_KEPT);
            let known = window.look_up(id as u64);
            prop_assert_eq!(known, expected, "batch {}, highest {}", id, highest);
            if known == Lookup::New {
                window.remember(id as u64, count);
                memory.insert(id, count);
            }
        }
        Ok(())
    });
}

#[apply(test!)]
async fn the_checksum_is_computed_as_the_document_says() {
    assert_eq!(crc32c(b"123456789"), 0xE306_9283);
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, kind::PING, 0, 9, |payload| payload.put_slice(b"any"));
    let covered = [&bytes[..12], &bytes[16..]].concat();
    assert_eq!(bytes[12..16], crc32c(&covered).to_be_bytes());
}

/// Computes a checksum bit by bit, as the document defines it. The crate does it differently.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

//! Tests of the decoder for AMQP 0-9-1.

use std::collections::BTreeMap;

use futures::StreamExt;
use lab::wire::decode::amqp::decoder;
use lab::wire::message::{Decoder, Message, Purpose, Role, Side};
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use message_queue::brokers::{Broker, Kind, Options};
use message_queue::client::Client;
use message_queue::job::Job;
use message_queue::model::{Metric, Reading};
use message_queue::publish_subscribe::Event;
use message_queue::rabbitmq::connection::Deliveries;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::{publish_subscribe, server, worker};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tests::{apply, test};
use tokio_util::sync::CancellationToken;

use crate::streams::{Conversation, check, check_detail, record_before, summaries};

const CLIENT: Side = Side::Client;
const SERVER: Side = Side::Server;

/// Returns a frame on channel 1.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, 0, 1][..], &(payload.len() as u32).to_be_bytes(), payload, &[0xCE]].concat()
}

fn method(class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    frame(1, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat())
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// Returns a content header and the body in these frames.
fn content(body: &[&[u8]]) -> Vec<u8> {
    let size = body.iter().map(|part| part.len() as u64).sum::<u64>();
    let head = frame(2, &[&[0, 60, 0, 0][..], &size.to_be_bytes(), &[0, 0]].concat());
    [head, body.iter().flat_map(|part| frame(3, part)).collect()].concat()
}

fn publish(queue: &str, body: &[&[u8]]) -> Vec<u8> {
    [method(60, 40, &[&[0, 0, 0][..], &short(queue), &[0]].concat()), content(body)].concat()
}

fn deliver(tag: u64, consumer: &str, body: &[&[u8]]) -> Vec<u8> {
    let arguments = [short(consumer), tag.to_be_bytes().into(), vec![0, 0, 0]].concat();
    [method(60, 60, &arguments), content(body)].concat()
}

/// Returns `basic.ack` (80), `basic.reject` (90), or `basic.nack` (120).
fn settle(id: u16, tag: u64, bits: u8) -> Vec<u8> {
    method(60, id, &[&tag.to_be_bytes()[..], &[bits]].concat())
}

/// Returns a conversation after the client's protocol header.
fn conversation(parts: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Conversation {
    [(CLIENT, b"AMQP\0\0\x09\x01".to_vec())].into_iter().chain(parts).collect()
}

/// Decodes a conversation and returns all but the protocol header.
fn read(parts: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Vec<Message> {
    check(&decoder, &conversation(parts)).split_off(1)
}

/// Returns what each message is in the conversation, with its calls.
fn roles(messages: &[Message]) -> Vec<(Role, &[u64])> {
    messages.iter().map(|message| (message.role, &message.calls[..])).collect()
}

/// Returns the values of all fields of this name.
fn values<'a>(message: &'a Message, name: &str) -> Vec<&'a str> {
    message.fields.iter().filter(|field| field.name == name).map(|field| field.value.as_str()).collect()
}

/// Checks that each response belongs to a request of the other side, and returns the number of
/// requests of client and server that have one.
pub fn answered(messages: &[Message]) -> [usize; 2] {
    let (mut open, mut answered) = (BTreeMap::new(), [0, 0]);
    for message in messages {
        for call in &message.calls {
            match message.role {
                Role::Request => {
                    assert!(
                        open.insert((message.from, *call), message).is_none(),
                        "two requests {message:?}"
                    );
                }
                Role::Response => {
                    let request = open.remove(&(message.from.other(), *call));
                    assert!(request.is_some(), "no request for {message:?}");
                    answered[message.from.other() as usize] += 1;
                }
                Role::Part | Role::Other => {}
            }
        }
    }
    answered
}

/// Feeds arbitrary bytes and damaged recordings, in arbitrary pieces.
pub fn survives(new: &dyn Fn() -> Box<dyn Decoder>, recording: &[(Side, Vec<u8>)], alphabet: &'static [u8]) {
    let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let byte = prop_oneof![3 => prop::sample::select(alphabet), 1 => any::<u8>()];
    let piece = (any::<bool>(), prop::collection::vec(byte, 1..60));
    let pieces = prop::collection::vec(piece, 0..20);
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    TestRunner::new_with_rng(config, rng)
        .run(&(pieces, damage), |(pieces, damage)| {
            let side = |is_client| if is_client { CLIENT } else { SERVER };
            let pieces: Conversation =
                pieces.into_iter().map(|(is_client, piece)| (side(is_client), piece)).collect();
            check(new, &pieces);
            let mut damaged = recording.to_vec();
            for (at, byte) in damage {
                let (_, bytes) = at.get(&damaged).clone();
                let part = at.index(damaged.len());
                damaged[part].1[at.index(bytes.len())] = byte;
            }
            check(new, &[damaged, pieces].concat());
            Ok(())
        })
        .unwrap();
}

/// A publisher, a worker, a subscriber, and request/reply use a real RabbitMQ. There is only one
/// such test, because the broker takes seconds to start.
#[apply(test!)]
#[long]
#[needs(message_queue::brokers::available())]
async fn a_real_rabbitmq_is_read_completely() {
    let broker = tokio::task::spawn_blocking(|| Broker::start(Kind::RabbitMq, Options::default()));
    let broker = broker.await.unwrap().unwrap();
    let address = broker.url().replace("amqp://", "");
    let recorded = record_before(&address, async |address| {
        let url = format!("amqp://{address}");
        work_queue(&url).await;
        request_reply(&url).await;
        errors(&url).await;
    })
    .await;
    let connections: Vec<Vec<Message>> = recorded.iter().map(|one| check(&decoder, one)).collect();
    connections.iter().for_each(|messages| check_detail(messages));
    let all: Vec<Message> = connections.concat();
    let lines = summaries(&all);
    let has = |line: &str| assert!(lines.iter().any(|it| it == line), "no {line:?} in {lines:#?}");
    assert!(!lines.iter().any(|line| line.contains("cannot read") || line.contains("unknown")), "{lines:#?}");
    for line in [
        "> protocol header AMQP 0-9-1",
        "> connection.start-ok PLAIN",
        "> queue.declare weather.jobs.v1",
        "< queue.declare-ok weather.jobs.v1",
        "> confirm.select",
        "> basic.publish to weather.jobs.v1",
        "> basic.publish to weather.readings.v1, key readings.oslo-1.wind",
        "> basic.qos prefetch 2",
        "< basic.deliver #2",
        "> basic.ack up to #2",
        "> basic.publish to nowhere",
        "< basic.return 312 NO_ROUTE",
        "< basic.get-empty",
        "< channel.close 404 NOT_FOUND - no queue 'missing' in vhost '/'",
        "> connection.close 200 done",
    ] {
        has(line);
    }
    for messages in &connections {
        let [_, deliveries] = answered(messages);
        assert!(deliveries >= 2, "start and tune are requests of the server: {messages:#?}");
    }
    // Everything that the client asked for got its response.
    let requests = |side| {
        let is_request = |message: &&Message| message.role == Role::Request && message.from == side;
        all.iter().filter(is_request).count()
    };
    let answers: [usize; 2] =
        connections.iter().map(|messages| answered(messages)).fold([0, 0], |a, b| [a[0] + b[0], a[1] + b[1]]);
    // The program ends while some connections are still open, or just after it closes one.
    assert!(requests(CLIENT) - answers[0] <= 5, "{} of {} answered", answers[0], requests(CLIENT));
    let refused: Vec<&str> = all.iter().filter(|it| it.refused).map(|it| it.summary.as_str()).collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    // The password is nowhere, and its bytes are marked.
    for message in all.iter().filter(|message| message.summary.starts_with("connection.start-ok")) {
        assert_eq!(values(message, "user"), ["\"guest\""]);
        assert_eq!(values(message, "credential"), ["hidden"]);
        assert_eq!(message.fields.iter().filter(|field| field.filler == Some(b'*')).count(), 1);
    }
    let shortest = recorded.iter().min_by_key(|conversation| conversation.len()).unwrap();
    survives(&decoder, shortest, BYTES);
}

/// Bytes that often occur in frames.
const BYTES: &[u8] = &[0, 1, 2, 3, 8, 10, 11, 20, 40, 50, 60, 80, 0xCE, b'A', b'F', b'S', b'a', b'"', b'{'];

/// Publishes jobs and readings, and consumes them.
async fn work_queue(url: &str) {
    let topology = Topology::default();
    let mut publisher = Publisher::connect(url, topology.clone(), 10).await.unwrap();
    let mut readings =
        publish_subscribe::subscribe(url, topology.clone(), &["readings.#".to_owned()]).await.unwrap();
    for number in 1..=2 {
        let job = Job::example(format!("job-{number}"), number);
        publisher.publish(worker::message(&topology, &job).unwrap()).await.unwrap();
    }
    publisher.publish(publish_subscribe::message(&topology, &reading(3.0)).unwrap()).await.unwrap();
    publisher.flush().await.unwrap();
    assert!(matches!(readings.next().await.unwrap().unwrap(), Event::Reading { .. }));
    let mut jobs = Deliveries::open(url, &topology.jobs(), 2, 2).await.unwrap();
    for _ in 1..=2 {
        let job = jobs.next().await.unwrap();
        jobs.done(job).await.unwrap();
    }
    jobs.finish().await.unwrap();
}

fn reading(value: f64) -> Reading {
    Reading { station: "oslo-1".into(), metric: Metric::Wind, value, recorded_at: 1 }
}

/// Records a reading and an impossible one.
async fn request_reply(url: &str) {
    let (topology, shutdown) = (Topology::default(), CancellationToken::new());
    let (listening, ready) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn({
        let (url, topology, shutdown) = (url.to_owned(), topology.clone(), shutdown.clone());
        async move { server::serve(&url, &topology, &shutdown, || listening.send(()).unwrap()).await }
    });
    ready.await.unwrap();
    let client = Client::connect(url, topology).await.unwrap();
    assert_eq!(client.record(&[reading(3.0)]).await.unwrap(), 1);
    client.record(&[reading(3_000.0)]).await.unwrap_err();
    shutdown.cancel();
    serving.await.unwrap().unwrap();
}

/// Publishes to a queue that does not exist, and gets a message from one that is empty and from one
/// that does not exist.
async fn errors(url: &str) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let properties = BasicProperties::default();
    let published = channel.basic_publish("".into(), "nowhere".into(), options, b"lost", properties);
    published.await.unwrap().await.unwrap();
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    channel.queue_declare("empty".into(), options, FieldTable::default()).await.unwrap();
    assert!(channel.basic_get("empty".into(), BasicGetOptions::default()).await.unwrap().is_none());
    channel.basic_get("missing".into(), BasicGetOptions::default()).await.unwrap_err();
    connection.close(200, "done".into()).await.unwrap();
}

/// The crate that lapin uses knows all methods, too. Each of them, with arguments of zero bytes,
/// must have the same name, length, and names of arguments in both.
#[apply(test!)]
async fn every_method_and_argument_has_its_name() {
    let mut methods = 0;
    for class in 1..=100 {
        for id in 1..=130_u16 {
            let zeros = [&[0, class, 0, id as u8][..], &[0; 40]].concat();
            let Ok((rest, parsed)) = lapin::protocol::parse_class(&zeros[..]) else { continue };
            let used = zeros.len() - rest.len();
            let messages = read([(CLIENT, method(class.into(), id, &zeros[4..used]))]);
            let message = &messages[0];
            let fields = message.fields.iter();
            let names: String = fields.map(|field| format!("{} ", field.name)).collect();
            assert!(!names.contains("not decoded"), "{parsed:?}: {names}");
            let debug = format!("{parsed:?}");
            let own = debug.split(['(', ' ', ')']).nth(2).unwrap();
            assert_eq!(
                message.summary.split(['.', ' ']).nth(1).unwrap().replace('-', ""),
                own.to_lowercase()
            );
            for argument in debug.split(", ").filter_map(|part| Some(part.split_once(": ")?.0)) {
                let argument = argument.rsplit(' ').next().unwrap().replace('_', "-");
                let argument = argument.replace("nowait", "no-wait").replace("kind", "type");
                assert!(names.contains(&argument), "{argument} of {debug} is not in {names}");
            }
            methods += 1;
        }
    }
    assert_eq!(methods, 66);
}

#[apply(test!)]
async fn confirms_answer_published_messages() {
    let messages = read([
        (CLIENT, publish("a", &[b"before confirms"])),
        (CLIENT, method(85, 10, &[0])),
        (SERVER, method(85, 11, &[])),
        (CLIENT, publish("a", &[b"{\"one\"", b":1}"])),
        (CLIENT, publish("a", &[])),
        (CLIENT, publish("a", &[b"3"])),
        (SERVER, settle(80, 2, 1)),
        (SERVER, settle(120, 3, 0)),
        (SERVER, settle(80, 3, 0)),
    ]);
    let (part, request, response, other) = (Role::Part, Role::Request, Role::Response, Role::Other);
    let expected: [(Role, &[u64]); 16] = [
        (part, &[]),
        (part, &[]),
        (request, &[]),
        (request, &[1]),
        (response, &[1]),
        (part, &[2]),
        (part, &[2]),
        (part, &[2]),
        (request, &[2]),
        (part, &[3]),
        (request, &[3]),
        (part, &[4]),
        (part, &[4]),
        (request, &[4]),
        (response, &[2, 3]),
        (response, &[4]),
    ];
    assert_eq!(roles(&messages)[..16], expected, "{:#?}", summaries(&messages));
    assert_eq!(messages[16].role, other, "a second confirm answers nothing");
    assert!(messages[15].refused && !messages[14].refused);
    assert_eq!(messages[8].begun, messages[5].span.start, "the request begins with its method");
    assert_eq!(messages[14].summary, "basic.ack up to #2");
}

#[apply(test!)]
async fn acknowledgements_answer_delivered_messages() {
    let consume = |tag: &str, bits| [&[0, 0, 1, b'q'][..], &short(tag), &[bits], &[0; 4]].concat();
    let messages = read([
        (CLIENT, method(60, 20, &consume("", 0))),
        (SERVER, method(60, 21, &short("mine"))),
        (CLIENT, method(60, 20, &consume("", 0b10))),
        (SERVER, method(60, 21, &short("automatic"))),
        (CLIENT, method(60, 20, &consume("at once", 0b1010))),
        (SERVER, deliver(1, "mine", &[b"1"])),
        (SERVER, deliver(2, "automatic", &[b"2"])),
        (SERVER, deliver(3, "at once", &[b"3"])),
        (SERVER, deliver(4, "mine", &[])),
        (SERVER, deliver(5, "mine", &[b"5"])),
        (CLIENT, settle(90, 1, 1)),
        (CLIENT, settle(80, 0, 1)),
    ]);
    let of_server: Vec<_> = messages.iter().filter(|it| it.from == SERVER).map(|it| it.role).collect();
    use Role::{Part, Request, Response};
    let expected = [
        vec![Response, Response],
        vec![Part, Part, Request],
        vec![Part, Part, Request, Part, Part, Request],
        vec![Part, Request],
        vec![Part, Part, Request],
    ];
    assert_eq!(of_server, expected.concat());
    assert_eq!(roles(&messages[messages.len() - 2..]), [(Response, &[1][..]), (Response, &[2, 3])]);
    let last = summaries(&messages).split_off(messages.len() - 2);
    assert_eq!(last, ["> basic.reject #1", "> basic.ack of all"]);
}

#[apply(test!)]
async fn methods_find_their_responses_on_each_channel() {
    let declare = |no_wait: bool| [&[0, 0, 1, b'q', u8::from(no_wait) << 4], &[0; 4][..]].concat();
    let on_channel_2 = |mut frames: Vec<u8>| {
        let mut at = 0;
        while at < frames.len() {
            frames[at + 2] = 2;
            at += 8 + usize::from(frames[at + 6]);
        }
        frames
    };
    let ok = [short("q"), vec![0; 8]].concat();
    let close = [&404_u16.to_be_bytes()[..], &short("NOT_FOUND"), &[0; 4]].concat();
    let get_ok = [&1_u64.to_be_bytes()[..], &[0, 0, 0], &[0; 4]].concat();
    let messages = read([
        (CLIENT, method(50, 10, &declare(false))),
        (CLIENT, on_channel_2(method(60, 70, &[0, 0, 1, b'q', 0]))),
        (CLIENT, method(50, 10, &declare(true))),
        (SERVER, on_channel_2([method(60, 71, &get_ok), content(&[b"1", b"2"])].concat())),
        (SERVER, method(50, 11, &ok)),
        (CLIENT, method(50, 10, &declare(false))),
        (SERVER, method(20, 40, &close)),
        (CLIENT, method(20, 41, &[])),
        // The channel is opened again, and starts from nothing.
        (CLIENT, method(20, 10, &[0])),
        (SERVER, method(20, 11, &[0; 4])),
        (CLIENT, publish("q", &[b"without confirms"])),
        (SERVER, method(60, 30, &[&short("gone")[..], &[1]].concat())),
    ]);
    use Role::{Other, Part, Request, Response};
    let expected: [(Role, &[u64]); 11] = [
        (Request, &[1]),
        (Request, &[2]),
        (Other, &[]),
        (Other, &[]),
        (Other, &[]),
        (Other, &[]),
        (Response, &[2]),
        (Response, &[1]),
        (Request, &[3]),
        (Response, &[3]),
        (Other, &[]),
    ];
    assert_eq!(roles(&messages)[..11], expected, "{:#?}", summaries(&messages));
    assert!(messages[9].refused);
    assert_eq!(messages[9].summary, "channel.close 404 NOT_FOUND");
    assert_eq!(roles(&messages)[11..13], [(Request, &[4][..]), (Response, &[4])]);
    // A message without a confirm is a request that gets no response.
    let rest: Vec<_> = messages[13..].iter().map(|message| message.role).collect();
    assert_eq!(rest, [Part, Part, Request, Other], "{:#?}", summaries(&messages));
}

#[apply(test!)]
async fn a_body_in_several_frames_is_read_as_one_json_text() {
    let body: [&[u8]; 4] = [b"{\"station\":\"os", b"lo, \\", b"\": 1\",\"val", b"ue\":12.5}"];
    let messages = read([(CLIENT, publish("a", &body)), (CLIENT, publish("a", &[b"no JSON", b"{"]))]);
    check_detail(&messages);
    let named = |message: &Message| -> Vec<(String, String)> {
        let values = message.leaves().filter(|leaf| leaf.purpose == Purpose::Information);
        values.map(|leaf| (leaf.name.to_string(), leaf.value.clone())).collect()
    };
    let named: Vec<_> = messages.iter().flat_map(named).collect();
    let named: Vec<_> = named.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let expected = [
        ("station", "\"os"),
        ("station", "lo, \\"),
        ("station", "\": 1\""),
        ("station", "\"val"), // Half of a name, which only the next frame shows.
        ("ue", "12.5"),
        ("body", "\"no JSON\""),
        ("body", "\"{\""),
    ];
    assert_eq!(named, expected);
}

#[apply(test!)]
async fn tables_are_read_with_every_type_and_to_a_bound() {
    let entry = |name: &str, kind: u8, value: &[u8]| [&short(name)[..], &[kind], value].concat();
    let table = [
        entry("t", b't', &[1]),
        entry("b", b'b', &[0xFF]),
        entry("B", b'B', &[0xFF]),
        entry("s", b's', &[0xFF, 0xFE]),
        entry("u", b'u', &[0xFF, 0xFE]),
        entry("I", b'I', &[0xFF; 4]),
        entry("i", b'i', &[0xFF; 4]),
        entry("l", b'l', &[0xFF; 8]),
        entry("f", b'f', &1.5_f32.to_be_bytes()),
        entry("d", b'd', &(-2.5_f64).to_be_bytes()),
        entry("D", b'D', &[2, 0, 0, 0, 5]),
        entry("T", b'T', &7_u64.to_be_bytes()),
        entry("S", b'S', &long(b"text")),
        entry("x", b'x', &long(&[0, 1])),
        entry("F", b'F', &long(&entry("in", b't', &[0]))),
        entry("A", b'A', &long(&[b'V', b't', 1, b'B', 9])),
        entry("V", b'V', &[]),
        entry("?", b'?', b"the rest"),
    ]
    .concat();
    let declare = |table: &[u8]| method(50, 10, &[&[0, 0, 1, b'q', 0][..], &long(table)].concat());
    let messages = read([(CLIENT, declare(&table))]);
    let group = |name: &str| values(&messages[0], name)[0];
    let shown: Vec<&str> =
        "tbBsuIilfdDTSxFAV?".split("").filter(|name| !name.is_empty()).map(group).collect();
    let expected = [
        "true",
        "-1",
        "255",
        "-2",
        "65534",
        "-1",
        "4294967295",
        "-1",
        "1.5",
        "-2.5",
        "02 00 00 00 05",
        "7",
        "\"text\"",
        "00 01",
        "table",
        "array",
        "void",
        "of an unknown type",
    ];
    assert_eq!(shown, expected);
    assert_eq!(values(&messages[0], "arguments"), ["18 elements"]);
    let nested = (0..1_000).fold(Vec::new(), |inner, _| entry("a", b'F', &long(&inner)));
    assert_eq!(read([(CLIENT, declare(&nested))])[0].summary, "queue.declare q");
    let many = entry("", b'V', &[]).repeat(1_000_000);
    assert!(read_once(&declare(&many)).fields.len() < 100_000, "the fields of a message have a bound");
}

/// Decodes one frame, without the checks of every split.
fn read_once(frame: &[u8]) -> Message {
    let mut decoder = decoder();
    decoder.push(CLIENT, b"AMQP\0\0\x09\x01");
    decoder.push(CLIENT, frame).remove(0)
}

#[apply(test!)]
async fn passwords_of_every_mechanism_are_hidden() {
    let start_ok = |mechanism: &str, response: &[u8]| {
        method(10, 11, &[&[0; 4][..], &short(mechanism), &long(response), &short("en_US")].concat())
    };
    let hidden = |frame: Vec<u8>| -> Vec<u8> {
        let messages = read([(CLIENT, frame.clone())]);
        let shown = format!("{messages:?}");
        assert!(!shown.contains("hush"), "{shown}");
        let base = messages[0].span.start;
        let hidden_fields = messages[0].fields.iter().filter(|field| field.filler == Some(b'*'));
        let bytes = |range: std::ops::Range<u64>| {
            frame[(range.start - base) as usize..(range.end - base) as usize].to_vec()
        };
        hidden_fields.flat_map(|field| bytes(field.span.clone())).collect()
    };
    assert_eq!(hidden(start_ok("PLAIN", b"\0guest\0hush")), b"hush");
    assert_eq!(hidden(start_ok("PLAIN", b"as\0guest\0hush\0s")), b"hush\0s");
    assert_eq!(hidden(start_ok("PLAIN", b"hush")), b"hush");
    let table = b"\x05LOGINS\0\0\0\x05guest\x08PASSWORDS\0\0\0\x04hush";
    assert_eq!(hidden(start_ok("AMQPLAIN", table)), table);
    assert_eq!(hidden(start_ok("OTHER", b"\0a\0hush")), b"\0a\0hush");
    assert_eq!(hidden(method(10, 21, &long(b"hush"))), b"hush");
    assert_eq!(hidden(method(10, 70, &[long(b"hush"), short("new")].concat())), b"hush");
}

#[apply(test!)]
async fn damaged_frames_do_no_harm() {
    let frames = [(CLIENT, publish("a", &[b"{\"a\":", b"1}"])), (SERVER, deliver(1, "a", &[b"text"]))];
    survives(&decoder, &conversation(frames), BYTES);
}

#[apply(test!)]
async fn bytes_that_are_not_amqp_end_in_one_line() {
    let last = |from: Side, bytes: &[u8]| {
        let lines = summaries(&check(&decoder, &conversation([(from, bytes.to_vec())])));
        lines.into_iter().find(|line| line.contains("cannot read")).unwrap_or_default()
    };
    let mut broken = method(20, 11, &[0; 4]);
    *broken.last_mut().unwrap() = 0;
    for (bytes, why) in [
        (&broken[..], "a frame of AMQP 0-9-1 without its end"),
        (b"HTTP/1.1 400 Bad Request", "not a frame of AMQP 0-9-1"),
        (b"\x16\x03\x01\x02\0", "encrypted with TLS"),
        (&[1, 0, 0, 0xFF, 0, 0, 0], "a frame that is too long to decode"),
    ] {
        assert_eq!(last(SERVER, bytes), format!("< cannot read this: {why}; it is still forwarded"));
    }
    for foreign in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"AMXX", &[1, 0, 0]] {
        let messages = check(&decoder, &[(CLIENT, foreign.to_vec())]);
        assert_eq!(messages[0].summary, "cannot read this: not AMQP 0-9-1; it is still forwarded");
    }
    let tls = check(&decoder, &[(CLIENT, b"\x16\x03\x01\x02\0".to_vec())]);
    assert_eq!(tls[0].summary, "cannot read this: encrypted with TLS; it is still forwarded");
    // A server answers a version that it does not speak with its own header.
    let other = read([(SERVER, b"AMQP\0\0\x09\x01".to_vec())]);
    assert_eq!((other[0].summary.as_str(), other[0].refused), ("protocol header AMQP 0-9-1", true));
    let more = read([(SERVER, frame(8, &[])), (CLIENT, method(77, 7, b"?")), (CLIENT, frame(3, b"lost"))]);
    assert_eq!(summaries(&more), ["< heartbeat", "> unknown method 77.7", "> body \"lost\""]);
}

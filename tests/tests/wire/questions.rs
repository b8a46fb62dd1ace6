//! Tests of the questions on the captures: computes each answer from the kept capture, and looks for it
//! in the chapter's README.

use std::fs;

use lab::scenes::documents::capture_path;
use lab::wire::decode::Format;
use lab::wire::message::{Message, Purpose, Side};
use tests::{apply, test};

use crate::pcap::{Packet, read};

/// Maximum size of a kept capture, in bytes.
const MAX_CAPTURE: u64 = 60_000;

/// The packets of a kept capture.
struct Capture(Vec<Packet>);

impl Capture {
    fn open(format: Format) -> Self {
        Self(read(&fs::read(format!("../{}", capture_path(format))).unwrap()).1)
    }

    /// Returns the numbers of the packets with a message whose comment contains this text.
    fn all(&self, part: &str) -> Vec<usize> {
        let has = |packet: &Packet| packet.comments.iter().any(|comment| comment.contains(part));
        let numbered = (1..).zip(&self.0);
        numbered.filter(|(_, packet)| has(packet)).map(|(number, _)| number).collect()
    }

    /// Returns the number of the first such packet.
    fn first(&self, part: &str) -> usize {
        *self.all(part).first().unwrap_or_else(|| panic!("no packet says {part:?}"))
    }

    fn text(&self, number: usize) -> String {
        String::from_utf8_lossy(&self.0[number - 1].payload).into_owned()
    }

    /// Returns how many round trips have passed when this packet arrives at the client: each time the
    /// server answers the client, on the same connection.
    fn round_trips(&self, number: usize) -> usize {
        let server = self.0[number - 1].from;
        let client = self.0[number - 1].to;
        let from_server: Vec<bool> = self.0[..number]
            .iter()
            .filter(|packet| [packet.from, packet.to] == [server, client] || packet.from == client)
            .map(|packet| packet.from == server)
            .collect();
        from_server.windows(2).filter(|pair| pair == &[false, true]).count()
    }

    /// Decodes the first connection.
    fn messages(&self, format: Format) -> Vec<Message> {
        let (client, server) = (self.0[0].from, self.0[0].to);
        let mut decoder = format.decoder()();
        let mut messages = Vec::new();
        for packet in &self.0 {
            match (packet.from, packet.to) {
                (from, to) if (from, to) == (client, server) => {
                    messages.extend(decoder.push(Side::Client, &packet.payload));
                }
                (from, to) if (from, to) == (server, client) => {
                    messages.extend(decoder.push(Side::Server, &packet.payload));
                }
                _ => {}
            }
        }
        messages
    }

    /// Returns the numbers of the packets that open a connection.
    fn opens(&self) -> Vec<usize> {
        let numbered = (1..).zip(&self.0);
        let opens = numbered.filter(|(_, packet)| packet.flags == "S" && packet.acknowledgement.is_none());
        opens.map(|(number, _)| number).collect()
    }

    /// Returns the number of the first packet that ends a direction, and whether a client sent it.
    fn first_end(&self) -> usize {
        1 + self.0.iter().position(|packet| packet.flags.contains('F')).unwrap()
    }
}

/// Checks that the README's answers contain these facts, in the order of the questions.
fn check(chapter: &str, answers: &[Vec<String>]) {
    let readme = fs::read_to_string(format!("../{chapter}/README.md")).unwrap();
    let section = readme.split_once("## Questions on the capture").unwrap().1;
    let section = section.split_once("\n## ").unwrap().0;
    let (asked, answered) = section.split_once("<details>").unwrap();
    let count = |text: &str| (1..).take_while(|n| text.contains(&format!("\n{n}. "))).count();
    assert_eq!((count(asked), count(answered)), (answers.len(), answers.len()), "{chapter}");
    assert!((6..=8).contains(&answers.len()), "{chapter} has {} questions", answers.len());
    assert!(asked.contains("by whom?"), "{chapter} asks who acknowledges");
    for (number, facts) in (1..).zip(answers) {
        let from = answered.split_once(&format!("\n{number}. ")).unwrap().1;
        let answer = from.split_once(&format!("\n{}. ", number + 1)).map_or(from, |(answer, _)| answer);
        let answer = answer.split_whitespace().collect::<Vec<_>>().join(" ");
        for fact in facts {
            let says = answer.to_lowercase().contains(&fact.to_lowercase());
            assert!(says, "{chapter}, answer {number} should say {fact:?}: {answer}");
        }
    }
}

fn packet(number: usize) -> String {
    format!("packet {number}")
}

#[apply(test!)]
async fn the_answers_on_http_agree_with_the_capture() {
    let capture = Capture::open(Format::HttpRest);
    let created = capture.first("201 Created");
    assert!(capture.text(created).contains("\r\netag: "));
    let unchanged = capture.first("304 Not Modified");
    assert!(capture.text(unchanged).ends_with("\r\n\r\n"), "no body");
    let conditional = capture.first("GET /stations/oslo-1");
    assert!(capture.text(conditional).contains("\r\nif-none-match: "));
    let refused = capture.first("422 ");
    assert!(capture.text(refused).contains(r##""pointer":"#/readings/0/value""##));
    let event = capture.first("event reading");
    let chunk = capture.text(event).split("\r\n").next().unwrap().to_owned();
    let length = usize::from_str_radix(&chunk, 16).unwrap();
    let recorded = capture.first("200 OK");
    let request = capture.first("POST /readings");
    let both_ends = capture.0[request - 1].sequence + capture.0[request - 1].payload.len() as u32;
    assert_eq!(capture.0[recorded - 1].acknowledgement, Some(both_ends));
    check(
        "http_rest",
        &[
            vec![packet(created)],
            vec![format!("{} round trips", ["No", "One", "Two", "Three"][capture.round_trips(created)])],
            vec![packet(conditional), packet(unchanged), "if-none-match".into()],
            vec![packet(refused), "#/readings/0/value".into()],
            vec![packet(capture.opens()[1])],
            vec![format!("`{chunk}`"), format!("{length} bytes")],
            vec![packet(recorded), "200 OK".into()],
        ],
    );
}

#[apply(test!)]
async fn the_answers_on_grpc_agree_with_the_capture() {
    let capture = Capture::open(Format::Grpc);
    let messages = capture.messages(Format::Grpc);
    let size = |summary: &str| {
        let found = messages.iter().find(|message| message.summary.starts_with(summary));
        found.map(|message| message.span.end - message.span.start).unwrap()
    };
    let refused = capture.first("grpc-status 3");
    let [answered, event] = ["DATA #7 RecordResponse", "{recorded: "].map(|part| capture.first(part));
    assert_eq!(event, answered + 1);
    check(
        "grpc",
        &[
            vec![packet(capture.first("preface")), "preface".into()],
            vec![packet(capture.first("grpc-status 0")), "HEADERS".into(), "END_STREAM".into()],
            vec![format!("{} bytes", size("HEADERS #1 POST")), format!("{} bytes", size("HEADERS #3 POST"))],
            vec![packet(refused), "200".into(), "3".into()],
            vec![packet(capture.first("HEADERS #5")), "odd".into()],
            vec![format!("Packets {answered} and {event}")],
            vec![packet(capture.first("RST_STREAM #5")), "CANCEL".into()],
            vec![packet(capture.first("client sends SETTINGS ACK")), "RecordResponse".into()],
        ],
    );
}

#[apply(test!)]
async fn the_answers_on_websocket_agree_with_the_capture() {
    let capture = Capture::open(Format::WebSocket);
    let switched = capture.first("101 ");
    let (record, recorded) = (capture.first("record #0"), capture.first("recorded #0"));
    let key: Vec<String> =
        capture.0[record - 1].payload[2..6].iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(capture.0[record - 1].payload[1] & 0x80 != 0, "the client masks");
    let length = capture.0[recorded - 1].payload[1];
    assert!(length < 126, "the length fits into seven bits, and nothing is masked");
    let error = capture.first("error #1");
    assert!(capture.text(error).contains("\"id\":1"));
    let said = capture.first("said #1");
    assert_eq!(capture.0[said - 1].comments.len(), 2, "two messages in one packet");
    let closes = capture.all("close 1000");
    let end = capture.first_end();
    assert_eq!(capture.0[end - 1].from.1, 80, "the server ends its direction first");
    check(
        "websocket",
        &[
            vec![format!("packets {} and {switched}", capture.first("GET /live"))],
            vec![format!("`{}`", key.join(" "))],
            vec![format!("{length} bytes"), format!("`{length:02x}`")],
            vec![packet(error), "`\"id\":1`".into()],
            vec![packet(said)],
            vec![packet(closes[0]), packet(end), "1000".into()],
            vec![packet(said), "said".into()],
        ],
    );
}

#[apply(test!)]
async fn the_answers_on_tcp_agree_with_the_capture() {
    let capture = Capture::open(Format::TcpSocket);
    let messages = capture.messages(Format::TcpSocket);
    let record = messages.iter().find(|message| message.summary.starts_with("RECORD #1")).unwrap();
    let information = record.leaves().filter(|leaf| leaf.purpose == Purpose::Information);
    let information: u64 = information.map(|leaf| leaf.span.end - leaf.span.start).sum();
    let recorded = capture.first("RECORDED #1");
    let both = capture.first("RECORDED #4");
    assert_eq!(capture.0[both - 1].comments.len(), 2, "two frames in one packet");
    let refused = capture.first("ERROR #2");
    let watching = capture.first("READING #3, 0");
    let goodbye = capture.first("client sends GOODBYE");
    check(
        "tcp_socket",
        &[
            vec![format!("{} round trips", ["No", "One", "Two", "Three"][capture.round_trips(recorded) - 1])],
            vec![format!("{information} of the {}", record.span.end - record.span.start)],
            vec![packet(refused), "InvalidReading".into()],
            vec![packet(watching), "END".into()],
            vec![packet(both), "20 bytes".into()],
            vec![packet(goodbye), packet(capture.first_end())],
            vec![packet(recorded), "RECORDED".into()],
        ],
    );
}

#[apply(test!)]
async fn the_answers_on_the_queues_agree_with_the_captures() {
    let (rabbitmq, redis) = (Capture::open(Format::RabbitMq), Capture::open(Format::Redis));
    let request = rabbitmq.first("basic.publish to weather.record.v1");
    let confirm = rabbitmq.first("broker sends basic.ack #1");
    let job = rabbitmq.first("basic.publish to weather.jobs.v1");
    let done = rabbitmq.all("worker sends basic.ack up to #1");
    let done = *done.iter().find(|number| **number > job).unwrap();
    let confirmed =
        rabbitmq.all("broker sends basic.ack #1").into_iter().find(|number| *number > job).unwrap();
    assert_eq!(rabbitmq.0[request - 1].comments.len(), 3, "method, header, and body");
    assert!(rabbitmq.text(request).contains("amq.rabbitmq.reply-to"));
    let heard = redis.first("integer 1");
    let acknowledged = redis.first("XACK");
    let added = redis.first("client sends EVAL");
    let is_job = |packet: &Packet| packet.comments == ["broker sends array of 1"];
    let taken = 1 + redis.0.iter().position(is_job).unwrap();
    check(
        "message_queue",
        &[
            vec![packet(request), "method".into(), "header".into(), "body".into()],
            vec![packet(request), "amq.rabbitmq.reply-to".into()],
            vec![packet(confirm), "broker".into()],
            vec![packet(confirmed), packet(done), "worker".into()],
            vec![packet(heard), "subscriber".into()],
            vec![packet(added), packet(taken)],
            vec![packet(acknowledged), "MULTI".into(), "EXEC".into()],
        ],
    );
}

#[apply(test!)]
async fn the_kept_captures_are_small_and_hold_no_password() {
    for format in [
        Format::HttpRest,
        Format::Grpc,
        Format::WebSocket,
        Format::TcpSocket,
        Format::RabbitMq,
        Format::Redis,
    ] {
        let path = format!("../{}", capture_path(format));
        let size = fs::metadata(&path).unwrap().len();
        assert!(size <= MAX_CAPTURE, "{path} has {size} bytes");
        let capture = Capture::open(format);
        let password = |packet: &Packet| packet.payload.windows(12).any(|bytes| bytes == b"\0guest\0guest");
        assert!(!capture.0.iter().any(password), "{path} holds a password");
    }
    let rabbitmq = Capture::open(Format::RabbitMq);
    let hidden = |packet: &Packet| packet.payload.windows(12).any(|bytes| bytes == b"\0guest\0*****");
    assert!(rabbitmq.0.iter().any(hidden), "the user's name is shown, the password is not");
}

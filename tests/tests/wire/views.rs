//! Tests of the views: diagrams, named bytes, and the table of bytes. Most of them use a
//! toy protocol, whose messages are easy to make.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use lab::scenes::view::diagram::{self, diagram};
use lab::scenes::view::exchange::{find, table};
use lab::scenes::view::{Conversation, Scene};
use lab::wire::cursor::Cursor;
use lab::wire::message::{
    Decoder, Purpose, Role,
    Side::{self, Client, Server},
};
use lab::wire::tape::{Event, What};
use lab::wire::trace::Trace;
use lab::wire::units::{Protocol, Reading, Units, Unreadable};
use proptest::prelude::*;
use regex::Regex;
use tests::{apply, test};

/// A message is the length of the rest in two bytes, its kind, its call, and a text.
struct Toy;

impl Protocol for Toy {
    fn length(&mut self, _: Side, bytes: &[u8]) -> Result<Option<usize>, Unreadable> {
        Ok(bytes.get(..2).map(|length| 2 + usize::from(u16::from_be_bytes([length[0], length[1]]))))
    }

    fn read(&mut self, _: Side, unit: &mut Cursor<'_>) -> Reading {
        let (kind, call) = unit.group("head", |unit| {
            unit.number(2, "length");
            let kind = unit.text(1, "kind")[0];
            (char::from(kind).to_string(), (kind, unit.number(1, "call")))
        });
        let text = String::from_utf8_lossy(unit.left()).into_owned();
        unit.rest("text", Purpose::Information);
        match kind {
            b'P' => Reading::of_call(text, Role::Part, call),
            b'Q' => Reading::of_call(text, Role::Request, call),
            b'R' => Reading::of_call(text, Role::Response, call),
            b'E' => Reading::of_call(text, Role::Response, call).refused(true),
            b'F' => Reading::of_call(text, Role::Other, call),
            _ => Reading::other(text),
        }
    }
}

fn toy() -> Box<dyn Decoder> {
    Box::new(Units::new(Toy))
}

pub fn unit(kind: u8, call: u8, text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len() + 2).unwrap().to_be_bytes();
    [&length[..], &[kind, call], text.as_bytes()].concat()
}

/// Milliseconds since the scene began, the connection, the sender, and what happened.
type Moment = (u64, u32, Side, What);

fn trace(moments: &[Moment]) -> Trace {
    let begin = Instant::now();
    let events = moments.iter().map(|(at, connection, from, what)| Event {
        at: begin + Duration::from_millis(*at),
        connection: *connection,
        from: *from,
        what: what.clone(),
    });
    Trace::new(events.collect(), toy)
}

pub fn scene(moments: &[Moment]) -> Scene {
    let conversations = vec![Conversation { trace: trace(moments), client: 0, server: 1 }];
    Scene { title: "Toy".into(), lanes: vec!["client", "server"], conversations }
}

fn open() -> What {
    What::Open { client: 40_000, server: 7_878 }
}

/// What one side of a connection sends at a time, in pieces of this many bytes.
pub fn sends(at: u64, connection: u32, from: Side, units: &[Vec<u8>], size: usize) -> Vec<Moment> {
    let bytes = units.concat();
    bytes.chunks(size).map(|piece| (at, connection, from, What::Data(piece.to_vec()))).collect()
}

/// A scene with a note and two connections: a request in two parts, and a request that is refused.
/// The pieces have this many bytes.
pub fn short(size: usize) -> Scene {
    let request = [unit(b'P', 1, "HEADERS #1 POST"), unit(b'Q', 1, "DATA #1 {value: -3.5}")];
    let response = [unit(b'F', 1, "HEADERS #1 200"), unit(b'R', 1, "DATA #1 {accepted: 1}")];
    let moments = [
        vec![(0, 0, Client, What::Note("The client asks.".into())), (1, 0, Client, open())],
        sends(2, 0, Client, &request, size),
        sends(4, 0, Server, &response, size),
        vec![(1_500, 1, Client, open())],
        sends(1_501, 1, Client, &[unit(b'Q', 3, "GET /nothing")], size),
        sends(1_504, 1, Server, &[unit(b'E', 3, "404 Not Found")], size),
        vec![(1_505, 1, Client, What::End), (1_506, 1, Server, What::Reset)],
    ];
    scene(&moments.concat())
}

fn stable(scene: &Scene, width: usize) -> String {
    diagram::stable(scene, width, &[])
}

#[apply(test!)]
async fn a_diagram_shows_each_read_with_its_messages() {
    let expected = "          client                                                 server
             |== The client asks. ==================================|
   1.0 ms    |.. connects .................................. [1] ..>|
             |   HEADERS #1 POST                                    |
   2.0 ms    |-- DATA #1 {value: -3.5} ---------------- 44 B [1] -->|
             |   HEADERS #1 200                                     |
   4.0 ms    |<- DATA #1 {accepted: 1} -------- (2.0 ms) 43 B [1] --|
  1.500 s    |.. connects .................................. [2] ..>|
  1.501 s    |-- GET /nothing ------------------------- 16 B [2] -->|
  1.504 s    |<- 404 Not Found ---------------- (3.0 ms) 17 B [2] --|
  1.505 s    |.. closes .................................... [2] ..>|
  1.506 s    |<. resets the connection ...................... [2] ..|
";
    assert_eq!(diagram(&short(1_000), 72), expected);
    let pieces = diagram(&short(40), 72);
    assert!(pieces.contains("-- HEADERS #1 POST --") && pieces.contains("-- 4 B [1] -->|"), "{pieces}");
}

#[apply(test!)]
async fn a_stable_diagram_shows_requests_and_responses() {
    let expected = "\
client                                               server
   |== The client asks. ================================|
   |.. connects ................................ [1] ..>|
   |   HEADERS #1 POST                                  |
   |-- DATA #1 {value: -3.5} ------------------- [1] -->|
   |   HEADERS #1 200                                   |
   |<- DATA #1 {accepted: 1} -------------------- [1] --|
   |.. connects ................................ [2] ..>|
   |-- GET /nothing ---------------------------- [2] -->|
   |<- 404 Not Found ---------------------------- [2] --|
";
    assert_eq!(stable(&short(1_000), 60), expected);
    assert_eq!(stable(&short(3), 60), expected);
}

#[apply(test!)]
async fn a_scene_with_a_broker_has_three_lanes() {
    let job = sends(1, 0, Client, &[unit(b'Q', 1, "publish")], 99);
    let confirm = sends(3, 0, Server, &[unit(b'R', 1, "confirm")], 99);
    let delivery = sends(0, 0, Server, &[unit(b'Q', 7, "deliver")], 99);
    let ends = [(0, 1), (2, 1)];
    let moments = [[job, confirm].concat(), [vec![(0, 0, Client, open())], delivery].concat()];
    let conversations = moments.iter().zip(ends).map(|(moments, (client, server))| Conversation {
        trace: trace(moments),
        client,
        server,
    });
    let lanes = vec!["client", "broker", "worker"];
    let scene = Scene { title: "Job".into(), lanes, conversations: conversations.collect() };
    let drawn = stable(&scene, 60);
    let mut lines: Vec<_> = drawn.lines().collect();
    lines[1..].sort_unstable();
    assert_eq!(
        lines,
        [
            "client                    broker                     worker",
            "   |                         |-- deliver ------- [2] -->|",
            "   |                         |<. connects ....... [2] ..|",
            "   |-- publish ------ [1] -->|                          |",
            "   |<- confirm ------- [1] --|                          |",
        ]
    );
}

/// Splits a stable diagram into its connections, in the order of their marks. The notes come first.
pub fn by_connection(diagram: &str) -> Vec<String> {
    let mark = Regex::new(r"(?:\[(\d+)\] )?(?:-->|\.\.>|--|\.\.)\|").unwrap();
    let (mut connections, mut pending) = (BTreeMap::<usize, String>::new(), String::new());
    for line in diagram.lines().skip(1) {
        pending += &format!("{line}\n");
        let number =
            mark.captures(line).map(|found| found.get(1).map_or(0, |mark| mark.as_str().parse().unwrap()));
        if let Some(number) = number.or(line.contains("|==").then_some(0)) {
            *connections.entry(number).or_default() += &std::mem::take(&mut pending);
        }
    }
    assert_eq!(pending, "", "an arrow should end with its mark");
    connections.into_values().collect()
}

/// A gRPC-like scene. Whatever may differ from run to run does: the pieces, the times, IDs, when the
/// server sends its settings and window updates, and which of two responses comes first.
fn varying(size: usize, settings: usize, id: u64, watch_first: bool) -> Scene {
    let says = |from: Side, units: &[Vec<u8>]| sends(0, 0, from, units, size);
    let housekeeping = || says(Server, &[unit(b'O', 0, "SETTINGS"), unit(b'O', 0, "WINDOW_UPDATE 5177345")]);
    let welcome = format!("DATA #1 {{instance: {id}, at: 2026-01-0{}T10:00:00Z}}", 1 + id % 9);
    let mut answers = [
        vec![unit(b'F', 1, "DATA #1 {recorded: 1}")],
        vec![unit(b'F', 3, "HEADERS #3 200"), unit(b'R', 3, "DATA #3 {accepted: 1}")],
    ];
    if !watch_first {
        answers.swap(0, 1);
    }
    let mut parts = vec![
        says(Client, &[unit(b'O', 0, "preface")]),
        says(Client, &[unit(b'P', 1, "HEADERS #1 WATCH"), unit(b'Q', 1, &format!("DATA #1 {id:x}abcdef0"))]),
        says(Server, &[unit(b'F', 1, "HEADERS #1 200"), unit(b'F', 1, &welcome)]),
        says(Client, &[unit(b'P', 3, "HEADERS #3 RECORD"), unit(b'Q', 3, "DATA #3 to 127.0.0.1:")]),
        says(Server, &answers.concat()),
    ];
    parts.insert(settings % 6, housekeeping());
    let mut moments = vec![(0, 0, Client, open())];
    moments.extend(parts.concat());
    for (at, moment) in moments.iter_mut().enumerate() {
        moment.0 = at as u64 * (id % 7);
    }
    scene(&moments)
}

#[apply(test!)]
async fn a_stable_diagram_is_the_same_in_every_run() {
    let expected = stable(&varying(1_000, 0, 1_234_567, true), 80);
    assert!(expected.contains("DATA #1 {instance: …, at: …}"), "{expected}");
    let runs = (1..200_usize, 0..6_usize, 100_000..u64::MAX, proptest::bool::ANY);
    proptest!(|((size, settings, id, watch_first) in runs)| {
        prop_assert_eq!(stable(&varying(size, settings, id, watch_first), 80), expected.clone());
    });
}

#[apply(test!)]
async fn the_connections_of_a_stable_diagram_are_the_same_in_any_order() {
    let moments = |swap: bool| {
        let (first, second) = if swap { (2, 1) } else { (1, 2) };
        [
            vec![(0, 0, Client, open()), (0, 1, Client, open())],
            sends(first, 0, Client, &[unit(b'P', 1, "publish"), unit(b'Q', 1, "job 1")], 9),
            sends(second, 1, Client, &[unit(b'Q', 1, "job 2")], 7),
        ]
        .concat()
    };
    let [one, other] = [false, true].map(|swap| stable(&scene(&moments(swap)), 60));
    assert_ne!(one, other);
    assert_eq!(by_connection(&one), by_connection(&other));
    assert_eq!(by_connection(&one).len(), 2);
}

#[apply(test!)]
async fn what_differs_from_run_to_run_is_left_out_of_a_stable_diagram() {
    for (said, shown) in [
        ("POST to 127.0.0.1:5672", "POST to 127.0.0.1:…"),
        ("at Sat, 28 Nov 2026 04:25:58 GMT.", "at …."),
        ("at 2026-01-31 and 2026-01-31T13:59:00.123Z", "at … and …"),
        ("basic.consume-ok amq.ctag-3vG_hq.x==", "basic.consume-ok amq.ctag-…"),
        ("SUBSCRIBE weather:replies:0f3a5b00c0ffee11", "SUBSCRIBE weather:replies:…"),
        ("XADD 1767225600000-0", "XADD …"),
        ("started {instance: 15708671070692779867, seque…", "started {instance: …"),
        ("started {instance: 1570867107069277986, sequen…", "started {instance: …"),
        ("SUBSCRIBE weather:replies:0f…", "SUBSCRIBE weather:replies:…"),
        ("body {\"station\":\"oslo-1\",\"val… END_STREAM", "body {\"station\":\"oslo-1\",\"val… END_STREAM"),
        ("1f0e5b1c-7a0b-4c9d-8f00-aabbccddeeff", "…"),
        ("RECORD #12, 2 readings of oslo-1: -3.5", "RECORD #12, 2 readings of oslo-1: -3.5"),
        ("instance added, 1013.25 hPa, 404", "instance added, 1013.25 hPa, 404"),
    ] {
        let moments = [vec![(0, 0, Client, open())], sends(0, 0, Client, &[unit(b'Q', 1, said)], 99)];
        let shown = format!("|-- {shown} -");
        let drawn = stable(&scene(&moments.concat()), 80);
        assert!(drawn.contains(&shown), "{shown} is not in\n{drawn}");
    }
}

#[apply(test!)]
async fn no_line_of_a_diagram_is_wider_than_allowed() {
    let long = "x".repeat(300);
    let note = (5, 0, Client, What::Note("word ".repeat(60)));
    let moments = [vec![note], sends(0, 0, Client, &[unit(b'P', 1, &long), unit(b'Q', 1, &long)], 999)];
    for width in [40, 60, 100] {
        for drawn in [diagram(&scene(&moments.concat()), width), stable(&scene(&moments.concat()), width)] {
            let widest = drawn.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width, "{widest} characters in\n{drawn}");
        }
    }
    assert_eq!(diagram(&Scene { title: "".into(), lanes: vec![], conversations: vec![] }, 0), "\n");
}

#[apply(test!)]
async fn received_text_cannot_control_the_terminal() {
    let units = [unit(b'P', 1, "a\x1b[2Jb"), unit(b'Q', 1, "c\nd\u{9b}e")];
    let scene = scene(&sends(0, 0, Client, &units, 99));
    let shown = diagram(&scene, 80) + &stable(&scene, 80) + &find(&scene, |_| true).unwrap().text(80);
    assert!(shown.contains("a [2Jb") && shown.contains("c d e"), "{shown}");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

#[apply(test!)]
async fn an_exchange_shows_every_byte_with_its_name() {
    let scene = short(5);
    let exchange = find(&scene, |message| message.summary.starts_with("GET")).unwrap();
    let expected = "\
client sends 16 B: GET /nothing
0000                           head: Q
0000  00 0e                      length: 14
0002  51                         kind: \"Q\"
0003  03                         call: 3
0004  47 45 54 20 2f 6e 6f 74  text: \"GET /nothing\"
000c  68 69 6e 67

server sends 17 B: 404 Not Found
0000                           head: E
0000  00 0f                      length: 15
0002  45                         kind: \"E\"
0003  03                         call: 3
0004  34 30 34 20 4e 6f 74 20  text: \"404 Not Found\"
000c  46 6f 75 6e 64

";
    assert_eq!(exchange.text(64), expected);
}

#[apply(test!)]
async fn an_exchange_has_all_messages_of_its_call_and_no_others() {
    let others = [
        unit(b'O', 0, "SETTINGS"),
        unit(b'R', 9, "another"),
        unit(b'F', 1, "HEADERS"),
        unit(b'R', 1, "DATA"),
    ];
    let moments = [
        sends(
            0,
            0,
            Client,
            &[unit(b'Q', 9, "first"), unit(b'P', 1, "begin"), unit(b'R', 1, "reply"), unit(b'Q', 1, "end")],
            7,
        ),
        sends(0, 1, Server, &[unit(b'R', 1, "elsewhere")], 7),
        sends(0, 0, Server, &[unit(b'Q', 1, "the server asks")], 7),
        sends(1, 0, Server, &others, 7),
        sends(2, 0, Client, &[unit(b'Q', 1, "same number, next request")], 7),
    ];
    let scene = scene(&moments.concat());
    let exchange = find(&scene, |message| message.summary == "begin").unwrap();
    let text = exchange.text(80);
    let heads: Vec<_> = text.lines().filter(|line| line.contains(" sends ")).collect();
    assert_eq!(
        heads,
        [
            "client sends 9 B: begin",
            "client sends 7 B: end",
            "server sends 11 B: HEADERS",
            "server sends 8 B: DATA"
        ]
    );
    assert_eq!(exchange.purposes().map(|bytes| bytes.iter().sum::<u64>()), [16, 19]);
    assert!(find(&scene, |message| message.summary == "SETTINGS").is_none(), "it is not a request");
}

#[apply(test!)]
async fn a_long_field_is_cut_and_the_exchange_says_so() {
    let scene = scene(&sends(0, 0, Client, &[unit(b'Q', 1, &"x".repeat(300))], 999));
    let text = find(&scene, |_| true).unwrap().text(80);
    assert_eq!(text.matches("78 78 78 78 78 78 78 78").count(), 8);
    assert!(text.contains("236 more bytes"), "{text}");
}

#[apply(test!)]
async fn the_table_of_bytes_adds_up() {
    let scene = short(1_000);
    let purposes = find(&scene, |_| true).unwrap().purposes();
    let rows = table(&[("Toy".into(), purposes)]).rows;
    assert_eq!(rows[0], ["Toy", "request", "36", "8", "0", "0", "44"]);
    assert_eq!(rows[1], ["Toy", "response", "35", "8", "0", "0", "43"]);
    // The arrows of the diagram have the same sizes.
    let drawn = diagram(&scene, 80);
    assert!(drawn.contains(" 44 B [1] --") && drawn.contains(" 43 B [1] --"), "{drawn}");
}

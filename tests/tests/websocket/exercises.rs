//! The tests of the README's tested exercises. Each one fails until the exercise is solved. They
//! send raw JSON, because `message.rs` doesn't have the new messages yet.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use lab::wire::decode::Format;
use message_queue::brokers::{Broker, Kind, Options};
use serde_json::{Value, json};
use tests::exercises::root;
use tests::practice::{Dialog, assert_predicted, environment};
use tests::recorder::Recorder;
use tests::{Server, apply, test};
use tokio::time::timeout;
use websocket::Client;
use websocket::{Metric, Reading};

use crate::live::reading;
use crate::local::{BINARY, CLOSE, Local, PING, Raw, TEXT, frame, limits};

type Shown = (String, String, f64, u64);

/// Returns the readings up to the one with the value `last`, which was recorded last: station,
/// metric, value, and number. The readings before it are sorted, because they may arrive in any
/// order.
async fn readings_until(raw: &mut Raw, last: f64) -> Vec<Shown> {
    let mut readings = Vec::new();
    loop {
        let message = raw.json().await;
        assert_eq!(message["type"], "reading", "expected a reading, not {message}");
        let text = |field: &str| message[field].as_str().unwrap().to_owned();
        let value = message["value"].as_f64().unwrap();
        readings.push((text("station"), text("metric"), value, message["sequence"].as_u64().unwrap()));
        if value == last {
            let before = readings.len() - 1;
            readings[..before].sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
            return readings;
        }
    }
}

fn shown(station: &str, metric: &str, value: f64, sequence: u64) -> Shown {
    (station.to_owned(), metric.to_owned(), value, sequence)
}

#[apply(test!)]
#[exercise]
async fn exercise_a_subscriber_may_ask_for_the_newest_first() {
    let server = Local::start(limits()).await;
    let recorder = Recorder::start(Format::WebSocket, &server.addr.to_string());
    let addr = recorder.addr().parse().unwrap();
    let client = Client::new(&server.url());
    let record = async |batch: &[Reading]| assert_eq!(client.record(batch).await.unwrap(), batch.len());
    record(&[
        reading("oslo-1", Metric::Temperature, -3.5),
        reading("oslo-1", Metric::Temperature, -3.4),
        reading("oslo-1", Metric::Wind, 7.0),
        reading("rome-1", Metric::Temperature, 12.0),
        reading("rome-1", Metric::Humidity, 40.0),
    ])
    .await;
    let mut raw = Raw::open(addr, "/live").await;
    let subscribe = |id: u64, stations: Value, metrics: Value| json!({"type": "subscribe", "id": id, "stations": stations, "metrics": metrics, "newest": true});
    let subscribed = raw.ask(subscribe(1, json!([]), json!(["temperature", "wind"]))).await;
    assert_eq!(
        subscribed["type"], "subscribed",
        "the server refuses unknown fields, so add `newest` to `Series` in message.rs: {subscribed}"
    );
    record(&[reading("oslo-1", Metric::Wind, 8.0)]).await;
    assert_eq!(
        readings_until(&mut raw, 8.0).await,
        [
            shown("oslo-1", "temperature", -3.4, 2),
            shown("oslo-1", "wind", 7.0, 1),
            shown("rome-1", "temperature", 12.0, 1),
            shown("oslo-1", "wind", 8.0, 2),
        ],
        "with `newest`, the newest reading of each series of the subscription comes after `subscribed`, \
         and then what is recorded later"
    );

    // The same connection subscribes to more. It already gets the temperature and wind of rome-1.
    raw.ask(subscribe(2, json!(["rome-1"]), json!([]))).await;
    record(&[reading("rome-1", Metric::Pressure, 1000.0)]).await;
    assert_eq!(
        readings_until(&mut raw, 1000.0).await,
        [shown("rome-1", "humidity", 40.0, 1), shown("rome-1", "pressure", 1000.0, 1)],
        "the server must not send a reading to the same connection twice"
    );

    // Without the field, nothing has changed.
    let mut plain = Raw::open(addr, "/live").await;
    plain.ask(json!({"type": "subscribe", "id": 1})).await;
    record(&[reading("oslo-1", Metric::Wind, 9.0)]).await;
    assert_eq!(
        readings_until(&mut plain, 9.0).await,
        [shown("oslo-1", "wind", 9.0, 3)],
        "without `newest`, only new readings arrive"
    );
    client.close().await;
    server.stop().await;
}

async fn join(raw: &mut Raw, name: &str) -> Value {
    raw.ask(json!({"type": "join", "id": 1, "room": "r", "name": name})).await
}

async fn rename(raw: &mut Raw, name: &str) -> Value {
    raw.ask(json!({"type": "rename", "id": 9, "room": "r", "name": name})).await
}

async fn say(raw: &mut Raw, message_id: &str) -> Value {
    raw.ask(json!({"type": "say", "id": 7, "room": "r", "message_id": message_id, "text": "x"})).await
}

#[apply(test!)]
#[exercise]
async fn exercise_a_new_name_is_announced_in_order_and_keeps_the_seat() {
    let server = Local::start(limits()).await;
    let recorder = Recorder::start(Format::WebSocket, &server.addr.to_string());
    let addr = recorder.addr().parse().unwrap();
    let mut ana = Raw::open(addr, "/chat").await;
    join(&mut ana, "ana").await;
    let mut ben = Raw::open(addr, "/chat").await;
    let joined = join(&mut ben, "ben").await;
    assert_eq!(say(&mut ben, "m1").await["sequence"], 3);

    let renamed = rename(&mut ben, "bea").await;
    assert_eq!(
        renamed,
        json!({"type": "renamed", "id": 9, "sequence": 4}),
        "the response to `rename` is `renamed` with the number of the event: see `ChatRequest` in \
         message.rs and `ChatSession::respond` in chat.rs"
    );
    assert_eq!(say(&mut ben, "m2").await["sequence"], 5);
    let mut seen = Vec::new();
    for _ in 2..=5 {
        seen.push(ana.json().await);
    }
    let order: Vec<_> = seen.iter().map(|event| (event["sequence"].clone(), event["name"].clone())).collect();
    let expected = [(2, "ben"), (3, "ben"), (4, "ben"), (5, "bea")];
    assert_eq!(
        order,
        expected.map(|(sequence, name)| (json!(sequence), json!(name))),
        "the event comes between the last message of ben and the first of bea"
    );
    let told = json!({
        "type": "presence", "room": "r", "sequence": 4, "name": "ben", "change": "renamed", "new_name": "bea"
    });
    assert_eq!(seen[2], told, "the event has both names");

    // `rename` is refused for the same reasons as `join`, and then changes nothing.
    assert_eq!(rename(&mut ben, "ana").await["code"], "name_taken", "somebody else has this name");
    assert_eq!(rename(&mut ben, "b b").await["code"], "invalid", "a name must not contain spaces");
    let elsewhere = ben.ask(json!({"type": "rename", "id": 9, "room": "other", "name": "bo"})).await;
    assert_eq!(elsewhere["code"], "wrong_room", "this connection is not in that room");

    // The client resends a message after the change, for example because the response was lost.
    let again = say(&mut ben, "m1").await;
    assert_eq!(
        (&again["sequence"], &again["duplicate"]),
        (&json!(3), &json!(true)),
        "a message that was said under the old name must not be stored twice"
    );
    let mut carl = Raw::open(addr, "/chat").await;
    let newcomer = join(&mut carl, "ben").await;
    assert_eq!(newcomer["present"], json!(["ana", "bea", "ben"]), "the old name must be free");
    let first = say(&mut carl, "m1").await;
    assert_eq!(first["duplicate"], false, "the new owner of the old name has said nothing yet");

    // The connection breaks, and the client doesn't know whether the name was changed.
    carl.ask(json!({"type": "leave", "id": 2, "room": "r"})).await;
    let mut back = Raw::open(addr, "/chat").await;
    let (token, boot_id) = (&joined["token"], &joined["boot_id"]);
    let again = back
        .ask(json!({
            "type": "join", "id": 1, "room": "r", "name": "ben", "token": token, "boot_id": boot_id, "after": 5
        }))
        .await;
    assert_eq!(
        (&again["name"], &again["resumed"], &again["present"]),
        (&json!("bea"), &json!(true), &json!(["ana", "bea"])),
        "the token must also work with the old name, and `joined` must have the new one"
    );
    assert_eq!(ben.closed().await.0, 4001, "the old connection must be closed with 4001");
    server.stop().await;
}

#[apply(test!)]
#[exercise]
#[needs(environment("websocket"))]
async fn exercise_each_line_gets_the_number_from_its_own_response() {
    let server = Local::start(limits()).await;
    let mut ana = Raw::open(server.addr, "/chat").await;
    ana.ask(json!({"type": "join", "id": 1, "room": "lobby", "name": "ana"})).await;
    let recorder = Recorder::start(Format::WebSocket, &server.addr.to_string());
    let script = root().join("tests/exercises/websocket/say.py");
    let python = root().join("websocket/python/.venv/bin/python");
    let args = ["-B", script.to_str().unwrap(), &recorder.addr(), "lobby", "eva"];
    let mut eva = Dialog::start(&python, &args);
    assert_eq!(eva.line().await, "in the room: ana eva");
    for id in 2..5 {
        let text = format!("hello {id}");
        ana.ask(json!({"type": "say", "id": id, "room": "lobby", "message_id": text, "text": text})).await;
    }
    for (line, number) in [("hi ana", 6), ("how are you?", 7)] {
        eva.send(line).await;
        assert_eq!(eva.line().await, format!("'{line}' has the number {number}"));
    }
    server.stop().await;
}

#[apply(test!)]
#[exercise]
async fn exercise_the_ends_of_connections_are_predicted() {
    let server = Local::start(limits()).await;
    let mut happened = Vec::new();
    let ping = frame(PING, &[0; 126]);
    for bytes in
        [b"\x81\x05Hello".to_vec(), frame(BINARY, b"{}"), frame(TEXT, b"\xff"), ping, frame(CLOSE, b"")]
    {
        let mut raw = Raw::open(server.addr, "/live").await;
        raw.send(bytes).await;
        happened.push(raw.closed().await.0.to_string());
    }
    let mut raw = Raw::open(server.addr, "/live").await;
    raw.send(frame(TEXT, b"Hello")).await;
    happened.push(raw.json().await["type"].as_str().unwrap().to_owned());
    assert_predicted("websocket/how_it_ends.txt", &happened);
    server.stop().await;
}

/// Says something on a new connection. Returns its number, and whether it had been stored before.
async fn say_in_the_room(addr: SocketAddr, name: &str, message_id: &str) -> (u64, bool) {
    let mut raw = Raw::open(addr, "/").await;
    let say = json!({"type": "say", "id": 7, "name": name, "message_id": message_id, "text": "x"});
    let said = raw.ask(say).await;
    (said["sequence"].as_u64().unwrap(), said["duplicate"].as_bool().unwrap())
}

/// Returns the next messages on a connection: number, name, and message ID.
async fn heard(raw: &mut Raw, count: usize) -> Vec<(u64, String, String)> {
    let mut messages = Vec::new();
    for _ in 0..count {
        let message = raw.json().await;
        let text = |field: &str| message[field].as_str().unwrap().to_owned();
        messages.push((message["sequence"].as_u64().unwrap(), text("name"), text("message_id")));
    }
    messages
}

#[apply(test!)]
#[exercise]
#[needs(message_queue::brokers::available())]
async fn exercise_two_servers_share_one_room() {
    const EACH: usize = 30;
    let redis = Broker::start(Kind::Redis, Options::default()).unwrap();
    let start =
        async || Server::start(env!("CARGO_BIN_EXE_one_room"), &["127.0.0.1:0", redis.url().as_str()]).await;
    let (a, b) = (start().await, start().await);
    let recorder = Recorder::start(Format::WebSocket, b.addr());
    let addrs: [SocketAddr; 2] = [a.addr().parse().unwrap(), recorder.addr().parse().unwrap()];
    let mut at_a = Raw::open(addrs[0], "/").await;
    let mut at_b = Raw::open(addrs[1], "/").await;

    let first = say_in_the_room(addrs[0], "ana", "m1").await;
    let second = say_in_the_room(addrs[1], "ben", "m1").await;
    assert_eq!(
        (first, second),
        ((1, false), (2, false)),
        "the servers must count together: the first message was said on one, and the second on the other"
    );

    // Many speak at once, half of them on each server.
    let speakers = (0..8).map(async |speaker| {
        let name = format!("s{speaker}");
        let mut said = Vec::new();
        for message in 0..EACH {
            let message_id = message.to_string();
            let (number, _) = say_in_the_room(addrs[speaker % 2], &name, &message_id).await;
            said.push((number, name.clone(), message_id));
        }
        said
    });
    let mut said = join_all(speakers).await.concat();
    said.sort();
    let count = 2 + said.len();
    let order = heard(&mut at_a, count).await;
    let numbers: Vec<_> = order.iter().map(|(number, ..)| *number).collect();
    let expected: Vec<_> = (1..=count as u64).collect();
    assert_eq!(numbers, expected, "the numbers must have no gap, and come in order");
    assert!(order == heard(&mut at_b, count).await, "both servers must send the same messages in one order");
    assert!(order[2..] == said, "the number in `said` must be that of the message");

    // Its server dies before the response, so a client resends a message to the other one.
    assert_eq!(say_in_the_room(addrs[1], "ana", "m1").await, (1, true), "a resent message was stored twice");
    let twice = join_all(addrs.map(|addr| say_in_the_room(addr, "ana", "m2"))).await;
    let new: HashSet<_> = twice.iter().map(|(_, duplicate)| *duplicate).collect();
    assert!(twice[0].0 == twice[1].0 && new.len() == 2, "resent to the other server at once: {twice:?}");
    for (name, message_id) in [("a:b", "c"), ("a", "b:c"), ("a b", "c"), ("a", "b c")] {
        let (_, duplicate) = say_in_the_room(addrs[0], name, message_id).await;
        assert!(!duplicate, "{name:?} has not said anything under {message_id:?} before");
    }
    assert_eq!(heard(&mut at_a, 5).await, heard(&mut at_b, 5).await);

    // Redis keeps nothing for a subscriber that has lost its connection.
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    ::redis::cmd("CLIENT").arg(&["KILL", "TYPE", "pubsub"]).exec_async(&mut connection).await.unwrap();
    let (number, _) = say_in_the_room(addrs[0], "ana", "m3").await;
    let last = [(number, "ana".to_owned(), "m3".to_owned())];
    for raw in [&mut at_a, &mut at_b] {
        let arrived = timeout(Duration::from_secs(20), heard(raw, 1)).await;
        assert_eq!(arrived.as_deref().ok(), Some(&last[..]), "said after a lost subscription to Redis");
    }

    // The room outlives its servers.
    drop((a, b));
    let c = start().await;
    let mut at_c = Raw::open(c.addr().parse().unwrap(), "/").await;
    let all = heard(&mut at_c, number as usize).await;
    assert!(all[..count] == order && all.last() == last.last(), "a new server must send the whole room");
}

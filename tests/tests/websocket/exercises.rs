//! The tests of the README's tested exercises. Each one fails until the exercise is solved. They
//! send raw JSON, because `message.rs` doesn't have the new messages yet.

use lab::wire::decode::Format;
use message_queue::brokers::{Broker, Kind, Options};
use serde_json::{Value, json};
use tests::recorder::Recorder;
use tests::{Server, apply, run_program, test};
use websocket::Client;
use websocket::{Metric, Reading};

use crate::PAIR;
use crate::live::reading;
use crate::local::{Local, Raw, limits};

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

fn redis_server() -> Result<(), String> {
    let missing = || "no redis-server: install it with `apt-get install redis-server`".to_owned();
    Kind::Redis.program().map(drop).ok_or_else(missing)
}

async fn open(server: &Server) -> Raw {
    Raw::open(server.addr().parse().unwrap(), "/chat").await
}

/// Returns the next messages of the room until there are `count`: number and message ID.
async fn messages(raw: &mut Raw, count: usize) -> Vec<(u64, String)> {
    let mut messages = Vec::new();
    while messages.len() < count {
        let event = raw.json().await;
        assert_ne!(event["type"], "presence", "two servers can't number this: leave it out");
        assert_ne!(event["type"], "error", "{event}");
        if event["type"] == "message" {
            let id = event["message_id"].as_str().unwrap().to_owned();
            messages.push((event["sequence"].as_u64().unwrap(), id));
        }
    }
    messages
}

/// Says 50 things without waiting, and returns the 100 messages of both members.
async fn talk(raw: &mut Raw, name: &str) -> Vec<(u64, String)> {
    for count in 0..50 {
        let id = format!("{name}-{count}");
        raw.send_json(json!({"type": "say", "id": 7, "room": "r", "message_id": id, "text": "x"})).await;
    }
    messages(raw, 100).await
}

#[apply(test!)]
#[exercise]
#[needs(redis_server())]
async fn exercise_two_servers_show_the_same_messages_in_the_same_order() {
    let help = run_program(PAIR.server, &["--help"]).await.stdout;
    assert!(help.contains("--redis <URL>"), "add an option `--redis URL` to the server");
    let redis = Broker::start(Kind::Redis, Options::default()).unwrap();
    let url = redis.url();
    let start = async || Server::start(PAIR.server, &["--addr", "127.0.0.1:0", "--redis", &url]).await;
    let (a, b) = (start().await, start().await);
    let (mut ana, mut ben) = (open(&a).await, open(&b).await);
    let (joined, at_b) = (join(&mut ana, "ana").await, join(&mut ben, "ben").await);
    assert_eq!(joined["boot_id"], at_b["boot_id"], "one log has one `boot_id`, whichever server you ask");
    assert_eq!(at_b["present"], json!(["ben"]), "a server knows only its own members");

    let (at_ana, at_ben) = tokio::join!(talk(&mut ana, "ana"), talk(&mut ben, "ben"));
    let numbers: Vec<u64> = at_ana.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>(), "the room counts its messages from 1, without gaps");
    assert_eq!(at_ana, at_ben, "both servers must show the same messages in the same order");

    // Server a stops. Ana goes on at server b: she misses nothing, and repeats what she isn't sure of.
    drop(ana);
    a.stop().await;
    assert_eq!(say(&mut ben, "meanwhile").await["sequence"], 101);
    let mut ana = open(&b).await;
    let (token, boot_id) = (&joined["token"], &joined["boot_id"]);
    let back = json!({
        "type": "join", "id": 1, "room": "r", "name": "ana", "token": token, "boot_id": boot_id, "after": 100
    });
    assert_eq!(ana.ask(back).await["resumed"], true, "the numbers mean the same on both servers");
    assert_eq!(messages(&mut ana, 1).await, [(101, "meanwhile".to_owned())], "ana has missed this message");
    let (number, id) = at_ana.iter().rfind(|(_, id)| id.starts_with("ana")).unwrap();
    let again = say(&mut ana, id).await;
    assert_eq!(
        (&again["duplicate"], &again["sequence"]),
        (&json!(true), &json!(number)),
        "a message that was said on one server must not be stored again on the other"
    );

    // A server that starts later reads the room from Redis.
    let c = start().await;
    let mut carl = open(&c).await;
    assert_eq!(join(&mut carl, "carl").await["sequence"], 101, "the room goes on where it was");
    let history = messages(&mut carl, 100).await;
    assert_eq!((history[0].0, history[99].0), (2, 101), "a new member gets the last 100 messages");
    assert_eq!(say(&mut carl, "hello").await["sequence"], 102);
    let mut newest = messages(&mut ben, 1).await;
    if newest[0].0 == 101 {
        newest = messages(&mut ben, 1).await; // His own message came after the response to it.
    }
    assert_eq!(newest, [(102, "hello".to_owned())]);
    drop((ana, ben, carl));
    b.stop().await;
    c.stop().await;
}

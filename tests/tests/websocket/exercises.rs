//! The README's exercises that have a test: each fails until it is solved. They
//! speak to the server in JSON, since what they ask for is not in `message.rs` yet.

use serde_json::{Value, json};
use tests::{apply, test};
use websocket::Client;
use websocket::{Metric, Reading};

use crate::live::reading;
use crate::local::{Local, Raw, limits};

type Shown = (String, String, f64, u64);

/// The readings up to the one of that value, which was recorded last: station,
/// metric, value and number. Those before it are sorted, as they may come in any order.
async fn readings_until(raw: &mut Raw, last: f64) -> Vec<Shown> {
    let mut readings = Vec::new();
    loop {
        let message = raw.json().await;
        assert_eq!(message["type"], "reading", "a reading should come now, not {message}");
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
async fn exercise_a_subscriber_may_be_given_the_newest_first() {
    let server = Local::start(limits()).await;
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
    let mut raw = Raw::open(server.addr, "/live").await;
    let subscribe = |id: u64, stations: Value, metrics: Value| json!({"type": "subscribe", "id": id, "stations": stations, "metrics": metrics, "newest": true});
    let subscribed = raw.ask(subscribe(1, json!([]), json!(["temperature", "wind"]))).await;
    assert_eq!(
        subscribed["type"], "subscribed",
        "the server refuses a field that it does not know, so `newest` has to become one of `Series`: {subscribed}"
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
        "with `newest` the newest reading of each series that was asked for comes after `subscribed`, and \
         then what is recorded"
    );

    // More for the same connection: temperatures of rome-1 come already.
    raw.ask(subscribe(2, json!(["rome-1"]), json!([]))).await;
    record(&[reading("rome-1", Metric::Pressure, 1000.0)]).await;
    assert_eq!(
        readings_until(&mut raw, 1000.0).await,
        [shown("rome-1", "humidity", 40.0, 1), shown("rome-1", "pressure", 1000.0, 1)],
        "what this connection was sent before is not sent again"
    );

    // Without the field it is as it was.
    let mut plain = Raw::open(server.addr, "/live").await;
    plain.ask(json!({"type": "subscribe", "id": 1})).await;
    record(&[reading("oslo-1", Metric::Wind, 9.0)]).await;
    assert_eq!(readings_until(&mut plain, 9.0).await, [shown("oslo-1", "wind", 9.0, 3)], "only what is new");
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
async fn exercise_a_new_name_is_told_in_order_and_keeps_the_place() {
    let server = Local::start(limits()).await;
    let mut ana = Raw::open(server.addr, "/chat").await;
    join(&mut ana, "ana").await;
    let mut ben = Raw::open(server.addr, "/chat").await;
    let joined = join(&mut ben, "ben").await;
    assert_eq!(say(&mut ben, "m1").await["sequence"], 3);

    let renamed = rename(&mut ben, "bea").await;
    assert_eq!(
        renamed,
        json!({"type": "renamed", "id": 9, "sequence": 4}),
        "the request `rename` is answered by `renamed` with the number of its event: see `ChatRequest` in \
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
        "the room is told between the last message of ben and the first of bea"
    );
    let told = json!({
        "type": "presence", "room": "r", "sequence": 4, "name": "ben", "change": "renamed", "new_name": "bea"
    });
    assert_eq!(seen[2], told, "the event names both");

    // Refused is what `join` refuses, and changes nothing.
    assert_eq!(rename(&mut ben, "ana").await["code"], "name_taken", "somebody else has this name");
    assert_eq!(rename(&mut ben, "b b").await["code"], "invalid", "a name has no spaces");
    let elsewhere = ben.ask(json!({"type": "rename", "id": 9, "room": "other", "name": "bo"})).await;
    assert_eq!(elsewhere["code"], "wrong_room", "this connection is not in that room");

    // Sent again after the change, since its answer was lost, say.
    let again = say(&mut ben, "m1").await;
    assert_eq!(
        (&again["sequence"], &again["duplicate"]),
        (&json!(3), &json!(true)),
        "a message that was said under the old name is not stored twice"
    );
    let mut carl = Raw::open(server.addr, "/chat").await;
    let newcomer = join(&mut carl, "ben").await;
    assert_eq!(newcomer["present"], json!(["ana", "bea", "ben"]), "the old name is free");
    let first = say(&mut carl, "m1").await;
    assert_eq!(first["duplicate"], false, "who has the old name now has said nothing yet");

    // The connection breaks, and its owner does not know whether the name was changed.
    carl.ask(json!({"type": "leave", "id": 2, "room": "r"})).await;
    let mut back = Raw::open(server.addr, "/chat").await;
    let (token, boot_id) = (&joined["token"], &joined["boot_id"]);
    let again = back
        .ask(json!({
            "type": "join", "id": 1, "room": "r", "name": "ben", "token": token, "boot_id": boot_id, "after": 5
        }))
        .await;
    assert_eq!(
        (&again["name"], &again["resumed"], &again["present"]),
        (&json!("bea"), &json!(true), &json!(["ana", "bea"])),
        "the token finds its member also under the old name, and `joined` tells the new one"
    );
    assert_eq!(ben.closed().await.0, 4001, "and the old connection is told that it was taken over");
    server.stop().await;
}

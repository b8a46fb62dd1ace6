//! Readings: recording, subscriptions, and slow readers.

use std::time::Duration;
use tests::{apply, test};

use futures::StreamExt;
use serde_json::{Value, json};
use websocket::Limits;
use websocket::client::{Client, Error, LiveEvent};
use websocket::protocol::message::ErrorCode;
use websocket::{Metric, Reading};

use crate::local::{Local, Raw, TEXT, frame, limits, soon};
use tcp_socket::base::limits::ConnectionLimits;

pub fn reading(station: &str, metric: Metric, value: f64) -> Reading {
    Reading { station: station.to_owned(), metric, value, recorded_at: 1_767_225_600_000 }
}

#[apply(test!)]
async fn a_batch_is_recorded_whole_or_not_at_all() {
    let server = Local::start(limits()).await;
    let client = Client::new(&server.url());
    let good = reading("oslo-1", Metric::Temperature, -3.5);
    let bad = reading("oslo-1", Metric::Humidity, 130.0);
    assert_eq!(client.record(&[good.clone(), good.clone()]).await.unwrap(), 2);
    for (batch, expected) in [
        (vec![good.clone(), bad], "readings[1].value: 130 is outside 0 to 100"),
        (vec![], "a batch holds 1 to 10000 readings, not 0"),
        (vec![good.clone(); 10_001], "a batch holds 1 to 10000 readings, not 10001"),
        (vec![good.clone(), reading("Oslo", Metric::Wind, 1.0)], "readings[1].station: \"Oslo\" must be"),
    ] {
        let Err(Error::Refused { code: ErrorCode::Invalid, reason }) = client.record(&batch).await else {
            panic!("the server accepted a batch that it should refuse: {expected}");
        };
        assert!(reason.starts_with(expected), "{reason}");
    }
    let kept = client.readings("oslo-1", 500).await.unwrap();
    assert_eq!(kept, [good.clone(), good.clone()]);
    assert_eq!(client.record(&vec![good; 10_000]).await.unwrap(), 10_000);
    assert_eq!(client.readings("oslo-1", 500).await.unwrap().len(), 500);
    assert_eq!(client.readings("atlantis", 1).await.unwrap(), []);
    client.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn the_number_of_stations_is_limited() {
    let server = Local::start(limits()).await;
    let client = Client::new(&server.url());
    let station = |number: usize| reading(&format!("s-{number}"), Metric::Wind, 1.0);
    let all: Vec<_> = (0..1000).map(station).collect();
    assert_eq!(client.record(&all).await.unwrap(), 1000);
    let refused = client.record(&[station(0), station(1000)]).await;
    assert!(
        matches!(&refused, Err(error @ Error::Refused { code: ErrorCode::Full, .. }) if !error.may_have_been_executed()),
        "{refused:?}"
    );
    assert_eq!(
        client.readings("s-0", 9).await.unwrap().len(),
        1,
        "the server must keep nothing of the batch"
    );
    assert_eq!(client.record(&[station(0)]).await.unwrap(), 1);
    client.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn a_subscription_names_at_most_a_thousand_stations() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/live").await;
    let stations =
        |prefix: &str, count: usize| (0..count).map(|n| format!("{prefix}-{n}")).collect::<Vec<_>>();
    let ask = |kind: &str, stations: Vec<String>| json!({"type": kind, "id": 1, "stations": stations});
    assert_eq!(raw.ask(ask("subscribe", stations("a", 1001))).await["code"], "full");
    assert_eq!(raw.ask(ask("subscribe", stations("a", 1000))).await["type"], "subscribed");
    assert_eq!(raw.ask(ask("subscribe", stations("b", 1))).await["code"], "full");
    assert_eq!(raw.ask(ask("subscribe", stations("a", 10))).await["type"], "subscribed");
    // Unsubscribing makes room for other stations.
    assert_eq!(raw.ask(ask("unsubscribe", stations("a", 1000))).await["type"], "unsubscribed");
    assert_eq!(raw.ask(ask("subscribe", stations("b", 1000))).await["type"], "subscribed");
    server.stop().await;
}

#[apply(test!)]
async fn a_subscriber_is_told_its_stations_and_the_number_of_their_readings() {
    let server = Local::start(limits()).await;
    let client = Client::new(&server.url());
    for (station, metric, count) in
        [("b", Metric::Wind, 3), ("a", Metric::Wind, 2), ("a", Metric::Humidity, 4)]
    {
        client.record(&vec![reading(station, metric, 50.0); count]).await.unwrap();
    }
    let mut raw = Raw::open(server.addr, "/live").await;
    for (stations, metrics, expected) in [
        (json!([]), json!([]), (json!(["a", "b"]), 9)),
        (json!(["a", "new"]), json!([]), (json!(["a"]), 6)),
        (json!(["a"]), json!(["wind", "pressure"]), (json!(["a"]), 2)),
        (json!([]), json!(["wind"]), (json!(["a", "b"]), 5)),
    ] {
        let response =
            raw.ask(json!({"type": "subscribe", "id": 1, "stations": stations, "metrics": metrics})).await;
        assert_eq!((&response["stations"], response["recorded"].as_u64()), (&expected.0, Some(expected.1)));
    }
    client.close().await;
    server.stop().await;
}

/// Each of many tasks gets its own responses. The server allows only one connection.
#[apply(test!)]
async fn many_tasks_share_one_connection() {
    let server = Local::start(Limits {
        connections: ConnectionLimits { max_connections: 1, ..Default::default() },
        ..limits()
    })
    .await;
    let client = Client::new(&server.url());
    let tasks = (1..=100).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                let station = format!("s-{task}");
                let batch = vec![reading(&station, Metric::Wind, 1.0); task];
                assert_eq!(client.record(&batch).await.unwrap(), task);
                let bad = reading(&station, Metric::Wind, 200.0 + task as f64);
                let Err(Error::Refused { reason, .. }) = client.record(&[bad]).await else {
                    panic!("the server accepted an impossible value")
                };
                assert_eq!(reason, format!("readings[0].value: {} is outside 0 to 120", 200 + task));
            }
            assert_eq!(client.readings(&station_of(task), 500).await.unwrap().len(), (task * 10).min(500));
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        soon("a task", task).await.unwrap();
    }
    client.close().await;
    server.stop().await;
}

fn station_of(task: usize) -> String {
    format!("s-{task}")
}

/// Records this value as the wind and the temperature of three stations. Returns the readings that
/// the subscriber received, as `station metric value`.
async fn seen(raw: &mut Raw, client: &Client, value: f64) -> Vec<String> {
    let mut batch = Vec::new();
    for station in ["a", "b", "c"] {
        batch.push(reading(station, Metric::Temperature, value));
        batch.push(reading(station, Metric::Wind, value));
    }
    client.record(&batch).await.unwrap();
    raw.send_json(json!({"type": "readings", "id": 77, "station": "none", "limit": 1})).await;
    let mut seen = Vec::new();
    let mut answered = false;
    // The response to a second request marks the end. The first response may overtake readings
    // of the same turn.
    for id in [77, 78] {
        while !answered {
            let message = raw.json().await;
            answered = message["id"] == id;
            if message["type"] == "reading" {
                seen.push(
                    format!("{} {} {}", message["station"], message["metric"], message["value"])
                        .replace('"', ""),
                );
            }
        }
        if id == 77 {
            raw.send_json(json!({"type": "readings", "id": 78, "station": "none", "limit": 1})).await;
            answered = false;
        }
    }
    seen
}

#[apply(test!)]
async fn a_subscriber_sees_what_it_asked_for_and_nothing_else() {
    let server = Local::start(limits()).await;
    let client = Client::new(&server.url());
    let mut raw = Raw::open(server.addr, "/live").await;
    assert_eq!(seen(&mut raw, &client, 1.0).await, [""; 0]);
    let both = |kind: &str, stations: Value, metrics: Value| json!({"type": kind, "id": 5, "stations": stations, "metrics": metrics});

    let response = raw.ask(both("subscribe", json!(["a"]), json!(["wind"]))).await;
    assert_eq!(response["type"], "subscribed");
    assert_eq!(response["boot_id"].as_str().unwrap().len(), 32);
    assert_eq!(seen(&mut raw, &client, 2.0).await, ["a wind 2.0"]);
    raw.ask(both("subscribe", json!([]), json!(["temperature"]))).await;
    assert_eq!(
        seen(&mut raw, &client, 3.0).await,
        ["a temperature 3.0", "a wind 3.0", "b temperature 3.0", "c temperature 3.0"]
    );
    // This ends the subscription to station a, but not the one to all stations.
    raw.ask(both("unsubscribe", json!(["a"]), json!([]))).await;
    assert_eq!(
        seen(&mut raw, &client, 4.0).await,
        ["a temperature 4.0", "b temperature 4.0", "c temperature 4.0"]
    );
    raw.ask(both("unsubscribe", json!([]), json!([]))).await;
    assert_eq!(seen(&mut raw, &client, 5.0).await, [""; 0]);
    raw.send_json(json!({"type": "subscribe", "id": 6})).await;
    assert_eq!(raw.json().await["id"], 6);
    assert_eq!(seen(&mut raw, &client, 6.0).await.len(), 6);
    client.close().await;
    server.stop().await;
}

/// A subscriber gets no earlier readings, even if the server is still sending them to others.
#[apply(test!)]
async fn a_subscriber_sees_only_what_is_recorded_after_it_subscribed() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/live").await;
    raw.ask(json!({"type": "subscribe", "id": 1, "stations": ["other"]})).await;
    let record = |id: u64| json!({"type": "record", "id": id, "readings": [reading("a", Metric::Wind, 1.0)]});
    let subscribe = json!({"type": "subscribe", "id": 3, "stations": ["a"]});
    // The server handles all three in one turn.
    let turn = [record(2), subscribe, record(4)].map(|request| frame(TEXT, request.to_string().as_bytes()));
    raw.send(turn.concat()).await;
    for kind in ["recorded", "subscribed", "recorded"] {
        assert_eq!(raw.json().await["type"], kind);
    }
    let seen = raw.json().await;
    assert_eq!((&seen["type"], &seen["sequence"]), (&json!("reading"), &json!(2)), "{seen}");
    server.stop().await;
}

#[apply(test!)]
async fn readings_carry_their_number_in_the_series() {
    let server = Local::start(limits()).await;
    let client = Client::new(&server.url());
    client.record(&vec![reading("a", Metric::Wind, 1.0); 41]).await.unwrap();
    let mut live = client.live(&["a"], &[Metric::Wind]).await.unwrap();
    let mixed = [reading("a", Metric::Temperature, 1.0), reading("a", Metric::Wind, 9.0)];
    client.record(&mixed).await.unwrap();
    let event = live.next().await.unwrap().unwrap();
    assert_eq!(event, LiveEvent::Reading { sequence: 42, reading: mixed[1].clone() });
    live.close().await;
    client.close().await;
    server.stop().await;
}

/// The subscriber reads nothing while far more is recorded than its buffers hold. Then it reads
/// everything: each reading was either sent or counted as skipped, and the newest ones were sent.
#[apply(test!)]
async fn a_slow_reader_is_told_how_many_it_missed_and_gets_the_newest() {
    const BATCHES: u64 = 40;
    // The subscriber must not count as dead, however long this takes on a busy machine.
    let [heartbeat, dead_after, write_timeout] = [600, 1200, 600].map(Duration::from_secs);
    let server = Local::start(Limits { heartbeat, dead_after, write_timeout, ..limits() }).await;
    let client = Client::new(&server.url());
    let mut slow = Raw::open(server.addr, "/live").await;
    slow.ask(json!({"type": "subscribe", "id": 1, "stations": ["a"]})).await;
    let mut quick = client.live(&["marker"], &[]).await.unwrap();
    for number in 1..=BATCHES {
        let value = number as f64;
        let mut batch = vec![reading("a", Metric::Temperature, value); 5000];
        batch.extend(vec![reading("a", Metric::Wind, value); 4999]);
        batch.push(reading("marker", Metric::Wind, value));
        assert_eq!(client.record(&batch).await.unwrap(), 10_000);
    }
    // Meanwhile, the server still sends another subscriber its newest reading.
    loop {
        match soon("the marker", quick.next()).await.unwrap().unwrap() {
            LiveEvent::Reading { reading, .. } if reading.value == BATCHES as f64 => break,
            _ => {}
        }
    }
    let mut numbers = [0_u64; 2];
    let (mut seen, mut skipped) = (0, 0);
    while numbers != [5000 * BATCHES, 4999 * BATCHES] {
        let message = slow.json().await;
        match message["type"].as_str().unwrap() {
            "reading" => {
                let metric = usize::from(message["metric"] == "wind");
                let number = message["sequence"].as_u64().unwrap();
                assert!(number > numbers[metric], "out of order: {message}");
                numbers[metric] = number;
                seen += 1;
            }
            "skipped" => skipped += message["readings"].as_u64().unwrap(),
            other => panic!("{other}"),
        }
    }
    assert!(skipped > 0, "the test must overrun the reader");
    assert_eq!(seen + skipped, 9999 * BATCHES);
    quick.close().await;
    client.close().await;
    server.stop().await;
}

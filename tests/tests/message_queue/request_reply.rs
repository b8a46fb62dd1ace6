//! `record` through both brokers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, BasicQosOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use message_queue::brokers::Kind;
use message_queue::client::Client;
use message_queue::error::Error;
use message_queue::limits::MAX_BATCH;
use message_queue::limits::MAX_REQUEST;
use message_queue::limits::MAX_STATIONS;
use message_queue::model::{Metric, Reading};
use message_queue::record::{Reason, Reply, Store};
use message_queue::{rabbitmq, redis};
use tests::{Server, apply, test};
use tokio::time::timeout;

use crate::PAIR;
use crate::support::{BOTH, LONG, broker_test, eventually, keys, name, prefix, topology, url};

pub fn readings(station: &str, count: usize) -> Vec<Reading> {
    let reading = |second| Reading {
        station: station.to_owned(),
        metric: Metric::Wind,
        value: 2.5,
        recorded_at: second as u64,
    };
    (0..count).map(reading).collect()
}

/// Connects a client to either broker.
pub async fn connect(kind: Kind, url: &str, prefix: &str, timeout: Duration) -> Client {
    let client = match kind {
        Kind::RabbitMq => Client::connect(url, topology(prefix)).await,
        Kind::Redis => Client::connect(url, keys(prefix)).await,
    };
    client.unwrap().with_timeout(timeout)
}

pub async fn serve(kind: Kind, url: &str, prefix: &str) -> Server {
    Server::start(PAIR.server, &["--broker", name(kind), "--url", url, "--prefix", prefix]).await
}

/// Many tasks make two thousand calls of different sizes on one connection. Each must get the
/// reply to its own request.
#[apply(broker_test!)]
async fn each_reply_finds_its_call() {
    for kind in BOTH {
        let (url, prefix) = (url(kind), prefix());
        let server = serve(kind, &url, &prefix).await;
        let client = connect(kind, &url, &prefix, LONG).await;
        let all = Arc::new(readings("oslo-1", 400));
        let calls = (0..2_000_usize).map(|number| {
            let (client, all) = (client.clone(), all.clone());
            tokio::spawn(async move {
                let count = number % 400 + 1;
                assert_eq!(client.record(&all[..count]).await.unwrap(), count);
            })
        });
        for call in join_all(calls).await {
            call.unwrap();
        }
        // The bounds on readings are the same as in the other chapters.
        let refused = async |batch: &[Reading]| match client.record(batch).await {
            Err(Error::Refused { reason, detail }) => (reason, detail),
            other => panic!("{other:?}"),
        };
        assert_eq!(client.record(&readings("a", MAX_BATCH)).await.unwrap(), MAX_BATCH);
        assert_eq!(refused(&readings("a", MAX_BATCH + 1)).await.0, Reason::Invalid);
        assert_eq!(refused(&[]).await.0, Reason::Invalid);
        let mut wrong = readings("b", 3);
        wrong[2].value = 121.0;
        assert_eq!(refused(&wrong).await.1, "readings[2].value: 121 is outside 0 to 120");
        let stations = |from: usize, to: usize| -> Vec<Reading> {
            (from..to).flat_map(|number| readings(&format!("s-{number}"), 1)).collect()
        };
        // The server knows oslo-1 and a, but not b, whose whole batch it refused.
        assert_eq!(client.record(&stations(0, MAX_STATIONS - 3)).await.unwrap(), MAX_STATIONS - 3);
        assert_eq!(refused(&stations(MAX_STATIONS, MAX_STATIONS + 2)).await.0, Reason::Full);
        assert_eq!(client.record(&stations(MAX_STATIONS, MAX_STATIONS + 1)).await.unwrap(), 1);
        server.stop().await;
    }
}

#[apply(broker_test!)]
async fn a_call_without_a_server_fails_at_once() {
    for kind in BOTH {
        let (url, prefix) = (url(kind), prefix());
        // The timeout is an hour, so only an immediate error ends this test in time.
        let client = connect(kind, &url, &prefix, Duration::from_secs(3600)).await;
        let no_server = async || {
            let result = timeout(LONG, client.record(&readings("oslo-1", 1))).await.unwrap();
            assert!(matches!(result, Err(Error::NoServer(_))), "{result:?}");
        };
        no_server().await;
        let server = serve(kind, &url, &prefix).await;
        assert_eq!(client.record(&readings("oslo-1", 1)).await.unwrap(), 1);
        server.stop().await;
        // The server's queue or subscription has disappeared with it.
        let calls: Vec<_> = (0..100).map(|_| no_server()).collect();
        join_all(calls).await;
    }
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Starts a consumer that takes one request at a time, like a server that gets stuck.
async fn declare_requests(channel: &Channel, prefix: &str) -> lapin::Consumer {
    let mut table = FieldTable::default();
    table.insert("x-max-length".into(), AMQPValue::LongInt(10_000));
    let options = QueueDeclareOptions { durable: true, auto_delete: true, ..Default::default() };
    let queue: lapin::types::ShortString = topology(prefix).requests().into();
    channel.queue_declare(queue.clone(), options, table).await.unwrap();
    channel.basic_qos(1, BasicQosOptions::default()).await.unwrap();
    channel
        .basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .unwrap()
}

#[apply(broker_test!)]
async fn no_request_runs_after_its_caller_has_given_up() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let (_connection, channel) = channel(&url).await;
    let mut stuck = declare_requests(&channel, &prefix).await;
    let client = connect(Kind::RabbitMq, &url, &prefix, Duration::from_millis(500)).await;
    // The stuck server has the first request, and the others wait behind it.
    let calls = join_all((0..5).map(|_| client.record(&[]))).await;
    assert!(calls.iter().all(|call| matches!(call, Err(Error::TimedOut))), "{calls:?}");
    let first = timeout(LONG, stuck.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.properties.expiration().as_ref().unwrap().as_str(), "500");
    first.ack(BasicAckOptions::default()).await.unwrap();
    // RabbitMQ drops them, so a server that recovers finds no request.
    let queue = topology(&prefix).requests();
    eventually("the requests are gone", async || {
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let found =
            channel.queue_declare(queue.as_str().into(), passive, FieldTable::default()).await.unwrap();
        found.message_count() == 0
    })
    .await;
    assert!(channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap().is_none());
}

/// A server dies with a request. The next server replies to it, but does not execute it again.
#[apply(broker_test!)]
async fn an_interrupted_request_does_not_run_twice() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let (connection, channel) = channel(&url).await;
    let mut dying = declare_requests(&channel, &prefix).await;
    let server = serve(Kind::RabbitMq, &url, &prefix).await;
    let client = connect(Kind::RabbitMq, &url, &prefix, LONG).await;
    let batch = readings("oslo-1", 3);
    // Each of the two consumers gets one request: the server replies, and the other one is stuck.
    let calls = tokio::spawn(async move { join_all([client.record(&batch), client.record(&batch)]).await });
    let taken = timeout(LONG, dying.next()).await.unwrap().unwrap().unwrap();
    assert!(!taken.redelivered);
    connection.close(200, "dies".into()).await.unwrap();
    let mut results = timeout(LONG, calls).await.unwrap().unwrap();
    results.sort_by_key(|result| result.is_err());
    assert!(matches!(results[..], [Ok(3), Err(Error::OutcomeUnknown)]), "{results:?}");
    server.stop().await;
}

#[apply(broker_test!)]
async fn a_request_runs_on_every_redis_server() {
    let (url, prefix) = (url(Kind::Redis), prefix());
    let servers = [serve(Kind::Redis, &url, &prefix).await, serve(Kind::Redis, &url, &prefix).await];
    let redis = ::redis::Client::open(url.as_str()).unwrap();
    let mut listener = redis.get_async_pubsub().await.unwrap();
    listener.psubscribe(format!("{}*", keys(&prefix).replies())).await.unwrap();
    let client = connect(Kind::Redis, &url, &prefix, LONG).await;
    assert_eq!(client.record(&readings("oslo-1", 2)).await.unwrap(), 2);
    // Each server replies to the one request.
    let mut replies = listener.on_message();
    for _ in &servers {
        let reply: String = timeout(LONG, replies.next()).await.unwrap().unwrap().get_payload().unwrap();
        assert_eq!(reply, r#"{"id":1,"answer":{"accepted":2}}"#);
    }
    for server in servers {
        server.stop().await;
    }
}

#[apply(broker_test!)]
async fn servers_survive_malformed_requests() {
    // RabbitMQ: malformed requests, some of them without a valid address for the reply.
    let (rabbitmq_url, prefix) = (url(Kind::RabbitMq), prefix());
    let server = serve(Kind::RabbitMq, &rabbitmq_url, &prefix).await;
    let (_connection, channel) = channel(&rabbitmq_url).await;
    let mut replies = {
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        channel
            .basic_consume("amq.rabbitmq.reply-to".into(), "".into(), options, FieldTable::default())
            .await
            .unwrap()
    };
    let publish = async |body: &[u8], properties: BasicProperties| {
        let queue = topology(&prefix).requests();
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), queue.into(), options, body, properties).await.unwrap();
    };
    let huge = vec![b'['; 3 * 1024 * 1024];
    let spied_on = format!("{prefix}.victim");
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(spied_on.as_str().into(), options, FieldTable::default()).await.unwrap();
    publish(b"{}", BasicProperties::default()).await;
    publish(b"{}", BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to.nonsense".into())).await;
    publish(b"{}", BasicProperties::default().with_reply_to(spied_on.as_str().into())).await;
    for body in [&b"\xff"[..], b"", b"{\"readings\":[{}]}", b"{\"readings\":[],\"x\":1}", &huge] {
        let properties = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
        publish(body, properties).await;
        let reply = timeout(LONG, replies.next()).await.unwrap().unwrap().unwrap();
        let reply = String::from_utf8(reply.data).unwrap();
        assert!(reply.starts_with(r#"{"refused":{"reason":"invalid","detail":""#), "{reply}");
    }
    let stray = channel.basic_get(spied_on.into(), BasicGetOptions::default()).await.unwrap();
    assert!(stray.is_none(), "a request made the server write into another queue");
    let client = connect(Kind::RabbitMq, &rabbitmq_url, &prefix, LONG).await;
    assert_eq!(client.record(&readings("oslo-1", 1)).await.unwrap(), 1);
    server.stop().await;

    let redis_url = url(Kind::Redis);
    let server = serve(Kind::Redis, &redis_url, &prefix).await;
    let client = ::redis::Client::open(redis_url.as_str()).unwrap();
    let mut listener = client.get_async_pubsub().await.unwrap();
    listener.psubscribe(format!("{prefix}:*")).await.unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let requests = keys(&prefix).requests();
    let mine = format!("{prefix}:reply:me");
    let foreign = format!("{prefix}:readings:oslo-1:wind");
    let valid = r#"{"station":"oslo-1","metric":"wind","value":1.0,"recorded_at":0}"#;
    for body in [
        "".to_owned(),
        "{}".to_owned(),
        "\u{0}".to_owned(),
        format!(r#"{{"id":1,"reply_to":"{foreign}","readings":[]}}"#),
        format!(r#"[2,"{mine}",[{valid}]]"#),
        format!(r#"{{"id":2.5,"reply_to":"{mine}","readings":[{valid}]}}"#),
        format!(r#"{{"id":2,"reply_to":"{mine}","readings":[{valid}],"x":1}}"#),
        format!(r#"{{"id":3.0,"reply_to":"{mine}","readings":[["oslo-1","wind",1,0]]}}"#),
        format!(r#"{{"id":4,"reply_to":"{mine}","readings":[{valid}]}}{}"#, " ".repeat(MAX_REQUEST)),
    ] {
        ::redis::cmd("PUBLISH").arg(&requests).arg(body).exec_async(&mut connection).await.unwrap();
    }
    // Only the requests with a valid address get a reply.
    let mut messages = listener.on_message();
    for (id, detail) in [(2, "x: unknown field"), (3, "readings[0]: "), (4, "longer than ")] {
        let reply = loop {
            let message = timeout(LONG, messages.next()).await.unwrap().unwrap();
            if message.get_channel_name() != requests {
                break message;
            }
        };
        assert_eq!(reply.get_channel_name(), mine);
        let text: String = reply.get_payload().unwrap();
        let begins = format!(r#"{{"id":{id},"answer":{{"refused":{{"reason":"invalid","detail":"{detail}"#);
        assert!(text.starts_with(&begins), "{text}");
    }
    let client = connect(Kind::Redis, &redis_url, &prefix, LONG).await;
    assert_eq!(client.record(&readings("oslo-1", 1)).await.unwrap(), 1);
    server.stop().await;
}

/// A server refuses a body that breaks a limit or has a field of the wrong type.
#[apply(test!)]
async fn a_malformed_request_is_refused() {
    let store = Store::default();
    let one = r#"{"station":"oslo-1","metric":"wind","value":1.5,"recorded_at":0}"#;
    let with = |from: &str, to: &str| format!(r#"{{"readings":[{}]}}"#, one.replace(from, to));
    let many = |count| format!(r#"{{"readings":[{}]}}"#, vec![one; count].join(","));
    let padded = |size: usize| {
        let text = many(1);
        text.clone() + &" ".repeat(size - text.len())
    };
    for (body, detail) in [
        ("[[]]".to_owned(), "expected an object"),
        (format!("[[{one}]]"), "expected an object"),
        (r#"{"readings":[["oslo-1","wind",1.5,0]]}"#.to_owned(), "readings[0]: "),
        (r#"{"readings":{}}"#.to_owned(), "readings: "),
        (r#"{"readings":[],"x":1}"#.to_owned(), "x: unknown field"),
        ("{}".to_owned(), "missing field `readings`"),
        (many(1) + "x", "trailing characters"),
        (with(r#""wind""#, r#""WIND""#), "readings[0].metric: "),
        (with(r#""wind""#, r#"["wind"]"#), "readings[0].metric: "),
        (with("1.5", r#""hot""#), "readings[0].value: "),
        (with("1.5", "1e400"), "readings[0].value: "),
        (with("1.5", "null"), "readings[0].value: "),
        (with("1.5", "-0.1"), "readings[0].value: -0.1 is outside 0 to 120"),
        (with("1.5", "120.1"), "readings[0].value: 120.1 is outside 0 to 120"),
        (with(":0", ":1.5"), "readings[0].recorded_at: "),
        (with(":0", ":-1"), "readings[0].recorded_at: "),
        (with(":0", r#":"0""#), "readings[0].recorded_at: "),
        (with(":0", ":253402300800000"), "readings[0].recorded_at: 253402300800000 is outside 0 to"),
        (with("oslo-1", ""), "readings[0].station: "),
        (with("oslo-1", &"a".repeat(33)), "readings[0].station: "),
        (with("oslo-1", &"a".repeat(5_000)), "readings[0].station: "),
        (with("oslo-1", "Oslo"), "readings[0].station: "),
        (with("oslo-1", "a.b"), "readings[0].station: "),
        (with(r#""oslo-1""#, "7"), "readings[0].station: "),
        (many(0), "a batch holds 1 to 10000 readings, not 0"),
        (many(MAX_BATCH + 1), "a batch holds 1 to 10000 readings, not 10001"),
        (padded(MAX_REQUEST + 1), "longer than 2097152 bytes"),
    ] {
        let shown: String = body.chars().take(200).collect();
        let reply = store.execute(body.as_bytes());
        let Reply::Refused { reason: Reason::Invalid, detail: actual } = reply else { panic!("{shown}") };
        assert!(actual.contains(detail), "{shown}: {actual}");
        assert!(actual.len() < 1_000, "a long text is quoted at length: {shown}");
    }
    for (body, count) in [
        (with(":0", ":1.0"), 1),
        (with(":0", ":1e3"), 1),
        (with(":0", ":253402300799999"), 1),
        (with("1.5", "1"), 1),
        (with("1.5", "0"), 1),
        (with("1.5", "120"), 1),
        (with("oslo-1", &"a".repeat(32)), 1),
        (many(MAX_BATCH), MAX_BATCH),
        (padded(MAX_REQUEST), 1),
    ] {
        assert_eq!(store.execute(body.as_bytes()), Reply::Accepted(count));
    }
    for (metric, low, high) in [("temperature", -100, 70), ("humidity", 0, 100), ("pressure", 800, 1100)] {
        let of = |value: i32| with("wind", metric).replace("1.5", &value.to_string());
        for (value, accepted) in [(low - 1, false), (low, true), (high, true), (high + 1, false)] {
            let reply = store.execute(of(value).as_bytes());
            assert_eq!(reply == Reply::Accepted(1), accepted, "{metric} {value}");
        }
    }
}

/// A publisher refuses a reading with a field out of range.
#[apply(broker_test!)]
async fn a_malformed_reading_is_not_published() {
    let reading = |station: &str, value| Reading {
        station: station.to_owned(),
        metric: Metric::Wind,
        value,
        recorded_at: 0,
    };
    let url = url(Kind::Redis);
    let mut publisher = redis::publish_subscribe::Publisher::connect(&url, keys("x")).await.unwrap();
    for wrong in [reading("Oslo", 1.0), reading("a.b", 1.0), reading("oslo-1", 121.0), reading("", 1.0)] {
        let message = rabbitmq::publish_subscribe::message(&topology("x"), &wrong);
        assert!(matches!(message, Err(Error::Invalid(_))), "{wrong:?}");
        let published = publisher.publish(&[wrong]).await;
        assert!(matches!(published, Err(Error::Invalid(_))), "{published:?}");
    }
}

//! Limits and checks. If you remove one of them, a test fails.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::join_all;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use message_queue::brokers::Kind;
use message_queue::client::Client;
use message_queue::error::Error;
use message_queue::limits;
use message_queue::limits::MAX_BATCH;
use message_queue::limits::rabbitmq::DELIVERY_LIMIT;
use message_queue::limits::rabbitmq::MAX_DEAD_LETTERS;
use message_queue::limits::rabbitmq::MAX_REQUESTS;
use message_queue::model::{Metric, Reading};
use message_queue::publish_subscribe::Event;
use message_queue::rabbitmq::producer::{Message, Publisher};
use message_queue::rabbitmq::publish_subscribe as rabbitmq;
use message_queue::record::Store;
use tests::signal::Signal;
use tests::{apply, run_program, test};
use tokio::time::timeout;

use crate::PAIR;
use crate::fakes::{fake, rewriting};
use crate::request_reply::{connect, readings};
use crate::support::{
    BOTH, CONSUMER, LONG, Mode, PRODUCER, Program, Proxy, broker_test, eventually, keys, name, prefix,
    shared, topology, url,
};

#[apply(test!)]
async fn options_out_of_range_are_refused() {
    let long = "a".repeat(33);
    for (program, args) in [
        (PRODUCER, &["--prefix", ""][..]),
        (PRODUCER, &["--prefix", "a.b"]),
        (CONSUMER, &["--prefix", "A"]),
        (PAIR.server, &["--prefix", "a:b"]),
        (PAIR.client, &["--prefix", &long]),
        (PRODUCER, &["--max-length", "0"]),
        (CONSUMER, &["--max-length", "0"]),
        (CONSUMER, &["--prefetch", "0"]),
        (CONSUMER, &["--prefetch", "65536"]),
        (PRODUCER, &["--max-length", "4294967296"]),
        (PRODUCER, &["publish", "oslo-1", "rain", "1"]),
        (PAIR.client, &["record", "oslo-1", "rain", "1"]),
    ] {
        let output = run_program(program, &[&["--url", "amqp://127.0.0.1:1"], args].concat()).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{args:?}: {output:?}");
    }
}

/// The broker accepts connections but sends nothing.
#[apply(test!)]
#[long]
async fn a_producer_gives_up_on_a_broker_that_does_not_respond() {
    let silent = fake(|stream| async move {
        tokio::time::sleep(LONG).await;
        drop(stream);
        Ok(())
    })
    .await;
    let addr = silent.addr;
    let cases = [("rabbitmq", format!("amqp://{addr}"), 10), ("redis", format!("redis://{addr}"), 5)];
    for (kind, url, seconds) in &cases {
        let began = Instant::now();
        let output = run_program(PRODUCER, &["--broker", kind, "--url", url, "--count", "1"]).await;
        assert_eq!(output.code, Some(1), "{output:?}");
        assert!(output.stderr.starts_with(&format!("error: no broker at {url} (")), "{output:?}");
        assert!(began.elapsed() < Duration::from_secs(seconds + 10), "{:?}", began.elapsed());
    }
}

#[apply(test!)]
async fn a_store_counts_the_readings_of_each_station() {
    let store = Store::default();
    for _ in 0..3 {
        store.record(readings("oslo-1", MAX_BATCH));
    }
    let mut refused = readings("oslo-1", 2);
    refused[1].station = String::new();
    store.record(refused);
    assert_eq!((store.count("oslo-1"), store.count("oslo-2")), (3 * MAX_BATCH, 0));
}

/// A queue without a limit could fill the broker's memory or disk.
#[apply(broker_test!)]
async fn every_queue_of_rabbitmq_is_bounded() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let ours = ["--url", &url, "--prefix", &prefix];
    let mut server = Program::start(PAIR.server, &ours);
    server.shows("connected to", 1).await;
    let few = [&ours[..], &["--count", "0", "--max-length", "3000000000"]].concat();
    assert_eq!(run_program(PRODUCER, &few).await.code, Some(0));
    let listed = {
        let broker = shared(Kind::RabbitMq).lock().unwrap();
        broker.rabbitmqctl(&["-q", "list_queues", "name", "arguments"]).unwrap()
    };
    let mut found = 0;
    for (queue, length, limit) in [
        (topology(&prefix).jobs(), 3_000_000_000, Some(DELIVERY_LIMIT)),
        (topology(&prefix).dead_letters(), MAX_DEAD_LETTERS, None),
        (topology(&prefix).retry(Duration::from_secs(1)), 3_000_000_000, Some(DELIVERY_LIMIT)),
        (topology(&prefix).requests(), MAX_REQUESTS, None),
    ] {
        let line = listed.lines().find(|line| line.starts_with(&format!("{queue}\t"))).unwrap();
        assert!(line.contains(&format!("\"x-max-length\",{length}}}")), "{line}");
        if let Some(limit) = limit {
            assert!(line.contains(&format!("\"x-delivery-limit\",{limit}}}")), "{line}");
            assert!(line.contains("\"x-overflow\",\"reject-publish\""), "{line}");
        }
        found += 1;
    }
    assert_eq!(found, 4);
    server.stop().await;
}

/// The subscriber reads nothing for a while, so RabbitMQ drops the oldest readings.
#[apply(broker_test!)]
async fn a_slow_subscribers_queue_is_bounded() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let patterns = ["readings.#".to_owned()];
    let mut subscription = rabbitmq::subscribe(&url, topology(&prefix), &patterns).await.unwrap();
    let mut publisher = Publisher::connect(&url, topology(&prefix), 1_000).await.unwrap();
    let count = u64::from(limits::rabbitmq::MAX_BACKLOG) + 2_000;
    let reading =
        |number| Reading { station: "oslo-1".into(), metric: Metric::Wind, value: 1.0, recorded_at: number };
    for number in 1..=count {
        publisher.publish(rabbitmq::message(&topology(&prefix), &reading(number)).unwrap()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    let mut got = 0;
    loop {
        let event = timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap();
        let Event::Reading { reading, .. } = event else { panic!("{event:?}") };
        got += 1;
        if reading.recorded_at == count {
            break;
        }
    }
    // The prefetched readings come in addition to those in the queue.
    assert!((u64::from(limits::rabbitmq::MAX_BACKLOG)..count).contains(&got), "{got} of {count}");

    let too_long = ["a".repeat(limits::rabbitmq::MAX_PATTERN + 1)];
    let refused = rabbitmq::subscribe(&url, topology(&prefix), &too_long).await.err();
    assert!(matches!(refused, Some(Error::PatternTooLong)), "{refused:?}");
}

/// A publisher accepts no more than its window before it waits for confirms.
#[apply(broker_test!)]
async fn a_publishers_window_is_bounded() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let mut publisher = Publisher::connect(&url, topology(&prefix), 10).await.unwrap();
    for reading in readings("oslo-1", 100) {
        publisher.publish(rabbitmq::message(&topology(&prefix), &reading).unwrap()).await.unwrap();
    }
    assert!(publisher.confirmed() > 90, "{}", publisher.confirmed());
}

/// The message stays unroutable, however often the publisher declares everything.
#[apply(broker_test!)]
async fn an_unroutable_message_is_an_error() {
    let basic_return = (60, 50);
    let (counting, returned) = rewriting(&url(Kind::RabbitMq), basic_return, Vec::new()).await;
    let (url, prefix) = (format!("amqp://{}", counting.addr), prefix());
    let mut publisher = Publisher::connect(&url, topology(&prefix), 10).await.unwrap();
    let message = Message {
        exchange: "".into(),
        routing_key: format!("{prefix}.nobody").into(),
        mandatory: true,
        properties: BasicProperties::default(),
        payload: Vec::new(),
    };
    publisher.publish(message).await.unwrap();
    let error = timeout(LONG, publisher.flush()).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unroutable(_)), "{error}");
    assert_eq!(returned.load(Ordering::Relaxed), 1 + 10, "it declares everything again ten times");
}

/// Calls beyond a client's limit wait, so the servers never see more than the limit at a
/// time.
#[apply(broker_test!)]
async fn calls_in_flight_are_bounded() {
    let in_flight = limits::MAX_IN_FLIGHT;
    let calls = |client: Client| {
        let call = move |_| {
            let client = client.clone();
            tokio::spawn(async move { client.record(&readings("oslo-1", 1)).await })
        };
        (0..in_flight + 50).map(call).collect::<Vec<_>>()
    };

    // This server never replies. The test publishes a mark after the requests.
    let (rabbitmq_url, prefix) = (url(Kind::RabbitMq), prefix());
    let connection = Connection::connect(&rabbitmq_url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = topology(&prefix).requests();
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    channel.queue_declare(queue.as_str().into(), options, FieldTable::default()).await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let consumed = channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
    let mut requests = consumed.await.unwrap();
    let calls_made = calls(connect(Kind::RabbitMq, &rabbitmq_url, &prefix, LONG).await);
    for _ in 0..in_flight {
        timeout(LONG, requests.next()).await.unwrap().unwrap().unwrap();
    }
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), queue.into(), options, b"mark", properties).await.unwrap();
    let next = timeout(LONG, requests.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(next.data, b"mark", "one more than the limit was in flight");
    calls_made.iter().for_each(tokio::task::JoinHandle::abort);
    times_out(connect(Kind::RabbitMq, &rabbitmq_url, &prefix, Duration::from_millis(200)).await).await;

    let redis_url = url(Kind::Redis);
    let redis = redis::Client::open(redis_url.as_str()).unwrap();
    let mut listener = redis.get_async_pubsub().await.unwrap();
    let channel = keys(&prefix).requests();
    listener.subscribe(&channel).await.unwrap();
    let mut requests = listener.on_message();
    let calls_made = calls(connect(Kind::Redis, &redis_url, &prefix, LONG).await);
    for _ in 0..in_flight {
        timeout(LONG, requests.next()).await.unwrap().unwrap();
    }
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("PUBLISH").arg(&channel).arg("mark").exec_async(&mut connection).await.unwrap();
    let next = timeout(LONG, requests.next()).await.unwrap().unwrap();
    assert_eq!(next.get_payload_bytes(), b"mark", "one more than the limit was in flight");
    calls_made.iter().for_each(tokio::task::JoinHandle::abort);
    times_out(connect(Kind::Redis, &redis_url, &prefix, Duration::from_millis(200)).await).await;
}

/// Checks that a call times out if the server takes the request but never replies.
async fn times_out(client: Client) {
    let called = timeout(Duration::from_secs(10), client.record(&readings("oslo-1", 1))).await;
    assert!(matches!(called, Ok(Err(Error::TimedOut))), "{called:?}");
}

/// A stalled server drops the requests beyond its limit.
#[apply(broker_test!)]
async fn a_redis_server_drops_requests_beyond_its_bound() {
    let (url, prefix) = (url(Kind::Redis), prefix());
    let ours = ["--broker", "redis", "--url", &url, "--prefix", &prefix];
    let mut server = Program::start(PAIR.server, &ours);
    server.shows("connected to", 1).await;
    server.signal(Signal::SIGSTOP);
    let redis = redis::Client::open(url.as_str()).unwrap();
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    let request = format!(r#"{{"id":1,"reply_to":"{prefix}:reply:x","readings":[]}}"#);
    for _ in 0..10 {
        let mut pipeline = redis::pipe();
        for _ in 0..5_000 {
            pipeline.cmd("PUBLISH").arg(keys(&prefix).requests()).arg(&request).ignore();
        }
        pipeline.exec_async(&mut connection).await.unwrap();
    }
    server.signal(Signal::SIGCONT);
    server.shows("requests dropped: more than 4096 were waiting", 1).await;
    // The server may drop the first of these requests, too.
    let client = connect(Kind::Redis, &url, &prefix, Duration::from_secs(1)).await;
    eventually("the server goes on", async || client.record(&readings("oslo-1", 1)).await.is_ok()).await;
    server.stop().await;
}

/// The network is silent, but no connection is closed. A subscriber's heartbeat notices that, and
/// a server that has to stop does not wait for the broker.
#[apply(broker_test!)]
#[long]
async fn a_silent_broker_blocks_neither_subscriber_nor_server() {
    join_all(BOTH.map(async |kind| {
        let (direct, prefix) = (url(kind), prefix());
        let proxy = Proxy::before(&direct).await;
        let through = match kind {
            Kind::RabbitMq => format!("amqp://127.0.0.1:{}", proxy.port),
            Kind::Redis => format!("redis://127.0.0.1:{}", proxy.port),
        };
        let ours = ["--broker", name(kind), "--url", &through, "--prefix", &prefix];
        let mut subscriber = Program::start(CONSUMER, &[&ours[..], &["subscribe"]].concat());
        subscriber.shows("subscribed to", 1).await;
        // The server's heartbeat is slow on purpose, so that it can't end the wait.
        let slow = if kind == Kind::RabbitMq { format!("{through}/%2f?heartbeat=60") } else { through };
        let ours = ["--broker", name(kind), "--url", &slow, "--prefix", &prefix];
        let mut server = Program::start(PAIR.server, &ours);
        server.shows("connected to", 1).await;
        proxy.set(Mode::Silent);
        let began = Instant::now();
        server.stop().await;
        assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
        subscriber.shows("connection lost: ", 1).await;
        proxy.set(Mode::Open);
        subscriber.shows("connected again", 1).await;
        subscriber.stop().await;
    }))
    .await;
}

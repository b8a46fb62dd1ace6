//! Publish/subscribe, and the messages that it loses.

use std::collections::BTreeSet;
use tests::apply;

use futures::StreamExt;
use futures::stream::BoxStream;
use message_queue::brokers::Kind;
use message_queue::error::Error;
use message_queue::limits;
use message_queue::model::{Metric, Reading};
use message_queue::publish_subscribe::Event;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::publish_subscribe as rabbitmq;
use message_queue::redis::publish_subscribe as redis;
use tokio::time::timeout;

use crate::support::{LONG, Mode, Proxy, broker_test, eventually, keys, prefix, topology, url};

fn reading(station: &str, metric: Metric, second: u64) -> Reading {
    let value = if metric == Metric::Pressure { 1000.0 } else { 3.0 };
    Reading { station: station.to_owned(), metric, value, recorded_at: second }
}

/// Four stations have four metrics each. Each pattern must deliver exactly the readings that this
/// test expects for it.
#[apply(broker_test!)]
async fn patterns_deliver_exactly_what_matches() {
    let stations = ["oslo-1", "oslo-2", "oslo", "bergen-1"];
    let all: Vec<Reading> =
        stations.iter().flat_map(|station| Metric::ALL.map(|metric| reading(station, metric, 1))).collect();
    let key = |reading: &Reading| format!("{}.{}", reading.station, reading.metric.name());
    let matching = |holds: &dyn Fn(&Reading) -> bool| -> BTreeSet<String> {
        all.iter().filter(|reading| holds(reading)).map(key).collect()
    };
    // This reading ends every series, and every list of patterns below matches it.
    let last = |station: &str| reading(station, Metric::Wind, 99);

    // RabbitMQ: patterns, and the readings that they should deliver.
    let (rabbitmq_url, prefix) = (url(Kind::RabbitMq), prefix());
    let cases: [(&[&str], BTreeSet<String>); 6] = [
        (&["readings.#"], matching(&|_| true)),
        (&["readings.*.wind"], matching(&|r| r.metric == Metric::Wind)),
        (&["readings.oslo-1.*", "readings.end.*"], matching(&|r| r.station == "oslo-1")),
        (&["#.wind"], matching(&|r| r.metric == Metric::Wind)),
        // Two matching patterns cause one delivery, and a pattern matches only whole words.
        (&["readings.oslo.wind", "readings.oslo.*", "readings.end.#"], matching(&|r| r.station == "oslo")),
        (&["readings.osl*.wind", "readings.*", "readings.end.wind"], BTreeSet::new()),
    ];
    let mut subscriptions = Vec::new();
    for (patterns, _) in &cases {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        subscriptions.push(rabbitmq::subscribe(&rabbitmq_url, topology(&prefix), &patterns).await.unwrap());
    }
    let mut publisher = Publisher::connect(&rabbitmq_url, topology(&prefix), 10).await.unwrap();
    for reading in all.iter().chain([&last("end")]) {
        publisher.publish(rabbitmq::message(&topology(&prefix), reading).unwrap()).await.unwrap();
    }
    publisher.flush().await.unwrap();
    for ((patterns, expected), subscription) in cases.iter().zip(&mut subscriptions) {
        let mut got = Vec::new();
        loop {
            let event = timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap();
            let Event::Reading { topic, reading } = event else { panic!("{event:?}") };
            assert_eq!(topic, format!("readings.{}", key(&reading)));
            if reading.recorded_at == 99 {
                break;
            }
            got.push(key(&reading));
        }
        assert_eq!(got.len(), expected.len(), "{patterns:?} delivered a reading twice, or lost one: {got:?}");
        assert_eq!(&got.into_iter().collect::<BTreeSet<_>>(), expected, "{patterns:?}");
    }

    // Redis: globs over `<station>:<metric>`, which may also match part of a word.
    let (redis_url, keys) = (url(Kind::Redis), keys(&prefix));
    let cases: [(&[&str], BTreeSet<String>); 5] = [
        (&["*"], matching(&|_| true)),
        (&["*:wind"], matching(&|r| r.metric == Metric::Wind)),
        (&["oslo-?:*", "end:*"], matching(&|r| r.station.starts_with("oslo-"))),
        (&["oslo:wind", "end:wind"], matching(&|r| r.station == "oslo" && r.metric == Metric::Wind)),
        (&["oslo-[13]:*", "end:wind"], matching(&|r| r.station == "oslo-1")),
    ];
    let mut publisher = redis::Publisher::connect(&redis_url, keys.clone()).await.unwrap();
    let mut subscriptions = Vec::new();
    for (patterns, _) in &cases {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        subscriptions.push(redis::subscribe(&redis_url, &keys, &patterns).await.unwrap());
    }
    publisher.publish(&all).await.unwrap();
    assert_eq!(publisher.publish(&[last("end")]).await.unwrap(), [5], "the last reading must reach all five");
    for ((patterns, expected), subscription) in cases.iter().zip(&mut subscriptions) {
        let mut got = Vec::new();
        loop {
            let event = timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap();
            let Event::Reading { topic, reading } = event else { panic!("{event:?}") };
            assert_eq!(topic, keys.readings(&key(&reading).replace('.', ":")));
            if reading.recorded_at == 99 {
                break;
            }
            got.push(key(&reading));
        }
        assert_eq!(got.len(), expected.len(), "{patterns:?}: {got:?}");
        assert_eq!(&got.into_iter().collect::<BTreeSet<_>>(), expected, "{patterns:?}");
    }
}

/// The README's experiment.
#[apply(broker_test!)]
#[alone]
async fn redis_forgets_messages_without_subscribers() {
    let (url, keys) = (url(Kind::Redis), keys(&prefix()));
    let mut publisher = redis::Publisher::connect(&url, keys.clone()).await.unwrap();
    let number = |second| [reading("oslo-1", Metric::Wind, second)];

    // There is no subscriber.
    assert_eq!(publisher.publish(&number(1)).await.unwrap(), [0]);
    let proxy = Proxy::before(&url).await;
    let through_proxy = format!("redis://127.0.0.1:{}", proxy.port);
    let mut subscription = redis::subscribe(&through_proxy, &keys, &["*:wind".to_owned()]).await.unwrap();
    assert_eq!(publisher.publish(&number(2)).await.unwrap(), [1]);
    let received = async |subscription: &mut BoxStream<'static, Result<Event, Error>>| {
        timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap()
    };
    let expected = |second| {
        let [reading] = number(second);
        Event::Reading { topic: keys.readings("oslo-1:wind"), reading }
    };
    assert_eq!(received(&mut subscription).await, expected(2));

    // The subscriber is away for a moment.
    proxy.set(Mode::Cut);
    assert!(matches!(received(&mut subscription).await, Event::Disconnected { .. }));
    eventually("Redis has noticed", async || publisher.publish(&number(3)).await.unwrap() == [0]).await;
    proxy.set(Mode::Open);
    assert_eq!(received(&mut subscription).await, Event::Reconnected);
    // Reading 4 reaches the subscriber again; reading 3 never does.
    eventually("subscribed again", async || publisher.publish(&number(4)).await.unwrap() == [1]).await;
    assert_eq!(received(&mut subscription).await, expected(4));
}

#[apply(broker_test!)]
async fn a_slow_subscriber_learns_how_much_it_missed() {
    let (url, keys) = (url(Kind::Redis), keys(&prefix()));
    let mut subscription = redis::subscribe(&url, &keys, &["oslo-1:wind".to_owned()]).await.unwrap();
    let mut publisher = redis::Publisher::connect(&url, keys.clone()).await.unwrap();
    // Far more than the bound, so that the readings still on their way don't matter.
    let count = 10 * limits::redis::MAX_BACKLOG as u64;
    let readings: Vec<Reading> = (1..=count).map(|second| reading("oslo-1", Metric::Wind, second)).collect();
    assert!(publisher.publish(&readings).await.unwrap().iter().all(|heard| *heard == 1));
    let (mut got, mut missed, mut marks) = (0, 0, 0);
    // The subscriber reports drops with the next reading, so publish marks until all are counted.
    while got + missed < count + marks {
        match timeout(std::time::Duration::from_millis(200), subscription.next()).await {
            Ok(Some(Ok(Event::Reading { .. }))) => got += 1,
            Ok(Some(Ok(Event::Missed(number)))) => missed += number,
            Ok(other) => panic!("{other:?}"),
            Err(_) => {
                assert_eq!(publisher.publish(&readings[..1]).await.unwrap(), [1]);
                marks += 1;
                assert!(marks < 50, "{got} and {missed} of {count}");
            }
        }
    }
    assert_eq!(got + missed, count + marks);
    assert!(missed > 0, "the queue was not bounded");
}

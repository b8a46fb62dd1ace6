//! Tests of the README's exercises. They are ignored until a reader asks for them, and fail until
//! the exercise is solved.

use futures::StreamExt;
use futures::future::join_all;
use lab::wire::decode::Format;
use message_queue::brokers::Kind;
use message_queue::limits::MAX_STATIONS;
use tests::exercises::root;
use tests::practice::{assert_predicted, environment};
use tests::recorder::Recorder;
use tests::{apply, run_program};
use tokio::time::timeout;

use crate::request_reply::{connect, readings, serve};
use crate::support::{CONSUMER, Folder, LONG, PRODUCER, Program, broker_test, eventually, keys, prefix, url};
use crate::work_queue::queue_length;

/// Publishes a wind reading, which a subscriber shows as [`line`].
async fn publish(url: &str, prefix: &str, station: &str, value: u32) {
    let args = ["--url", url, "--prefix", prefix, "publish", station, "wind", &value.to_string()];
    let output = run_program(PRODUCER, &args).await;
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""));
}

fn line(value: u32) -> String {
    format!("readings.oslo-1.wind {value}")
}

#[apply(broker_test!)]
#[exercise]
async fn exercise_a_named_subscription_outlives_its_subscriber() {
    let help = run_program(CONSUMER, &["subscribe", "--queue", "storms", "--help"]).await;
    assert!(help.code == Some(0), "`consumer subscribe` has no option --queue yet:\n{}", help.stderr);

    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let subscriber = async || {
        let args = ["--url", &url, "--prefix", &prefix, "subscribe", "--queue", "storms", "readings.*.wind"];
        let mut subscriber = Program::start(CONSUMER, &args);
        subscriber.shows("subscribed to", 1).await;
        subscriber
    };
    // Readings published while the subscriber is away wait for it.
    subscriber().await.stop().await;
    for value in 1..=3 {
        publish(&url, &prefix, "oslo-1", value).await;
    }
    let mut first = subscriber().await;
    publish(&url, &prefix, "oslo-1", 4).await;
    first.shows(&line(4), 1).await;
    for value in 1..=3 {
        let lost = "was published while the subscriber was away, and is lost: its queue disappeared with it";
        assert!(first.count(&line(value)) == 1, "{:?} {lost}", line(value));
    }

    // A second subscriber with this name shares the queue instead of having its own.
    let mut second = subscriber().await;
    for value in 101..=120 {
        publish(&url, &prefix, "oslo-1", value).await;
    }
    // A queue keeps its order: a subscriber that has shown one of these has shown its share.
    eventually("both have shown one of the last", async || {
        publish(&url, &prefix, "end", 1).await;
        first.count("readings.end.wind") * second.count("readings.end.wind") > 0
    })
    .await;
    for value in 101..=120 {
        let times = first.count(&line(value)) + second.count(&line(value));
        assert!(times == 1, "{:?} was shown {times} times by two subscribers of one queue", line(value));
    }
    first.stop().await;
    second.stop().await;
}

#[apply(broker_test!)]
#[exercise]
async fn exercise_redis_servers_share_the_requests() {
    let (url, prefix) = (url(Kind::Redis), prefix());
    let servers = [serve(Kind::Redis, &url, &prefix).await, serve(Kind::Redis, &url, &prefix).await];
    // A listener on all channels for replies sees how often each request has run.
    let redis = ::redis::Client::open(url.as_str()).unwrap();
    let mut listener = redis.get_async_pubsub().await.unwrap();
    listener.psubscribe(format!("{}*", keys(&prefix).replies())).await.unwrap();

    // Each request adds a station, and there is one more of them than a single server keeps.
    let client = connect(Kind::Redis, &url, &prefix, LONG).await;
    let requests = MAX_STATIONS + 1;
    let calls = (0..requests).map(|number| {
        let client = client.clone();
        async move { client.record(&readings(&format!("s-{number}"), 1)).await }
    });
    let results = join_all(calls).await;
    for server in servers {
        server.stop().await; // It has replied to all requests that it had taken.
    }

    let end = format!("{}end", keys(&prefix).replies());
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    ::redis::cmd("PUBLISH").arg(&end).arg("").exec_async(&mut connection).await.unwrap();
    let mut replies = 0;
    let mut messages = listener.on_message();
    while timeout(LONG, messages.next()).await.unwrap().unwrap().get_channel_name() != end {
        replies += 1;
    }
    assert!(replies == requests, "{requests} requests ran {replies} times: each still goes to every server");
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "one server got all requests, so it became full: {failed:?}");
}

#[apply(broker_test!)]
#[exercise]
#[needs(environment("message_queue"))]
async fn exercise_a_worker_that_dies_loses_no_job() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let recorder = Recorder::start(Format::Redis, url.rsplit('/').next().unwrap());
    let addr = format!("redis://{}", recorder.addr());
    let work = async |count: &str| {
        let script = root().join("tests/exercises/message_queue/worker.py");
        let python = root().join("message_queue/python/.venv/bin/python");
        let args = ["-B", script.to_str().unwrap(), &addr, &prefix, folder.path(), count];
        run_program(python.to_str().unwrap(), &args).await.code
    };
    let redis = ::redis::Client::open(url.as_str()).unwrap();
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    let mut add = async |job: &str| {
        let mut add = ::redis::cmd("XADD");
        add.arg(keys(&prefix).jobs()).arg("*").arg("job").arg(job);
        add.exec_async(&mut connection).await.unwrap();
    };
    for job in [r#"{"id":"a","readings":[]}"#, r#"{"id":"b","readings":[]}"#] {
        add(job).await;
    }
    assert_eq!(work("2").await, Some(0));
    assert_eq!(queue_length(Kind::Redis, &url, &prefix).await, 0, "jobs that are done should be deleted");
    for job in [r#"{"id":"c","readings":[]}"#, "nonsense", r#"{"id":"d","readings":[]}"#] {
        add(job).await;
    }
    assert_eq!(work("3").await, Some(1), "the worker should die of a job that is nonsense");
    let left = queue_length(Kind::Redis, &url, &prefix).await as usize;
    let done = folder.done();
    assert!(done.contains("c"), "the job before the bad one should be done: {done:?}");
    assert_eq!((done.len(), left), (3, 2), "jobs that are done, and jobs that are still in the stream");
}

#[apply(broker_test!)]
#[exercise]
async fn exercise_what_becomes_of_messages_is_predicted() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let args = ["--broker", "redis", "--url", &url, "--prefix", &prefix];
    let publish = [&args[..], &["publish", "oslo-1", "wind", "1"]].concat();
    let published = run_program(PRODUCER, &publish).await.stdout;
    let reached = published.trim().rsplit(' ').next().unwrap().to_owned();

    let produce = ["--batch", "mine", "--count", "3"];
    let mut stopped = Vec::new();
    for _ in 0..2 {
        Program::producer(Kind::Redis, &url, &prefix, &produce).success().await;
        let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &[]);
        worker.shows("mine-", 3).await;
        stopped.push(worker.stop().await);
    }
    let count = |what: &str| {
        let before = stopped[1].split_once(what).unwrap().0.trim();
        before.rsplit(' ').next().unwrap().to_owned()
    };
    let (done, duplicates) = (count(" done, "), count(" duplicates"));

    let servers = [serve(Kind::Redis, &url, &prefix).await, serve(Kind::Redis, &url, &prefix).await];
    let redis = ::redis::Client::open(url.as_str()).unwrap();
    let mut listener = redis.get_async_pubsub().await.unwrap();
    listener.psubscribe(format!("{}*", keys(&prefix).replies())).await.unwrap();
    connect(Kind::Redis, &url, &prefix, LONG).await.record(&readings("oslo-1", 1)).await.unwrap();
    for server in servers {
        server.stop().await; // It has replied to all requests that it had taken.
    }
    let mut connection = redis.get_multiplexed_async_connection().await.unwrap();
    let end = format!("{}end", keys(&prefix).replies());
    ::redis::cmd("PUBLISH").arg(&end).arg("").exec_async(&mut connection).await.unwrap();
    let (mut executed, mut messages) = (0, listener.on_message());
    while timeout(LONG, messages.next()).await.unwrap().unwrap().get_channel_name() != end {
        executed += 1;
    }
    assert_predicted("message_queue/what_becomes.txt", &[reached, done, duplicates, executed.to_string()]);
}

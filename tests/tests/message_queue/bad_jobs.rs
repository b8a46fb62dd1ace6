//! Messages that are not jobs, and jobs that fail for good.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use message_queue::brokers::Kind;
use message_queue::limits;
use message_queue::limits::MAX_JOB;
use message_queue::limits::redis::MAX_LENGTH;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker as rabbitmq;
use redis::aio::MultiplexedConnection;
use tests::{apply, run_program, test};
use tokio_util::sync::CancellationToken;

use crate::support::{
    CONSUMER, Folder, Program, broker_test, eventually, keys, prefix, rabbitmq_worker, topology, url,
};
use crate::work_queue::queue_length;
use crate::workers::connect_redis;

/// If a field is wrong, the error names it.
#[apply(test!)]
async fn a_malformed_job_is_refused_and_the_wrong_field_is_named() {
    let folder = Folder::new();
    let results = folder.results();
    let reading = r#"{"station":"a","metric":"wind","value":1,"recorded_at":86400000}"#;
    let with = |reading: &str| format!(r#"{{"id":"j","station":"a","day":1,"readings":[{reading}]}}"#);
    let changed = |from: &str, to: &str| with(&reading.replace(from, to));
    let many = vec![reading; 10_001].join(",");
    let table = [
        (format!(r#"["j","a",1,[{reading}]]"#), "not a job: invalid type: sequence, expected an object"),
        ("null".into(), "not a job: invalid type: null, expected an object"),
        (format!("{} x", with(reading)), "not a job: trailing characters"),
        (" ".repeat(MAX_JOB), "not a job: EOF while parsing a value"),
        (" ".repeat(MAX_JOB + 1), "not a job: longer than 2097152 bytes"),
        (
            with(r#"["a","wind",1,86400000]"#),
            "not a job: readings[0]: invalid type: sequence, expected an object",
        ),
        (changed("station", "stations"), "not a job: readings[0].stations: unknown field `stations`"),
        (
            changed(":1,", r#":"hot","#),
            r#"not a job: readings[0].value: invalid type: string "hot", expected f64"#,
        ),
        (changed(":1,", ":1e400,"), "not a job: readings[0].value: number out of range"),
        (changed("wind", "rain"), "not a job: readings[0].metric: unknown variant `rain`"),
        (
            changed("86400000", "86400000.5"),
            "not a job: readings[0].recorded_at: invalid value: floating point",
        ),
        (
            changed("86400000", "-1"),
            "not a job: readings[0].recorded_at: invalid value: integer `-1`, expected 0",
        ),
        (with(reading).replace(r#""day":1"#, r#""day":"1""#), "not a job: day: invalid type: string"),
        (with(reading).replace(r#""day""#, r#""date""#), "not a job: date: unknown field `date`"),
        (with(reading).replace(r#""j""#, r#""../j""#), "not a job: the id must be 1 to 64 characters"),
        (with(""), "a job holds 1 to 10000 readings, not 0"),
        (with(&many), "a job holds 1 to 10000 readings, not 10001"),
        (changed(":1,", ":121,"), "readings[0].value: 121 is outside 0 to 120"),
        (changed(r#""a""#, r#""A""#), "readings[0].station: "),
        (changed(r#""a""#, r#""b""#), "readings[0].station: the reading is from another station or day"),
        (changed("86400000", "86399999"), "readings[0].station: the reading is from another station or day"),
        (changed("86400000", "253402300800000"), "readings[0].recorded_at: 253402300800000 is outside"),
    ];
    for (job, expected) in table {
        let error = results.attempt(job.as_bytes()).unwrap().unwrap_err().to_string();
        let start: String = job.chars().take(200).collect();
        assert!(error.starts_with(expected), "{start}\n{error}");
    }
    assert!(folder.done().is_empty());
    // An error that quotes its job must still fit into a header.
    let long = format!(r#"{{"{}":1}}"#, "x".repeat(1_000_000));
    assert!(results.attempt(long.as_bytes()).unwrap().unwrap_err().to_string().len() < 500);
    // JSON Schema counts these as integers.
    for number in ["86400000.0", "864e5"] {
        let job = changed("86400000", number).replace(r#""day":1"#, r#""day":1.0"#);
        results.attempt(job.as_bytes()).unwrap().unwrap();
    }
}

/// A bad job becomes a dead letter, whatever properties its message has.
#[apply(broker_test!)]
async fn messages_with_odd_properties_become_dead_letters() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let delays = vec![Duration::from_millis(1), Duration::from_millis(2)];
    let topology = Topology { delays, ..topology(&prefix) };
    let worker = rabbitmq_worker(&topology, &folder);
    let (lines, stop) = (Arc::new(Mutex::new(Vec::new())), CancellationToken::new());
    let (seen, stopped) = (lines.clone(), stop.clone());
    let working = tokio::spawn(async move {
        let report = |attempt: &_| {
            seen.lock().unwrap().push(format!("{attempt}"));
            Ok(())
        };
        worker.run(&stopped, || {}, report).await
    });
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    // The queue that the worker declares last.
    let last = topology.retry(Duration::from_millis(2));
    eventually("the queues are there", async || {
        let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let channel = connection.create_channel().await.unwrap();
        channel.queue_declare(last.as_str().into(), options, FieldTable::default()).await.is_ok()
    })
    .await;
    let plain = BasicProperties::default;
    let attempt = |value| {
        let mut headers = FieldTable::default();
        headers.insert("x-attempt".into(), value);
        plain().with_headers(headers)
    };
    let messages = [
        plain().with_message_id("1".into()),
        plain().with_expiration("2000".into()),
        plain().with_user_id("guest".into()),
        attempt(AMQPValue::LongUInt(0)),
        attempt(AMQPValue::LongUInt(u32::MAX)),
        attempt(AMQPValue::LongString("first".into())),
    ];
    let count = messages.len();
    for properties in messages {
        let queue: ShortString = topology.jobs().into();
        let text = format!(r#"{{"{}":1}}"#, "x".repeat(200_000));
        let options = BasicPublishOptions::default();
        channel.basic_publish("".into(), queue, options, text.as_bytes(), properties).await.unwrap();
    }
    let dead =
        || lines.lock().unwrap().iter().filter(|line| line.contains("moved to the dead letters")).count();
    eventually("all are dead letters", async || dead() == count).await;
    stop.cancel();
    working.await.unwrap().unwrap();
    // Wait until the expiration of one of the messages has passed.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut letters = Vec::new();
    let listed = rabbitmq::dead_letters(&url, &topology, false, |letter| {
        letters.push(letter.clone());
        Ok(())
    });
    assert_eq!(listed.await.unwrap(), count);
    assert!(letters.iter().all(|letter| letter.attempts == 3 && letter.error.contains("unknown field")));
}

/// The number of dead letters is bounded: at the limit, a failed job stays in the queue.
#[apply(broker_test!)]
async fn a_failed_job_stays_if_there_are_too_many_dead_letters() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let poison = ["--count", "0", "--poison", "1", "--batch", "late"];
    Program::producer(Kind::Redis, &url, &prefix, &poison).success().await;
    let (jobs, dead) = (keys(&prefix).jobs(), keys(&prefix).dead_letters());
    let mut redis = connect_redis().await;
    fill(&mut redis, &dead, limits::redis::MAX_DEAD_LETTERS).await;
    // Two tries of the job have failed.
    let mut take = redis::cmd("XREADGROUP");
    take.arg("GROUP").arg("workers").arg("w").arg("STREAMS").arg(&jobs).arg(">");
    let taken: redis::streams::StreamReadReply = take.query_async(&mut redis).await.unwrap();
    let mut failed = redis::cmd("XCLAIM");
    failed.arg(&jobs).arg("workers").arg("w").arg(0).arg(&taken.keys[0].ids[0].id);
    failed.arg("IDLE").arg(60_000).arg("RETRYCOUNT").arg(2).arg("JUSTID");
    failed.exec_async(&mut redis).await.unwrap();
    let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &["--claim-after", "5000"]);
    worker.shows(&format!("{dead} is full; the job stays where it is"), 1).await;
    let printed = worker.stop().await;
    let stays = "; it stays in the queue, since the dead letters are full\n";
    assert!(printed.contains(stays) && !printed.contains("moved to the dead letters"), "{printed}");
    assert_eq!(queue_length(Kind::Redis, &url, &prefix).await, 1);

    // A redrive must find room in the work queue, too.
    fill(&mut redis, &jobs, MAX_LENGTH).await;
    let ours = ["--broker", "redis", "--url", &url, "--prefix", &prefix, "dead-letters", "--redrive"];
    let output = run_program(CONSUMER, &ours).await;
    assert!(output.stdout.ends_with("\n0 put back into the work queue\n"), "{}", output.stdout);
    assert!(
        output.stderr.contains(" is full; the other dead letters stay where they are"),
        "{}",
        output.stderr
    );
    redis::cmd("DEL").arg(&jobs).arg(&dead).exec_async(&mut redis).await.unwrap();
}

/// Adds this many entries to a stream, ten thousand at a time.
async fn fill(redis: &mut MultiplexedConnection, stream: &str, count: usize) {
    let add = "for i = 1, 10000 do redis.call('XADD', KEYS[1], '*', 'job', 'j') end";
    for _ in 0..count / 10_000 {
        redis::cmd("EVAL").arg(add).arg(1).arg(stream).exec_async(redis).await.unwrap();
    }
}

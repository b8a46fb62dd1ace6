//! Workers in trouble: machine faults, names, slow work, and messages that are not jobs.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use message_queue::brokers::Kind;
use message_queue::error::Error;
use message_queue::job::Job;
use message_queue::job::Outcome;
use message_queue::limits;
use message_queue::limits::MAX_JOB;
use message_queue::limits::rabbitmq::DELIVERY_LIMIT;
use message_queue::limits::rabbitmq::MAX_WAIT;
use message_queue::limits::redis::MAX_LENGTH;
use message_queue::rabbitmq::deliveries::Deliveries;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker as rabbitmq;
use message_queue::redis::worker as streams;
use message_queue::results::Results;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamInfoConsumersReply, StreamPendingReply};
use tests::signal::Signal;
use tests::{apply, run_program, test};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{
    BOTH, CONSUMER, Folder, LONG, Program, broker_test, eventually, keys, name, prefix, shared, topology, url,
};
use crate::work_queue::queue_length;

/// A worker in this process. `report` gets each line that the program would print.
async fn work(
    kind: Kind,
    prefix: &str,
    results: Results,
    stop: &CancellationToken,
    mut report: impl FnMut(String),
) -> Result<(), Error> {
    let (url, work_time) = (url(kind), Duration::ZERO);
    let report = |attempt: &_| {
        report(format!("{attempt}"));
        Ok(())
    };
    match kind {
        Kind::RabbitMq => {
            let (topology, prefetch) = (topology(prefix), limits::rabbitmq::PREFETCH);
            let max_wait = MAX_WAIT;
            let worker = rabbitmq::Worker { url, topology, prefetch, max_wait, results, work_time };
            worker.run(stop, || {}, report).await
        }
        Kind::Redis => {
            let worker = streams::Worker {
                url,
                keys: keys(prefix),
                name: streams::random_name().unwrap(),
                claim_after: Duration::from_secs(3600),
                remove_idle_after: limits::redis::REMOVE_IDLE_AFTER,
                results,
                work_time,
            };
            worker.run(stop, || {}, report).await
        }
    }
}

async fn produce(kind: Kind, prefix: &str, batch: &str, count: u64) {
    let jobs = ["--batch", batch, "--count", &count.to_string()];
    Program::producer(kind, &url(kind), prefix, &jobs).success().await;
}

/// Panics unless one good worker now does all the jobs of a batch, at the first try.
async fn others_do(kind: Kind, prefix: &str, batch: &str, count: u64) {
    let folder = Folder::new();
    let mut worker = Program::worker(kind, &url(kind), prefix, &folder, &["--claim-after", "3600000"]);
    worker.shows(" done: station-", count as usize).await;
    let printed = worker.stop().await;
    assert!(printed.contains(&format!("stopped: {count} done, 0 duplicates, 0 failed")), "{printed}");
    folder.assert_done(batch, count);
    let ours = ["--broker", name(kind), "--url", &url(kind), "--prefix", prefix, "dead-letters"];
    assert_eq!(run_program(CONSUMER, &ours).await.stdout, "0 in all\n");
}

async fn connect_redis() -> MultiplexedConnection {
    let client = redis::Client::open(url(Kind::Redis)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// One fault is repeated more often than a job may be delivered: if each start took the jobs,
/// they would become dead letters.
#[apply(broker_test!)]
async fn a_worker_that_cannot_write_takes_no_job() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        produce(kind, &prefix, "kept", 3).await;
        let file = folder.0.join("file");
        fs::write(&file, "").unwrap();
        let consumer = |results: &Path| {
            let results = results.to_str().unwrap();
            format!(
                "exec {CONSUMER} --broker {} --url {url} --prefix {prefix} --results {results}",
                name(kind)
            )
        };
        let faults = [
            ("the folder is a file", consumer(&file), 1),
            ("its parent is a file", consumer(&file.join("results")), 1),
            ("files may not grow", format!("ulimit -f 0; {}", consumer(&folder.0)), DELIVERY_LIMIT + 1),
            ("the name of its lock is taken", consumer(&folder.0.join("locked")), 1),
        ];
        fs::create_dir_all(folder.0.join("locked/.lock")).unwrap();
        for (fault, command, times) in faults {
            for _ in 0..times {
                let output = run_program("sh", &["-c", &command]).await;
                assert_eq!(
                    (output.code, output.stdout.as_str()),
                    (Some(1), ""),
                    "{fault}: {}",
                    output.stderr
                );
                assert!(output.stderr.starts_with("error: cannot keep results in "), "{}", output.stderr);
                assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
            }
        }
        others_do(kind, &prefix, "kept", 3).await;
    }
}

/// In each round, a worker takes the jobs, meets the fault, and gives them back.
#[apply(broker_test!)]
async fn a_fault_of_the_machine_in_the_middle_of_the_work_blames_no_job() {
    for kind in BOTH {
        let prefix = prefix();
        produce(kind, &prefix, "blamed", 5).await;
        for round in 0..=DELIVERY_LIMIT {
            let folder = Folder::new();
            let results = folder.results();
            match round % 3 {
                // The folder is gone.
                0 => fs::remove_dir_all(&folder.0).unwrap(),
                // It is a file now.
                1 => {
                    fs::remove_dir_all(&folder.0).unwrap();
                    fs::write(&folder.0, "").unwrap();
                }
                // The names of the results are taken by folders.
                _ => {
                    let names = (1..=5).map(|number| folder.0.join(format!("blamed-{number}.json")));
                    names.for_each(|name| fs::create_dir(name).unwrap());
                }
            }
            let stop = CancellationToken::new();
            let working = work(kind, &prefix, results, &stop, |line| panic!("{line}"));
            let error = timeout(LONG, working).await.unwrap().unwrap_err();
            assert!(matches!(error, Error::Machine(_)), "{error}");
            let end = "; this worker stops, and its jobs go back to the queue";
            let text = error.to_string();
            assert!(text.starts_with("cannot keep results in ") && text.ends_with(end), "{text}");
            let _ = fs::remove_file(&folder.0);
        }
        others_do(kind, &prefix, "blamed", 5).await;
    }
}

/// The folder disappears between the attempt and the acknowledgement: its sync fails.
#[apply(broker_test!)]
async fn nothing_is_acknowledged_before_its_result_is_on_the_disk() {
    for kind in BOTH {
        let (prefix, folder, stop) = (prefix(), Folder::new(), CancellationToken::new());
        produce(kind, &prefix, "synced", 1).await;
        let report = |line: String| {
            assert!(line.starts_with("synced-1 done: "), "{line}");
            fs::remove_dir_all(&folder.0).unwrap();
            stop.cancel();
        };
        let ended = timeout(LONG, work(kind, &prefix, folder.results(), &stop, report)).await.unwrap();
        assert!(matches!(ended, Err(Error::Machine(_))), "{ended:?}");
        others_do(kind, &prefix, "synced", 1).await;
    }
    // The same for a duplicate: the worker that did the job may not have synced it yet.
    let folder = Folder::new();
    let job = serde_json::to_vec(&Job::example("j".into(), 1)).unwrap();
    folder.results().attempt(&job).unwrap().unwrap();
    let results = folder.results();
    assert_eq!(results.attempt(&job).unwrap().unwrap(), Outcome::AlreadyDone("j".into()));
    results.sync().unwrap();
    results.attempt(&job).unwrap().unwrap();
    fs::remove_file(folder.0.join("j.json")).unwrap();
    assert!(results.sync().is_err());
    assert!(results.sync().is_err(), "what could not be synced is forgotten");
}

#[apply(test!)]
async fn a_result_that_a_power_cut_has_damaged_is_written_again() {
    let job = serde_json::to_vec(&Job::example("j".into(), 1)).unwrap();
    let whole = serde_json::to_string(&Job::example("j".into(), 1).summary().unwrap()).unwrap();
    let folder = Folder::new();
    let path = folder.0.join("j.json");
    for damaged in ["", "\0\0\0\0", &whole[..whole.len() / 2], &"\0".repeat(whole.len())] {
        fs::write(&path, damaged).unwrap();
        let outcome = folder.results().attempt(&job).unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{damaged:?}");
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        assert!(matches!(folder.results().attempt(&job), Ok(Ok(Outcome::AlreadyDone(_)))));
    }
}

/// Another worker holds the lock: it has checked a result's name and not used it yet.
#[apply(test!)]
async fn an_attempt_waits_for_the_lock() {
    let (folder, summary) = (Folder::new(), Job::example("j".into(), 1).summary().unwrap());
    let results = folder.results();
    let lock = fs::File::open(folder.0.join(".lock")).unwrap();
    lock.lock().unwrap();
    let job = serde_json::to_vec(&Job::example("j".into(), 1)).unwrap();
    let attempt = std::thread::spawn(move || results.attempt(&job).unwrap().unwrap());
    let temporary = || fs::read_dir(&folder.0).unwrap().count() > 1;
    eventually("it waits, or has ended", async || temporary() || attempt.is_finished()).await;
    fs::write(folder.0.join("j.json"), serde_json::to_vec(&summary).unwrap()).unwrap();
    lock.unlock().unwrap();
    assert_eq!(attempt.join().unwrap(), Outcome::AlreadyDone("j".into()));
}

/// Messages that are not valid jobs. The error names the field, if there is one to name.
#[apply(test!)]
async fn a_job_of_another_shape_is_refused_and_the_field_is_named() {
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
        (with(reading).replace(r#""j""#, r#""../j""#), "not a job: the id is not of the form"),
        (with(""), "a job holds 1 to 10000 readings, not 0"),
        (with(&many), "a job holds 1 to 10000 readings, not 10001"),
        (changed(":1,", ":121,"), "readings[0].value: 121 is outside 0 to 120"),
        (changed(r#""a""#, r#""A""#), "readings[0].station: "),
        (changed(r#""a""#, r#""b""#), "readings[0].station: another station or day"),
        (changed("86400000", "86399999"), "readings[0].station: another station or day"),
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
    // In JSON Schema, these are integers.
    for number in ["86400000.0", "864e5"] {
        let job = changed("86400000", number).replace(r#""day":1"#, r#""day":1.0"#);
        results.attempt(job.as_bytes()).unwrap().unwrap();
    }
}

/// A bad job becomes a dead letter, whatever properties its message has.
#[apply(broker_test!)]
async fn messages_with_strange_properties_end_with_the_dead_letters() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let delays = vec![Duration::from_millis(1), Duration::from_millis(2)];
    let topology = Topology { delays, ..topology(&prefix) };
    let worker = rabbitmq::Worker {
        url: url.clone(),
        topology: topology.clone(),
        prefetch: limits::rabbitmq::PREFETCH,
        max_wait: MAX_WAIT,
        results: folder.results(),
        work_time: Duration::ZERO,
    };
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
    // The queue that is declared last.
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
        || lines.lock().unwrap().iter().filter(|line| line.contains("put with the dead letters")).count();
    eventually("all are dead letters", async || dead() == count).await;
    stop.cancel();
    working.await.unwrap().unwrap();
    // Longer than the expiration of one of the messages.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut letters = Vec::new();
    let listed = rabbitmq::dead_letters(&url, &topology, false, |letter| {
        letters.push(letter.clone());
        Ok(())
    });
    assert_eq!(listed.await.unwrap(), count);
    assert!(letters.iter().all(|letter| letter.attempts == 3 && letter.error.contains("unknown field")));
}

/// RabbitMQ closes the channel of a worker that holds a job for too long. It looks once a
/// minute unless configured otherwise.
#[apply(broker_test!)]
#[alone]
async fn no_job_waits_long_behind_slow_work() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let set = |name: &str, milliseconds: u32| {
        let set = format!("application:set_env(rabbit, {name}, {milliseconds}).");
        shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(&["eval", &set]).unwrap();
    };
    set("channel_tick_interval", 200);
    set("consumer_timeout", 2_000);
    produce(Kind::RabbitMq, &prefix, "slow", 16).await;
    let worker = rabbitmq::Worker {
        url: url.clone(),
        topology: topology(&prefix),
        prefetch: limits::rabbitmq::PREFETCH,
        max_wait: Duration::from_millis(500),
        results: folder.results(),
        work_time: Duration::from_millis(400),
    };
    let (stop, mut lines) = (CancellationToken::new(), Vec::new());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let report = |attempt: &_| {
        lines.push(format!("{attempt}"));
        let _ = tell.send(lines.len());
        if lines.len() == 16 {
            stop.cancel();
        }
        Ok(())
    };
    // After the first jobs it takes no more ahead than it can do in time.
    let queued = async {
        while let Some(done) = told.recv().await {
            if (4..=10).contains(&done) {
                let queued = queue_length(Kind::RabbitMq, &url, &prefix).await as usize;
                assert!(queued + done + 4 >= 16, "{done} are done, and only {queued} are queued");
            }
            if done == 16 {
                return;
            }
        }
    };
    let (ended, ()) = tokio::join!(timeout(LONG, worker.run(&stop, || {}, report)), queued);
    set("channel_tick_interval", 60_000);
    set("consumer_timeout", 1_800_000);
    ended.unwrap().unwrap();
    // If RabbitMQ had closed the channel, some job would be a duplicate.
    assert!(lines.iter().all(|line| line.contains(" done: station-")), "{lines:?}");
    folder.assert_done("slow", 16);
}

/// While a worker is busy with a long job, the other jobs that were sent to it go back to the
/// queue, and another worker does them.
#[apply(broker_test!)]
async fn jobs_do_not_wait_behind_a_long_one() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    produce(Kind::RabbitMq, &prefix, "behind", 20).await;
    let stuck = rabbitmq::Worker {
        url: url.clone(),
        topology: topology(&prefix),
        prefetch: 8,
        max_wait: Duration::from_millis(100),
        results: folder.results(),
        work_time: Duration::from_secs(3600),
    };
    let stop = CancellationToken::new();
    let stuck = tokio::spawn(async move { stuck.run(&stop, || {}, |_: &_| Ok(())).await });
    eventually("it has taken jobs", async || queue_length(Kind::RabbitMq, &url, &prefix).await < 20).await;
    eventually("all but one are back", async || queue_length(Kind::RabbitMq, &url, &prefix).await == 19)
        .await;
    let mut worker = Program::worker(Kind::RabbitMq, &url, &prefix, &folder, &[]);
    worker.shows(" done: station-", 19).await;
    stuck.abort();
    worker.shows(" done: station-", 20).await;
    assert!(worker.stop().await.contains("stopped: 20 done, 0 duplicates, 0 failed"));
    folder.assert_done("behind", 20);
}

/// A finished job is acknowledged although the next one takes long: it waits for the lock of
/// the results until then.
#[apply(broker_test!)]
async fn a_finished_job_does_not_wait_for_the_next_one() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        produce(kind, &prefix, "next", 2).await;
        let (results, stop) = (folder.results(), CancellationToken::new());
        let lock = fs::File::open(folder.0.join(".lock")).unwrap();
        let report = |line: String| {
            if line.starts_with("next-1 done") {
                lock.lock().unwrap();
            }
        };
        let acknowledged = async {
            eventually("one is acknowledged", async || held(kind, &url, &prefix).await == 1).await;
            lock.unlock().unwrap();
            stop.cancel();
        };
        let (ended, ()) = tokio::join!(work(kind, &prefix, results, &stop, report), acknowledged);
        ended.unwrap();
    }
}

/// An acknowledgement whose future is dropped is on its way all the same. It must neither
/// be repeated nor count as a lost connection.
#[apply(broker_test!)]
async fn an_acknowledgement_is_sent_once() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    produce(Kind::RabbitMq, &prefix, "once", 6).await;
    for after in ["the end", "another message", "another acknowledgement"] {
        let mut deliveries = Deliveries::open(&url, &topology(&prefix).jobs(), 1, 1).await.unwrap();
        let first = deliveries.next().await.unwrap();
        // Polled once: the acknowledgement is sent, and nobody waits for it.
        let _ = deliveries.done(first).now_or_never();
        if after != "the end" {
            let second = timeout(LONG, deliveries.next()).await.unwrap().unwrap();
            if after == "another acknowledgement" {
                deliveries.done(second).await.unwrap();
            }
        }
        deliveries.finish().await.unwrap_or_else(|error| panic!("{after}: {error}"));
    }
    // Four of the six are acknowledged.
    eventually("two are left", async || queue_length(Kind::RabbitMq, &url, &prefix).await == 2).await;
}

/// A worker gives its jobs back while the queue has no room for them.
#[apply(broker_test!)]
async fn jobs_go_back_into_a_full_queue_too() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let topology = Topology { max_length: 5, ..topology(&prefix) };
    let worker = |results| rabbitmq::Worker {
        url: url.clone(),
        topology: topology.clone(),
        prefetch: 5,
        max_wait: MAX_WAIT,
        results,
        work_time: Duration::from_secs(1),
    };
    // RabbitMQ notices that it is full after a window.
    let max = ["--batch", "full", "--count", "3000", "--max-length", "5"];
    let mut producer = Program::producer(Kind::RabbitMq, &url, &prefix, &max);
    producer.shows("is full: waiting for consumers", 1).await;
    let broken = worker(folder.results());
    fs::remove_dir_all(&folder.0).unwrap();
    let stop = CancellationToken::new();
    let ended = timeout(LONG, broken.run(&stop, || {}, |_| Ok(()))).await.unwrap();
    assert!(matches!(ended, Err(Error::Machine(_))), "{ended:?}");
    producer.kill().await;
    // Nothing is lost, and nobody is blamed.
    fs::create_dir_all(&folder.0).unwrap();
    let good = rabbitmq::Worker { work_time: Duration::ZERO, ..worker(folder.results()) };
    let all_are_done = || (1..=5).all(|number| folder.0.join(format!("full-{number}.json")).exists());
    let report = |_: &_| {
        if all_are_done() {
            stop.cancel();
        }
        Ok(())
    };
    timeout(LONG, good.run(&stop, || {}, report)).await.unwrap().unwrap();
}

/// Dead letters that nobody deals with don't fill the memory: the job stays in the queue.
#[apply(broker_test!)]
async fn a_failed_job_stays_when_there_are_too_many_dead_letters() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let poison = ["--count", "0", "--poison", "1", "--batch", "late"];
    Program::producer(Kind::Redis, &url, &prefix, &poison).success().await;
    let (jobs, dead) = (keys(&prefix).jobs(), keys(&prefix).dead_letters());
    let mut redis = connect_redis().await;
    fill(&mut redis, &dead, limits::redis::MAX_DEAD_LETTERS).await;
    // Two tries of it have failed.
    let mut take = redis::cmd("XREADGROUP");
    take.arg("GROUP").arg("workers").arg("w").arg("STREAMS").arg(&jobs).arg(">");
    let taken: redis::streams::StreamReadReply = take.query_async(&mut redis).await.unwrap();
    let mut failed = redis::cmd("XCLAIM");
    failed.arg(&jobs).arg("workers").arg("w").arg(0).arg(&taken.keys[0].ids[0].id);
    failed.arg("IDLE").arg(60_000).arg("RETRYCOUNT").arg(2).arg("JUSTID");
    failed.exec_async(&mut redis).await.unwrap();
    let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &["--claim-after", "5000"]);
    worker.shows(&format!("{dead} is full; the job stays where it is"), 1).await;
    worker.stop().await;
    assert_eq!(queue_length(Kind::Redis, &url, &prefix).await, 1);

    // The other way there must be room, too.
    fill(&mut redis, &jobs, MAX_LENGTH).await;
    let ours = ["--broker", "redis", "--url", &url, "--prefix", &prefix, "dead-letters", "--redrive"];
    let output = run_program(CONSUMER, &ours).await;
    assert!(output.stdout.ends_with("\n0 put back into the work queue\n"), "{}", output.stdout);
    assert!(output.stderr.contains(" is full; the rest stays"), "{}", output.stderr);
    redis::cmd("DEL").arg(&jobs).arg(&dead).exec_async(&mut redis).await.unwrap();
}

/// Adds so many entries to a stream, ten thousand at a time.
async fn fill(redis: &mut MultiplexedConnection, stream: &str, count: usize) {
    let add = "for i = 1, 10000 do redis.call('XADD', KEYS[1], '*', 'job', 'j') end";
    for _ in 0..count / 10_000 {
        redis::cmd("EVAL").arg(add).arg(1).arg(stream).exec_async(redis).await.unwrap();
    }
}

/// Returns the number of jobs that are not acknowledged, whether a worker has them or not.
async fn held(kind: Kind, url: &str, prefix: &str) -> u64 {
    match kind {
        Kind::Redis => u64::from(queue_length(kind, url, prefix).await),
        Kind::RabbitMq => {
            let args = ["-q", "list_queues", "name", "messages", "--no-table-headers"];
            let printed = shared(kind).lock().unwrap().rabbitmqctl(&args).unwrap();
            let queue = topology(prefix).jobs();
            let count = printed.lines().find_map(|line| line.strip_prefix(&format!("{queue}\t")));
            count.unwrap().trim().parse().unwrap()
        }
    }
}

async fn consumers(redis: &mut MultiplexedConnection, prefix: &str) -> Vec<(String, usize)> {
    let mut info = redis::cmd("XINFO");
    info.arg("CONSUMERS").arg(keys(prefix).jobs()).arg("workers");
    let info: StreamInfoConsumersReply = info.query_async(redis).await.unwrap();
    info.consumers.into_iter().map(|consumer| (consumer.name, consumer.pending)).collect()
}

/// More jobs than a worker takes at a time arrive under its name before it leaves.
#[apply(broker_test!)]
async fn a_worker_that_leaves_forgets_no_job_and_has_a_name_of_its_own() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let mut redis = connect_redis().await;
    let mut workers =
        [(); 2].map(|()| Program::worker(Kind::Redis, &url, &prefix, &folder, &["--claim-after", "3600000"]));
    for worker in &mut workers {
        worker.shows("this worker is worker-", 1).await;
    }
    let names = workers.each_ref().map(|worker| worker.word_after("this worker is "));
    assert!(names[0] != names[1] && names[0].len() == "worker-".len() + 16, "{names:?}");
    let [name, _] = names;
    workers[1].stop().await;

    // Held under the worker's name, but unknown to its process, like a job that has just
    // arrived.
    workers[0].signal(Signal::SIGSTOP);
    let (jobs, count) = (keys(&prefix).jobs(), 2_500_u64);
    let mut pipeline = redis::pipe();
    for number in 1..=count {
        let job = serde_json::to_vec(&Job::example(format!("held-{number}"), number)).unwrap();
        pipeline.cmd("XADD").arg(&jobs).arg("*").arg("job").arg(job).ignore();
    }
    pipeline.exec_async(&mut redis).await.unwrap();
    let mut take = redis::cmd("XREADGROUP");
    take.arg("GROUP").arg("workers").arg(&name).arg("COUNT").arg(count).arg("STREAMS").arg(&jobs).arg(">");
    take.exec_async(&mut redis).await.unwrap();
    let before = consumers(&mut redis, &prefix).await.iter().map(|(_, pending)| pending).sum::<usize>();
    workers[0].signal(Signal::SIGINT);
    workers[0].signal(Signal::SIGCONT);
    let printed = workers[0].success().await;
    let done = printed.lines().filter(|line| line.contains(" done: ")).count();
    // Nothing is lost, the name is gone, and being held did not count as a try.
    assert_eq!(consumers(&mut redis, &prefix).await, [("retry".to_owned(), before - done)]);
    let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &["--claim-after", "3600000"]);
    worker.shows(" done: station-", before - done).await;
    worker.stop().await;
    folder.assert_done("held", count);
}

/// Giving a job back does not count as a try: after four workers have given it back, its next
/// try is the first.
#[apply(broker_test!)]
async fn giving_a_job_back_does_not_count_as_a_try() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        let poison = ["--batch", "bad", "--count", "1", "--poison", "1"];
        Program::producer(kind, &url, &prefix, &poison).success().await;
        // Each of these works on the first job and has the bad one waiting.
        for _ in 0..4 {
            fs::create_dir_all(folder.0.join("bad-1.json")).unwrap();
            let stop = CancellationToken::new();
            let ended = work(kind, &prefix, folder.results(), &stop, |line| panic!("{line}")).await;
            assert!(matches!(ended, Err(Error::Machine(_))), "{ended:?}");
        }
        fs::remove_dir(folder.0.join("bad-1.json")).unwrap();
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--claim-after", "5000"]);
        worker.shows("bad-2 failed, try 1 of 3", 1).await;
        worker.stop().await;
    }
}

#[apply(broker_test!)]
async fn consumers_that_were_killed_are_removed_after_a_day() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let mut redis = connect_redis().await;
    produce(Kind::Redis, &prefix, "taken", 2).await;
    for name in ["killed", "holding"] {
        let mut take = redis::cmd("XREADGROUP");
        take.arg("GROUP").arg("workers").arg(name).arg("COUNT").arg(1);
        take.arg("STREAMS").arg(keys(&prefix).jobs()).arg(">").exec_async(&mut redis).await.unwrap();
        if name == "killed" {
            let mut done = redis::pipe();
            let pending: StreamPendingReply = redis::cmd("XPENDING")
                .arg(keys(&prefix).jobs())
                .arg("workers")
                .query_async(&mut redis)
                .await
                .unwrap();
            let StreamPendingReply::Data(pending) = pending else { panic!() };
            done.cmd("XACK").arg(keys(&prefix).jobs()).arg("workers").arg(pending.start_id).ignore();
            done.exec_async(&mut redis).await.unwrap();
        }
    }
    // (remove_idle_after, the consumers left at the end)
    let hour = Duration::from_secs(3600);
    assert!(limits::redis::REMOVE_IDLE_AFTER > hour);
    for (remove_idle_after, left) in [(hour, &["holding", "killed"][..]), (Duration::ZERO, &["holding"])] {
        let worker = streams::Worker {
            url: url.clone(),
            keys: keys(&prefix),
            name: "looking".into(),
            claim_after: hour,
            remove_idle_after,
            results: folder.results(),
            work_time: Duration::ZERO,
        };
        // It looks once, does a job, and leaves.
        produce(Kind::Redis, &prefix, "looking", 1).await;
        let stop = CancellationToken::new();
        let report = |_: &_| {
            stop.cancel();
            Ok(())
        };
        timeout(LONG, worker.run(&stop, || {}, report)).await.unwrap().unwrap();
        let mut names: Vec<String> =
            consumers(&mut redis, &prefix).await.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, left);
    }
}

/// Permissions that are missing from the start, and one that is taken away later.
#[apply(broker_test!)]
async fn a_worker_without_a_permission_ends_with_one_line() {
    let mut redis = connect_redis().await;
    let url = url(Kind::Redis).replace("redis://", "redis://app:pw@");
    for missing in ["xautoclaim", "xreadgroup", "eval"] {
        let (prefix, folder) = (prefix(), Folder::new());
        let all = ["reset", "on", ">pw", "~*", "&*", "+@all"];
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER")
            .arg("app")
            .arg(&all)
            .arg(format!("-{missing}"))
            .exec_async(&mut redis)
            .await
            .unwrap();
        let args = ["--broker", "redis", "--url", &url, "--prefix", &prefix, "--results", folder.path()];
        let output = run_program(CONSUMER, &args).await;
        assert_eq!(output.code, Some(1), "{missing}: {}", output.stderr);
        let errors: Vec<&str> = output.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert_eq!(errors.len(), 1, "{missing}: {errors:?}");
        assert!(errors[0].starts_with("error: ") && errors[0].contains(missing), "{errors:?}");
    }
    let (prefix, folder) = (prefix(), Folder::new());
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("app").arg("+@all").exec_async(&mut redis).await.unwrap();
    let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &[]);
    produce(Kind::Redis, &prefix, "before", 1).await;
    worker.shows("before-1 done", 1).await;
    redis::cmd("ACL").arg("SETUSER").arg("app").arg("-xack").exec_async(&mut redis).await.unwrap();
    produce(Kind::Redis, &prefix, "after", 1).await;
    worker.shows("error: ", 1).await;
}

/// The first Ctrl-C waits for the current job; the second one does not.
#[apply(broker_test!)]
async fn a_second_ctrl_c_ends_a_worker_at_once() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        produce(kind, &prefix, "long", 1).await;
        let mut codes = Vec::new();
        // The broker has handed the job over a moment before the worker begins with it. A
        // signal in that moment ends the worker in good order, and the job goes back.
        while codes.len() < 10 && codes.last() != Some(&Some(130)) {
            let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--work-time", "3600000"]);
            worker.shows("jobs come from", 1).await;
            let mut redis = connect_redis().await;
            eventually("the job is with the worker", async || match kind {
                Kind::RabbitMq => queue_length(kind, &url, &prefix).await == 0,
                Kind::Redis => consumers(&mut redis, &prefix).await.iter().any(|(_, pending)| *pending == 1),
            })
            .await;
            codes.push(worker.interrupt_until_it_ends().await);
        }
        assert_eq!(codes.last(), Some(&Some(130)), "{codes:?}");
    }
}

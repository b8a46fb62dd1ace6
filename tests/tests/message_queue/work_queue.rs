//! Jobs on both brokers.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::Duration;

use message_queue::brokers::Kind;
use message_queue::job::Outcome;
use message_queue::job::{Job, Summary};
use message_queue::limits::redis::DELIVERY_LIMIT;
use message_queue::model::Metric;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker as rabbitmq;
use message_queue::record::{Reason, Reply, Store};
use proptest::prelude::*;
use tests::signal::Signal;
use tests::{apply, run_program, test};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{
    BOTH, CONSUMER, Folder, LONG, Program, broker_test, eventually, keys, name, peak_memory, prefix,
    rabbitmq_worker, shared, topology, url,
};

#[apply(test!)]
async fn a_summary_matches_one_computed_by_hand() {
    let job = r#"{"id":"j","station":"oslo-1","day":1,"readings":[
        {"station":"oslo-1","metric":"wind","value":1.0,"recorded_at":86400000},
        {"station":"oslo-1","metric":"temperature","value":-4.5,"recorded_at":86400001},
        {"station":"oslo-1","metric":"wind","value":8.0,"recorded_at":172799999}]}"#;
    let folder = Folder::new();
    let Outcome::Done(summary) = folder.results().attempt(job.as_bytes()).unwrap().unwrap() else { panic!() };
    let wind = &summary.metrics[&Metric::Wind];
    assert_eq!((wind.count, wind.low, wind.mean, wind.high), (2, 1.0, 4.5, 8.0));
    let temperature = &summary.metrics[&Metric::Temperature];
    assert_eq!((temperature.count, temperature.mean), (1, -4.5));
    let stored: Summary = serde_json::from_slice(&fs::read(folder.0.join("j.json")).unwrap()).unwrap();
    assert_eq!(stored, summary);
}

/// Eight workers attempt each job at the same time, and exactly one attempt has an effect.
#[apply(test!)]
async fn a_job_has_one_effect_however_many_workers_try_it() {
    let folder = Folder::new();
    for number in 0..200 {
        let message = serde_json::to_vec(&Job::example(format!("j-{number}"), number)).unwrap();
        let done: usize = thread::scope(|scope| {
            let attempts: Vec<_> = (0..8)
                .map(|_| {
                    let (results, message) = (folder.results(), &message);
                    scope
                        .spawn(move || matches!(results.attempt(message).unwrap().unwrap(), Outcome::Done(_)))
                })
                .collect();
            attempts.into_iter().map(|attempt| usize::from(attempt.join().unwrap())).sum()
        });
        assert_eq!(done, 1, "job {number}");
    }
    let files = fs::read_dir(&folder.0).unwrap().count();
    assert_eq!(files, 200 + 1, "temporary files are left besides the results and the lock");
}

#[apply(test!)]
async fn input_that_is_not_a_job_or_request_is_refused() {
    let folder = Folder::new();
    let results = folder.results();
    for id in ["../evil", "", "a/b", "A", &"a".repeat(65)] {
        let job = Job::example(id.to_owned(), 1);
        assert!(results.attempt(&serde_json::to_vec(&job).unwrap()).unwrap().is_err(), "{id:?}");
    }
    let store = Store::default();
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) };
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        "\"readings\":",
        "\"id\":\"x\",",
        "\"station\":\"a\"",
        ",",
        "1e999",
        "-1",
        "\"metric\":\"wind\"",
        "\"value\":3",
        "\"recorded_at\":5",
        "null",
        "\u{0}",
        "\"",
    ]);
    proptest!(config, |(text in prop::collection::vec(pieces, 0..40))| {
        let text = text.concat();
        prop_assert!(results.attempt(text.as_bytes()).unwrap().is_err());
        let refused = matches!(store.execute(text.as_bytes()), Reply::Refused { reason: Reason::Invalid, .. });
        let whole = text.contains(r#""metric":"wind""#) && text.contains(r#""recorded_at":5"#);
        prop_assert!(refused || whole, "{}", text);
    });
    assert!(folder.done().is_empty());
}

#[apply(broker_test!)]
async fn three_workers_share_the_jobs() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        let mut workers: Vec<Program> = (0..3)
            .map(|_| Program::worker(kind, &url, &prefix, &folder, &["--prefetch", "4", "--work-time", "1"]))
            .collect();
        for worker in &mut workers {
            worker.shows("jobs come from", 1).await;
        }
        let mut producer = Program::producer(kind, &url, &prefix, &["--batch", "shared", "--count", "600"]);
        assert!(producer.success().await.contains("all confirmed: 600"));
        eventually("600 results", async || folder.done().len() == 600).await;
        let mut done = 0;
        for worker in &mut workers {
            let printed = worker.stop().await;
            let own = printed.lines().filter(|line| line.contains(" done: station-")).count();
            assert!(own > 0, "a worker got nothing");
            assert!(printed.contains(&format!("stopped: {own} done, 0 duplicates, 0 failed")), "{printed}");
            done += own;
        }
        assert_eq!(done, 600);
        folder.assert_done("shared", 600);
    }
}

#[apply(broker_test!)]
#[long]
async fn a_poison_job_becomes_a_dead_letter_and_does_not_delay_others() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        // The poison job comes first: it must not hold up the jobs behind it.
        let poison = ["--batch", "bad", "--count", "0", "--poison", "1"];
        Program::producer(kind, &url, &prefix, &poison).success().await;
        let good = ["--batch", "good", "--count", "50"];
        Program::producer(kind, &url, &prefix, &good).success().await;
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--claim-after", "5000"]);
        worker.shows("bad-1 failed, try 1 of 3", 1).await;
        worker.shows(" done: station-", 50).await;
        assert_eq!(worker.count("try 3 of 3"), 0, "the delays must not hold up other jobs");
        worker.shows("moved to the dead letters", 1).await;
        let printed = worker.stop().await;
        let tries: Vec<&str> = printed.lines().filter(|line| line.contains("bad-1 failed")).collect();
        assert_eq!(tries.len(), 3, "{printed}");
        assert!(tries[0].ends_with("next try in 1s") && tries[1].ends_with("next try in 5s"), "{tries:?}");
        assert!(printed.contains("stopped: 50 done, 0 duplicates, 3 failed"), "{printed}");

        let list = async |more: &'static [&'static str]| {
            let args = ["--broker", name(kind), "--url", &url, "--prefix", &prefix, "dead-letters"];
            run_program(CONSUMER, &[&args, more].concat()).await.stdout
        };
        let letter = "bad-1 failed 3 times: readings[0].value: 1000 is outside -100 to 70\n";
        for _ in 0..3 {
            assert_eq!(
                list(&[]).await,
                format!("{letter}1 in all\n"),
                "listing the dead letters must not change them"
            );
        }
        assert_eq!(list(&["--redrive"]).await, format!("{letter}1 put back into the work queue\n"));
        assert_eq!(list(&[]).await, "0 in all\n");
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--claim-after", "5000"]);
        worker.shows("bad-1 failed, try 1 of 3", 1).await;
        worker.stop().await;
    }
}

/// No worker lives long enough to report a failure, so the number of deliveries decides. On
/// RabbitMQ, the broker itself enforces that limit.
#[apply(broker_test!)]
async fn a_job_that_kills_its_workers_becomes_a_dead_letter() {
    let (url, prefix, folder) = (url(Kind::Redis), prefix(), Folder::new());
    let two = ["--batch", "killer", "--count", "2"];
    Program::producer(Kind::Redis, &url, &prefix, &two).success().await;
    let jobs = keys(&prefix).jobs();
    let mut redis =
        redis::Client::open(url.as_str()).unwrap().get_multiplexed_async_connection().await.unwrap();
    // Workers took the jobs, and died. The second job has reached the limit, the first one has not.
    let mut take = redis::cmd("XREADGROUP");
    take.arg("GROUP").arg("workers").arg("dead").arg("STREAMS").arg(&jobs).arg(">");
    let taken: redis::streams::StreamReadReply = take.query_async(&mut redis).await.unwrap();
    for (job, deliveries) in taken.keys[0].ids.iter().zip([DELIVERY_LIMIT - 1, DELIVERY_LIMIT]) {
        let mut died = redis::cmd("XCLAIM");
        died.arg(&jobs).arg("workers").arg("dead").arg(0).arg(&job.id);
        died.arg("IDLE").arg(60_000).arg("RETRYCOUNT").arg(deliveries).arg("JUSTID");
        died.exec_async(&mut redis).await.unwrap();
    }

    let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &["--claim-after", "5000"]);
    worker.shows("moved to the dead letters", 1).await;
    worker.shows("killer-1 done: ", 1).await;
    assert!(worker.stop().await.contains("killer-2 failed: delivered more than 20 times"));
    folder.assert_done("killer", 1);
}

/// A producer has 1,500 jobs for a queue that holds 200. The queue's length stays bounded, the
/// producer waits, and neither the producer nor the broker needs more memory for more jobs.
#[apply(broker_test!)]
async fn a_full_queue_makes_the_producer_wait_and_memory_stays_bounded() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        let max = ["--max-length", "200"];
        let jobs = ["--batch", "many", "--count", "1500"];
        let broker = shared(kind).lock().unwrap().pid().unwrap();
        let before = peak_memory(broker);
        let mut producer = Program::producer(kind, &url, &prefix, &[&jobs[..], &max].concat());
        producer.shows("is full", 1).await;
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &max);
        let mut longest = 0;
        // The other jobs don't fit into the queue, so the producer is still running.
        while folder.done().len() < 700 {
            longest = longest.max(queue_length(kind, &url, &prefix).await);
            assert!(peak_memory(producer.pid()) < 64);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        producer.success().await;
        eventually("1500 results", async || folder.done().len() == 1_500).await;
        // RabbitMQ counts accepted messages with a delay, so it may exceed the bound by the
        // messages in flight, which the producer's window limits.
        let bound = if kind == Kind::Redis { 200 } else { 200 + 1_000 };
        assert!((1..=bound).contains(&longest), "{longest} jobs were queued");
        let grown = peak_memory(broker).saturating_sub(before);
        assert!(grown < 200, "{kind} has grown by {grown} MiB");
        worker.stop().await;
        folder.assert_done("many", 1_500);
    }
}

pub async fn queue_length(kind: Kind, url: &str, prefix: &str) -> u32 {
    match kind {
        Kind::RabbitMq => {
            let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
            let queue = topology(prefix).jobs();
            let queue = channel.queue_declare(queue.into(), options, Default::default()).await.unwrap();
            queue.message_count()
        }
        Kind::Redis => {
            let client = redis::Client::open(url).unwrap();
            let mut connection = client.get_multiplexed_async_connection().await.unwrap();
            let key = format!("{prefix}:jobs:v1");
            redis::cmd("XLEN").arg(key).query_async(&mut connection).await.unwrap()
        }
    }
}

#[apply(broker_test!)]
async fn ctrl_c_leaves_the_rest_queued() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        Program::producer(kind, &url, &prefix, &["--batch", "rest", "--count", "100"]).success().await;
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--work-time", "40"]);
        // Stop it so early that no job is acknowledged yet.
        worker.shows(" done: station-", 1).await;
        worker.signal(Signal::SIGINT);
        worker.success().await;
        let first: BTreeSet<String> = folder.done();
        assert!((1..100).contains(&first.len()), "{}", first.len());
        // The next worker gets the rest at once, although it claims nothing for an hour.
        let mut worker = Program::worker(kind, &url, &prefix, &folder, &["--claim-after", "3600000"]);
        worker.shows(" done: station-", 100 - first.len()).await;
        let printed = worker.stop().await;
        assert!(printed.contains("0 duplicates, 0 failed"), "{printed}");
        folder.assert_done("rest", 100);
    }
}

#[apply(broker_test!)]
async fn a_conflicting_declaration_is_explained() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    Program::producer(Kind::RabbitMq, &url, &prefix, &["--count", "0"]).success().await;
    let args = ["--url", &url, "--prefix", &prefix, "--max-length", "7"];
    for program in [crate::support::PRODUCER, CONSUMER] {
        let output = run_program(program, &args).await;
        assert_eq!(output.code, Some(1));
        let queue = topology(&prefix).jobs();
        assert!(
            output.stderr.starts_with(&format!("error: {queue} exists with other properties")),
            "{}",
            output.stderr
        );
        assert!(output.stderr.contains(&format!("rabbitmqctl delete_queue {queue}")), "{}", output.stderr);
    }
}

/// A stuck worker holds only the jobs that were sent to it ahead. Another one does the rest, and
/// gets those jobs too when the stuck worker dies.
#[apply(broker_test!)]
async fn a_stuck_worker_holds_only_its_prefetch() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let an_hour = ["--prefetch", "3", "--work-time", "3600000"];
    let mut stuck = Program::worker(Kind::RabbitMq, &url, &prefix, &folder, &an_hour);
    stuck.shows("jobs come from", 1).await;
    let jobs = ["--batch", "shared", "--count", "20"];
    Program::producer(Kind::RabbitMq, &url, &prefix, &jobs).success().await;
    let mut worker = Program::worker(Kind::RabbitMq, &url, &prefix, &folder, &[]);
    worker.shows(" done: station-", 17).await;
    stuck.kill().await;
    worker.shows(" done: station-", 20).await;
    assert!(worker.stop().await.contains("stopped: 20 done, 0 duplicates, 0 failed"));
    folder.assert_done("shared", 20);
}

/// One job waits for an hour. A job behind it has to wait only for a moment.
#[apply(broker_test!)]
async fn a_long_delay_does_not_hold_up_a_short_one() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let delays = vec![Duration::from_millis(1), Duration::from_secs(3600)];
    let topology = Topology { delays, ..topology(&prefix) };
    let worker = rabbitmq_worker(&topology, &folder);
    let (sender, mut lines) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let working = tokio::spawn(async move {
        let report = |attempt: &_| sender.send(format!("{attempt}")).map_err(std::io::Error::other);
        worker.run(&stopped, || {}, report).await
    });
    let mut publisher = Publisher::connect(&url, topology.clone(), 1).await.unwrap();
    for id in ["first", "second"] {
        let job = Job::poison(id.to_owned(), 1);
        publisher.publish(rabbitmq::message(&topology, &job).unwrap()).await.unwrap();
        publisher.flush().await.unwrap();
        for (attempt, delay) in [(1, "1ms"), (2, "3600s")] {
            let line = timeout(LONG, lines.recv()).await.expect("a job waits behind another").unwrap();
            assert!(line.starts_with(&format!("{id} failed, try {attempt} of 3: ")), "{line}");
            assert!(line.ends_with(&format!("; next try in {delay}")), "{line}");
        }
    }
    stop.cancel();
    working.await.unwrap().unwrap();
}

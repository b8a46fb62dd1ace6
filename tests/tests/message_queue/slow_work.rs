//! Jobs that take long, and the jobs behind them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use message_queue::brokers::Kind;
use message_queue::job::Job;
use message_queue::limits;
use message_queue::rabbitmq::connection::Deliveries;
use message_queue::rabbitmq::worker as rabbitmq;
use message_queue::redis::worker as redis;
use message_queue::worker::Worker;
use tests::{apply, test};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::fakes::fake_redis;
use crate::support::{
    BOTH, Folder, LONG, Program, broker_test, eventually, keys, prefix, shared, topology, url,
};
use crate::work_queue::queue_length;
use crate::workers::{produce, work};

/// RabbitMQ closes the channel of a worker that holds a job for too long. By default, it checks
/// once a minute.
#[apply(broker_test!)]
#[alone]
async fn no_job_waits_too_long_behind_slow_work() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let set = |name: &str, milliseconds: u32| {
        let set = format!("application:set_env(rabbit, {name}, {milliseconds}).");
        shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(&["eval", &set]).unwrap();
    };
    set("channel_tick_interval", 200);
    set("consumer_timeout", 2_000);
    produce(Kind::RabbitMq, &prefix, "slow", 16).await;
    let worker = Worker {
        queue: rabbitmq::WorkQueue {
            url: url.as_str().into(),
            topology: topology(&prefix),
            prefetch: limits::rabbitmq::PREFETCH,
            max_wait: Duration::from_millis(500),
        },
        results: folder.results(),
        work_time: Duration::from_millis(400),
    };
    let (stop, mut lines) = (CancellationToken::new(), Vec::new());
    let (sender, mut counts) = tokio::sync::mpsc::unbounded_channel();
    let report = |attempt: &_| {
        lines.push(format!("{attempt}"));
        let _ = sender.send(lines.len());
        if lines.len() == 16 {
            stop.cancel();
        }
        Ok(())
    };
    // After the first jobs, it takes only as many ahead as it can do in time.
    let queued = async {
        while let Some(done) = counts.recv().await {
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
    let stuck = Worker {
        queue: rabbitmq::WorkQueue {
            url: url.as_str().into(),
            topology: topology(&prefix),
            prefetch: 8,
            max_wait: Duration::from_millis(100),
        },
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

/// A worker on Redis renews the claim of its jobs each time a third of `claim_after` has passed.
#[apply(test!)]
async fn a_worker_renews_its_claim_only_when_it_is_due() {
    let job = serde_json::to_string(&Job::example("slow-1".into(), 1)).unwrap();
    let third = Duration::from_millis(200);
    for (claim_after, expected) in [(3 * third, 1..=5), (Duration::from_secs(3600), 0..=0)] {
        let (reads, claims) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let job =
            format!("*1\r\n*2\r\n+jobs\r\n*1\r\n*2\r\n+1-0\r\n*2\r\n+job\r\n${}\r\n{job}\r\n", job.len());
        let counted = claims.clone();
        let fake = fake_redis(move |name| match name {
            "XREADGROUP" if reads.fetch_add(1, Ordering::Relaxed) == 0 => Some(job.clone()),
            "XREADGROUP" => Some("*-1\r\n".to_owned()),
            "XAUTOCLAIM" => Some("*3\r\n+0-0\r\n*0\r\n*0\r\n".to_owned()),
            "XCLAIM" => {
                counted.fetch_add(1, Ordering::Relaxed);
                Some("*0\r\n".to_owned())
            }
            "EXEC" => Some("*2\r\n:1\r\n:1\r\n".to_owned()),
            "EVAL" => Some(":0\r\n".to_owned()),
            _ => None,
        })
        .await;
        let (folder, stop) = (Folder::new(), CancellationToken::new());
        let worker = Worker {
            queue: redis::WorkQueue {
                url: format!("redis://{}", fake.addr).into(),
                keys: keys("fake"),
                name: redis::random_name().unwrap(),
                claim_after,
                remove_idle_after: limits::redis::REMOVE_IDLE_AFTER,
            },
            results: folder.results(),
            work_time: 5 * third,
        };
        let report = |_: &_| {
            stop.cancel();
            Ok(())
        };
        timeout(LONG, worker.run(&stop, || {}, report)).await.unwrap().unwrap();
        folder.assert_done("slow", 1);
        let count = claims.load(Ordering::Relaxed);
        assert!(expected.contains(&count), "{count} claims with {claim_after:?}");
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

/// A finished job is acknowledged although the next one takes long. Here, the next one waits for
/// the lock on the results, which the test holds until the acknowledgement.
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

/// An acknowledgement is sent even if its future is dropped. It must neither be repeated nor count
/// as a lost connection.
#[apply(broker_test!)]
async fn an_acknowledgement_is_sent_once() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    produce(Kind::RabbitMq, &prefix, "once", 6).await;
    for after in ["the end", "another message", "another acknowledgement"] {
        let mut deliveries = Deliveries::open(&url, &topology(&prefix).jobs(), 1, 1).await.unwrap();
        let first = deliveries.next().await.unwrap();
        // Poll the future once and drop it: the acknowledgement is sent.
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

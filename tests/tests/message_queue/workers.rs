//! Workers that start, leave, and give jobs back.

use std::fs;
use std::time::Duration;

use message_queue::brokers::Kind;
use message_queue::error::Error;
use message_queue::job::Job;
use message_queue::limits;
use message_queue::limits::rabbitmq::MAX_WAIT;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker as rabbitmq;
use message_queue::redis::worker as streams;
use message_queue::results::Results;
use message_queue::worker::Worker;
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamInfoConsumersReply, StreamPendingReply};
use tests::apply;
use tests::signal::Signal;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::support::{BOTH, Folder, LONG, Program, broker_test, eventually, keys, prefix, topology, url};
use crate::work_queue::queue_length;

/// Runs a worker in this process. `report` gets each line that the program would print.
pub async fn work(
    kind: Kind,
    prefix: &str,
    results: Results,
    stop: &CancellationToken,
    mut report: impl FnMut(String),
) -> Result<(), Error> {
    let (url, work_time) = (url(kind).into(), Duration::ZERO);
    let report = |attempt: &_| {
        report(format!("{attempt}"));
        Ok(())
    };
    match kind {
        Kind::RabbitMq => {
            let (topology, prefetch) = (topology(prefix), limits::rabbitmq::PREFETCH);
            let max_wait = MAX_WAIT;
            let worker = Worker {
                queue: rabbitmq::WorkQueue { url, topology, prefetch, max_wait },
                results,
                work_time,
            };
            worker.run(stop, || {}, report).await
        }
        Kind::Redis => {
            let worker = Worker {
                queue: streams::WorkQueue {
                    url,
                    keys: keys(prefix),
                    name: streams::random_name().unwrap(),
                    claim_after: Duration::from_secs(3600),
                    remove_idle_after: limits::redis::REMOVE_IDLE_AFTER,
                },
                results,
                work_time,
            };
            worker.run(stop, || {}, report).await
        }
    }
}

pub async fn produce(kind: Kind, prefix: &str, batch: &str, count: u64) {
    let jobs = ["--batch", batch, "--count", &count.to_string()];
    Program::producer(kind, &url(kind), prefix, &jobs).success().await;
}

pub async fn connect_redis() -> MultiplexedConnection {
    let client = redis::Client::open(url(Kind::Redis)).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// A worker gives its jobs back while the queue has no room for them.
#[apply(broker_test!)]
async fn jobs_go_back_even_into_a_full_queue() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let topology = Topology { max_length: 5, ..topology(&prefix) };
    let worker = |results| Worker {
        queue: rabbitmq::WorkQueue {
            url: url.as_str().into(),
            topology: topology.clone(),
            prefetch: 5,
            max_wait: MAX_WAIT,
        },
        results,
        work_time: Duration::from_secs(1),
    };
    // RabbitMQ may notice only after a whole window that the queue is full.
    let max = ["--batch", "full", "--count", "3000", "--max-length", "5"];
    let mut producer = Program::producer(Kind::RabbitMq, &url, &prefix, &max);
    producer.shows("is full, or without a leader", 1).await;
    let broken = worker(folder.results());
    fs::remove_dir_all(&folder.0).unwrap();
    let stop = CancellationToken::new();
    let ended = timeout(LONG, broken.run(&stop, || {}, |_| Ok(()))).await.unwrap();
    assert!(matches!(ended, Err(Error::Machine(_))), "{ended:?}");
    producer.kill().await;
    // No job is lost, and none has lost a try.
    fs::create_dir_all(&folder.0).unwrap();
    let good = Worker { work_time: Duration::ZERO, ..worker(folder.results()) };
    let all_are_done = || (1..=5).all(|number| folder.0.join(format!("full-{number}.json")).exists());
    let report = |_: &_| {
        if all_are_done() {
            stop.cancel();
        }
        Ok(())
    };
    timeout(LONG, good.run(&stop, || {}, report)).await.unwrap().unwrap();
}

pub async fn consumers(redis: &mut MultiplexedConnection, prefix: &str) -> Vec<(String, usize)> {
    let mut info = redis::cmd("XINFO");
    info.arg("CONSUMERS").arg(keys(prefix).jobs()).arg("workers");
    let info: StreamInfoConsumersReply = info.query_async(redis).await.unwrap();
    info.consumers.into_iter().map(|consumer| (consumer.name, consumer.pending)).collect()
}

/// More jobs are assigned to a worker than it takes at a time, and then it leaves.
#[apply(broker_test!)]
async fn a_leaving_worker_forgets_no_job_and_has_a_unique_name() {
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

    // The worker's name holds these jobs, but its process doesn't know them, like jobs that have
    // just arrived.
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
    // No job is lost, the name is gone, and the retry consumer holds the rest.
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
async fn killed_consumers_are_removed_after_a_day() {
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
    // Each case: `remove_idle_after`, and the consumers left at the end.
    let hour = Duration::from_secs(3600);
    assert!(limits::redis::REMOVE_IDLE_AFTER > hour);
    for (remove_idle_after, left) in [(hour, &["holding", "killed"][..]), (Duration::ZERO, &["holding"])] {
        let worker = Worker {
            queue: streams::WorkQueue {
                url: url.as_str().into(),
                keys: keys(&prefix),
                name: "looking".into(),
                claim_after: hour,
                remove_idle_after,
            },
            results: folder.results(),
            work_time: Duration::ZERO,
        };
        // It looks for idle consumers once, does a job, and leaves.
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

/// The first Ctrl-C waits for the current job; the second one does not.
#[apply(broker_test!)]
async fn a_second_ctrl_c_ends_a_worker_at_once() {
    for kind in BOTH {
        let (url, prefix, folder) = (url(kind), prefix(), Folder::new());
        produce(kind, &prefix, "long", 1).await;
        let mut codes = Vec::new();
        // In the moment between a job's delivery and its start, a signal ends the worker normally,
        // and the job goes back. In that case, try again.
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

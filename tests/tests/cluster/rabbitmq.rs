//! Faults of a RabbitMQ cluster. A queue's leader is on the node through which it was declared.

use std::time::{Duration, Instant};

use futures::future::join_all;
use message_queue::brokers::Kind;
use message_queue::job::Job;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker::message;
use tests::apply;
use tokio::time::timeout;

use crate::shared;
use crate::support::{Folder, LONG, Program, broker_test, eventually, prefix, topology};

/// Publishes example jobs, at most one each millisecond, until all are confirmed. When a thousand
/// are confirmed, does `fault`. Returns the longest time without a confirm.
async fn publish(
    publisher: &mut Publisher,
    topology: &Topology,
    count: u64,
    fault: impl FnOnce(),
) -> Duration {
    let (mut confirmed, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
    let mut fault = Some(fault);
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    for number in 1..=count {
        tick.tick().await;
        publisher
            .publish(message(topology, &Job::example(format!("job-{number}"), number)).unwrap())
            .await
            .unwrap();
        if publisher.confirmed() > confirmed {
            (confirmed, longest, last) = (publisher.confirmed(), longest.max(last.elapsed()), Instant::now());
        }
        if confirmed >= 1_000
            && let Some(fault) = fault.take()
        {
            fault();
            last = Instant::now();
        }
    }
    publisher.flush().await.unwrap();
    longest.max(last.elapsed())
}

/// The producer is connected to the node that is killed, which leads the queue.
#[apply(broker_test!)]
#[alone]
async fn ten_thousand_confirmed_jobs_have_their_effect_once_although_the_leader_is_killed() {
    let (prefix, folder, urls) = (prefix(), Folder::new(), shared().url(Kind::RabbitMq));
    let jobs = ["--batch", "job", "--count", "10000"];
    let mut producer = Program::producer(Kind::RabbitMq, &urls, &prefix, &jobs);
    let worker = || Program::worker(Kind::RabbitMq, &urls, &prefix, &folder, &["--prefetch", "200"]);
    let mut workers = [worker(), worker()];
    producer.shows("confirmed 3", 1).await;
    shared().kill("n1").unwrap();
    assert!(producer.success().await.contains("all confirmed: 10000"));
    eventually("all jobs are done", async || folder.done().len() == 10_000).await;
    join_all(workers.iter_mut().map(Program::stop)).await;
    folder.assert_done("job", 10_000);
    shared().start_again("n1").unwrap();
}

/// RabbitMQ confirms nothing while two of three nodes are down, and closes no connection.
#[apply(broker_test!)]
#[slow]
#[alone]
async fn slow_test_a_producer_says_that_nothing_is_confirmed_while_most_nodes_are_down() {
    let (prefix, folder) = (prefix(), Folder::new());
    let last = shared().node("n3").unwrap().url();
    let mut first = Program::producer(Kind::RabbitMq, &last, &prefix, &["--batch", "job", "--count", "1"]);
    first.success().await;
    shared().kill("n1").unwrap();
    shared().kill("n2").unwrap();
    let mut producer =
        Program::producer(Kind::RabbitMq, &last, &prefix, &["--batch", "job", "--count", "500"]);
    producer.shows("RabbitMQ has confirmed nothing for 5s", 1).await;
    assert_eq!(producer.count("all confirmed"), 0);
    shared().start_again("n1").unwrap();
    producer.success().await;
    shared().start_again("n2").unwrap();
    let mut worker = Program::worker(Kind::RabbitMq, &last, &prefix, &folder, &[]);
    eventually("all jobs are done", async || folder.done().len() == 500).await;
    worker.stop().await;
    folder.assert_done("job", 500);
}

/// Without a new session, a publisher that comes before the election is refused without end.
#[apply(broker_test!)]
#[slow]
#[alone]
async fn slow_test_no_publisher_is_refused_for_good_in_twenty_kills() {
    let (mut pauses, urls) = (Vec::new(), shared().url(Kind::RabbitMq));
    let nodes: Vec<_> = urls.split(',').collect();
    for round in 0..20 {
        let topology = topology(&prefix());
        let list = [&nodes[round % 3..], &nodes[..round % 3]].concat().join(",");
        let mut publisher = Publisher::connect(list, topology.clone(), 100).await.unwrap();
        let kill = || shared().kill(&format!("n{}", round % 3 + 1)).unwrap();
        let published = publish(&mut publisher, &topology, 3_000, kill);
        pauses.push(timeout(LONG, published).await.unwrap());
        shared().start_again(&format!("n{}", round % 3 + 1)).unwrap();
    }
    pauses.sort();
    println!("pauses: {pauses:?}");
    assert!(pauses[10] <= Duration::from_secs(1), "{pauses:?}");
}

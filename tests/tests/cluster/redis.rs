//! A failover of Redis.

use std::collections::HashSet;

use message_queue::brokers::Kind;
use message_queue::job::Job;
use redis::streams::StreamRangeReply;
use redis::{Client, cmd};
use tests::apply;

use crate::shared;
use crate::support::{Program, broker_test, keys, prefix};

/// The Sentinels replace the primary, and every acknowledged job is in the new one.
#[apply(broker_test!)]
#[alone]
async fn a_failover_loses_nothing_that_a_replica_had_to_have() {
    let prefix = prefix();
    let urls = shared().url(Kind::Redis);
    let killed = shared().primary().unwrap().to_owned();
    let jobs = ["--batch", "job", "--count", "20000", "--wait-replicas", "1"];
    let mut producer = Program::producer(Kind::Redis, &urls, &prefix, &jobs);
    producer.shows("confirmed 1", 1).await;
    shared().kill(&killed).unwrap();
    assert!(producer.success().await.contains("all confirmed: 20000"));
    let primary = shared().primary().unwrap().to_owned();
    assert_ne!(primary, killed);

    let url = shared().node(&primary).unwrap().url();
    let mut connection = Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let (mut found, mut entries, mut after) = (HashSet::new(), 0, "-".to_owned());
    loop {
        let mut range = cmd("XRANGE");
        range.arg(keys(&prefix).jobs()).arg(&after).arg("+").arg("COUNT").arg(500);
        let page: StreamRangeReply = range.query_async(&mut connection).await.unwrap();
        let Some(last) = page.ids.last() else { break };
        after = format!("({}", last.id);
        entries += page.ids.len();
        found.extend(
            page.ids.iter().map(|entry| Job::parse(&entry.get::<Vec<u8>>("job").unwrap()).unwrap().id),
        );
    }
    assert_eq!(found.len(), 20_000, "of {entries} entries");
    shared().start_again(&killed).unwrap();
}

/// On a Redis without replicas, jobs that two replicas must have are never confirmed.
#[apply(broker_test!)]
async fn a_producer_waits_for_replicas() {
    let alone = message_queue::brokers::Broker::start(Kind::Redis, Default::default()).unwrap();
    let more = ["--count", "1", "--wait-replicas", "2"];
    let mut producer = Program::producer(Kind::Redis, &alone.url(), &prefix(), &more);
    producer.shows("0 of 2 replicas have the jobs: waiting for the others", 1).await;
    assert_eq!(producer.count("all confirmed"), 0);
}

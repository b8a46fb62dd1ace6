//! Thousands of jobs, while a worker, a connection, and the broker fail.

use message_queue::brokers::{Broker, Kind, Options};
use tests::apply;

use crate::support::{Folder, Mode, Program, Proxy, broker_test, eventually, prefix};

const JOBS: u64 = 5_000;

/// Maximum number of jobs in the queue. It is far below [`JOBS`], so that the producer can't end
/// before its connection is cut.
const MAX_LENGTH: &str = "1000";

#[apply(broker_test!)]
#[long]
async fn rabbitmq_loses_no_confirmed_job() {
    survive(Kind::RabbitMq, Vec::new()).await;
}

#[apply(broker_test!)]
#[long]
async fn redis_streams_lose_no_confirmed_job() {
    let settings = ["--appendonly", "yes", "--appendfsync", "always"].map(String::from).to_vec();
    survive(Kind::Redis, settings).await;
}

async fn survive(kind: Kind, settings: Vec<String>) {
    let mut broker = Broker::start(kind, Options { settings, ..Options::default() }).unwrap();
    let (url, prefix, folder) = (broker.url(), prefix(), Folder::new());
    let claim = ["--claim-after", "2000", "--max-length", MAX_LENGTH];
    let mut workers: Vec<Program> =
        (0..3).map(|_| Program::worker(kind, &url, &prefix, &folder, &claim)).collect();
    for worker in &mut workers {
        worker.shows("jobs come from", 1).await;
    }
    let proxy = Proxy::before(&url).await;
    let scheme = url.split("127").next().unwrap();
    let through = format!("{scheme}127.0.0.1:{}", proxy.port);
    let jobs = ["--batch", "fault", "--count", &JOBS.to_string(), "--max-length", MAX_LENGTH];
    let mut producer = Program::producer(kind, &through, &prefix, &jobs);

    // Kill a worker with kill -9.
    eventually("many are done", async || folder.done().len() > 500).await;
    let mut victim = workers.swap_remove(0);
    victim.kill().await;

    // Cut the producer's connection.
    proxy.set(Mode::Cut);
    producer.shows("connecting again", 1).await;
    proxy.set(Mode::Open);
    producer.shows("connected again", 1).await;

    // Kill the broker in the middle of everything, and start it again on its data.
    let before = folder.done().len();
    eventually("more are done", async || folder.done().len() > before + 500).await;
    assert!(folder.done().len() < JOBS as usize - 1_000, "too late to be in the middle");
    broker.restart().unwrap();

    let printed = producer.success().await;
    assert!(printed.contains(&format!("all confirmed: {JOBS}")), "{printed}");
    eventually("all are done", async || folder.done().len() as u64 == JOBS).await;
    let (mut done, mut duplicates) = (victim.count(" done: station-"), 0);
    for worker in &mut workers {
        let printed = worker.stop().await;
        done += printed.lines().filter(|line| line.contains(" done: station-")).count();
        duplicates += printed.lines().filter(|line| line.contains("already done: a duplicate")).count();
        assert!(printed.contains(", 0 failed attempts"), "{}", &printed[printed.len() - 300..]);
    }
    // Each job had one effect. The killed worker may not have printed its last one.
    assert!((JOBS as usize - 1..=JOBS as usize).contains(&done), "{done} effects");
    assert!(duplicates > 0, "no job was delivered twice, so the test proves nothing");
    folder.assert_done("fault", JOBS);
}

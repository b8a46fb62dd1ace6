//! Several addresses, and addresses that a Sentinel knows.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use message_queue::address::BrokerUrl;
use message_queue::brokers::Kind;
use message_queue::job::Job;
use message_queue::redis::producer::Producer;
use tests::{apply, run_program};
use tokio::process::Command;

use crate::fakes::fake_redis;
use crate::support::{BOTH, Folder, Mode, PRODUCER, Program, Proxy, broker_test, keys, name, prefix, url};

/// Returns the URL of a port on which nobody listens, and its socket.
fn nobody(kind: Kind) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, kind.url(port))
}

#[apply(broker_test!)]
async fn addresses_come_from_options_commas_or_the_environment() {
    for kind in BOTH {
        let (listener, dead) = nobody(kind);
        drop(listener);
        let (live, prefix) = (url(kind), prefix());
        let args = ["--broker", name(kind), "--prefix", &prefix, "--count", "1"];
        let list = format!("{dead},{live}");
        let repeated = run_program(PRODUCER, &[&args[..], &["--url", &dead, "--url", &live]].concat()).await;
        assert_eq!((repeated.code, repeated.stderr.as_str()), (Some(0), ""));
        let commas = run_program(PRODUCER, &[&args[..], &["--url", &list]].concat()).await;
        assert_eq!(commas.code, Some(0), "{}", commas.stderr);
        let variable = if kind == Kind::Redis { "REDIS_URL" } else { "RABBITMQ_URL" };
        let mut command = Command::new(PRODUCER);
        let from_environment = command.args(args).env(variable, &list).stdin(Stdio::null()).output();
        assert!(from_environment.await.unwrap().status.success());
        // If nobody answers anywhere, the error lists all addresses.
        let (listener, other) = nobody(kind);
        drop(listener);
        let none = run_program(PRODUCER, &[&args[..], &["--url", &dead, "--url", &other]].concat()).await;
        assert!(none.stderr.starts_with(&format!("error: no broker at {dead},{other} (")), "{}", none.stderr);
    }
}

/// The connection breaks, and its address no longer answers.
#[apply(broker_test!)]
async fn a_worker_continues_at_the_next_address() {
    for kind in BOTH {
        let (direct, prefix, folder) = (url(kind), prefix(), Folder::new());
        let (first, second) = (Proxy::before(&direct).await, Proxy::before(&direct).await);
        let list = format!("{},{}", kind.url(first.port), kind.url(second.port));
        let mut worker = Program::worker(kind, &list, &prefix, &folder, &[]);
        worker.shows("jobs come from", 1).await;
        // On RabbitMQ, the first connection is for retries, and the second one for jobs.
        if kind == Kind::RabbitMq { &second } else { &first }.set(Mode::Cut);
        worker.shows("connecting again", 1).await;
        let jobs = ["--batch", "next", "--count", "5"];
        Program::producer(kind, &direct, &prefix, &jobs).success().await;
        worker.shows("next-", 5).await;
        worker.stop().await;
        folder.assert_done("next", 5);
    }
}

#[apply(broker_test!)]
async fn passwords_may_contain_commas_and_are_not_shown() {
    let list = "amqp://a:x,y@one,amqp://two/vhost?password=z,amqp://three";
    assert_eq!(BrokerUrl::from(list).to_string(), "amqp://one,amqp://two/vhost,amqp://three");
}

/// The first Sentinel is down. The second names a primary that does not answer, then a replica, and
/// then the new primary.
#[apply(broker_test!)]
async fn a_producer_asks_the_sentinels_for_the_primary() {
    let live = url(Kind::Redis).rsplit(':').next().unwrap().to_owned();
    let (gone, dead) = nobody(Kind::Redis);
    drop(gone);
    let replica = fake_redis(|command| (command == "ROLE").then(|| "*1\r\n$5\r\nslave\r\n".to_owned())).await;
    let ports = [dead.rsplit(':').next().unwrap().to_owned(), replica.addr.port().to_string(), live];
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let sentinel = fake_redis(move |command| {
        (command == "SENTINEL").then(|| {
            let port = &ports[count.fetch_add(1, Ordering::Relaxed).min(2)];
            format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len())
        })
    })
    .await;
    let dead = dead.replace("redis:", "redis+sentinel:");
    let urls = format!("{dead}/weather,redis+sentinel://127.0.0.1:{}/weather", sentinel.addr.port());
    let first = Producer::connect(urls.as_str(), keys(&prefix()), 10).await;
    assert!(first.is_err_and(|error| error.to_string().contains(&urls)), "the first primary is dead");
    let second = Producer::connect(urls.as_str(), keys(&prefix()), 10).await;
    assert!(second.is_err_and(|error| error.to_string().contains("is not the primary")));
    let mut producer = Producer::connect(urls.as_str(), keys(&prefix()), 10).await.unwrap();
    producer.publish(&Job::example("a".to_owned(), 1)).await.unwrap();
    producer.flush().await.unwrap();
    assert_eq!((producer.confirmed(), asked.load(Ordering::Relaxed)), (1, 3));
}

/// A Sentinel that watches nothing of that name can't be cured by trying again.
#[apply(broker_test!)]
async fn a_primary_that_no_sentinel_watches_is_an_error() {
    let sentinel = fake_redis(|command| (command == "SENTINEL").then(|| "*-1\r\n".to_owned())).await;
    let url = format!("redis+sentinel://127.0.0.1:{}/climate", sentinel.addr.port());
    let output = run_program(PRODUCER, &["--broker", "redis", "--url", &url]).await;
    let expected = format!("error: cannot use the URL {url}: it watches no primary named climate\n");
    assert_eq!((output.code, output.stderr), (Some(1), expected));
}

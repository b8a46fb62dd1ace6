//! Connections that are lost, and programs that reconnect.

use futures::StreamExt;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use message_queue::brokers::Kind;
use message_queue::model::{Metric, Reading};
use message_queue::publish_subscribe::Event;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::publish_subscribe;
use tests::apply;
use tokio::time::timeout;

use crate::request_reply::{connect, serve};
use crate::support::{
    BOTH, Folder, LONG, Mode, Program, Proxy, broker_test, eventually, prefix, shared, topology, url,
};

fn reading(second: u64) -> Reading {
    Reading { station: "oslo-1".into(), metric: Metric::Wind, value: 1.0, recorded_at: second }
}

/// An operator closes the connections of a worker, a producer, a subscriber, a server, and its
/// client in the middle of their work.
#[apply(broker_test!)]
#[alone]
async fn everything_reconnects_after_an_operator_closes_the_connections() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let work = ["--work-time", "2"];
    let mut worker = Program::worker(Kind::RabbitMq, &url, &prefix, &folder, &work);
    worker.shows("jobs come from", 1).await;
    let server = serve(Kind::RabbitMq, &url, &prefix).await;
    let client = connect(Kind::RabbitMq, &url, &prefix, LONG).await;
    let patterns = ["readings.#".to_owned()];
    let mut subscription = publish_subscribe::subscribe(&url, topology(&prefix), &patterns).await.unwrap();
    let mut publisher = Publisher::connect(&url, topology(&prefix), 10).await.unwrap();
    let jobs = ["--batch", "cut", "--count", "2000"];
    let mut producer = Program::producer(Kind::RabbitMq, &url, &prefix, &jobs);
    eventually("some jobs are done", async || folder.done().len() > 100).await;

    let close = ["close_all_connections", "the operator's reason"];
    shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(&close).unwrap();

    producer.success().await;
    worker.shows("connecting again", 1).await;
    eventually("all jobs are done", async || folder.done().len() == 2_000).await;
    folder.assert_done("cut", 2_000);
    worker.stop().await;
    // The subscriber reports the gap and goes on. The publisher goes on too.
    assert!(matches!(
        timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap(),
        Event::Disconnected { .. }
    ));
    assert_eq!(timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap(), Event::Reconnected);
    let message = publish_subscribe::message(&topology(&prefix), &reading(7)).unwrap();
    publisher.publish(message).await.unwrap();
    publisher.flush().await.unwrap();
    let event = timeout(LONG, subscription.next()).await.unwrap().unwrap().unwrap();
    let routing_key = "readings.oslo-1.wind".to_owned();
    assert_eq!(event, Event::Reading { topic: routing_key, reading: reading(7) });
    // The server may need a moment. Until then, its client reports that there is none.
    eventually("the server is back", async || client.record(&[reading(1)]).await.is_ok()).await;
    let printed = server.stop().await;
    assert!(printed.contains("connecting again"), "{printed}");
}

#[apply(broker_test!)]
async fn programs_recover_from_a_deleted_queue_and_a_channel_error() {
    let (url, prefix, folder) = (url(Kind::RabbitMq), prefix(), Folder::new());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let delete = async || {
        let queue = topology(&prefix).jobs();
        channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap();
    };

    // A producer's queue is deleted: more messages come back than fit into its window.
    let mut publisher = Publisher::connect(&url, topology(&prefix), 10).await.unwrap();
    delete().await;
    for number in 1..=20 {
        let job = message_queue::job::Job::example(format!("gone-{number}"), number);
        let message = message_queue::rabbitmq::worker::message(&topology(&prefix), &job).unwrap();
        publisher.publish(message).await.unwrap();
    }
    timeout(LONG, publisher.flush()).await.unwrap().unwrap();
    assert_eq!(publisher.confirmed(), 20);
    let mut worker = Program::worker(Kind::RabbitMq, &url, &prefix, &folder, &[]);
    worker.shows("gone-", 20).await;
    folder.assert_done("gone", 20);

    // A worker's queue is deleted.
    delete().await;
    worker.shows("connecting again", 1).await;
    Program::producer(Kind::RabbitMq, &url, &prefix, &["--batch", "new", "--count", "1"]).success().await;
    worker.shows("new-1 done", 1).await;
    worker.stop().await;

    // The exchange is deleted: RabbitMQ closes the publisher's channel with error 404.
    let exchange = topology(&prefix).readings();
    channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default()).await.unwrap();
    let message = publish_subscribe::message(&topology(&prefix), &reading(1)).unwrap();
    publisher.publish(message).await.unwrap();
    timeout(LONG, publisher.flush()).await.unwrap().unwrap();
    assert_eq!(publisher.confirmed(), 21);
}

/// A lower watermark makes RabbitMQ believe that it has no memory left.
#[apply(broker_test!)]
#[alone]
async fn a_blocked_producer_says_so_and_resumes() {
    let (url, prefix) = (url(Kind::RabbitMq), prefix());
    let watermark = |value: &str| {
        shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(&["set_vm_memory_high_watermark", value]).unwrap();
    };
    watermark("0.0001");
    let mut producer = Program::producer(Kind::RabbitMq, &url, &prefix, &["--count", "100"]);
    producer.shows("blocked: RabbitMQ accepts no messages", 1).await;
    assert_eq!(producer.count("all confirmed"), 0);
    watermark("0.4");
    assert!(producer.success().await.contains("all confirmed: 100"));
}

/// Nothing gets through anymore, but no connection is closed. RabbitMQ's heartbeat reveals that; on
/// Redis, the missing response to a command does.
#[apply(broker_test!)]
async fn a_worker_notices_a_silent_broker() {
    for kind in BOTH {
        let (direct, prefix, folder) = (url(kind), prefix(), Folder::new());
        let proxy = Proxy::before(&direct).await;
        let port = proxy.port;
        let through = match kind {
            Kind::RabbitMq => format!("amqp://127.0.0.1:{port}/%2f?heartbeat=1"),
            Kind::Redis => format!("redis://127.0.0.1:{port}"),
        };
        let mut worker = Program::worker(kind, &through, &prefix, &folder, &["--claim-after", "1000"]);
        worker.shows("jobs come from", 1).await;
        proxy.set(Mode::Silent);
        worker.shows("connecting again", 1).await;
        proxy.set(Mode::Open);
        Program::producer(kind, &direct, &prefix, &["--batch", "later", "--count", "5"]).success().await;
        eventually("jobs are done", async || folder.done().len() == 5).await;
        worker.stop().await;
    }
}

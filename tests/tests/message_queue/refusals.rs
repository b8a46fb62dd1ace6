//! A publisher whose messages are refused, or not confirmed.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use message_queue::brokers::Kind;
use message_queue::job::Job;
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::worker::message;
use tests::apply;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::fakes::{Fake, fake};
use crate::support::{LONG, Mode, Program, Proxy, broker_test, prefix, topology, url};

/// Starts a proxy that turns the confirms of the first connection into refusals. Also returns the
/// number of connections.
async fn refusing_at_first() -> (Fake, Arc<AtomicUsize>) {
    let (target, count) =
        (url(Kind::RabbitMq).rsplit('/').next().unwrap().to_owned(), Arc::new(AtomicUsize::new(0)));
    let connections = count.clone();
    let fake = fake(move |client| {
        let (target, first) = (target.clone(), connections.fetch_add(1, Ordering::Relaxed) == 0);
        async move {
            let (mut from_server, mut to_server) = TcpStream::connect(target).await?.into_split();
            let (mut from_client, mut to_client) = client.into_split();
            tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
            loop {
                let mut frame = vec![0; 7];
                from_server.read_exact(&mut frame).await?;
                let size = u32::from_be_bytes(frame[3..7].try_into().unwrap()) as usize;
                frame.resize(7 + size + 1, 0);
                from_server.read_exact(&mut frame[7..]).await?;
                // basic.ack (60, 80) becomes basic.nack (60, 120), which has the same fields.
                if first && frame[0] == 1 && frame[7..11] == [0, 60, 0, 80] {
                    frame[10] = 120;
                }
                to_client.write_all(&frame).await?;
            }
        }
    });
    (fake.await, count)
}

/// RabbitMQ 3.10 refuses everything on a channel that was used before the election of a leader. So
/// the publisher has to connect again, although the connection is fine.
#[apply(broker_test!)]
async fn a_publisher_that_is_refused_for_half_a_second_connects_again() {
    let (fake, connections) = refusing_at_first().await;
    let topology = topology(&prefix());
    let url = Kind::RabbitMq.url(fake.addr.port());
    let mut publisher = Publisher::connect(url, topology.clone(), 10).await.unwrap();
    let start = Instant::now();
    for number in 1..=5 {
        publisher
            .publish(message(&topology, &Job::example(format!("a-{number}"), number)).unwrap())
            .await
            .unwrap();
    }
    timeout(LONG, publisher.flush()).await.unwrap().unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500));
    assert_eq!((publisher.confirmed(), connections.load(Ordering::Relaxed)), (5, 2));
}

/// A queue that is full for a minute.
#[apply(broker_test!)]
#[slow]
async fn slow_test_a_full_queue_causes_few_connections() {
    let (fake, connections) = refusing_at_first().await;
    let mut topology = topology(&prefix());
    topology.max_length = 1;
    let url = Kind::RabbitMq.url(fake.addr.port());
    let mut publisher = Publisher::connect(url, topology.clone(), 1).await.unwrap();
    let publish = async {
        for number in 1..=10 {
            publisher
                .publish(message(&topology, &Job::example(format!("a-{number}"), number)).unwrap())
                .await
                .unwrap();
        }
    };
    assert!(timeout(Duration::from_secs(60), publish).await.is_err(), "the queue should be full");
    let reconnected = connections.load(Ordering::Relaxed) - 1;
    assert!((5..=10).contains(&reconnected), "{reconnected} connections");
}

#[apply(broker_test!)]
async fn a_producer_says_that_nothing_is_confirmed() {
    let proxy = Proxy::before(&url(Kind::RabbitMq)).await;
    let through = format!("amqp://127.0.0.1:{}/%2f?heartbeat=60", proxy.port);
    let many = ["--count", "1000000"];
    let mut producer = Program::producer(Kind::RabbitMq, &through, &prefix(), &many);
    producer.shows("confirmed 1", 1).await;
    proxy.set(Mode::Silent);
    producer.shows("RabbitMQ has confirmed nothing for 5s: it is blocked or out of reach", 1).await;
    assert_eq!(producer.interrupt_until_it_ends().await, Some(1));
}

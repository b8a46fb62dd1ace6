//! What publishing costs in the message-queue chapter, compared with the bare client libraries, and
//! how much faster a consumer is when it acknowledges in batches.
//!
//! ```sh
//! cargo bench -p lab --bench message_queue     # needs RabbitMQ and Redis installed
//! ```
//!
//! The messages have 100 bytes and go through private brokers. In each comparison, the two sides
//! take turns, round after round, on whatever cores the system chooses. The rates are in messages
//! per second. Look at the ratios first, since the rates depend on the machine.

use std::collections::VecDeque;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, ensure};
use lab::Spread;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use message_queue::brokers::{Broker, Kind, Options};
use message_queue::limits::rabbitmq::WINDOW;
use message_queue::rabbitmq::connection::Deliveries;
use message_queue::rabbitmq::producer::{Message, Publisher};
use message_queue::rabbitmq::topology::Topology;
use message_queue::redis::{names::KeyNames, publish_subscribe};
use redis::aio::MultiplexedConnection;

const ROUNDS: usize = 15;
const MESSAGES: usize = 20_000;
const PAYLOAD: [u8; 100] = [b'x'; 100];
const QUEUE: &str = "bench";
const PREFETCH: u16 = 512;
const ACK_BATCH: usize = 128;
const PIPELINE: usize = message_queue::limits::redis::PIPELINE;

fn main() -> anyhow::Result<()> {
    let rabbitmq = Broker::start(Kind::RabbitMq, Options::default())?;
    let redis = Broker::start(Kind::Redis, Options::default())?;
    let runtime = tokio::runtime::Runtime::new()?;
    println!("messages per second, median (range) of {ROUNDS} rounds of {MESSAGES}");
    runtime.block_on(rabbitmq_rates(&rabbitmq.url()))?;
    runtime.block_on(redis_rates(&redis.url()))
}

/// Prints the rates of both sides, and their ratio.
fn show(names: [&str; 2], rates: &[[f64; 2]]) {
    let column = |index: usize| Spread::of(&rates.iter().map(|pair| pair[index]).collect::<Vec<_>>());
    let ratios: Vec<f64> = rates.iter().map(|[ours, theirs]| ours / theirs).collect();
    for (index, name) in names.into_iter().enumerate() {
        println!("  {name:<44} {:.0}", column(index));
    }
    println!("  {:<44} {:.2}", "ratio", Spread::of(&ratios));
}

fn rate(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}

async fn rabbitmq_rates(url: &str) -> anyhow::Result<()> {
    let connection = Connection::connect(url, ConnectionProperties::default()).await?;
    let bare = connection.create_channel().await?;
    // The messages are transient, because this compares publishing, not the disk.
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    bare.queue_declare(QUEUE.into(), options, FieldTable::default()).await?;
    bare.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut publisher = Publisher::connect(url, Topology::default(), WINDOW).await?;

    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let mut pair = [0.0; 2];
        // The two sides take turns in going first, and each starts with an empty queue.
        for index in [round % 2, (round + 1) % 2] {
            pair[index] = match index {
                0 => publish_ours(&mut publisher).await?,
                _ => publish_bare(&bare).await?,
            };
            bare.queue_purge(QUEUE.into(), QueuePurgeOptions::default()).await?;
        }
        if round > 0 {
            rates.push(pair); // Round 0 is the warm-up.
        }
    }
    println!("RabbitMQ, publish with confirms, window {WINDOW}, transient");
    show(["this chapter's Publisher", "bare lapin"], &rates);

    let mut rates = Vec::new();
    for round in 0..=ROUNDS {
        let mut pair = [0.0; 2];
        for index in [round % 2, (round + 1) % 2] {
            publish_ours(&mut publisher).await?;
            pair[index] = consume(url, [ACK_BATCH, 1][index]).await?;
        }
        if round > 0 {
            rates.push(pair);
        }
    }
    println!("RabbitMQ, consume, prefetch {PREFETCH}");
    show([&format!("acknowledged in batches of {ACK_BATCH}"), "acknowledged one by one"], &rates);
    Ok(())
}

async fn publish_ours(publisher: &mut Publisher) -> anyhow::Result<f64> {
    let since = Instant::now();
    for _ in 0..MESSAGES {
        let message = Message {
            exchange: "".into(),
            routing_key: QUEUE.into(),
            mandatory: false,
            properties: BasicProperties::default(),
            payload: PAYLOAD.to_vec(),
        };
        publisher.publish(message).await?;
    }
    publisher.flush().await?;
    Ok(rate(MESSAGES, since))
}

async fn publish_bare(channel: &Channel) -> anyhow::Result<f64> {
    let since = Instant::now();
    let mut window = VecDeque::with_capacity(WINDOW);
    for _ in 0..MESSAGES {
        if window.len() == WINDOW
            && let Some(confirm) = window.pop_front()
        {
            let confirm: lapin::PublisherConfirm = confirm;
            ensure!(confirm.await?.is_ack(), "the broker did not confirm a message");
        }
        let options = BasicPublishOptions::default();
        let published =
            channel.basic_publish("".into(), QUEUE.into(), options, &PAYLOAD, BasicProperties::default());
        window.push_back(published.await?);
    }
    for confirm in window {
        ensure!(confirm.await?.is_ack(), "the broker did not confirm a message");
    }
    Ok(rate(MESSAGES, since))
}

/// Consumes all messages in the queue and returns the rate.
async fn consume(url: &str, batch: usize) -> anyhow::Result<f64> {
    let mut deliveries = Deliveries::open(url, QUEUE, PREFETCH, batch).await?;
    let since = Instant::now();
    for _ in 0..MESSAGES {
        let delivery = deliveries.next().await?;
        ensure!(delivery.data == PAYLOAD, "received a different message from the one sent");
        deliveries.done(delivery).await?;
    }
    let rate = rate(MESSAGES, since);
    deliveries.finish().await?;
    Ok(rate)
}

async fn redis_rates(url: &str) -> anyhow::Result<()> {
    let mut ours = publish_subscribe::Publisher::connect(url, KeyNames::default()).await?;
    let mut bare = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let mut rates = Vec::new();
    let mut benchmark = Vec::new();
    for round in 0..=ROUNDS {
        let mut pair = [0.0; 2];
        for index in [round % 2, (round + 1) % 2] {
            let since = Instant::now();
            for _ in 0..MESSAGES / PIPELINE {
                let replies = match index {
                    0 => ours.publish_raw(std::iter::repeat_n((QUEUE, &PAYLOAD[..]), PIPELINE)).await?,
                    _ => publish_pipeline(&mut bare).await?,
                };
                ensure!(replies.len() == PIPELINE, "replies are missing");
            }
            pair[index] = rate(MESSAGES, since);
        }
        if round > 0 {
            rates.push(pair);
            benchmark.push(redis_benchmark(url)?);
        }
    }
    println!("Redis, PUBLISH, {PIPELINE} in a pipeline");
    show(["this chapter's Publisher", "bare redis crate"], &rates);
    println!("  {:<44} {:.0}", "redis-benchmark -c 1", Spread::of(&benchmark));
    Ok(())
}

async fn publish_pipeline(connection: &mut MultiplexedConnection) -> redis::RedisResult<Vec<u64>> {
    let mut pipeline = redis::pipe();
    for _ in 0..PIPELINE {
        pipeline.cmd("PUBLISH").arg(QUEUE).arg(&PAYLOAD[..]);
    }
    pipeline.query_async(connection).await
}

fn redis_benchmark(url: &str) -> anyhow::Result<f64> {
    let port = url.rsplit(':').next().context("the URL has no port")?;
    let count = (MESSAGES * 10).to_string();
    let output = Command::new("redis-benchmark")
        .args(["-p", port, "-c", "1", "-n", &count, "-P", &PIPELINE.to_string(), "--csv", "publish", QUEUE])
        .arg(str::from_utf8(&PAYLOAD)?)
        .output()
        .context("cannot run redis-benchmark")?;
    // "command","requests per second",…
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = printed.lines().last().unwrap_or_default();
    let rate = line.split("\",\"").nth(1);
    let rate = rate.with_context(|| format!("redis-benchmark printed {printed:?}"))?;
    Ok(rate.trim_matches('"').parse()?)
}

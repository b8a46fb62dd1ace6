//! Redis: a request and its reply, a job with its acknowledgement, and a reading for a subscriber.

use futures::StreamExt;
use message_queue::address::BrokerUrl;
use message_queue::client::Client;
use message_queue::job::Job;
use message_queue::limits::redis::{CLAIM_AFTER, MAX_LENGTH, REMOVE_IDLE_AFTER};
use message_queue::redis::names::KeyNames;
use message_queue::redis::producer::Producer;
use message_queue::redis::worker::WorkQueue;
use message_queue::redis::{publish_subscribe, server};

use super::play::{IMPOSSIBLE, Stage, TEMPERATURE, beside, beside_a_worker, expect_refusal, queue_reading};

/// The schemes of a URL without TLS, and with it.
const SCHEMES: [&str; 2] = ["redis", "rediss"];

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let (client, other) = (stage.client.broker(SCHEMES)?, stage.other.broker(SCHEMES)?);
    request_and_reply(stage, &client, &other).await?;
    job(stage, &client, &other).await?;
    publish_and_subscribe(stage, &client, &other).await
}

async fn request_and_reply(stage: &Stage, client: &BrokerUrl, other: &BrokerUrl) -> anyhow::Result<()> {
    stage.say("The server subscribes to requests.");
    let server = async |shutdown, ready| {
        server::serve(other.clone(), &KeyNames::default(), &shutdown, ready).await?;
        Ok(())
    };
    let requests = async || {
        stage.say("The client asks to record a reading, and then an impossible one.");
        let client = Client::connect(client.clone(), KeyNames::default()).await?;
        client.record(&[queue_reading(TEMPERATURE)]).await?;
        expect_refusal(&client.record(&[queue_reading(IMPOSSIBLE)]).await)
    };
    beside(server, requests).await
}

async fn job(stage: &Stage, client: &BrokerUrl, other: &BrokerUrl) -> anyhow::Result<()> {
    stage.say("A worker waits for jobs.");
    let queue = WorkQueue {
        url: other.clone(),
        keys: KeyNames::default(),
        name: "worker-1".into(),
        claim_after: CLAIM_AFTER,
        remove_idle_after: REMOVE_IDLE_AFTER,
    };
    let producing = async || {
        stage.say("A producer adds a job to the stream, and the worker acknowledges it.");
        let mut producer = Producer::connect(client.clone(), KeyNames::default(), MAX_LENGTH).await?;
        producer.publish(&Job::example("job-1".into(), 1)).await?;
        producer.flush().await?;
        Ok(())
    };
    beside_a_worker(queue, producing).await
}

async fn publish_and_subscribe(stage: &Stage, client: &BrokerUrl, other: &BrokerUrl) -> anyhow::Result<()> {
    stage.say("A subscriber asks for all readings.");
    let patterns = ["*".to_owned()];
    let mut events = publish_subscribe::subscribe(other.clone(), &KeyNames::default(), &patterns).await?;
    stage.say("A publisher sends a reading.");
    let mut publisher = publish_subscribe::Publisher::connect(client.clone(), KeyNames::default()).await?;
    publisher.publish(&[queue_reading(TEMPERATURE)]).await?;
    events.next().await.transpose()?;
    Ok(())
}

//! RabbitMQ: a request and its reply, a job with its confirm and its acknowledgement, and a reading
//! for a subscriber.

use futures::StreamExt;
use message_queue::address::BrokerUrl;
use message_queue::client::Client;
use message_queue::job::Job;
use message_queue::limits::rabbitmq::{MAX_WAIT, PREFETCH};
use message_queue::rabbitmq::producer::Publisher;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker::{WorkQueue, message};
use message_queue::rabbitmq::{publish_subscribe, server};

use super::play::{IMPOSSIBLE, Stage, TEMPERATURE, beside, beside_a_worker, expect_refusal, queue_reading};

/// The schemes of a URL without TLS, and with it.
const SCHEMES: [&str; 2] = ["amqp", "amqps"];

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let (client, other) = (stage.client.broker(SCHEMES)?, stage.other.broker(SCHEMES)?);
    request_and_reply(stage, &client, &other).await?;
    job(stage, &client, &other).await?;
    publish_and_subscribe(stage, &client, &other).await
}

async fn request_and_reply(stage: &Stage, client: &BrokerUrl, other: &BrokerUrl) -> anyhow::Result<()> {
    stage.say("The server waits for requests.");
    let server = async |shutdown, ready| {
        server::serve(other.clone(), &Topology::default(), &shutdown, ready).await?;
        Ok(())
    };
    let requests = async || {
        stage.say("The client asks to record a reading, and then an impossible one.");
        let client = Client::connect(client.clone(), Topology::default()).await?;
        client.record(&[queue_reading(TEMPERATURE)]).await?;
        expect_refusal(&client.record(&[queue_reading(IMPOSSIBLE)]).await)
    };
    beside(server, requests).await
}

async fn job(stage: &Stage, client: &BrokerUrl, other: &BrokerUrl) -> anyhow::Result<()> {
    stage.say("A worker waits for jobs.");
    let queue = WorkQueue {
        url: other.clone(),
        topology: Topology::default(),
        prefetch: PREFETCH,
        max_wait: MAX_WAIT,
    };
    let producing = async || {
        stage.say("A producer publishes a job. The broker confirms it, and the worker acknowledges it.");
        let mut publisher = Publisher::connect(client.clone(), Topology::default(), 1).await?;
        publisher.publish(message(&Topology::default(), &Job::example("job-1".into(), 1))?).await?;
        publisher.flush().await?;
        Ok(())
    };
    beside_a_worker(queue, producing).await
}

async fn publish_and_subscribe(stage: &Stage, client: &BrokerUrl, other: &BrokerUrl) -> anyhow::Result<()> {
    stage.say("A subscriber asks for all readings.");
    let patterns = ["readings.#".to_owned()];
    let mut events = publish_subscribe::subscribe(other.clone(), Topology::default(), &patterns).await?;
    stage.say("A publisher sends a reading.");
    let mut publisher = Publisher::connect(client.clone(), Topology::default(), 1).await?;
    let reading = queue_reading(TEMPERATURE);
    publisher.publish(publish_subscribe::message(&Topology::default(), &reading)?).await?;
    publisher.flush().await?;
    events.next().await.transpose()?;
    Ok(())
}

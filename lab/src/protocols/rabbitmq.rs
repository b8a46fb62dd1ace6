//! RabbitMQ: requests and replies through the broker, and publishing without a consumer.

use anyhow::bail;
use futures::future::{BoxFuture, FutureExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use message_queue::brokers;
use message_queue::client::Client;
use message_queue::model::Reading;
use message_queue::rabbitmq::server;
use message_queue::rabbitmq::topology::Topology;

use super::batch::{samples, verify_count};
use super::message_queue::reading;
use super::protocol::{Kind, Protocol, Recorder, Served, connected};

/// A request that goes to the server through a queue. Its reply comes back through direct
/// reply-to.
pub(super) const REQUEST_REPLY: Protocol = Protocol {
    id: "rabbitmq",
    name: "RabbitMQ request/reply",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::ThroughBroker(brokers::Kind::RabbitMq, |address, shutdown, listening| {
        async move {
            let topology = Topology::default();
            Ok(server::serve(address.broker(SCHEMES)?, &topology, &shutdown, listening).await?)
        }
        .boxed()
    }),
    connect: |address, readings| {
        async move {
            let client = Client::connect(address.broker(SCHEMES)?, Topology::default()).await?;
            let batch = samples(readings).map(reading).collect();
            connected(RequestReply { client, batch })
        }
        .boxed()
    },
};

/// A message to a durable quorum queue. The broker confirms it once it is on disk.
pub(super) const PUBLISH: Protocol = Protocol {
    id: "rabbitmq_publish",
    name: "RabbitMQ publish",
    kind: Kind::Accepted,
    one_at_a_time: false,
    served: Served::ByBroker(brokers::Kind::RabbitMq),
    connect: |address, readings| {
        async move { connected(Publish::connect(&address.place, readings).await?) }.boxed()
    },
};

/// The schemes of a URL without TLS, and with it.
const SCHEMES: [&str; 2] = ["amqp", "amqps"];

pub(super) fn url(address: &str) -> String {
    format!("amqp://{address}")
}

struct RequestReply {
    client: Client,
    batch: Vec<Reading>,
}

impl Recorder for RequestReply {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { verify_count(self.client.record(&self.batch).await?, self.batch.len()) }.boxed()
    }
}

struct Publish {
    /// Kept here because dropping it closes the connection.
    _connection: Connection,
    channel: Channel,
    batch: Vec<Reading>,
}

const QUEUE: &str = "lab.published";

/// Maximum length of the queue. No program consumes the messages, so the broker drops the oldest.
const KEPT: i32 = 1_000;

impl Publish {
    async fn connect(address: &str, readings: usize) -> anyhow::Result<Self> {
        let connection = Connection::connect(&url(address), ConnectionProperties::default()).await?;
        let channel = connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(KEPT));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(QUEUE.into(), durable, arguments).await?;
        Ok(Self { _connection: connection, channel, batch: samples(readings).map(reading).collect() })
    }
}

impl Recorder for Publish {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let payload = serde_json::to_vec(&self.batch)?;
            let persistent = BasicProperties::default().with_delivery_mode(2);
            // If a message is not mandatory, the broker confirms it even if there is no such queue.
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let published =
                self.channel.basic_publish("".into(), QUEUE.into(), options, &payload, persistent).await?;
            match published.await? {
                Confirmation::Ack(None) => Ok(()),
                other => bail!("the broker did not accept the message: {other:?}"),
            }
        }
        .boxed()
    }
}

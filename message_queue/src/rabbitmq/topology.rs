//! Every queue and exchange of this chapter. Producers and consumers both declare them, so it
//! does not matter which you start first.
//!
//! ```text
//!            ┌──────────────────────────────── after 1 s ───────┐
//!            ▼                                                   │
//! producer ─► weather.jobs.v1 ─► worker ─ try 1 failed ─► weather.jobs.v1.retry-1000ms
//!            ▲                    │  │
//!            │                    │  └─ try 2 failed ─► weather.jobs.v1.retry-5000ms
//!            └── after 5 s ───────┼──────────────────────────────┘
//!                                 └─ try 3 failed ─► weather.jobs.v1.dead
//! ```
//!
//! Names carry a version: a queue's properties can't be changed, so new properties need a queue
//! with a new name.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, ErrorKind, ExchangeKind};

use crate::error::Error;
use crate::limits::rabbitmq::{DELIVERY_LIMIT, MAX_DEAD_LETTERS, MAX_REQUESTS, MIN_VERSION};

/// Names and properties of the queues, which may differ between two uses of one broker.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Prefix of every name.
    pub prefix: String,
    /// Maximum number of jobs in the work queue, and in each retry queue. Beyond it, RabbitMQ
    /// refuses jobs with a nack.
    pub max_length: u32,
    /// Delays before the second try, the third one, and so on.
    pub delays: Vec<Duration>,
}

impl Default for Topology {
    /// The prefix `weather`, 100,000 jobs, and delays of 1 s and 5 s.
    fn default() -> Self {
        Self {
            prefix: "weather".into(),
            max_length: 100_000,
            delays: vec![Duration::from_secs(1), Duration::from_secs(5)],
        }
    }
}

/// The address for replies: RabbitMQ's direct reply-to.
pub(crate) const REPLY_TO: &str = "amq.rabbitmq.reply-to";

impl Topology {
    /// Name of the work queue.
    pub fn jobs(&self) -> String {
        format!("{}.jobs.v1", self.prefix)
    }

    /// Name of the queue for jobs that failed for good.
    pub fn dead_letters(&self) -> String {
        format!("{}.dead", self.jobs())
    }

    /// Name of the queue in which a job waits this long for its next try.
    pub fn retry(&self, delay: Duration) -> String {
        format!("{}.retry-{}ms", self.jobs(), delay.as_millis())
    }

    /// Name of the topic exchange for readings.
    pub fn readings(&self) -> String {
        format!("{}.readings.v1", self.prefix)
    }

    /// Name of the queue for `record` requests.
    pub fn requests(&self) -> String {
        format!("{}.record.v1", self.prefix)
    }

    /// Returns the names and properties of all durable queues.
    pub(crate) fn queues(&self) -> Vec<(String, FieldTable)> {
        // Quorum queues are durable and replicated, and count deliveries.
        let quorum = |limit: u32, max_length: u32, target: Option<&str>| {
            let mut table = FieldTable::default();
            let mut set = |name: &str, value: AMQPValue| _ = table.insert(name.into(), value);
            set("x-queue-type", AMQPValue::LongString("quorum".into()));
            set("x-delivery-limit", AMQPValue::LongInt(limit.cast_signed()));
            set("x-max-length", AMQPValue::LongLongInt(max_length.into()));
            // RabbitMQ nacks the new message; by default, it would drop the oldest one.
            set("x-overflow", AMQPValue::LongString("reject-publish".into()));
            if let Some(target) = target {
                set("x-dead-letter-exchange", AMQPValue::LongString("".into()));
                set("x-dead-letter-routing-key", AMQPValue::LongString(target.into()));
                // A message leaves only when the target has confirmed it; the default may lose it.
                set("x-dead-letter-strategy", AMQPValue::LongString("at-least-once".into()));
            }
            table
        };
        let (jobs, dead) = (self.jobs(), self.dead_letters());
        // Each listing of the dead letters counts as a delivery, so their limit must be large.
        let mut queues = vec![
            (dead.clone(), quorum(1_000_000, MAX_DEAD_LETTERS, None)),
            (jobs.clone(), quorum(DELIVERY_LIMIT, self.max_length, Some(&dead))),
        ];
        for delay in &self.delays {
            let mut table = quorum(DELIVERY_LIMIT, self.max_length, Some(&jobs));
            // One queue for each delay. In a single queue with a time per message, only the head
            // expires, so a long delay there would block the short ones behind it.
            table.insert("x-message-ttl".into(), AMQPValue::LongLongInt(delay.as_millis() as i64));
            queues.push((self.retry(*delay), table));
        }
        queues
    }

    /// Declares everything except the queue of requests; see [`Topology::declare_requests`].
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), Error> {
        for (name, table) in self.queues() {
            queue(channel, &name, durable(), table).await?;
        }
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let name = self.readings();
        let declared = channel
            .exchange_declare(name.as_str().into(), ExchangeKind::Topic, options, FieldTable::default())
            .await;
        declared.map_err(|error| explain(&name, error))
    }

    /// Declares the queue of requests. Only servers do that: the queue disappears with the last of
    /// them, and RabbitMQ then returns a request at once. A client that declared it would wait for
    /// a server that does not exist.
    pub(crate) async fn declare_requests(&self, channel: &Channel) -> Result<(), Error> {
        // A classic queue: quorum queues can't delete themselves. If the broker crashes and loses
        // a request, its caller gets an error anyway.
        let options = QueueDeclareOptions { auto_delete: true, ..durable() };
        let mut table = FieldTable::default();
        table.insert("x-max-length".into(), AMQPValue::LongInt(MAX_REQUESTS.cast_signed()));
        queue(channel, &self.requests(), options, table).await
    }
}

/// Declares a queue for this connection alone, which disappears with it. Returns its name.
pub(crate) async fn own_queue(channel: &Channel, max_length: u32) -> Result<ShortString, Error> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut table = FieldTable::default();
    table.insert("x-max-length".into(), AMQPValue::LongInt(max_length.cast_signed()));
    Ok(channel.queue_declare("".into(), options, table).await?.name().clone())
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }
}

async fn queue(
    channel: &Channel,
    name: &str,
    options: QueueDeclareOptions,
    table: FieldTable,
) -> Result<(), Error> {
    let declared = channel.queue_declare(name.into(), options, table).await;
    declared.map(drop).map_err(|error| explain(name, error))
}

/// Returns an error that says why RabbitMQ refused a declaration.
fn explain(name: &str, error: lapin::Error) -> Error {
    let ErrorKind::ProtocolError(reason) = error.kind() else { return error.into() };
    let Some(detail) = reason.get_message().as_str().strip_prefix("PRECONDITION_FAILED - ") else {
        return error.into();
    };
    // An old RabbitMQ responds with this to arguments that its quorum queues don't support.
    if detail.starts_with("invalid arg ") {
        return Error::Unusable(format!(
            "RabbitMQ can't create {name}: {detail}. This program needs RabbitMQ {MIN_VERSION} or newer"
        ));
    }
    Error::PreconditionFailed { name: name.to_owned(), detail: detail.to_owned() }
}

//! Publish/subscribe: a topic exchange copies each reading to the queue of every
//! subscriber with a pattern that matches its routing key.

use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use lapin::types::{FieldTable, ShortString};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::connection::connect;
use super::deliveries::Deliveries;
use super::producer::Message;
use super::topology::{Topology, own_queue};
use crate::error::Error;
use crate::limits::rabbitmq::{MAX_BACKLOG, MAX_PATTERN, SUBSCRIBER_PREFETCH};
use crate::model::{Reading, from_json};
use crate::reconnect::Retry;

/// A reading as a message: its routing key is `readings.<station>.<metric>`, and it
/// is dropped if nobody subscribes.
///
/// # Errors
/// If a field is out of range, or the reading can't be written as JSON.
pub fn message(topology: &Topology, reading: &Reading) -> Result<Message, Error> {
    reading.check().map_err(Error::Invalid)?;
    Ok(Message {
        exchange: topology.readings().into(),
        routing_key: format!("readings.{}.{}", reading.station, reading.metric.name()).into(),
        mandatory: false,
        properties: BasicProperties::default().with_content_type("application/json".into()),
        payload: serde_json::to_vec(reading).map_err(std::io::Error::from)?,
    })
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A reading that matches.
    Reading {
        /// Its routing key.
        routing_key: String,
        /// The reading.
        reading: Reading,
    },
    /// The connection was lost, for this reason. The next event is [`Event::Reconnected`].
    Disconnected(String),
    /// The connection is back. Messages published in the meantime are lost: this subscriber
    /// had no queue then.
    Reconnected,
}

/// A subscription that connects again on its own.
pub struct Subscription {
    url: String,
    topology: Topology,
    patterns: Vec<ShortString>,
    deliveries: Option<Deliveries>,
    retry: Retry,
    /// While there is no connection: when to try again.
    next_attempt: Instant,
}

impl Subscription {
    /// Subscribes to patterns of routing keys: `*` stands for one word, `#` for any
    /// number of words.
    ///
    /// # Errors
    /// If there is no broker, or a pattern is longer than [`MAX_PATTERN`].
    pub async fn open(url: &str, topology: Topology, patterns: &[String]) -> Result<Self, Error> {
        let shorten = |pattern: &String| {
            ShortString::try_new(pattern.as_str())
                .map_err(|_| Error::Unexpected(format!("a pattern of over {MAX_PATTERN} bytes")))
        };
        let patterns: Vec<_> = patterns.iter().map(shorten).collect::<Result<_, _>>()?;
        let mut retry = Retry::new();
        let deliveries = Some(retry.first(|| bind(url, &topology, &patterns)).await?);
        let url = url.to_owned();
        Ok(Self { url, topology, patterns, deliveries, retry, next_attempt: Instant::now() })
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// Only an error that a new connection can't cure.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let Some(deliveries) = &mut self.deliveries else {
                sleep_until(self.next_attempt).await;
                match bind(&self.url, &self.topology, &self.patterns).await {
                    Ok(deliveries) => {
                        self.deliveries = Some(deliveries);
                        return Ok(Event::Reconnected);
                    }
                    Err(error) => self.next_attempt = Instant::now() + self.retry.pause_after(error)?,
                }
                continue;
            };
            let delivery = match deliveries.next().await {
                Ok(delivery) => delivery,
                Err(error) => return self.on_disconnect(error),
            };
            self.retry.progress();
            let reading = from_json(&delivery.data);
            let routing_key = delivery.routing_key.to_string();
            // Acknowledged when the next one is asked for, or with its batch. A lost
            // acknowledgement does no harm: the queue goes with the connection, whose
            // end the next call notices.
            let _ = deliveries.done(delivery).await;
            match reading {
                Ok(reading) => return Ok(Event::Reading { routing_key, reading }),
                Err(error) => warn!("{routing_key}: not a reading: {error}"),
            }
        }
    }

    fn on_disconnect(&mut self, error: Error) -> Result<Event, Error> {
        self.deliveries = None;
        let reason = error.to_string();
        self.next_attempt = Instant::now() + self.retry.pause_after(error)?;
        Ok(Event::Disconnected(reason))
    }
}

async fn bind(url: &str, topology: &Topology, patterns: &[ShortString]) -> Result<Deliveries, Error> {
    let session = connect(url).await?;
    topology.declare(&session.channel).await?;
    let queue = own_queue(&session.channel, MAX_BACKLOG).await?;
    for pattern in patterns {
        let (exchange, options) = (topology.readings().into(), QueueBindOptions::default());
        let channel = &session.channel;
        channel.queue_bind(queue.clone(), exchange, pattern.clone(), options, FieldTable::default()).await?;
    }
    Deliveries::start(session, queue, SUBSCRIBER_PREFETCH, usize::from(SUBSCRIBER_PREFETCH) / 2).await
}

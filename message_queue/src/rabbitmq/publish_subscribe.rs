//! Publish/subscribe: a topic exchange copies each reading to the queue of every
//! subscriber with a pattern that matches its routing key.

use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use lapin::types::{FieldTable, ShortString};
use tracing::warn;

use super::connection::connect;
use super::deliveries::Deliveries;
use super::publisher::Message;
use super::topology::{Topology, own_queue};
use crate::error::Error;
use crate::model::Reading;
use crate::reconnect::until_connected;

/// Readings that wait for a slow subscriber; beyond it the oldest is dropped.
pub const MAX_BACKLOG: u32 = 10_000;

/// Readings sent ahead of their acknowledgement.
const PREFETCH: u16 = 256;

/// Longest pattern, in bytes: AMQP's limit for a routing key.
pub const MAX_PATTERN: usize = 255;

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
    /// The connection was lost, and is there again. What was published meanwhile
    /// found no queue of ours.
    Gap,
}

/// A subscription that connects again by itself.
pub struct Subscription {
    url: String,
    topology: Topology,
    patterns: Vec<ShortString>,
    deliveries: Option<Deliveries>,
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
        let patterns = patterns.iter().map(shorten).collect::<Result<_, _>>()?;
        let mut subscription = Self { url: url.to_owned(), topology, patterns, deliveries: None };
        subscription.deliveries = Some(subscription.bind().await?);
        Ok(subscription)
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// Only what no new connection can cure.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let Some(deliveries) = &mut self.deliveries else {
                self.deliveries = Some(until_connected(|| self.bind()).await?);
                return Ok(Event::Gap);
            };
            let delivery = match deliveries.next().await {
                Ok(delivery) => delivery,
                Err(error) => {
                    warn!("{error}; subscribing again");
                    self.deliveries = None;
                    continue;
                }
            };
            let reading = serde_json::from_slice::<Reading>(&delivery.data);
            let routing_key = delivery.routing_key.to_string();
            // Acknowledged when the next one is asked for, or with its batch: a lost
            // acknowledgement is nothing here, the queue goes with the connection.
            if deliveries.done(delivery).await.is_err() {
                self.deliveries = None;
            }
            match reading {
                Ok(reading) => return Ok(Event::Reading { routing_key, reading }),
                Err(error) => warn!("{routing_key}: not a reading: {error}"),
            }
        }
    }

    async fn bind(&self) -> Result<Deliveries, Error> {
        let session = connect(&self.url).await?;
        self.topology.declare(&session.channel).await?;
        let queue = own_queue(&session.channel, MAX_BACKLOG).await?;
        for pattern in &self.patterns {
            let exchange = self.topology.readings().into();
            let options = QueueBindOptions::default();
            let bound = session.channel.queue_bind(
                queue.clone(),
                exchange,
                pattern.clone(),
                options,
                FieldTable::default(),
            );
            bound.await?;
        }
        Deliveries::start(session, queue, PREFETCH, usize::from(PREFETCH) / 2).await
    }
}

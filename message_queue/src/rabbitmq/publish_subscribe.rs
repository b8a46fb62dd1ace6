//! Publish/subscribe: a topic exchange copies each reading to the queue of every
//! subscriber with a pattern that matches its routing key.

use futures::stream::BoxStream;
use lapin::BasicProperties;
use lapin::options::QueueBindOptions;
use lapin::types::{FieldTable, ShortString};

use super::connection::{Deliveries, connect};
use super::producer::Message;
use super::topology::{Topology, own_queue};
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::limits::rabbitmq::{MAX_BACKLOG, MESSAGE_PREFETCH};
use crate::model::Reading;
use crate::publish_subscribe::{Event, Source};

/// Returns a reading as a message with the routing key `readings.<station>.<metric>`. RabbitMQ
/// drops it if nobody is subscribed.
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
        payload: serde_json::to_vec(reading)?,
    })
}

/// Subscribes to patterns for routing keys: `*` matches one word, and `#` any number of words. The
/// stream reconnects on its own.
///
/// # Errors
/// If no broker answers, or a pattern is longer than
/// [`MAX_PATTERN`](crate::limits::rabbitmq::MAX_PATTERN).
pub async fn subscribe(
    url: impl Into<BrokerUrl>,
    topology: Topology,
    patterns: &[String],
) -> Result<BoxStream<'static, Result<Event, Error>>, Error> {
    let short =
        |pattern: &String| ShortString::try_new(pattern.as_str()).map_err(|_too_long| Error::PatternTooLong);
    let patterns = patterns.iter().map(short).collect::<Result<_, _>>()?;
    Patterns { url: url.into(), topology, patterns }.subscribe().await
}

struct Patterns {
    url: BrokerUrl,
    topology: Topology,
    patterns: Vec<ShortString>,
}

impl Source for Patterns {
    type Connection = Deliveries;

    async fn connect(&self) -> Result<Deliveries, Error> {
        let mut session = connect(&self.url).await?;
        session.declare(&self.topology).await?;
        let channel = &session.channel;
        let queue = own_queue(channel, MAX_BACKLOG).await?;
        for pattern in &self.patterns {
            let (exchange, options) = (self.topology.readings().into(), QueueBindOptions::default());
            let table = FieldTable::default();
            channel.queue_bind(queue.clone(), exchange, pattern.clone(), options, table).await?;
        }
        Deliveries::start(session, queue, MESSAGE_PREFETCH, usize::from(MESSAGE_PREFETCH) / 2).await
    }

    async fn next(deliveries: &mut Deliveries) -> Result<Option<Event>, Error> {
        let delivery = deliveries.next().await?;
        let event = Event::from_message(delivery.routing_key.to_string(), &delivery.data);
        // The message is acknowledged with its batch, or when the next call has to wait. A lost
        // acknowledgement does no harm: the queue disappears with the connection, and the next
        // call notices that.
        let _ = deliveries.done(delivery).await;
        Ok(event)
    }
}

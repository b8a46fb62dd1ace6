//! Publish/subscribe: Redis sends a message to everyone who is subscribed at that moment, and
//! forgets it. It stores nothing, not even for a subscriber that is just reconnecting.

use std::sync::atomic::Ordering;

use futures::stream::BoxStream;
use redis::aio::MultiplexedConnection;

use super::connection::{Subscriber, connect, message};
use super::names::KeyNames;
use crate::error::Error;
use crate::limits::redis::{MAX_BACKLOG, PIPELINE};
use crate::model::Reading;
use crate::publish_subscribe::{Event, Source};
use crate::reconnect::Retry;

/// Publishes readings.
pub struct Publisher {
    url: String,
    /// `None` after it was lost.
    connection: Option<MultiplexedConnection>,
    keys: KeyNames,
    pipeline: redis::Pipeline,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn connect(url: &str, keys: KeyNames) -> Result<Self, Error> {
        let connection = Some(Retry::new().first(|| connect(url)).await?);
        Ok(Self { url: url.to_owned(), connection, keys, pipeline: redis::pipe() })
    }

    /// Publishes each reading on the channel `<prefix>:readings:<station>:<metric>`. Returns for
    /// each the number of subscribers that Redis sent it to. Up to [`PIPELINE`] readings share a
    /// round trip.
    ///
    /// # Errors
    /// If a field of a reading is out of range, or the connection is lost. Some readings may have
    /// been published before that.
    pub async fn publish(&mut self, readings: &[Reading]) -> Result<Vec<u64>, Error> {
        let mut heard = Vec::with_capacity(readings.len());
        for readings in readings.chunks(PIPELINE) {
            let mut messages = Vec::with_capacity(readings.len());
            for reading in readings {
                reading.check().map_err(Error::Invalid)?;
                let channel = self.keys.readings(&format!("{}:{}", reading.station, reading.metric.name()));
                messages.push((channel, serde_json::to_vec(reading)?));
            }
            heard.extend(self.publish_raw(messages.iter().map(|(c, m)| (c.as_str(), m.as_slice()))).await?);
        }
        Ok(heard)
    }

    /// Publishes any messages in one round trip. Returns for each the number of subscribers that
    /// Redis sent it to. After an error, the next call connects again.
    ///
    /// # Errors
    /// If the connection is lost. Some messages may have been published before that.
    pub async fn publish_raw<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Vec<u64>, Error> {
        self.pipeline.clear();
        for (channel, message) in messages {
            self.pipeline.cmd("PUBLISH").arg(channel).arg(message);
        }
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(connect(&self.url).await?),
        };
        let heard = self.pipeline.query_async(connection).await;
        if heard.is_err() {
            self.connection = None;
        }
        Ok(heard?)
    }
}

/// Subscribes to `<station>:<metric>`, or to patterns for it: `*` matches any characters, `?` any
/// single one, and `[ab]` one of these. The stream reconnects on its own.
///
/// # Errors
/// If no broker answers.
pub async fn subscribe(
    url: &str,
    keys: &KeyNames,
    patterns: &[String],
) -> Result<BoxStream<'static, Result<Event, Error>>, Error> {
    let channels = patterns.iter().map(|pattern| keys.readings(pattern)).collect();
    Channels { url: url.to_owned(), channels }.subscribe().await
}

struct Channels {
    url: String,
    channels: Vec<String>,
}

impl Source for Channels {
    type Connection = Subscriber;

    async fn connect(&self) -> Result<Subscriber, Error> {
        let mut subscriber = Subscriber::connect(&self.url, MAX_BACKLOG).await?;
        for channel in &self.channels {
            if channel.contains(['*', '?', '[']) {
                subscriber.connection.psubscribe(channel).await?;
            } else {
                subscriber.connection.subscribe(channel).await?;
            }
        }
        Ok(subscriber)
    }

    async fn next(subscriber: &mut Subscriber) -> Result<Option<Event>, Error> {
        match subscriber.missed.swap(0, Ordering::Relaxed) {
            0 => {}
            missed => return Ok(Some(Event::Missed(missed))),
        }
        let mut pushes = Vec::with_capacity(1);
        subscriber.receive(&mut pushes, 1).await?;
        let message = pushes.pop().and_then(message);
        Ok(message.and_then(|(channel, message)| Event::from_message(channel, &message)))
    }
}

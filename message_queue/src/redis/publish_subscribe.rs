//! Publish/subscribe: Redis sends a message to those who listen at that moment,
//! and forgets it. Nothing is stored, not even for a subscriber who is just
//! connecting again.

use std::sync::atomic::Ordering;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, PushInfo, PushKind, Value};

use super::Keys;
use super::connection::{Subscriber, connect};
use crate::error::Error;
use crate::model::Reading;

/// Readings that wait to be taken from a [`Subscription`]; more are dropped.
pub const MAX_BACKLOG: usize = 10_000;

/// Messages published in one go.
pub const PIPELINE: usize = 100;

/// Publishes readings.
pub struct Publisher {
    connection: MultiplexedConnection,
    keys: Keys,
    pipeline: redis::Pipeline,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn connect(url: &str, keys: Keys) -> Result<Self, Error> {
        Ok(Self { connection: connect(url).await?, keys, pipeline: redis::pipe() })
    }

    /// Publishes readings, each on the channel `<prefix>:readings:<station>:<metric>`;
    /// returns for each how many subscribers Redis sent it to. [`PIPELINE`] of them
    /// share a round trip.
    ///
    /// # Errors
    /// If a field of a reading is out of range, or the connection is lost: some may
    /// have been published then.
    pub async fn publish(&mut self, readings: &[Reading]) -> Result<Vec<u64>, Error> {
        let mut heard = Vec::with_capacity(readings.len());
        for readings in readings.chunks(PIPELINE) {
            let mut messages = Vec::with_capacity(readings.len());
            for reading in readings {
                reading.check().map_err(Error::Invalid)?;
                let channel = self.keys.readings(&format!("{}:{}", reading.station, reading.metric.name()));
                messages.push((channel, serde_json::to_vec(reading).map_err(std::io::Error::from)?));
            }
            heard.extend(self.publish_raw(messages.iter().map(|(c, m)| (c.as_str(), m.as_slice()))).await?);
        }
        Ok(heard)
    }

    /// Publishes messages, whatever they are, in one round trip; returns for each how
    /// many subscribers it was sent to.
    ///
    /// # Errors
    /// If the connection is lost: some may have been published then.
    pub async fn publish_raw<'a>(
        &mut self,
        messages: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Vec<u64>, Error> {
        self.pipeline.clear();
        for (channel, message) in messages {
            self.pipeline.cmd("PUBLISH").arg(channel).arg(message);
        }
        Ok(self.pipeline.query_async(&mut self.connection).await?)
    }
}

/// What a subscriber gets.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A reading that matches.
    Reading {
        /// Its channel.
        channel: String,
        /// The reading.
        reading: Reading,
    },
    /// The connection was lost. What is published until it is there again is lost.
    Gap,
    /// So many readings were dropped, because they were not taken fast enough.
    Missed(u64),
}

/// A subscription that connects again by itself.
pub struct Subscription {
    subscriber: Subscriber,
}

impl Subscription {
    /// Subscribes to `<station>:<metric>`, or to patterns of it: `*` stands for any
    /// characters, `?` for one, `[ab]` for one of these.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn open(url: &str, keys: &Keys, patterns: &[String]) -> Result<Self, Error> {
        let mut subscriber = Subscriber::connect(url, MAX_BACKLOG).await?;
        for pattern in patterns {
            let channel = keys.readings(pattern);
            if pattern.contains(['*', '?', '[']) {
                subscriber.connection.psubscribe(channel).await?;
            } else {
                subscriber.connection.subscribe(channel).await?;
            }
        }
        Ok(Self { subscriber })
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection has ended for good.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            match self.subscriber.missed.swap(0, Ordering::Relaxed) {
                0 => {}
                missed => return Ok(Event::Missed(missed)),
            }
            let push = self.subscriber.pushes.recv().await.ok_or(Error::Lost)?;
            if push.kind == PushKind::Disconnection {
                return Ok(Event::Gap);
            }
            let Some((channel, message)) = message(push) else { continue };
            match serde_json::from_slice(&message) {
                Ok(reading) => return Ok(Event::Reading { channel, reading }),
                Err(error) => tracing::warn!("{channel}: not a reading: {error}"),
            }
        }
    }
}

/// The channel and the content, if a push carries a message.
pub(crate) fn message(mut push: PushInfo) -> Option<(String, Vec<u8>)> {
    // pmessage: pattern, channel, message; message: channel, message.
    let expected = match push.kind {
        PushKind::PMessage => 3,
        PushKind::Message => 2,
        _ => return None,
    };
    if push.data.len() != expected {
        return None;
    }
    let Value::BulkString(message) = push.data.pop()? else { return None };
    let channel = String::from_redis_value(push.data.pop()?).ok()?;
    Some((channel, message))
}

//! Publish/subscribe: Redis sends a message to those who listen at that moment,
//! and forgets it. Nothing is stored, not even for a subscriber that is just
//! reconnecting.

use std::sync::atomic::Ordering;

use redis::PushInfo;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep_until};

use super::connection::{Subscriber, connect, message};
use super::names::KeyNames;
use crate::error::Error;
use crate::limits::redis::{MAX_BACKLOG, PIPELINE};
use crate::model::{Reading, from_json};
use crate::reconnect::Retry;

/// Publishes readings.
pub struct Publisher {
    connection: MultiplexedConnection,
    keys: KeyNames,
    pipeline: redis::Pipeline,
}

impl Publisher {
    /// Connects.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn connect(url: &str, keys: KeyNames) -> Result<Self, Error> {
        let connection = Retry::new().first(|| connect(url)).await?;
        Ok(Self { connection, keys, pipeline: redis::pipe() })
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

    /// Publishes any messages in one round trip; returns for each how
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
    /// The connection was lost, for this reason. The next event is [`Event::Reconnected`].
    Disconnected(String),
    /// The connection is back. Messages published in the meantime are lost.
    Reconnected,
    /// This many readings were dropped, because they were not taken fast enough.
    Missed(u64),
}

/// A subscription that connects again on its own.
pub struct Subscription {
    url: String,
    channels: Vec<String>,
    subscriber: Option<Subscriber>,
    pushes: Vec<PushInfo>,
    retry: Retry,
    /// While there is no connection: when to try again.
    next_attempt: Instant,
}

impl Subscription {
    /// Subscribes to `<station>:<metric>`, or to patterns of it: `*` stands for any
    /// characters, `?` for one, `[ab]` for one of these.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn open(url: &str, keys: &KeyNames, patterns: &[String]) -> Result<Self, Error> {
        let channels: Vec<_> = patterns.iter().map(|pattern| keys.readings(pattern)).collect();
        let mut retry = Retry::new();
        let subscriber = Some(retry.first(|| subscribe(url, &channels)).await?);
        let (url, pushes, next_attempt) = (url.to_owned(), Vec::with_capacity(1), Instant::now());
        Ok(Self { url, channels, subscriber, pushes, retry, next_attempt })
    }

    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// Only an error that a new connection can't cure.
    pub async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let Some(subscriber) = &mut self.subscriber else {
                sleep_until(self.next_attempt).await;
                match subscribe(&self.url, &self.channels).await {
                    Ok(subscriber) => {
                        self.subscriber = Some(subscriber);
                        return Ok(Event::Reconnected);
                    }
                    Err(error) => self.next_attempt = Instant::now() + self.retry.pause_after(error)?,
                }
                continue;
            };
            match subscriber.missed.swap(0, Ordering::Relaxed) {
                0 => {}
                missed => return Ok(Event::Missed(missed)),
            }
            if let Err(error) = subscriber.receive(&mut self.pushes, 1).await {
                self.subscriber = None;
                let reason = error.to_string();
                self.next_attempt = Instant::now() + self.retry.pause_after(error)?;
                return Ok(Event::Disconnected(reason));
            }
            let Some((channel, message)) = self.pushes.pop().and_then(message) else { continue };
            self.retry.progress();
            match from_json(&message) {
                Ok(reading) => return Ok(Event::Reading { channel, reading }),
                Err(error) => tracing::warn!("{channel}: not a reading: {error}"),
            }
        }
    }
}

async fn subscribe(url: &str, channels: &[String]) -> Result<Subscriber, Error> {
    let mut subscriber = Subscriber::connect(url, MAX_BACKLOG).await?;
    for channel in channels {
        if channel.contains(['*', '?', '[']) {
            subscriber.connection.psubscribe(channel).await?;
        } else {
            subscriber.connection.subscribe(channel).await?;
        }
    }
    Ok(subscriber)
}

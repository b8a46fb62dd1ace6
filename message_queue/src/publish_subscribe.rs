//! The events of a subscription, with either broker.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;
use tracing::warn;

use crate::error::Error;
use crate::model::{Reading, from_json};
use crate::reconnect::Retry;

/// An event of a subscription.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A reading that matches the subscription.
    Reading {
        /// The name it was published under: a routing key on RabbitMQ, a channel on Redis.
        topic: String,
        /// The reading.
        reading: Reading,
    },
    /// This many readings were dropped because the subscriber was too slow. Only subscribers on
    /// Redis learn that; RabbitMQ drops the oldest readings without notice.
    Missed(u64),
    /// The connection was lost. The next event is [`Event::Reconnected`].
    Disconnected {
        /// The reason.
        reason: String,
    },
    /// The connection is back. Readings published in the meantime are lost: the broker keeps
    /// none for a subscriber that is away.
    Reconnected,
}

impl Event {
    /// Returns the reading in a message, or `None` if it holds something else.
    pub(crate) fn from_message(topic: String, message: &[u8]) -> Option<Self> {
        match from_json(message) {
            Ok(reading) => Some(Self::Reading { topic, reading }),
            Err(error) => {
                warn!("{topic}: not a reading: {error}");
                None
            }
        }
    }
}

/// How to subscribe to one broker.
pub(crate) trait Source: Sized + Send + 'static {
    /// A connection that has subscribed.
    type Connection: Send;

    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Error>> + Send;

    /// Waits for a message. Returns its event, or `None` if the message holds no reading.
    fn next(connection: &mut Self::Connection) -> impl Future<Output = Result<Option<Event>, Error>> + Send;

    /// Subscribes, and returns the events. The stream reconnects on its own, and ends after an
    /// error that no new connection can cure.
    ///
    /// Its `next` is cancel safe: the stream keeps a call of `Subscription::next` that has begun,
    /// and continues it.
    async fn subscribe(self) -> Result<BoxStream<'static, Result<Event, Error>>, Error> {
        let mut retry = Retry::new();
        let connection = Some(retry.first(|| self.connect()).await?);
        let subscription = Subscription { source: self, connection, retry, pause: Duration::ZERO };
        let next =
            async |mut subscription: Subscription<Self>| Ok(Some((subscription.next().await?, subscription)));
        Ok(stream::try_unfold(subscription, next).boxed())
    }
}

/// The state of a subscription.
struct Subscription<S: Source> {
    source: S,
    connection: Option<S::Connection>,
    retry: Retry,
    /// Pause before the next attempt, while there is no connection.
    pause: Duration,
}

impl<S: Source> Subscription<S> {
    async fn next(&mut self) -> Result<Event, Error> {
        loop {
            let Some(connection) = &mut self.connection else {
                sleep(self.pause).await;
                match self.source.connect().await {
                    Ok(connection) => {
                        self.connection = Some(connection);
                        return Ok(Event::Reconnected);
                    }
                    Err(error) => self.pause = self.retry.pause_after(error)?,
                }
                continue;
            };
            match S::next(connection).await {
                Ok(event) => {
                    self.retry.progress();
                    if let Some(event) = event {
                        return Ok(event);
                    }
                }
                Err(error) => {
                    self.connection = None;
                    let reason = error.to_string();
                    self.pause = self.retry.pause_after(error)?;
                    return Ok(Event::Disconnected { reason });
                }
            }
        }
    }
}

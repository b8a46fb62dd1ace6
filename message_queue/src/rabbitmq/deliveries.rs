//! Consuming, with acknowledgements in batches.

use futures::{FutureExt, StreamExt};
use lapin::{Acker, Consumer};

use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::time::Instant;

use super::connection::{Session, connect};
use crate::error::Error;
use crate::job::ACK_WITHIN;

/// The messages of one queue, on one session.
///
/// One acknowledgement may cover all messages up to it (`multiple`). That is safe
/// here because messages are finished in the order of their delivery: when one is
/// done, so are those before it. The price is that after a crash up to a batch of
/// finished messages is delivered again.
pub struct Deliveries {
    session: Session,
    consumer: Consumer,
    batch: usize,
    /// Of the last finished message, if that is not acknowledged yet.
    last: Option<Acker>,
    unacknowledged: usize,
    since: Instant,
}

impl Deliveries {
    /// Connects and consumes a queue that is there already; see [`PREFETCH`] and
    /// [`ACK_BATCH`] for `prefetch` and `batch`.
    ///
    /// [`PREFETCH`]: super::work_queue::PREFETCH
    /// [`ACK_BATCH`]: super::work_queue::ACK_BATCH
    ///
    /// # Errors
    /// If there is no broker or no such queue.
    pub async fn open(url: &str, queue: &str, prefetch: u16, batch: usize) -> Result<Self, Error> {
        Self::start(connect(url).await?, queue.into(), prefetch, batch).await
    }

    /// Consumes a queue. At most `prefetch` messages are sent ahead of their
    /// acknowledgement, so that one consumer does not get the whole queue; `batch`
    /// of them are acknowledged together, or all when none is waiting.
    pub(crate) async fn start(
        session: Session,
        queue: ShortString,
        prefetch: u16,
        batch: usize,
    ) -> Result<Self, Error> {
        session.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let consumer =
            session.channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        let batch = batch.clamp(1, usize::from(prefetch).max(1));
        Ok(Self { session, consumer, batch, last: None, unacknowledged: 0, since: Instant::now() })
    }

    /// The next message. Cancel safe: dropped early, no message is lost.
    ///
    /// # Errors
    /// If the connection, the channel or the queue is gone.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        let next = match self.consumer.next().now_or_never() {
            Some(ready) => ready,
            None => {
                self.acknowledge().await?;
                self.consumer.next().await
            }
        };
        Ok(next.ok_or(Error::Lost)??)
    }

    /// This message is finished, and so are all before it.
    ///
    /// # Errors
    /// If the connection is gone: the message will be delivered again.
    pub async fn done(&mut self, delivery: Delivery) -> Result<(), Error> {
        if self.unacknowledged == 0 {
            self.since = Instant::now();
        }
        self.last = Some(delivery.acker);
        self.unacknowledged += 1;
        if self.unacknowledged >= self.batch || self.since.elapsed() > ACK_WITHIN {
            self.acknowledge().await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self) -> Result<(), Error> {
        self.unacknowledged = 0;
        let Some(acker) = self.last.take() else { return Ok(()) };
        let sent = acker.ack(BasicAckOptions { multiple: true }).await?;
        if sent { Ok(()) } else { Err(Error::Lost) }
    }

    /// Acknowledges what is done and closes the connection; the broker gives what
    /// was sent ahead to others.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.acknowledge().await?;
        Ok(self.session.connection.close(200, "done".into()).await?)
    }

    /// The channel, for what else is to be said on it.
    pub(crate) fn channel(&self) -> &lapin::Channel {
        &self.session.channel
    }
}

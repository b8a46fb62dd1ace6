//! Consuming, with acknowledgements in batches.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::Consumer;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use tokio::select;
use tokio::time::{Instant, sleep_until};

use super::connection::{Session, connect};
use crate::error::Error;
use crate::limits::ACK_WITHIN;
use crate::limits::rabbitmq::MAX_WAIT;
use crate::results::Results;

/// The messages of one queue, on one session.
///
/// One acknowledgement may cover all messages up to it (`multiple`). That is safe
/// here because messages are finished in the order of their delivery: when one is
/// done, so are those before it. The price is that after a crash up to a batch of
/// finished messages is delivered again.
pub struct Deliveries {
    session: Session,
    queue: ShortString,
    /// `None` after a stop; [`Deliveries::next`] starts another one.
    consumer: Option<Consumer>,
    /// Largest number of unacknowledged messages.
    prefetch: u16,
    /// That number for the current consumer.
    ahead: u16,
    /// How many messages fit into `max_wait` if each takes as long as the last one.
    wanted: u16,
    batch: usize,
    max_wait: Duration,
    /// What must be synced before an acknowledgement.
    results: Option<Results>,
    /// Delivered and not yet begun, each with the time of its arrival.
    waiting: VecDeque<(Instant, Delivery)>,
    /// When the current message was taken.
    taken: Instant,
    /// Finished and not yet acknowledged, in the order of their delivery.
    finished: Vec<Delivery>,
    /// When the first of them was finished.
    since: Instant,
    has_acknowledged: bool,
}

impl Deliveries {
    /// Connects and consumes a queue that is there already; see [`PREFETCH`] and
    /// [`ACK_BATCH`] for `prefetch` and `batch`.
    ///
    /// [`PREFETCH`]: crate::limits::rabbitmq::PREFETCH
    /// [`ACK_BATCH`]: crate::limits::rabbitmq::ACK_BATCH
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
        let now = Instant::now();
        let mut deliveries = Self {
            session,
            queue,
            consumer: None,
            prefetch,
            ahead: prefetch,
            wanted: prefetch,
            batch: batch.clamp(1, usize::from(prefetch).max(1)),
            max_wait: MAX_WAIT,
            results: None,
            waiting: VecDeque::new(),
            taken: now,
            finished: Vec::new(),
            since: now,
            has_acknowledged: false,
        };
        deliveries.consume().await?;
        Ok(deliveries)
    }

    /// Makes each acknowledgement wait until the results are on disk, and replaces
    /// [`MAX_WAIT`] by `max_wait`.
    pub(crate) fn for_work(self, results: Results, max_wait: Duration) -> Self {
        Self { results: Some(results), max_wait, ..self }
    }

    /// Starts a consumer. `basic.qos` applies only to consumers that start after it, and
    /// quorum queues support no limit for the whole channel. So a new limit needs a new
    /// consumer.
    async fn consume(&mut self) -> Result<(), Error> {
        self.ahead = self.wanted;
        self.session.channel.basic_qos(self.ahead, BasicQosOptions::default()).await?;
        let (queue, options) = (self.queue.clone(), BasicConsumeOptions::default());
        let consumer =
            self.session.channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Stops the consumer. The messages that it had received stay in `waiting`.
    async fn stop(&mut self) -> Result<(), Error> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        self.session.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
        while let Some(delivery) = consumer.next().await {
            self.waiting.push_back((Instant::now(), delivery?));
        }
        Ok(())
    }

    /// Waits for the next message. Cancel safe: if dropped early, it loses no message.
    ///
    /// # Errors
    /// If the connection, the channel or the queue is gone.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        if self.ahead < self.prefetch && self.wanted >= self.ahead.saturating_mul(2) {
            self.stop().await?; // The work has become quick again.
        }
        let delivery = match self.waiting.pop_front() {
            Some((_, delivery)) => delivery,
            None => self.receive().await?,
        };
        self.taken = Instant::now();
        Ok(delivery)
    }

    async fn receive(&mut self) -> Result<Delivery, Error> {
        if self.consumer.is_none() {
            self.consume().await?;
        }
        if let Some(ready) = self.consumer.as_mut().and_then(|consumer| consumer.next().now_or_never()) {
            return Ok(ready.ok_or(Error::Disconnected)??);
        }
        self.acknowledge().await?;
        delivered(&mut self.consumer).await
    }

    /// Runs while the caller works on a message: acknowledges finished messages in time and
    /// receives new ones. Returns when a message has waited for `max_wait`; then call
    /// [`Deliveries::release`]. Cancel safe.
    ///
    /// # Errors
    /// As [`Deliveries::next`].
    pub(crate) async fn tend(&mut self) -> Result<(), Error> {
        loop {
            let overdue = self.waiting.front().map(|(arrived, _)| *arrived + self.max_wait);
            // All three are cancel safe. If none is enabled, there is nothing to do.
            select! {
                () = sleep_until(self.since + ACK_WITHIN), if !self.finished.is_empty() => {
                    self.acknowledge().await?;
                }
                () = sleep_until(overdue.unwrap_or(self.since)), if overdue.is_some() => return Ok(()),
                delivery = delivered(&mut self.consumer), if self.consumer.is_some() => {
                    self.waiting.push_back((Instant::now(), delivery?));
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Marks this message, and so all before it, as finished.
    ///
    /// # Errors
    /// If the connection is gone: the message will be delivered again.
    pub async fn done(&mut self, delivery: Delivery) -> Result<(), Error> {
        let fit = self.max_wait.as_nanos() / self.taken.elapsed().as_nanos().max(1);
        self.wanted = u16::try_from(fit).unwrap_or(u16::MAX).clamp(1, self.prefetch.max(1));
        if self.finished.is_empty() {
            self.since = Instant::now();
        }
        self.finished.push(delivery);
        if self.finished.len() >= self.batch || self.since.elapsed() > ACK_WITHIN {
            self.acknowledge().await?;
        }
        Ok(())
    }

    /// Takes back a message that was not finished; [`Deliveries::release`] will return it.
    pub(crate) fn not_done(&mut self, delivery: Delivery) {
        self.waiting.push_front((self.taken, delivery));
    }

    /// Acknowledges the finished messages. Cancel safe: the others stay.
    ///
    /// # Errors
    /// If the connection is gone, or a result can't be kept.
    pub(crate) async fn acknowledge(&mut self) -> Result<(), Error> {
        let Some(last) = self.finished.last() else { return Ok(()) };
        if let Some(results) = &self.results {
            results.sync_in_background().await?;
        }
        // The first poll sends the acknowledgement, even if the future is dropped afterwards.
        // A second one for the same messages would be an error.
        let tag = last.delivery_tag;
        self.finished.clear();
        self.session.channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        self.has_acknowledged = true;
        Ok(())
    }

    /// Returns whether anything was acknowledged in this session.
    pub(crate) fn has_acknowledged(&self) -> bool {
        self.has_acknowledged
    }

    /// Stops the consumer and returns all messages that are not acknowledged, except the one
    /// that is being worked on. The caller has to acknowledge or requeue each of them.
    ///
    /// # Errors
    /// If the connection is gone: they will be delivered again.
    pub(crate) async fn release(&mut self) -> Result<Vec<Delivery>, Error> {
        self.stop().await?;
        let waiting = self.waiting.drain(..).map(|(_, delivery)| delivery);
        Ok(self.finished.drain(..).chain(waiting).collect())
    }

    /// Acknowledges the finished messages and closes the connection. The broker redelivers the
    /// others, which it had sent ahead.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.acknowledge().await?;
        Ok(self.session.connection.close(200, "done".into()).await?)
    }

    /// The channel, for other commands.
    pub(crate) fn channel(&self) -> &lapin::Channel {
        &self.session.channel
    }
}

/// The next message of a consumer.
async fn delivered(consumer: &mut Option<Consumer>) -> Result<Delivery, Error> {
    let next = match consumer {
        Some(consumer) => consumer.next().await,
        None => None,
    };
    Ok(next.ok_or(Error::Disconnected)??)
}

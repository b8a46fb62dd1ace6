//! The work queue: each job goes to one of the workers, and is redelivered until one of them has
//! acknowledged it.

use std::collections::VecDeque;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Consumer};
use tokio::select;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{Session, acknowledge, connect, consume};
use super::producer::{Message, PERSISTENT, Publisher};
use super::topology::Topology;
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::job::{Attempt, DeadLetter, Failed, Job, Next};
use crate::limits::TRIES;
use crate::limits::rabbitmq::GIVE_BACK_WITHIN;
use crate::worker::{Jobs, Queue};

/// Header with the number of the try, from 1.
const ATTEMPT: &str = "x-attempt";

/// Header with the reason why a job is a dead letter.
const ERROR: &str = "x-error";

/// Returns a job as a message for the work queue.
///
/// # Errors
/// If it can't be written as JSON.
pub fn message(topology: &Topology, job: &Job) -> Result<Message, Error> {
    let payload = serde_json::to_vec(job)?;
    let properties = BasicProperties::default()
        .with_message_id(job.id.as_str().into())
        .with_content_type("application/json".into())
        .with_delivery_mode(PERSISTENT);
    Ok(Message {
        exchange: "".into(),
        routing_key: topology.jobs().into(),
        mandatory: true,
        properties,
        payload,
    })
}

/// The work queue, as one worker uses it.
#[derive(Debug, Clone)]
pub struct WorkQueue {
    /// The broker.
    pub url: BrokerUrl,
    /// The queues.
    pub topology: Topology,
    /// Maximum number of jobs sent ahead of their acknowledgement.
    pub prefetch: u16,
    /// Time after which the jobs that were sent ahead go back if the work is slow; usually
    /// [`MAX_WAIT`](crate::limits::rabbitmq::MAX_WAIT).
    pub max_wait: Duration,
}

impl Queue for WorkQueue {
    type Jobs = Consuming;

    async fn open(&self) -> Result<Consuming, Error> {
        // This also declares the queues.
        let window = usize::from(self.prefetch);
        let retries = Publisher::connect(self.url.clone(), self.topology.clone(), window).await?;
        let session = connect(&self.url).await?;
        let consumer = Some(consume(&session.channel, self.topology.jobs().into(), self.prefetch).await?);
        let (queue, ahead, waiting) = (self.clone(), self.prefetch, VecDeque::new());
        Ok(Consuming { queue, session, retries, consumer, ahead, waiting, taken: None })
    }
}

/// A worker's consumer, and the jobs that were sent ahead to it.
pub struct Consuming {
    queue: WorkQueue,
    session: Session,
    /// Publisher for retries, on a connection of its own; see [`Publisher`].
    retries: Publisher,
    /// `None` after a stop; [`Jobs::wait`] starts another one.
    consumer: Option<Consumer>,
    /// Maximum number of unacknowledged jobs for the next consumer: 1 while the work is slow.
    /// (RabbitMQ can't change it for a consumer that has started.)
    ahead: u16,
    /// Jobs that were delivered but not yet begun, each with the time of its arrival.
    waiting: VecDeque<(Instant, Delivery)>,
    /// Time when the current job was taken.
    taken: Option<Instant>,
}

impl Jobs for Consuming {
    type Job = Delivery;

    async fn ready(&mut self) -> Result<Option<Delivery>, Error> {
        let quick = |taken: Instant| taken.elapsed() * u32::from(self.queue.prefetch) < self.queue.max_wait;
        if self.ahead < self.queue.prefetch && self.taken.is_some_and(quick) {
            self.ahead = self.queue.prefetch;
            self.stop().await?;
        }
        let next = match self.waiting.pop_front() {
            Some((_, job)) => Some(job),
            None => delivered(&mut self.consumer).now_or_never().transpose()?,
        };
        self.taken = next.is_some().then(Instant::now);
        Ok(next)
    }

    async fn wait(&mut self, shutdown: &CancellationToken) -> Result<Option<Delivery>, Error> {
        if self.consumer.is_none() {
            let queue = self.queue.topology.jobs().into();
            self.consumer = Some(consume(&self.session.channel, queue, self.ahead).await?);
        }
        // Both are cancel safe.
        let next = select! {
            biased;
            () = shutdown.cancelled() => return Ok(None),
            next = delivered(&mut self.consumer) => next?,
        };
        self.taken = Some(Instant::now());
        Ok(Some(next))
    }

    fn message(job: &Delivery) -> Result<Vec<u8>, Failed> {
        Ok(job.data.clone())
    }

    /// Returns when a job has waited for `max_wait`.
    async fn until_due(&mut self) -> Result<(), Error> {
        loop {
            let overdue = self.waiting.front().map(|(arrived, _)| *arrived + self.queue.max_wait);
            // Both are cancel safe. If neither is enabled, there is nothing to do.
            select! {
                () = sleep_until(overdue.unwrap_or_else(Instant::now)), if overdue.is_some() => return Ok(()),
                job = delivered(&mut self.consumer), if self.consumer.is_some() => {
                    self.waiting.push_back((Instant::now(), job?));
                }
                else => std::future::pending().await,
            }
        }
    }

    async fn tend(&mut self, _current: &Delivery) -> Result<(), Error> {
        self.ahead = 1;
        self.stop().await?;
        info!("the work is slow: {} jobs that were sent ahead go back to the queue", self.waiting.len());
        self.give_back(Vec::new()).await
    }

    /// One acknowledgement covers all jobs up to the last one (`multiple`).
    async fn acknowledge(&mut self, finished: &[Delivery]) -> Result<(), Error> {
        let Some(last) = finished.last() else { return Ok(()) };
        acknowledge(&self.session.channel, last.delivery_tag).await
    }

    /// Publishes a failed job to the queue where it waits for its next try, or to the dead letters.
    /// Acknowledges the original only after the confirm. A crash in between leaves two jobs with
    /// one ID, which is harmless.
    async fn retry_or_dead_letter(&mut self, job: &Delivery, error: Failed) -> Result<Attempt, Error> {
        let attempt = attempt_of(job);
        let delay = self.queue.topology.delays.get(attempt as usize - 1).copied().filter(|_| attempt < TRIES);
        let mut headers = FieldTable::default();
        let queue = match delay {
            Some(delay) => {
                headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt + 1));
                self.queue.topology.retry(delay)
            }
            None => {
                headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt));
                headers.insert(ERROR.into(), AMQPValue::LongString(error.to_string().into()));
                self.queue.topology.dead_letters()
            }
        };
        self.retries.publish(copy_of(job, queue, headers)).await?;
        self.retries.flush().await?;
        self.session.channel.basic_ack(job.delivery_tag, BasicAckOptions::default()).await?;
        Ok(Attempt::Failed {
            id: Job::id_in(&job.data),
            attempt,
            error,
            next: delay.map_or(Next::DeadLetter, Next::Try),
        })
    }

    async fn leave(mut self, held: Vec<Delivery>) {
        let left = async {
            self.stop().await?;
            self.give_back(held).await?;
            Ok::<_, Error>(self.session.connection.close(200, "done".into()).await?)
        };
        if let Err(error) = left.await {
            warn!(
                "{error}; RabbitMQ redelivers this worker's jobs, which counts towards their delivery limit"
            );
        }
    }
}

impl Consuming {
    /// Stops the consumer. The jobs that it had received stay in `waiting`.
    async fn stop(&mut self) -> Result<(), Error> {
        let Some(mut consumer) = self.consumer.take() else { return Ok(()) };
        self.session.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
        while let Some(job) = consumer.next().await {
            self.waiting.push_back((Instant::now(), job?));
        }
        Ok(())
    }

    /// Puts `held` and the jobs in `waiting` back into the queue. That does not count against them.
    ///
    /// RabbitMQ counts each return of a message (`basic.nack`, or a connection that
    /// closes) towards [`DELIVERY_LIMIT`](crate::limits::rabbitmq::DELIVERY_LIMIT); from 4.3
    /// on, it no longer counts a nack. So this publishes each job again and then acknowledges
    /// the original. A crash in between leaves two jobs with one ID, which is harmless.
    async fn give_back(&mut self, held: Vec<Delivery>) -> Result<(), Error> {
        let jobs: Vec<_> = held.into_iter().chain(self.waiting.drain(..).map(|(_, job)| job)).collect();
        let publish = async {
            for job in &jobs {
                let mut headers = FieldTable::default();
                headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt_of(job)));
                self.retries.publish(copy_of(job, self.queue.topology.jobs(), headers)).await?;
            }
            self.retries.flush().await
        };
        // A full queue may accept no job in time. The worker then nacks them, which counts as a
        // delivery before RabbitMQ 4.3.
        let published = timeout(GIVE_BACK_WITHIN, publish).await;
        let counted = published.is_err();
        published.unwrap_or(Ok(()))?;
        for job in jobs {
            let sent = if counted {
                job.nack(BasicNackOptions { requeue: true, ..BasicNackOptions::default() }).await?
            } else {
                job.ack(BasicAckOptions::default()).await?
            };
            if !sent {
                return Err(Error::Disconnected);
            }
        }
        Ok(())
    }
}

/// Waits for the next message of a consumer.
async fn delivered(consumer: &mut Option<Consumer>) -> Result<Delivery, Error> {
    let next = match consumer {
        Some(consumer) => consumer.next().await,
        None => std::future::pending().await,
    };
    Ok(next.ok_or(Error::Disconnected)??)
}

/// Returns the number of a job's try, from 1. The header may hold anything, since anyone who can
/// publish can set it.
fn attempt_of(delivery: &Delivery) -> u32 {
    header(delivery, ATTEMPT).and_then(|value| value.as_long_uint()).unwrap_or(1).clamp(1, TRIES)
}

/// Returns a persistent copy of a job for another queue, with these headers. It leaves out
/// the sender's other properties: with an expiration, the copy would vanish from the dead
/// letters, and RabbitMQ refuses a message that carries another user's name.
fn copy_of(delivery: &Delivery, queue: String, headers: FieldTable) -> Message {
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_headers(headers)
        .with_delivery_mode(PERSISTENT);
    if let Some(id) = delivery.properties.message_id() {
        properties = properties.with_message_id(id.clone());
    }
    let payload = delivery.data.clone();
    Message { exchange: "".into(), routing_key: queue.into(), mandatory: true, properties, payload }
}

/// Lists the dead letters and, with `redrive`, moves them back to the work queue as if they were
/// new. Returns their number.
///
/// # Errors
/// If no broker answers, or the connection is lost. Dead letters that were not moved are still
/// there.
pub async fn dead_letters(
    url: impl Into<BrokerUrl>,
    topology: &Topology,
    redrive: bool,
    mut show: impl FnMut(&DeadLetter) -> std::io::Result<()>,
) -> Result<usize, Error> {
    let url = url.into();
    let mut publisher = Publisher::connect(url.clone(), topology.clone(), 1).await?;
    let session = connect(&url).await?;
    let queue = topology.dead_letters();
    let mut count = 0;
    // Dead letters that stay are not acknowledged, and go back when the connection closes. So each
    // is listed once.
    while let Some(found) =
        session.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?
    {
        let delivery = found.delivery;
        let attempts = attempt_of(&delivery);
        let error = header(&delivery, ERROR).and_then(|value| value.as_long_string().cloned());
        let error = error.map_or_else(
            || "delivered too often: its workers or their connections died".into(),
            |error| String::from_utf8_lossy(error.as_bytes()).into_owned(),
        );
        let id = delivery.properties.message_id().as_ref().map_or("(no id)", |id| id.as_str()).to_owned();
        show(&DeadLetter { id, error, attempts })?;
        count += 1;
        if redrive {
            publisher.publish(copy_of(&delivery, topology.jobs(), FieldTable::default())).await?;
            publisher.flush().await?;
            delivery.ack(BasicAckOptions::default()).await?;
        }
    }
    session.connection.close(200, "done".into()).await?;
    Ok(count)
}

fn header<'a>(delivery: &'a Delivery, name: &str) -> Option<&'a AMQPValue> {
    delivery.properties.headers().as_ref()?.inner().get(name)
}

//! The work queue: each job goes to one of the workers, and comes back until one
//! of them has acknowledged it.

use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::select;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::connect;
use super::deliveries::Deliveries;
use super::producer::{Message, PERSISTENT, Publisher};
use super::topology::Topology;
use crate::error::Error;
use crate::job::{Attempt, Failed, Job};
use crate::limits::DRAIN_TIMEOUT;
use crate::limits::TRIES;
use crate::limits::rabbitmq::{ACK_BATCH, GIVE_BACK_WITHIN};
use crate::reconnect::Retry;
use crate::results::Results;

/// Header with the number of the try, from 1 on.
const ATTEMPT: &str = "x-attempt";

/// Header with the reason for which a job is a dead letter.
const ERROR: &str = "x-error";

/// A job as a message for the work queue.
///
/// # Errors
/// If it can't be written as JSON.
pub fn message(topology: &Topology, job: &Job) -> Result<Message, Error> {
    let payload = serde_json::to_vec(job).map_err(std::io::Error::from)?;
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

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The broker.
    pub url: String,
    /// The queues.
    pub topology: Topology,
    /// Jobs sent ahead.
    pub prefetch: u16,
    /// Time after which a job that was sent ahead goes back, because the work is slow;
    /// [`MAX_WAIT`](crate::limits::rabbitmq::MAX_WAIT).
    pub max_wait: Duration,
    /// Where the results go.
    pub results: Results,
    /// Added to each attempt, to pretend that a job is long.
    pub work_time: Duration,
}

impl Worker {
    /// Works until `shutdown`, then finishes its current job, acknowledges, and
    /// leaves the rest queued. `ready` is called when it is connected; `report` is told
    /// of each attempt.
    ///
    /// # Errors
    /// If there is no broker at first, after an error that a new connection can't cure, or if
    /// `report` fails.
    pub async fn run(
        &self,
        shutdown: &CancellationToken,
        ready: impl FnOnce(),
        mut report: impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        // Retries go over a connection of their own; see `Publisher`.
        let window = usize::from(self.prefetch);
        let mut retries = Publisher::connect(&self.url, self.topology.clone(), window).await?;
        let mut retry = Retry::new();
        let mut deliveries = retry.first(|| self.consume()).await?;
        ready();
        let until_stopped = async {
            loop {
                let session = self.session(deliveries, &mut retries, shutdown, &mut retry, &mut report);
                let Err(error) = session.await else { return Ok(()) };
                // Without a connection there is no job to finish: a shutdown waits for nothing.
                if shutdown.is_cancelled() && error.is_transient() {
                    return Ok(());
                }
                select! {
                    biased; // An error that ends the worker counts more than the shutdown.
                    connected = retry.reconnect(error, || self.consume()) => deliveries = connected?,
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
        };
        // Dropping the work at the end of the time loses nothing: what is not
        // acknowledged is delivered again.
        select! {
            ended = until_stopped => ended,
            () = async { shutdown.cancelled().await; sleep(DRAIN_TIMEOUT).await } => Ok(()),
        }
    }

    async fn consume(&self) -> Result<Deliveries, Error> {
        let session = connect(&self.url).await?;
        self.topology.declare(&session.channel).await?;
        let queue = self.topology.jobs().into();
        let deliveries = Deliveries::start(session, queue, self.prefetch, ACK_BATCH).await?;
        Ok(deliveries.for_work(self.results.clone(), self.max_wait))
    }

    async fn session(
        &self,
        mut deliveries: Deliveries,
        retries: &mut Publisher,
        shutdown: &CancellationToken,
        retry: &mut Retry,
        report: &mut impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let mut ended = self.work(&mut deliveries, retries, shutdown, retry, report).await;
        if ended.is_ok() {
            ended = deliveries.acknowledge().await;
        }
        if matches!(ended, Ok(()) | Err(Error::Machine(_))) {
            let left = async {
                let jobs = deliveries.release().await?;
                self.give_back(retries, jobs).await?;
                deliveries.finish().await
            };
            if let Err(error) = left.await {
                warn!(
                    "{error}; RabbitMQ redelivers this worker's jobs, which counts towards their delivery limit"
                );
            }
        }
        ended
    }

    async fn work(
        &self,
        deliveries: &mut Deliveries,
        retries: &mut Publisher,
        shutdown: &CancellationToken,
        retry: &mut Retry,
        report: &mut impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        loop {
            // Cancel safe, both: see `Deliveries::next`.
            let delivery = select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                next = deliveries.next() => next?,
            };
            if deliveries.has_acknowledged() {
                retry.progress(); // The broker accepted the acknowledgement: it still delivers.
            }
            let message = delivery.data.clone();
            let mut attempt = std::pin::pin!(async {
                sleep(self.work_time).await;
                self.results.attempt_in_background(message).await
            });
            // If the connection fails meanwhile, the session ends, but only after the
            // attempt.
            let mut tended = Ok(());
            let outcome = loop {
                // Cancel safe, both: the attempt goes on in the next round.
                select! {
                    biased;
                    outcome = &mut attempt => break outcome,
                    overdue = deliveries.tend(), if tended.is_ok() => tended = match overdue {
                        Ok(()) => self.give_back_waiting(deliveries, retries).await,
                        Err(error) => Err(error),
                    },
                }
            };
            let attempt = match outcome {
                Ok(Ok(outcome)) => Attempt::Finished(outcome),
                Ok(Err(failed)) => self.retry_or_dead_letter(retries, &delivery, failed).await?,
                Err(fault) => {
                    deliveries.not_done(delivery);
                    return Err(fault.into());
                }
            };
            report(&attempt)?;
            // First among the finished ones: if those can't be acknowledged, it goes back with them.
            let done = deliveries.done(delivery).await;
            tended.and(done)?;
        }
    }

    async fn give_back_waiting(
        &self,
        deliveries: &mut Deliveries,
        retries: &mut Publisher,
    ) -> Result<(), Error> {
        deliveries.acknowledge().await?;
        let jobs = deliveries.release().await?;
        info!("the work is slow: {} jobs that were sent ahead go back to the queue", jobs.len());
        self.give_back(retries, jobs).await
    }

    /// Puts jobs back into the queue without counting that against them.
    ///
    /// RabbitMQ counts each return of a message (`basic.nack`, or a connection that
    /// closes) towards [`DELIVERY_LIMIT`](crate::limits::rabbitmq::DELIVERY_LIMIT); from 4.3
    /// on, it no longer counts a nack. So this publishes each job again and then acknowledges
    /// the original. A crash in between leaves two jobs with one id, which is harmless.
    async fn give_back(&self, retries: &mut Publisher, jobs: Vec<Delivery>) -> Result<(), Error> {
        let publish = async {
            for job in &jobs {
                let mut headers = FieldTable::default();
                headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt_of(job)));
                retries.publish(copy_of(job, self.topology.jobs(), headers)).await?;
            }
            retries.flush().await
        };
        // A full queue accepts no job in time. Then they are nacked, which counts before
        // RabbitMQ 4.3.
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

    /// Publishes a failed job where it waits for its next try, or with the dead
    /// letters. Only when that is confirmed may the job be acknowledged; a crash in
    /// between makes it two jobs with one id, which is harmless.
    async fn retry_or_dead_letter(
        &self,
        retries: &mut Publisher,
        delivery: &Delivery,
        error: Failed,
    ) -> Result<Attempt, Error> {
        let attempt = attempt_of(delivery);
        let delay = self.topology.delays.get(attempt as usize - 1).copied().filter(|_| attempt < TRIES);
        let mut headers = FieldTable::default();
        let queue = match delay {
            Some(delay) => {
                headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt + 1));
                self.topology.retry(delay)
            }
            None => {
                headers.insert(ATTEMPT.into(), AMQPValue::LongUInt(attempt));
                headers.insert(ERROR.into(), AMQPValue::LongString(error.to_string().into()));
                self.topology.dead_letters()
            }
        };
        retries.publish(copy_of(delivery, queue, headers)).await?;
        retries.flush().await?;
        Ok(Attempt::Failed { id: Job::id_in(&delivery.data), attempt, error, again_in: delay })
    }
}

/// Returns which try of a job this is, from 1 on. The header may hold anything, since anyone
/// who can publish can set it.
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

/// A job that failed for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message's id.
    pub id: String,
    /// Why it failed the last time.
    pub error: String,
    /// How often it was tried.
    pub attempts: u32,
}

/// Lists the dead letters and, with `redrive`, moves them back to the work queue as
/// if they were new.
///
/// # Errors
/// If there is no broker, or the connection is lost: what was not moved is still there.
pub async fn dead_letters(
    url: &str,
    topology: &Topology,
    redrive: bool,
    mut show: impl FnMut(&DeadLetter) -> std::io::Result<()>,
) -> Result<usize, Error> {
    let mut publisher = Publisher::connect(url, topology.clone(), 1).await?;
    let session = connect(url).await?;
    let queue = topology.dead_letters();
    let mut count = 0;
    // Those that are looked at stay unacknowledged, and go back when the connection
    // closes; so each is seen once.
    while let Some(found) =
        session.channel.basic_get(queue.as_str().into(), BasicGetOptions::default()).await?
    {
        let delivery = found.delivery;
        let attempts = attempt_of(&delivery);
        let error = header(&delivery, ERROR).and_then(|value| value.as_long_string().cloned());
        let error = error.map_or_else(
            || "delivered too often: its workers died, or their connections".into(),
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

//! The work queue: each job goes to one of the workers, and comes back until one
//! of them has acknowledged it.

use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio::select;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::connection::connect;
use super::deliveries::Deliveries;
use super::publisher::{Message, PERSISTENT, Publisher};
use super::topology::Topology;
use crate::error::Error;
use crate::job::{Attempt, DRAIN_TIMEOUT, Failed, Job, TRIES};
use crate::reconnect::Retry;
use crate::results::Results;

/// Jobs sent to a worker ahead of their acknowledgement.
pub const PREFETCH: u16 = 32;

/// Jobs acknowledged together, at most.
pub const ACK_BATCH: usize = 16;

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
    /// Where the results go.
    pub results: Results,
    /// Added to each attempt, to pretend that a job is long.
    pub work_time: Duration,
}

impl Worker {
    /// Works until `shutdown`, then finishes the job in hand, acknowledges, and
    /// leaves the rest queued. `ready` is called when it is connected; `report` is told
    /// of each attempt.
    ///
    /// # Errors
    /// If there is no broker at first, what no new connection can cure, or if
    /// `report` fails.
    pub async fn run(
        &self,
        shutdown: &CancellationToken,
        ready: impl FnOnce(),
        mut report: impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        // Retries go over a connection of their own; see `Publisher`.
        let mut retries = Publisher::connect(&self.url, self.topology.clone(), 1).await?;
        let mut retry = Retry::new();
        let mut deliveries = retry.first(|| self.consume()).await?;
        ready();
        let until_stopped = async {
            loop {
                let session = self.session(deliveries, &mut retries, shutdown, &mut retry, &mut report);
                let Err(error) = session.await else { return Ok(()) };
                // Without a connection no job is in hand: a shutdown waits for nothing.
                select! {
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
        Deliveries::start(session, self.topology.jobs().into(), self.prefetch, ACK_BATCH).await
    }

    async fn session(
        &self,
        mut deliveries: Deliveries,
        retries: &mut Publisher,
        shutdown: &CancellationToken,
        retry: &mut Retry,
        report: &mut impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        loop {
            // Cancel safe, both: see `Deliveries::next`.
            let mut delivery = select! {
                biased;
                () = shutdown.cancelled() => return deliveries.finish().await,
                next = deliveries.next() => next?,
            };
            let message = Arc::new(std::mem::take(&mut delivery.data));
            sleep(self.work_time).await;
            let attempt = match self.results.clone().attempt_in_background(message.clone()).await {
                Ok(outcome) => Attempt::Finished(outcome),
                Err(error) => self.put_aside(retries, &delivery, &message, error).await?,
            };
            report(&attempt)?;
            deliveries.done(delivery).await?;
            retry.progress();
        }
    }

    /// Publishes a failed job where it waits for its next try, or with the dead
    /// letters. Only when that is confirmed may the job be acknowledged; a crash in
    /// between makes it two jobs with one id, which is harmless.
    async fn put_aside(
        &self,
        retries: &mut Publisher,
        delivery: &Delivery,
        message: &[u8],
        error: Failed,
    ) -> Result<Attempt, Error> {
        let attempt = header(delivery, ATTEMPT).and_then(|value| value.as_long_uint()).unwrap_or(1);
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
        let mut properties = delivery.properties.clone().with_headers(headers);
        properties = properties.with_delivery_mode(PERSISTENT);
        let payload = message.to_vec();
        let routing_key = queue.into();
        retries
            .publish(Message { exchange: "".into(), routing_key, mandatory: true, properties, payload })
            .await?;
        retries.flush().await?;
        Ok(Attempt::Failed { id: Job::id_in(message), attempt, error, again_in: delay })
    }
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
        let mut delivery = found.delivery;
        let attempts = header(&delivery, ATTEMPT).and_then(|value| value.as_long_uint()).unwrap_or(1);
        let error = header(&delivery, ERROR).and_then(|value| value.as_long_string().cloned());
        let error = error.map_or_else(
            || "delivered too often: its workers died, or their connections".into(),
            |error| String::from_utf8_lossy(error.as_bytes()).into_owned(),
        );
        let id = delivery.properties.message_id().as_ref().map_or("(no id)", |id| id.as_str()).to_owned();
        show(&DeadLetter { id, error, attempts })?;
        count += 1;
        if redrive {
            let properties = delivery.properties.clone().with_headers(FieldTable::default());
            let payload = std::mem::take(&mut delivery.data);
            let routing_key = topology.jobs().into();
            publisher
                .publish(Message { exchange: "".into(), routing_key, mandatory: true, properties, payload })
                .await?;
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

//! A worker, with either broker. It does one job after the other, acknowledges those whose
//! results are on the disk, and gives the rest back to the queue.
//!
//! [`rabbitmq`](crate::rabbitmq::worker) and [`redis`](crate::redis::worker) show how a broker
//! hands out jobs and takes them back.

#![expect(async_fn_in_trait, reason = "only this chapter implements them")]

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::job::{Attempt, Failed, Outcome};
use crate::limits::{ACK_BATCH, ACK_WITHIN, DRAIN_TIMEOUT};
use crate::reconnect::Retry;
use crate::results::{Fault, Results};

/// Where a worker's jobs come from.
pub trait Queue {
    /// The jobs of one connection.
    type Jobs: Jobs;

    /// Connects.
    async fn open(&self) -> Result<Self::Jobs, Error>;
}

/// The jobs that arrive on one connection to a broker. A worker holds each of them until it
/// acknowledges the job, retries it, or leaves.
pub trait Jobs: Sized {
    /// A job as the broker delivers it.
    type Job;

    /// Returns the next job if it has arrived already.
    async fn ready(&mut self) -> Result<Option<Self::Job>, Error>;

    /// Waits for the next job. Returns `None` after the shutdown.
    async fn wait(&mut self, shutdown: &CancellationToken) -> Result<Option<Self::Job>, Error>;

    /// Returns a job's message.
    ///
    /// # Errors
    /// The reason if the job must not even be tried.
    fn message(job: &Self::Job) -> Result<Vec<u8>, Failed>;

    /// Waits, during an attempt, until [`Jobs::tend`] has something to do. Cancel safe.
    async fn until_due(&mut self) -> Result<(), Error>;

    /// Makes sure that the current job stays with this worker although it takes long, and that
    /// the others don't wait behind it for too long.
    async fn tend(&mut self, current: &Self::Job) -> Result<(), Error>;

    /// Acknowledges jobs, which are in the order of their delivery.
    async fn acknowledge(&mut self, finished: &[Self::Job]) -> Result<(), Error>;

    /// Makes a failed job wait for its next try, or moves it to the dead letters.
    async fn retry_or_dead_letter(&mut self, job: &Self::Job, error: Failed) -> Result<Attempt, Error>;

    /// Gives back the jobs in `held` and those that wait here. That does not count as a try.
    async fn leave(self, held: Vec<Self::Job>);
}

/// A worker and its settings.
#[derive(Debug, Clone)]
pub struct Worker<Q> {
    /// Where the jobs come from.
    pub queue: Q,
    /// Where the results go.
    pub results: Results,
    /// Extra time for each attempt, to simulate long jobs.
    pub work_time: Duration,
}

impl<Q: Queue> Worker<Q> {
    /// Works until `shutdown`, then finishes the current job, acknowledges, and leaves the
    /// rest to others. Calls `ready` once it is connected, and `report` after each attempt.
    ///
    /// # Errors
    /// If no broker answers at the start, if a new connection can't cure an error, or if `report`
    /// fails.
    pub async fn run(
        &self,
        shutdown: &CancellationToken,
        ready: impl FnOnce(),
        mut report: impl FnMut(&Attempt) -> io::Result<()>,
    ) -> Result<(), Error> {
        let until_stopped = async {
            let mut retry = Retry::new();
            let mut next = Some(retry.first(|| self.queue.open()).await?);
            ready();
            while let Some(jobs) = next {
                let (finished, since) = (Vec::new(), Instant::now());
                let mut session =
                    Session { worker: self, shutdown, jobs, retry: &mut retry, finished, since };
                let ended = session.run(&mut report).await;
                if matches!(ended, Ok(()) | Err(Error::Machine(_))) {
                    session.jobs.leave(session.finished).await;
                }
                next = retry.next(ended, || self.queue.open(), shutdown).await?;
            }
            Ok(())
        };
        // Dropping the work when the time is up loses nothing: another worker gets the
        // unacknowledged jobs.
        select! {
            ended = until_stopped => ended,
            () = async { shutdown.cancelled().await; sleep(DRAIN_TIMEOUT).await } => Ok(()),
        }
    }
}

/// The work on one connection.
struct Session<'a, Q: Queue> {
    worker: &'a Worker<Q>,
    shutdown: &'a CancellationToken,
    jobs: Q::Jobs,
    retry: &'a mut Retry,
    /// Finished jobs that are not yet acknowledged, in the order of their delivery.
    finished: Vec<Job<Q>>,
    /// Time when the first of them was finished.
    since: Instant,
}

type Job<Q> = <<Q as Queue>::Jobs as Jobs>::Job;

impl<Q: Queue> Session<'_, Q> {
    async fn run(&mut self, report: &mut impl FnMut(&Attempt) -> io::Result<()>) -> Result<(), Error> {
        while let Some(job) = self.next().await? {
            let (outcome, tended) = self.attempt(&job).await;
            match outcome {
                Ok(Ok(outcome)) => {
                    report(&Attempt::Finished(outcome))?;
                    if self.finished.is_empty() {
                        self.since = Instant::now();
                    }
                    self.finished.push(job);
                }
                Ok(Err(failed)) => {
                    report(&self.jobs.retry_or_dead_letter(&job, failed).await?)?;
                    self.retry.progress();
                }
                Err(fault) => {
                    self.finished.push(job); // It goes back with the others.
                    return Err(fault.into());
                }
            }
            tended?;
            if self.finished.len() >= ACK_BATCH || self.since.elapsed() > ACK_WITHIN {
                self.acknowledge().await?;
            }
        }
        self.acknowledge().await
    }

    async fn next(&mut self) -> Result<Option<Job<Q>>, Error> {
        if self.shutdown.is_cancelled() {
            return Ok(None);
        }
        if let Some(job) = self.jobs.ready().await? {
            return Ok(Some(job));
        }
        self.acknowledge().await?;
        self.jobs.wait(self.shutdown).await
    }

    /// Returns the outcome of an attempt, and an error if the connection failed meanwhile. Such an
    /// error ends the session, but only after the attempt.
    async fn attempt(&mut self, job: &Job<Q>) -> (Result<Result<Outcome, Failed>, Fault>, Result<(), Error>) {
        let worker = self.worker;
        let mut attempt = pin!(async {
            match Q::Jobs::message(job) {
                Ok(message) => {
                    sleep(worker.work_time).await;
                    worker.results.attempt_in_background(message).await
                }
                Err(failed) => Ok(Err(failed)),
            }
        });
        let mut tended = Ok(());
        loop {
            // All three are cancel safe: the attempt continues in the next round.
            select! {
                biased;
                outcome = &mut attempt => return (outcome, tended),
                () = sleep_until(self.since + ACK_WITHIN), if tended.is_ok() && !self.finished.is_empty() => {
                    tended = self.acknowledge().await;
                }
                due = self.jobs.until_due(), if tended.is_ok() => tended = match due {
                    Ok(()) => self.jobs.tend(job).await,
                    Err(error) => Err(error),
                },
            }
        }
    }

    /// Waits until the results are on the disk, then acknowledges their jobs.
    async fn acknowledge(&mut self) -> Result<(), Error> {
        if !self.finished.is_empty() {
            self.worker.results.sync_in_background().await?;
            self.jobs.acknowledge(&self.finished).await?;
            self.finished.clear();
            self.retry.progress(); // The broker still accepts acknowledgements.
        }
        Ok(())
    }
}

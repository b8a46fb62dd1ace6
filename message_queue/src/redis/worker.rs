//! The work queue on a stream: a consumer group remembers which worker has which
//! job, until it acknowledges.
//!
//! | | Pub/Sub | Streams |
//! |---|---|---|
//! | stored | no | yes, until acknowledged and deleted |
//! | each message goes to | everybody who listens now | one worker of the group |
//! | nobody there | lost | waits |
//! | the receiver dies | lost | another one claims it |
//! | the receiver is too slow | is disconnected, or drops | the stream grows up to its cap |

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamPendingCountReply, StreamReadReply};
use redis::{Value, cmd};
use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{GROUP, open_group};
use super::names::KeyNames;
use crate::error::Error;
use crate::job::{Attempt, Failed, Job};
use crate::limits::ACK_WITHIN;
use crate::limits::DRAIN_TIMEOUT;
use crate::limits::TRIES;
use crate::limits::redis::{
    AT_ONCE, BATCH, BLOCK, CLAIM_EVERY, DELAYS, DELIVERY_LIMIT, MAX_DEAD_LETTERS, REMOVE_EVERY,
};
use crate::reconnect::Retry;
use crate::results::Results;

/// A consumer of the group that has no worker. Its jobs wait to be claimed, after a failure or
/// after their worker was told to stop.
const RETRY: &str = "retry";

/// Moves a job to the dead letters, as one step, if there is room.
const DEAD_LETTER_SCRIPT: &str = "
    if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('XADD', KEYS[2], '*', 'job', ARGV[4], 'error', ARGV[5], 'attempts', ARGV[6])
    redis.call('XACK', KEYS[1], ARGV[2], ARGV[3])
    redis.call('XDEL', KEYS[1], ARGV[3])
    return 1";

/// Hands up to a thousand jobs of a worker to [`RETRY`], where any worker can claim them at
/// once. Subtracts their last delivery, so that they don't lose a try. If the worker holds no
/// job, removes it from the group. All of that is one step: otherwise, a job that arrived
/// between the check and the removal would be forgotten with the worker.
const LEAVE: &str = "
    local held = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])
    for _, job in ipairs(held) do
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, job[1],
            'IDLE', ARGV[4], 'RETRYCOUNT', math.max(job[4] - 1, 0), 'JUSTID')
    end
    if #held == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
    return #held";

/// Removes the other consumers that hold nothing and have been idle for some time. One
/// step, for the same reason.
const REMOVE_IDLE: &str = "
    local removed = 0
    for _, fields in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
        local consumer = {}
        for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
        if consumer.pending == 0 and consumer.idle >= tonumber(ARGV[3]) and consumer.name ~= ARGV[2] then
            redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
            removed = removed + 1
        end
    end
    return removed";

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The broker.
    pub url: String,
    /// The streams.
    pub keys: KeyNames,
    /// The worker's name in the group; each needs its own. See [`random_name`].
    pub name: String,
    /// Silence after which the jobs of another worker are claimed.
    pub claim_after: Duration,
    /// Time after which an idle consumer that holds nothing is removed;
    /// [`REMOVE_IDLE_AFTER`](crate::limits::redis::REMOVE_IDLE_AFTER).
    pub remove_idle_after: Duration,
    /// Where the results go.
    pub results: Results,
    /// Added to each attempt, to pretend that a job is long.
    pub work_time: Duration,
}

/// Returns a random name, which no other worker has. A process ID is not enough: it is often
/// the same in two containers, and a worker that leaves would then give back the other's
/// jobs.
///
/// # Errors
/// If the system has no random numbers.
pub fn random_name() -> std::io::Result<String> {
    Ok(format!("worker-{:016x}", getrandom::u64()?))
}

/// A job that this worker holds.
struct Entry {
    id: String,
    job: Arc<Vec<u8>>,
    /// Which delivery this is, from 1 on.
    delivery: usize,
}

impl Worker {
    /// Works until `shutdown`, then finishes its current job, acknowledges, and
    /// leaves the rest to others. `ready` is called when it is connected; `report` is
    /// told of each attempt.
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
        let mut retry = Retry::new();
        let mut connection = retry.first(|| open_group(&self.url, &self.keys)).await?;
        info!("this worker is {} in the consumer group", self.name);
        ready();
        let until_stopped = async {
            loop {
                let session = self.session(&mut connection, shutdown, &mut retry, &mut report);
                let Err(error) = session.await else { return Ok(()) };
                // Without a connection there is no job to finish: a shutdown waits for nothing.
                if shutdown.is_cancelled() && error.is_transient() {
                    return Ok(());
                }
                select! {
                    biased; // An error that ends the worker counts more than the shutdown.
                    connected = retry.reconnect(error, || open_group(&self.url, &self.keys)) => connection = connected?,
                    () = shutdown.cancelled() => return Ok(()),
                }
            }
        };
        // Dropping the work at the end of the time loses nothing: what is not
        // acknowledged is claimed.
        select! {
            ended = until_stopped => ended,
            () = async { shutdown.cancelled().await; sleep(DRAIN_TIMEOUT).await } => Ok(()),
        }
    }

    async fn session(
        &self,
        connection: &mut MultiplexedConnection,
        shutdown: &CancellationToken,
        retry: &mut Retry,
        report: &mut impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let ended = self.until_shutdown(connection, shutdown, retry, report).await;
        match &ended {
            Ok(()) => self.leave(connection).await?,
            Err(Error::Machine(_)) => {
                if let Err(error) = self.leave(connection).await {
                    warn!("{error}; others get the jobs of this worker after {:?}", self.claim_after);
                }
            }
            Err(_) => {}
        }
        ended
    }

    async fn until_shutdown(
        &self,
        connection: &mut MultiplexedConnection,
        shutdown: &CancellationToken,
        retry: &mut Retry,
        report: &mut impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let (mut last_claim, mut last_removal) = (None::<Instant>, None::<Instant>);
        let mut cursor = "0-0".to_owned();
        while !shutdown.is_cancelled() {
            if last_removal.is_none_or(|last| last.elapsed() >= REMOVE_EVERY) {
                self.remove_idle(connection).await?;
                last_removal = Some(Instant::now());
            }
            let mut entries = Vec::new();
            if last_claim.is_none_or(|last| last.elapsed() >= CLAIM_EVERY) {
                entries = self.claim(connection, &mut cursor).await?;
                if cursor == "0-0" {
                    last_claim = Some(Instant::now());
                }
            }
            if entries.is_empty() {
                // Not cut short at a shutdown: Redis may just be handing out jobs.
                entries = self.read(connection).await?;
            }
            let any = !entries.is_empty();
            self.work(connection, entries, shutdown, report).await?;
            if any {
                retry.progress();
            }
        }
        Ok(())
    }

    /// Takes new jobs.
    async fn read(&self, connection: &mut MultiplexedConnection) -> Result<Vec<Entry>, Error> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.name).arg("COUNT").arg(BATCH);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS").arg(self.keys.jobs()).arg(">");
        let reply: Option<StreamReadReply> = read.query_async(connection).await?;
        let ids = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        Ok(ids.filter_map(|id| entry(id, 1)).collect())
    }

    /// Takes jobs that others have left.
    async fn claim(
        &self,
        connection: &mut MultiplexedConnection,
        cursor: &mut String,
    ) -> Result<Vec<Entry>, Error> {
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(self.keys.jobs()).arg(GROUP).arg(&self.name).arg(self.claim_after.as_millis() as u64);
        claim.arg(&*cursor).arg("COUNT").arg(BATCH);
        let reply: StreamAutoClaimReply = claim.query_async(connection).await?;
        *cursor = reply.next_stream_id;
        if reply.claimed.is_empty() {
            return Ok(Vec::new());
        }
        // XAUTOCLAIM does not return how often each job has been delivered.
        let mut pipeline = redis::pipe();
        for id in &reply.claimed {
            pipeline.cmd("XPENDING").arg(self.keys.jobs()).arg(GROUP).arg(&id.id).arg(&id.id).arg(1);
        }
        let counts: Vec<StreamPendingCountReply> = pipeline.query_async(connection).await?;
        let count =
            |reply: &StreamPendingCountReply| reply.ids.first().map_or(1, |id| id.times_delivered.max(1));
        Ok(reply.claimed.into_iter().zip(&counts).filter_map(|(id, reply)| entry(id, count(reply))).collect())
    }

    async fn work(
        &self,
        connection: &mut MultiplexedConnection,
        entries: Vec<Entry>,
        shutdown: &CancellationToken,
        report: &mut impl FnMut(&Attempt) -> std::io::Result<()>,
    ) -> Result<(), Error> {
        let ids: Vec<String> = entries.iter().map(|entry| entry.id.clone()).collect();
        let (mut finished, mut since) = (Vec::new(), Instant::now());
        let mut renewed = Instant::now();
        for (index, entry) in entries.into_iter().enumerate() {
            if shutdown.is_cancelled() {
                break;
            }
            let mut attempt = std::pin::pin!(async {
                if entry.delivery > DELIVERY_LIMIT {
                    return Ok(Err(Failed::DeliveryLimitExceeded(DELIVERY_LIMIT))); // Before it kills this one too.
                }
                sleep(self.work_time).await;
                self.results.attempt_in_background(entry.job.to_vec()).await
            });
            // If the connection fails meanwhile, the work ends, but only after the attempt.
            let mut tended = Ok(());
            let outcome = loop {
                // Cancel safe, all three: the attempt goes on in the next round.
                select! {
                    biased;
                    outcome = &mut attempt => break outcome,
                    () = sleep_until(since + ACK_WITHIN), if tended.is_ok() && !finished.is_empty() => {
                        tended = self.acknowledge(connection, &mut finished).await;
                    }
                    () = sleep_until(renewed + self.claim_after / 3), if tended.is_ok() => {
                        tended = self.claim_for(connection, &self.name, &ids[index..], Duration::ZERO).await;
                        renewed = Instant::now();
                    }
                }
            };
            let attempt = match outcome? {
                Ok(outcome) => Attempt::Finished(outcome),
                Err(failed) => self.retry_or_dead_letter(connection, &entry, failed).await?,
            };
            report(&attempt)?;
            tended?;
            if matches!(attempt, Attempt::Finished(_)) {
                if finished.is_empty() {
                    since = Instant::now();
                }
                finished.push(entry.id);
            }
            if !finished.is_empty() && since.elapsed() > ACK_WITHIN {
                self.acknowledge(connection, &mut finished).await?;
            }
        }
        self.acknowledge(connection, &mut finished).await
    }

    /// Waits until the results are on disk, then acknowledges the jobs and deletes them in
    /// one step. A job that was acknowledged but not deleted would count towards the stream's
    /// length, and no worker would ever get it.
    async fn acknowledge(
        &self,
        connection: &mut MultiplexedConnection,
        finished: &mut Vec<String>,
    ) -> Result<(), Error> {
        if finished.is_empty() {
            return Ok(());
        }
        self.results.sync_in_background().await?;
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("XACK").arg(self.keys.jobs()).arg(GROUP).arg(&*finished).ignore();
        pipeline.cmd("XDEL").arg(self.keys.jobs()).arg(&*finished).ignore();
        pipeline.exec_async(connection).await?;
        finished.clear();
        Ok(())
    }

    /// Gives jobs to a consumer, and records this idle time for them.
    async fn claim_for(
        &self,
        connection: &mut MultiplexedConnection,
        consumer: &str,
        ids: &[String],
        idle: Duration,
    ) -> Result<(), Error> {
        let mut claim = cmd("XCLAIM");
        claim.arg(self.keys.jobs()).arg(GROUP).arg(consumer).arg(0).arg(ids);
        // JUSTID: not counted as a delivery.
        claim.arg("IDLE").arg(idle.as_millis() as u64).arg("JUSTID");
        Ok(claim.exec_async(connection).await?)
    }

    /// Leaves a failed job to be claimed after its delay, or puts it with the dead
    /// letters.
    async fn retry_or_dead_letter(
        &self,
        connection: &mut MultiplexedConnection,
        entry: &Entry,
        error: Failed,
    ) -> Result<Attempt, Error> {
        let attempt = u32::try_from(entry.delivery).unwrap_or(u32::MAX);
        let delay = DELAYS.get(entry.delivery - 1).copied().filter(|_| attempt < TRIES);
        if let Some(delay) = delay {
            let idle = self.claim_after.saturating_sub(delay);
            self.claim_for(connection, RETRY, std::slice::from_ref(&entry.id), idle).await?;
        } else {
            let mut move_away = cmd("EVAL");
            move_away.arg(DEAD_LETTER_SCRIPT).arg(2).arg(self.keys.jobs()).arg(self.keys.dead_letters());
            move_away.arg(MAX_DEAD_LETTERS).arg(GROUP).arg(&entry.id).arg(&**entry.job);
            let moved: bool = move_away.arg(error.to_string()).arg(attempt).query_async(connection).await?;
            if !moved {
                warn!("{} is full; the job stays where it is", self.keys.dead_letters());
            }
        }
        Ok(Attempt::Failed { id: Job::id_in(&entry.job), attempt, error, again_in: delay })
    }

    /// Leaves the group: other workers can claim its jobs at once.
    async fn leave(&self, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        loop {
            let mut leave = cmd("EVAL");
            leave.arg(LEAVE).arg(1).arg(self.keys.jobs()).arg(GROUP).arg(&self.name).arg(RETRY);
            let held: usize = leave.arg(AT_ONCE.as_millis() as u64).query_async(connection).await?;
            if held == 0 {
                return Ok(());
            }
        }
    }

    /// Removes consumers that were killed, once they hold no jobs.
    async fn remove_idle(&self, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        let mut remove = cmd("EVAL");
        remove.arg(REMOVE_IDLE).arg(1).arg(self.keys.jobs()).arg(GROUP).arg(&self.name);
        let idle = self.remove_idle_after.as_millis() as u64;
        let removed: usize = remove.arg(idle).query_async(connection).await?;
        if removed > 0 {
            info!(
                "removed {removed} consumers that held nothing and were idle for {:?}",
                self.remove_idle_after
            );
        }
        Ok(())
    }
}

fn entry(mut id: StreamId, delivery: usize) -> Option<Entry> {
    // An entry without the field, from another program, fails as a job and becomes a dead letter.
    let job = match id.map.remove("job") {
        Some(Value::BulkString(job)) => job,
        _ => Vec::new(),
    };
    Some(Entry { id: id.id, job: Arc::new(job), delivery })
}

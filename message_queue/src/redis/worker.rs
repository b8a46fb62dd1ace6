//! The work queue on a stream: a consumer group remembers which worker has which job until the
//! worker acknowledges it.
//!
//! | a message | Pub/Sub | Streams |
//! |---|---|---|
//! | is stored | never | until it is acknowledged and deleted |
//! | goes to | all current subscribers | one worker of the group |
//! | without a receiver | is lost | waits |
//! | whose receiver dies | is lost | is claimed by another worker |
//! | whose receiver is slow | may be lost | waits |

use std::collections::VecDeque;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{
    StreamAutoClaimReply, StreamId, StreamPendingCountReply, StreamRangeReply, StreamReadReply,
};
use redis::{Value, cmd};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{GROUP, open_group};
use super::names::KeyNames;
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::job::{Attempt, DeadLetter, Failed, Job, Next};
use crate::limits::TRIES;
use crate::limits::redis::{
    AT_ONCE, BATCH, BLOCK, CLAIM_EVERY, DELAYS, DELIVERY_LIMIT, MAX_DEAD_LETTERS, MAX_LENGTH, PIPELINE,
    REMOVE_EVERY,
};
use crate::worker::{Jobs, Queue};

/// Name of a consumer without a worker. Its jobs wait for a worker to claim them, after they
/// failed or after their worker stopped.
const RETRY: &str = "retry";

/// Moves a job to the dead letters in one step, if there is room.
const DEAD_LETTER_SCRIPT: &str = "
    if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('XADD', KEYS[2], '*', 'job', ARGV[4], 'error', ARGV[5], 'attempts', ARGV[6])
    redis.call('XACK', KEYS[1], ARGV[2], ARGV[3])
    redis.call('XDEL', KEYS[1], ARGV[3])
    return 1";

/// Moves a dead letter back to the jobs in one step, if there is room.
const REDRIVE: &str = "
    if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('XADD', KEYS[1], '*', 'job', ARGV[3])
    redis.call('XDEL', KEYS[2], ARGV[2])
    return 1";

/// Hands up to a thousand jobs of a worker to [`RETRY`], where any worker can claim them at
/// once. Subtracts their last delivery, so that they don't lose a try. If the worker holds no
/// job, removes it from the group. All of this is one step: otherwise, a job that arrived
/// between the check and the removal would be forgotten with the worker.
const LEAVE: &str = "
    local held = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1000, ARGV[2])
    for _, job in ipairs(held) do
        redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[3], 0, job[1],
            'IDLE', ARGV[4], 'RETRYCOUNT', math.max(job[4] - 1, 0), 'JUSTID')
    end
    if #held == 0 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2]) end
    return #held";

/// Removes other consumers that hold no jobs and have been idle for some time. This is one step
/// for the same reason.
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

/// The work queue, as one worker uses it.
#[derive(Debug, Clone)]
pub struct WorkQueue {
    /// The broker.
    pub url: BrokerUrl,
    /// The streams.
    pub keys: KeyNames,
    /// The worker's name in the group; each needs its own. See [`random_name`].
    pub name: String,
    /// Time of silence after which this worker claims the jobs of another one; usually
    /// [`CLAIM_AFTER`](crate::limits::redis::CLAIM_AFTER).
    pub claim_after: Duration,
    /// Time after which this worker removes an idle consumer that holds no jobs; usually
    /// [`REMOVE_IDLE_AFTER`](crate::limits::redis::REMOVE_IDLE_AFTER).
    pub remove_idle_after: Duration,
}

impl Queue for WorkQueue {
    type Jobs = Claiming;

    async fn open(&self) -> Result<Claiming, Error> {
        let connection = open_group(&self.url, &self.keys).await?;
        info!("this worker is {} in the consumer group", self.name);
        Ok(Claiming {
            queue: self.clone(),
            connection,
            waiting: VecDeque::new(),
            renewed: Instant::now(),
            last_claim: None,
            last_removal: None,
            cursor: "0-0".to_owned(),
        })
    }
}

/// Returns a random name that no other worker has. A process ID is not enough: it is often the
/// same in two containers, and a worker that leaves would then give back the other one's jobs.
///
/// # Errors
/// If the system has no random numbers.
pub fn random_name() -> std::io::Result<String> {
    Ok(format!("worker-{:016x}", getrandom::u64()?))
}

/// A job that this worker holds.
pub struct Entry {
    id: String,
    job: Vec<u8>,
    /// Number of this delivery, from 1.
    delivery: usize,
}

/// A worker's membership in the group, and the jobs that it has taken.
pub struct Claiming {
    queue: WorkQueue,
    connection: MultiplexedConnection,
    /// Jobs that were taken but not yet begun.
    waiting: VecDeque<Entry>,
    /// Time when the worker last took its jobs or renewed its claim.
    renewed: Instant,
    last_claim: Option<Instant>,
    last_removal: Option<Instant>,
    /// Position in the stream where the next claim continues.
    cursor: String,
}

impl Jobs for Claiming {
    type Job = Entry;

    async fn ready(&mut self) -> Result<Option<Entry>, Error> {
        Ok(self.waiting.pop_front())
    }

    async fn wait(&mut self, shutdown: &CancellationToken) -> Result<Option<Entry>, Error> {
        while !shutdown.is_cancelled() {
            if let Some(entry) = self.waiting.pop_front() {
                return Ok(Some(entry));
            }
            if self.last_claim.is_none_or(|last| last.elapsed() >= CLAIM_EVERY) {
                self.claim().await?;
                if self.cursor == "0-0" {
                    self.last_claim = Some(Instant::now());
                }
            }
            // After the claim: if Redis refuses a command inside a script, it doesn't say which one.
            if self.last_removal.is_none_or(|last| last.elapsed() >= REMOVE_EVERY) {
                self.remove_idle().await?;
                self.last_removal = Some(Instant::now());
            }
            if self.waiting.is_empty() {
                // A shutdown does not interrupt this: Redis may be handing out jobs at that moment.
                self.read().await?;
            }
            self.renewed = Instant::now();
        }
        Ok(None)
    }

    fn message(entry: &Entry) -> Result<Vec<u8>, Failed> {
        if entry.delivery > DELIVERY_LIMIT {
            return Err(Failed::DeliveryLimitExceeded(DELIVERY_LIMIT)); // It might kill this worker too.
        }
        Ok(entry.job.clone())
    }

    async fn until_due(&mut self) -> Result<(), Error> {
        sleep_until(self.renewed + self.queue.claim_after / 3).await;
        Ok(())
    }

    /// Claims the worker's jobs again, so that no other worker claims them.
    async fn tend(&mut self, current: &Entry) -> Result<(), Error> {
        let ids: Vec<_> = [current].into_iter().chain(&self.waiting).map(|entry| entry.id.clone()).collect();
        self.renewed = Instant::now();
        let name = self.queue.name.clone();
        self.claim_for(&name, &ids, Duration::ZERO).await
    }

    /// Acknowledges the jobs and deletes them in one step. A job that was acknowledged but not
    /// deleted would count towards the stream's length, and no worker would ever get it.
    async fn acknowledge(&mut self, finished: &[Entry]) -> Result<(), Error> {
        let ids: Vec<_> = finished.iter().map(|entry| &entry.id).collect();
        let jobs = self.queue.keys.jobs();
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("XACK").arg(&jobs).arg(GROUP).arg(&ids).ignore();
        pipeline.cmd("XDEL").arg(&jobs).arg(&ids).ignore();
        Ok(pipeline.exec_async(&mut self.connection).await?)
    }

    /// Leaves a failed job for any worker to claim after its delay, or moves it to the dead
    /// letters if there is room.
    async fn retry_or_dead_letter(&mut self, entry: &Entry, error: Failed) -> Result<Attempt, Error> {
        let attempt = u32::try_from(entry.delivery).unwrap_or(u32::MAX);
        let delay = DELAYS.get(entry.delivery - 1).copied().filter(|_| attempt < TRIES);
        let next = if let Some(delay) = delay {
            let idle = self.queue.claim_after.saturating_sub(delay);
            self.claim_for(RETRY, std::slice::from_ref(&entry.id), idle).await?;
            Next::Try(delay)
        } else {
            let (jobs, dead) = (self.queue.keys.jobs(), self.queue.keys.dead_letters());
            let mut move_away = cmd("EVAL");
            move_away.arg(DEAD_LETTER_SCRIPT).arg(2).arg(jobs).arg(&dead);
            move_away.arg(MAX_DEAD_LETTERS).arg(GROUP).arg(&entry.id).arg(&entry.job);
            move_away.arg(error.to_string()).arg(attempt);
            let moved: bool = move_away.query_async(&mut self.connection).await?;
            if !moved {
                warn!("{dead} is full; the job stays where it is");
            }
            if moved { Next::DeadLetter } else { Next::Stay }
        };
        Ok(Attempt::Failed { id: Job::id_in(&entry.job), attempt, error, next })
    }

    /// Leaves the group: other workers can claim its jobs at once.
    async fn leave(mut self, _held: Vec<Entry>) {
        loop {
            let mut leave = cmd("EVAL");
            leave.arg(LEAVE).arg(1).arg(self.queue.keys.jobs()).arg(GROUP).arg(&self.queue.name);
            leave.arg(RETRY).arg(AT_ONCE.as_millis() as u64);
            match leave.query_async::<usize>(&mut self.connection).await {
                Ok(0) => return,
                Ok(_held) => {}
                Err(error) => {
                    let (error, after) = (Error::from(error), self.queue.claim_after);
                    return warn!("{error}; other workers can claim this worker's jobs after {after:?}");
                }
            }
        }
    }
}

impl Claiming {
    /// Takes new jobs.
    async fn read(&mut self) -> Result<(), Error> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(&self.queue.name).arg("COUNT").arg(BATCH);
        read.arg("BLOCK").arg(BLOCK.as_millis() as u64).arg("STREAMS").arg(self.queue.keys.jobs()).arg(">");
        let reply: Option<StreamReadReply> = read.query_async(&mut self.connection).await?;
        let ids = reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
        self.waiting.extend(ids.map(|id| entry(id, 1)));
        Ok(())
    }

    /// Takes jobs that have been idle for long enough at another consumer.
    async fn claim(&mut self) -> Result<(), Error> {
        let WorkQueue { keys, name, claim_after, .. } = &self.queue;
        let mut claim = cmd("XAUTOCLAIM");
        claim.arg(keys.jobs()).arg(GROUP).arg(name).arg(claim_after.as_millis() as u64);
        claim.arg(&self.cursor).arg("COUNT").arg(BATCH);
        let reply: StreamAutoClaimReply = claim.query_async(&mut self.connection).await?;
        self.cursor = reply.next_stream_id;
        if reply.claimed.is_empty() {
            return Ok(());
        }
        // XAUTOCLAIM does not return how often each job has been delivered.
        let mut pipeline = redis::pipe();
        for id in &reply.claimed {
            pipeline.cmd("XPENDING").arg(keys.jobs()).arg(GROUP).arg(&id.id).arg(&id.id).arg(1);
        }
        let counts: Vec<StreamPendingCountReply> = pipeline.query_async(&mut self.connection).await?;
        let count =
            |reply: &StreamPendingCountReply| reply.ids.first().map_or(1, |id| id.times_delivered.max(1));
        self.waiting
            .extend(reply.claimed.into_iter().zip(&counts).map(|(id, reply)| entry(id, count(reply))));
        Ok(())
    }

    /// Gives jobs to a consumer, and sets their idle time.
    async fn claim_for(&mut self, consumer: &str, ids: &[String], idle: Duration) -> Result<(), Error> {
        let mut claim = cmd("XCLAIM");
        claim.arg(self.queue.keys.jobs()).arg(GROUP).arg(consumer).arg(0).arg(ids);
        // With JUSTID, this does not count as a delivery.
        claim.arg("IDLE").arg(idle.as_millis() as u64).arg("JUSTID");
        Ok(claim.exec_async(&mut self.connection).await?)
    }

    /// Removes consumers that were killed, once they hold no jobs.
    async fn remove_idle(&mut self) -> Result<(), Error> {
        let WorkQueue { keys, name, remove_idle_after: idle, .. } = &self.queue;
        let mut remove = cmd("EVAL");
        remove.arg(REMOVE_IDLE).arg(1).arg(keys.jobs()).arg(GROUP).arg(name).arg(idle.as_millis() as u64);
        let removed: usize = remove.query_async(&mut self.connection).await?;
        if removed > 0 {
            info!("removed {removed} consumers that held no jobs and had been idle for {idle:?}");
        }
        Ok(())
    }
}

fn entry(mut id: StreamId, delivery: usize) -> Entry {
    // If another program adds an entry without this field, it fails as a job and becomes a dead
    // letter.
    let job = match id.map.remove("job") {
        Some(Value::BulkString(job)) => job,
        _ => Vec::new(),
    };
    Entry { id: id.id, job, delivery }
}

/// Lists the dead letters and, with `redrive`, moves them back to the jobs as if they were
/// new. Returns their number.
///
/// # Errors
/// If no broker answers, or the connection is lost. Dead letters that were not moved are still
/// there.
pub async fn dead_letters(
    url: impl Into<BrokerUrl>,
    keys: &KeyNames,
    redrive: bool,
    mut show: impl FnMut(&DeadLetter) -> std::io::Result<()>,
) -> Result<usize, Error> {
    let mut connection = open_group(&url.into(), keys).await?;
    let (mut count, mut after) = (0, "-".to_owned());
    loop {
        let mut range = cmd("XRANGE");
        range.arg(keys.dead_letters()).arg(&after).arg("+").arg("COUNT").arg(PIPELINE);
        let page: StreamRangeReply = range.query_async(&mut connection).await?;
        let Some(last) = page.ids.last() else { return Ok(count) };
        after = format!("({}", last.id);
        for letter in &page.ids {
            let job: Vec<u8> = letter.get("job").unwrap_or_default();
            let id = Job::parse(&job).map_or_else(|_| "(no id)".into(), |job| job.id);
            let (error, attempts) = (letter.get("error"), letter.get("attempts"));
            show(&DeadLetter { id, error: error.unwrap_or_default(), attempts: attempts.unwrap_or(1) })?;
            count += 1;
            if redrive {
                let mut back = cmd("EVAL");
                back.arg(REDRIVE).arg(2).arg(keys.jobs()).arg(keys.dead_letters());
                back.arg(MAX_LENGTH).arg(&letter.id).arg(job);
                let moved: bool = back.query_async(&mut connection).await?;
                if !moved {
                    warn!("{} is full; the other dead letters stay where they are", keys.jobs());
                    return Ok(count - 1);
                }
            }
        }
    }
}

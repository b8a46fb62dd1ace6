//! The work queue on a stream: a consumer group remembers which worker has which
//! job, until it acknowledges.
//!
//! | | Pub/Sub | Streams |
//! |---|---|---|
//! | stored | no | yes, until acknowledged and deleted |
//! | each message goes to | everybody who listens now | one worker of the group |
//! | nobody there | lost | waits |
//! | the receiver dies | lost | another one claims it |
//! | too slow a receiver | is disconnected, or drops | the stream grows up to its cap |

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamPendingCountReply, StreamReadReply};
use redis::{Cmd, RedisError, Value, cmd};
use tokio::select;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::Keys;
use super::connection::connect;
use crate::error::Error;
use crate::job::{ACK_WITHIN, Attempt, DRAIN_TIMEOUT, Failed, Job, TRIES};
use crate::reconnect::Retry;
use crate::results::Results;

/// The consumer group of all workers.
const GROUP: &str = "workers";

/// Consumers of the group under which no worker runs: what they hold waits to be
/// claimed, after a failure or after its worker was told to stop.
const RETRY: &str = "retry";

/// Dead letters kept; with more, failed jobs stay where they are.
pub const MAX_DEAD_LETTERS: usize = 10_000;

/// Jobs that a worker takes at a time, and acknowledges together.
pub const BATCH: usize = 16;

/// A job whose worker has not been heard of for so long is given to another one.
pub const CLAIM_AFTER: Duration = Duration::from_secs(30);

/// How often workers look for such jobs.
const CLAIM_EVERY: Duration = Duration::from_millis(500);

/// How long a worker waits for a job at a time; it then looks at other things.
const BLOCK: Duration = Duration::from_millis(500);

/// Delay before the second try, the third; up to [`CLAIM_AFTER`].
pub const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How often a job is given out before it is a dead letter even though it never
/// failed: its workers died. Redis has one count for both, so that a job whose worker
/// died has a try less.
pub const DELIVERY_LIMIT: usize = 20;

/// Moves a job to the dead letters, as one step, if there is room.
const BURY: &str = "
    if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('XADD', KEYS[2], '*', 'job', ARGV[4], 'error', ARGV[5], 'attempts', ARGV[6])
    redis.call('XACK', KEYS[1], ARGV[2], ARGV[3])
    redis.call('XDEL', KEYS[1], ARGV[3])
    return 1";

/// How a worker works.
#[derive(Debug, Clone)]
pub struct Worker {
    /// The broker.
    pub url: String,
    /// The streams.
    pub keys: Keys,
    /// The worker's name in the group; each needs its own.
    pub name: String,
    /// Jobs of workers that have been silent for so long are claimed.
    pub claim_after: Duration,
    /// Where the results go.
    pub results: Results,
    /// Added to each attempt, to pretend that a job is long.
    pub work_time: Duration,
}

/// A job in hand.
struct Entry {
    id: String,
    job: Arc<Vec<u8>>,
    /// Which delivery this is, from 1 on.
    delivery: usize,
}

impl Worker {
    /// Works until `shutdown`, then finishes the job in hand, acknowledges, and
    /// leaves the rest to others. `ready` is called when it is connected; `report` is
    /// told of each attempt.
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
        let mut retry = Retry::new();
        let mut connection = retry.first(|| open(&self.url, &self.keys)).await?;
        ready();
        let until_stopped = async {
            loop {
                let session = self.session(&mut connection, shutdown, &mut retry, &mut report);
                let Err(error) = session.await else { return Ok(()) };
                // Without a connection no job is in hand: a shutdown waits for nothing.
                select! {
                    connected = retry.reconnect(error, || open(&self.url, &self.keys)) => connection = connected?,
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
        let mut last_claim = Instant::now() - CLAIM_EVERY;
        let mut cursor = "0-0".to_owned();
        while !shutdown.is_cancelled() {
            let mut entries = Vec::new();
            if last_claim.elapsed() >= CLAIM_EVERY {
                entries = self.claim(connection, &mut cursor).await?;
                if cursor == "0-0" {
                    last_claim = Instant::now();
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
        self.leave(connection).await
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
        // How often each has been delivered, XAUTOCLAIM does not say.
        let mut pipeline = redis::pipe();
        for id in &reply.claimed {
            pipeline.cmd("XPENDING").arg(self.keys.jobs()).arg(GROUP).arg(&id.id).arg(&id.id).arg(1);
        }
        let counts: Vec<StreamPendingCountReply> = pipeline.query_async(connection).await?;
        let count = |reply: &StreamPendingCountReply| reply.ids.first().map_or(1, |id| id.times_delivered);
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
                    return Err(Failed::GivenOut(DELIVERY_LIMIT)); // Before it kills this one too.
                }
                sleep(self.work_time).await;
                self.results.clone().attempt_in_background(entry.job.clone()).await
            });
            let outcome = loop {
                // Cancel safe: the attempt goes on in the next round.
                select! {
                    biased;
                    () = sleep_until(renewed + self.claim_after / 3) => {
                        self.hold(connection, &self.name, &ids[index..], Duration::ZERO).await?;
                        renewed = Instant::now();
                    }
                    outcome = &mut attempt => break outcome,
                }
            };
            let attempt = match outcome {
                Ok(outcome) => {
                    finished.push(entry.id);
                    Attempt::Finished(outcome)
                }
                Err(error) => self.put_aside(connection, &entry, error).await?,
            };
            report(&attempt)?;
            if since.elapsed() > ACK_WITHIN {
                self.acknowledge(connection, &mut finished).await?;
                since = Instant::now();
            }
        }
        self.acknowledge(connection, &mut finished).await
    }

    /// Acknowledges jobs and deletes them, as one step: one that is acknowledged but
    /// still there would be counted for ever and given to nobody.
    async fn acknowledge(
        &self,
        connection: &mut MultiplexedConnection,
        finished: &mut Vec<String>,
    ) -> Result<(), Error> {
        if finished.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("XACK").arg(self.keys.jobs()).arg(GROUP).arg(&*finished).ignore();
        pipeline.cmd("XDEL").arg(self.keys.jobs()).arg(&*finished).ignore();
        pipeline.exec_async(connection).await?;
        finished.clear();
        Ok(())
    }

    /// Gives jobs to a consumer, silent for so long already.
    async fn hold(
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
    async fn put_aside(
        &self,
        connection: &mut MultiplexedConnection,
        entry: &Entry,
        error: Failed,
    ) -> Result<Attempt, Error> {
        let attempt = u32::try_from(entry.delivery).unwrap_or(u32::MAX);
        let delay = DELAYS.get(entry.delivery - 1).copied().filter(|_| attempt < TRIES);
        if let Some(delay) = delay {
            let idle = self.claim_after.saturating_sub(delay);
            self.hold(connection, RETRY, std::slice::from_ref(&entry.id), idle).await?;
        } else {
            let mut bury = cmd("EVAL");
            bury.arg(BURY).arg(2).arg(self.keys.jobs()).arg(self.keys.dead_letters());
            bury.arg(MAX_DEAD_LETTERS).arg(GROUP).arg(&entry.id).arg(&**entry.job);
            let buried: bool = bury.arg(error.to_string()).arg(attempt).query_async(connection).await?;
            if !buried {
                warn!("{} is full; the job stays where it is", self.keys.dead_letters());
            }
        }
        Ok(Attempt::Failed { id: Job::id_in(&entry.job), attempt, error, again_in: delay })
    }

    /// Leaves the group: what this worker holds and has not begun can be claimed at
    /// once.
    async fn leave(&self, connection: &mut MultiplexedConnection) -> Result<(), Error> {
        loop {
            let mut pending = cmd("XPENDING");
            pending.arg(self.keys.jobs()).arg(GROUP).arg("-").arg("+").arg(BATCH).arg(&self.name);
            let held: StreamPendingCountReply = pending.query_async(connection).await?;
            if held.ids.is_empty() {
                break;
            }
            let ids: Vec<String> = held.ids.into_iter().map(|held| held.id).collect();
            self.hold(connection, RETRY, &ids, Duration::from_secs(24 * 60 * 60)).await?;
        }
        // Would also forget what the worker holds: hence the loop before.
        let mut leave = cmd("XGROUP");
        leave.arg("DELCONSUMER").arg(self.keys.jobs()).arg(GROUP).arg(&self.name);
        Ok(leave.exec_async(connection).await?)
    }
}

/// Connects, and makes the group if it is not there.
pub(super) async fn open(url: &str, keys: &Keys) -> Result<MultiplexedConnection, Error> {
    let mut connection = connect(url).await?;
    let mut create: Cmd = cmd("XGROUP");
    create.arg("CREATE").arg(keys.jobs()).arg(GROUP).arg("0").arg("MKSTREAM");
    match create.exec_async(&mut connection).await {
        Err(error) if !exists(&error) => Err(error.into()),
        _ => Ok(connection),
    }
}

fn exists(error: &RedisError) -> bool {
    error.code() == Some("BUSYGROUP")
}

fn entry(mut id: StreamId, delivery: usize) -> Option<Entry> {
    // Somebody else's entry without our field fails as a job, and is put aside.
    let job = match id.map.remove("job") {
        Some(Value::BulkString(job)) => job,
        _ => Vec::new(),
    };
    Some(Entry { id: id.id, job: Arc::new(job), delivery })
}

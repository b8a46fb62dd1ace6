//! Every limit of this chapter, with its reason: first the limits for both brokers, then those
//! for only one.
//!
//! (The limits for starting and stopping a private broker are in [`brokers`](crate::brokers).)

use std::time::Duration;

/// Maximum length of a station's ID, in bytes.
pub const MAX_STATION_ID: usize = 32;

/// Maximum number of readings in one batch.
pub const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum length of each part of an error about received JSON, in characters. The error
/// travels in an AMQP header, and all headers must fit into one frame.
pub(crate) const MAX_ERROR: usize = 200;

/// Maximum length of a job's ID, in bytes.
pub const MAX_JOB_ID: usize = 64;

/// Maximum size of a job, in bytes. A job with 10,000 readings has about 1.1 MB.
pub const MAX_JOB: usize = 2 * 1024 * 1024;

/// Number of tries after which a job becomes a dead letter.
pub const TRIES: u32 = 3;

/// Maximum number of jobs acknowledged together.
pub const ACK_BATCH: usize = 16;

/// Maximum time that an acknowledgement waits for others to join it.
pub const ACK_WITHIN: Duration = Duration::from_millis(100);

/// Maximum time that the current job may still take after a shutdown signal.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of the test file that [`Results::open`](crate::results::Results::open) writes, in
/// bytes. No result is larger: it has a count and three values for each of four metrics.
pub(crate) const LARGEST_RESULT: usize = 1_000;

/// Maximum number of stations; a batch that would create more is refused.
pub const MAX_STATIONS: usize = 1_000;

/// Maximum size of a request, in bytes. A request with 10,000 readings has about 1.1 MB.
pub const MAX_REQUEST: usize = 2 * 1024 * 1024;

/// Maximum time for one call, unless a client's `with_timeout` sets another. RabbitMQ drops a
/// request that no server has taken by then.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of calls in flight per client; further ones wait.
pub const MAX_IN_FLIGHT: usize = 1_024;

/// Minimum pause before another attempt to connect, or to publish messages that a full queue
/// refused. It roughly doubles with each further attempt.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Maximum of these pauses.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Limits for RabbitMQ only.
pub mod rabbitmq {
    use std::time::Duration;

    /// Maximum time to wait for a connection.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Heartbeat interval, in seconds: each side sends something at least this often. If
    /// nothing arrives for two intervals, the connection is dead. (`?heartbeat=` in the URL
    /// overrides this interval.)
    pub const HEARTBEAT: u16 = 10;

    /// Minimum version of RabbitMQ: the first whose quorum queues support a time to live for
    /// messages and at-least-once dead lettering.
    pub const MIN_VERSION: &str = "3.10";

    /// Maximum number of times that RabbitMQ redelivers a job whose worker or connection died.
    /// After that, the job becomes a dead letter. The limit is larger than
    /// [`TRIES`](super::TRIES), since a worker's death counts against every job that had been sent
    /// to it.
    pub const DELIVERY_LIMIT: u32 = 20;

    /// Maximum number of dead letters. At the limit, a worker with a bad job waits until somebody
    /// removes some.
    pub const MAX_DEAD_LETTERS: u32 = 10_000;

    /// Maximum number of requests that wait for a server; beyond it, RabbitMQ drops the oldest.
    pub const MAX_REQUESTS: u32 = 10_000;

    /// Maximum number of messages that are published but not yet confirmed. Waiting for each
    /// confirm before the next message would cost a round trip per message. With a window, many
    /// confirms come back while further messages are on their way.
    pub const WINDOW: usize = 1_000;

    /// Time after which a publisher connects again if all its messages are refused. A channel on
    /// which it published while the queue had no leader may refuse everything, even after the
    /// election, which takes 0.15 to 0.3 s. (RabbitMQ 3.10 does that.)
    pub const REOPEN_AFTER: Duration = Duration::from_millis(500);

    /// Time until it connects once more, if the queue still refuses everything. It doubles each
    /// time.
    pub const MIN_REOPEN: Duration = Duration::from_secs(1);

    /// Maximum of that time. A queue that stays full for a minute causes ten connections.
    pub const MAX_REOPEN: Duration = Duration::from_secs(10);

    /// Time without any confirm after which a publisher says so. It still waits: RabbitMQ confirms
    /// nothing while most nodes of its cluster are down.
    pub const SILENT_AFTER: Duration = Duration::from_secs(5);

    /// Maximum number of times in a row that a publisher declares everything again because
    /// messages came back.
    pub(crate) const MAX_DECLARATIONS: u32 = 10;

    /// Maximum number of jobs sent to a worker ahead of their acknowledgement.
    pub const PREFETCH: u16 = 32;

    /// Time after which a worker gives back the jobs that were sent ahead, if the current one
    /// takes long.
    ///
    /// RabbitMQ closes the channel of a consumer that has not acknowledged a message for its
    /// `consumer_timeout` (30 minutes unless configured) and redelivers everything that it
    /// had sent on that channel. `MAX_WAIT` is far shorter, so only a single job that takes as
    /// long as the timeout can cause that.
    pub const MAX_WAIT: Duration = Duration::from_secs(15);

    /// Maximum time for giving jobs back to the queue.
    pub(crate) const GIVE_BACK_WITHIN: Duration = Duration::from_secs(2);

    /// Maximum number of readings that wait for a slow subscriber; beyond it, RabbitMQ drops the
    /// oldest.
    pub const MAX_BACKLOG: u32 = 10_000;

    /// Maximum number of readings sent to a subscriber, or of requests sent to a server, ahead of
    /// their acknowledgement.
    pub(crate) const MESSAGE_PREFETCH: u16 = 256;

    /// Maximum length of a pattern, in bytes: AMQP's limit for a routing key.
    pub const MAX_PATTERN: usize = 255;

    /// Maximum number of requests acknowledged together.
    pub(crate) const SERVER_ACK_BATCH: usize = 64;

    /// Maximum time that the last acknowledgements may take after a shutdown signal.
    pub(crate) const SERVER_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
}

/// Limits for Redis only.
pub mod redis {
    use std::time::Duration;

    /// Maximum time to wait for a connection, and for the response to a command.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Name of the primary that Sentinels watch, unless the path of their URL names another one.
    pub const PRIMARY: &str = "weather";

    /// Sentinel's port, unless the URL names another one.
    pub const SENTINEL_PORT: u16 = 26_379;

    /// Time between two PINGs on a subscriber's connection. TCP alone might not notice for
    /// hours that the other end is gone.
    pub const HEARTBEAT: Duration = Duration::from_secs(10);

    /// Minimum version of Redis: the first with `XAUTOCLAIM`.
    pub const MIN_VERSION: (u32, u32) = (6, 2);

    /// Maximum number of unfinished jobs in the stream; beyond it, producers wait.
    pub const MAX_LENGTH: usize = 100_000;

    /// Number of jobs or readings sent together.
    pub const PIPELINE: usize = 100;

    /// Maximum time of one wait for replicas. It is shorter than [`TIMEOUT`].
    pub(crate) const WAIT: Duration = Duration::from_secs(1);

    /// Maximum number of jobs that a worker takes at a time.
    pub const BATCH: usize = 16;

    /// Time of silence after which other workers can claim a worker's jobs.
    pub const CLAIM_AFTER: Duration = Duration::from_secs(30);

    /// Idle time recorded for a job that nobody works on, so that it can be claimed at once.
    /// It is longer than any useful [`CLAIM_AFTER`].
    pub(crate) const AT_ONCE: Duration = Duration::from_secs(24 * 60 * 60);

    /// Interval at which workers look for jobs to claim.
    pub(crate) const CLAIM_EVERY: Duration = Duration::from_millis(500);

    /// Maximum time of one wait for a job; between two waits, a worker does its other tasks.
    pub(crate) const BLOCK: Duration = Duration::from_millis(500);

    /// Time after which an idle consumer that holds no job is removed. A worker that was killed
    /// can't remove itself, and its successor has a new name.
    pub const REMOVE_IDLE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

    /// Interval at which workers look for consumers to remove. They also look when they start.
    pub(crate) const REMOVE_EVERY: Duration = Duration::from_secs(60 * 60);

    /// Delays before the second and the third try, each at most [`CLAIM_AFTER`].
    pub const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

    /// Number of deliveries after which a job becomes a dead letter although it never failed,
    /// since its workers died. Redis counts tries and deaths together, so a job whose worker died
    /// has one try fewer.
    pub const DELIVERY_LIMIT: usize = 20;

    /// Maximum number of dead letters. At the limit, failed jobs stay where they are.
    pub const MAX_DEAD_LETTERS: usize = 10_000;

    /// Maximum number of readings that wait to be taken from a
    /// [subscription](crate::redis::publish_subscribe::subscribe); more are dropped.
    pub const MAX_BACKLOG: usize = 10_000;

    /// Maximum number of requests, or of replies, handled at a time.
    pub(crate) const MESSAGE_BATCH: usize = 64;

    /// Maximum number of requests that wait in a server. More are dropped, and their callers
    /// time out.
    pub const MAX_WAITING_REQUESTS: usize = 4_096;
}

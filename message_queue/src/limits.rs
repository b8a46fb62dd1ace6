//! Every limit of this chapter in one place, with its reason: first those for both brokers,
//! then those for each.
//!
//! (The limits for starting and stopping a private broker are in [`brokers`](crate::brokers).)

use std::time::Duration;

/// Longest station id, in bytes.
pub const MAX_STATION_ID: usize = 32;

/// Maximum number of readings in one batch.
pub const MAX_BATCH: usize = 10_000;

/// Latest accepted `recorded_at`: the last millisecond of the year 9999.
pub const MAX_RECORDED_AT: u64 = 253_402_300_799_999;

/// Maximum length of each part of an error about received JSON, in characters. The error
/// travels in an AMQP header, and all headers have to fit into one frame.
pub(crate) const MAX_ERROR: usize = 200;

/// Longest job id, in bytes.
pub const MAX_JOB_ID: usize = 64;

/// Maximum size of a job, in bytes; 10,000 readings take about 1.1 MB.
pub const MAX_JOB: usize = 2 * 1024 * 1024;

/// How many times a job is tried before it is put with the dead letters.
pub const TRIES: u32 = 3;

/// Maximum number of jobs acknowledged together.
pub const ACK_BATCH: usize = 16;

/// Longest time that an acknowledgement waits for others to join it.
pub const ACK_WITHIN: Duration = Duration::from_millis(100);

/// After a shutdown signal, how long the current job may take.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Size of the test file that [`Results::open`](crate::results::Results::open) writes, in
/// bytes. No result is larger: it has a count and three values for each of four metrics.
pub(crate) const LARGEST_RESULT: usize = 1_000;

/// Maximum number of stations; a batch that would create more is refused.
pub const MAX_STATIONS: usize = 1_000;

/// Maximum size of a request, in bytes; 10,000 readings take about 1.1 MB.
pub const MAX_REQUEST: usize = 2 * 1024 * 1024;

/// Longest time for one call, unless a client's `with_timeout` says otherwise. A request
/// that no server has taken by then is dropped by RabbitMQ.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Calls in flight per client; further ones wait.
pub const MAX_IN_FLIGHT: usize = 1_024;

/// Shortest pause before another attempt to connect, or to publish what a full queue refused.
/// It roughly doubles for each further attempt.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Longest of these pauses.
pub(crate) const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Limits for RabbitMQ only.
pub mod rabbitmq {
    use std::time::Duration;

    /// Longest time to wait for a connection.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

    /// Heartbeat interval, in seconds: each side sends something at least this often. If
    /// nothing comes for two intervals, the connection is dead. (`?heartbeat=` in the URL
    /// overrides it.)
    pub const HEARTBEAT: u16 = 10;

    /// Minimum version of RabbitMQ: the first whose quorum queues support a time to live for
    /// messages and at-least-once dead lettering.
    pub const MIN_VERSION: &str = "3.10";

    /// How many times a job is redelivered after its worker or the connection died,
    /// before it is put with the dead letters. More than [`TRIES`](super::TRIES):
    /// a worker that dies counts against every job that it had been sent.
    pub const DELIVERY_LIMIT: u32 = 20;

    /// Maximum number of dead letters. At the limit, workers wait until somebody removes some.
    pub const MAX_DEAD_LETTERS: u32 = 10_000;

    /// Maximum number of requests that wait for a server; beyond it, the oldest is dropped.
    pub const MAX_REQUESTS: u32 = 10_000;

    /// Messages published and not yet confirmed. Waiting for each confirm before the
    /// next message would cost a round trip per message; with a window the confirms
    /// of many come back while others are on their way.
    pub const WINDOW: usize = 1_000;

    /// How many times in a row everything is declared again because messages came back.
    pub(crate) const MAX_DECLARATIONS: u32 = 10;

    /// Jobs sent to a worker ahead of their acknowledgement.
    pub const PREFETCH: u16 = 32;

    /// Time after which a message that was sent ahead is given back, because the ones before
    /// it take long.
    ///
    /// RabbitMQ closes the channel of a consumer that has not acknowledged a message for its
    /// `consumer_timeout` (30 minutes unless configured) and redelivers everything that it
    /// had sent on that channel. `MAX_WAIT` is far shorter, so the timeout can hit only a
    /// worker whose single message takes that long.
    pub const MAX_WAIT: Duration = Duration::from_secs(15);

    /// Longest time for giving jobs back to the queue.
    pub(crate) const GIVE_BACK_WITHIN: Duration = Duration::from_secs(2);

    /// Maximum number of readings that wait for a slow subscriber; beyond it, the oldest is
    /// dropped.
    pub const MAX_BACKLOG: u32 = 10_000;

    /// Readings sent to a subscriber, or requests to a server, ahead of their acknowledgement.
    pub(crate) const MESSAGE_PREFETCH: u16 = 256;

    /// Longest pattern, in bytes: AMQP's limit for a routing key.
    pub const MAX_PATTERN: usize = 255;

    /// Requests acknowledged together, at most.
    pub(crate) const SERVER_ACK_BATCH: usize = 64;

    /// After a shutdown signal, how long the last acknowledgements may take.
    pub(crate) const SERVER_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
}

/// Limits for Redis only.
pub mod redis {
    use std::time::Duration;

    /// Longest time to wait for a connection, and for a reply.
    pub const TIMEOUT: Duration = Duration::from_secs(5);

    /// Time between two PINGs on a subscriber's connection. TCP alone would not notice for
    /// hours that the other end is gone.
    pub const HEARTBEAT: Duration = Duration::from_secs(10);

    /// Minimum version of Redis: it has `XAUTOCLAIM`.
    pub const MIN_VERSION: (u32, u32) = (6, 2);

    /// Maximum number of unfinished jobs in the stream; beyond it, producers wait.
    pub const MAX_LENGTH: usize = 100_000;

    /// Jobs that a producer sends together.
    pub const PIPELINE: usize = 100;

    /// Jobs that a worker takes at a time.
    pub const BATCH: usize = 16;

    /// Silence of a worker after which its jobs are given to another one.
    pub const CLAIM_AFTER: Duration = Duration::from_secs(30);

    /// Idle time recorded for a job that nobody works on, so that it can be claimed at once.
    /// It is longer than any worker's [`CLAIM_AFTER`].
    pub(crate) const AT_ONCE: Duration = Duration::from_secs(24 * 60 * 60);

    /// How often workers look for jobs to claim.
    pub(crate) const CLAIM_EVERY: Duration = Duration::from_millis(500);

    /// Longest time of one wait for a job; between two waits, a worker does its other tasks.
    pub(crate) const BLOCK: Duration = Duration::from_millis(500);

    /// Time after which a consumer that holds nothing is removed. A worker that was killed
    /// can't remove itself, and each has a new name.
    pub const REMOVE_IDLE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

    /// How often workers look for consumers to remove, besides at their start.
    pub(crate) const REMOVE_EVERY: Duration = Duration::from_secs(60 * 60);

    /// Delays before the second and the third try, each at most [`CLAIM_AFTER`].
    pub const DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

    /// How many times a job is delivered before it is a dead letter even though it never
    /// failed: its workers died. Redis has one count for both, so a job whose worker died has
    /// one try fewer.
    pub const DELIVERY_LIMIT: usize = 20;

    /// Maximum number of dead letters. At the limit, failed jobs stay where they are.
    pub const MAX_DEAD_LETTERS: usize = 10_000;

    /// Readings that wait to be taken from a
    /// [subscription](crate::redis::publish_subscribe::subscribe); more are dropped.
    pub const MAX_BACKLOG: usize = 10_000;

    /// Maximum number of requests, or of replies, handled at a time.
    pub(crate) const MESSAGE_BATCH: usize = 64;

    /// Maximum number of requests that wait in a server. More are dropped, and their callers
    /// time out.
    pub const MAX_WAITING_REQUESTS: usize = 4_096;
}

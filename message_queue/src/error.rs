//! The errors of both brokers, and whether another attempt can help.

use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use redis::RedisError;

use crate::limits::rabbitmq::MAX_PATTERN;
use crate::limits::redis::MIN_VERSION;
use crate::record::Reason;
use crate::results::Fault;

/// The hint if it cannot be known whether only one side speaks TLS: Redis waits for the end of a
/// line that TLS never sends, and a port with TLS only resets a connection without it. A reset can
/// also overtake the alert with which RabbitMQ refuses a client certificate.
pub(crate) const SPEAKS_TLS: &str =
    "does this port speak TLS? If it does, does it ask for a client certificate (--identity)?";

/// The error of this chapter's library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker's URL can't be used.
    #[error("cannot use the URL {url}: {detail}")]
    Url {
        /// The URL, without the password.
        url: String,
        /// The problem.
        detail: String,
    },
    /// No broker answers at the URL.
    #[error("no broker at {url} ({detail})")]
    NoBroker {
        /// The URL, without the password.
        url: String,
        /// The reason: the transport's error, or a timeout.
        detail: String,
        /// Whether something accepted the connection, but did not respond. Maybe only one of the
        /// two sides speaks TLS.
        reached: bool,
    },
    /// The broker answers, but this program can't use it. The text says whether the login, the
    /// vhost, the database, the version, TLS, or the protocol is the problem.
    #[error("{0}")]
    Unusable(String),
    /// RabbitMQ already has a queue or exchange with this name, but with other properties.
    #[error(
        "{name} exists with other properties: {detail}. It was declared by another version of \
         these programs or with another --max-length; use another --prefix, or delete it with its messages: \
         rabbitmqctl delete_queue {name}"
    )]
    PreconditionFailed {
        /// Name of the queue or exchange.
        name: String,
        /// RabbitMQ's explanation.
        detail: String,
    },
    /// RabbitMQ or the connection to it failed.
    #[error("RabbitMQ: {}", rabbitmq_text(.0))]
    RabbitMq(lapin::Error), // Not a source: its text is in the message already.
    /// Redis or the connection to it failed.
    #[error("Redis: {}", redis_text(.0))]
    Redis(RedisError), // As above.
    /// The connection ended.
    #[error("the connection to the broker was lost")]
    Disconnected,
    /// Messages come back as unroutable, although all queues have been declared.
    #[error("no queue receives messages with the routing key {0}")]
    Unroutable(String),
    /// No server listens for requests. The request was not executed.
    #[error("no server listens for requests with the prefix {0:?}")]
    NoServer(String),
    /// No reply came in time. The request may have been executed.
    #[error("no reply in time; the request may have been executed")]
    TimedOut,
    /// The connection was lost or the server died during the request, which may have been
    /// executed.
    #[error("interrupted; the request may have been executed")]
    OutcomeUnknown,
    /// The server refused the request, and did not execute it.
    #[error("refused: {detail}")]
    Refused {
        /// Why the server refused it, as a code.
        reason: Reason,
        /// The reason in words.
        detail: String,
    },
    /// A field of a reading is not valid, so the reading was not published.
    #[error("not published: {0}")]
    Invalid(String),
    /// A subscriber's pattern is too long for RabbitMQ.
    #[error("a pattern is longer than {} bytes; use a shorter one", MAX_PATTERN)]
    PatternTooLong,
    /// This library can't read a reply.
    #[error("cannot read the reply: {0}; the request may have been executed")]
    Unexpected(String),
    /// This machine can't store results.
    #[error("{0}; this worker stops, and its jobs go back to the queue")]
    Machine(Fault), // Not a source: its text is in the message already.
    /// A message can't be written as JSON.
    #[error("cannot write JSON")]
    Json(#[from] serde_json::Error),
    /// Reading or writing failed.
    #[error("input or output failed")]
    Io(#[from] std::io::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Machine(fault)
    }
}

impl From<lapin::Error> for Error {
    fn from(error: lapin::Error) -> Self {
        Self::RabbitMq(error)
    }
}

impl From<RedisError> for Error {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl Error {
    /// Returns whether a request that ended with this error may have been executed. If not, it is
    /// safe to send it again.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::TimedOut | Self::OutcomeUnknown | Self::Disconnected | Self::Unexpected(_) => true,
            // A request that the broker refused was not executed. If the connection was lost,
            // the request may have been.
            Self::RabbitMq(error) => !error.is_amqp_error(),
            Self::Redis(error) => is_broken(error),
            _ => false,
        }
    }

    /// Returns whether another attempt on a new connection may succeed.
    ///
    /// A lost connection may come back, and a broker that is starting, is full, or hands over
    /// to another instance may recover. But a missing permission, an unknown command, or a
    /// queue with other properties causes the same error again, however often you try.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoBroker { .. } | Self::Disconnected => true,
            Self::RabbitMq(error) => rabbitmq_may_recover(error),
            Self::Redis(error) => redis_may_recover(error),
            _ => false,
        }
    }
}

fn rabbitmq_may_recover(error: &lapin::Error) -> bool {
    use lapin::ErrorKind;
    let reason = match error.kind() {
        ErrorKind::ProtocolError(reason) => reason,
        // The channel or the connection has ended. If the reason is permanent, the next
        // attempt fails with it.
        ErrorKind::InvalidChannel(_)
        | ErrorKind::InvalidChannelState(..)
        | ErrorKind::InvalidConnectionState(_)
        | ErrorKind::IOError(_)
        | ErrorKind::MissingHeartbeatError => return true,
        _ => return false,
    };
    let text = reason.get_message().as_str();
    match reason.kind() {
        // Somebody deleted a queue or an exchange, which is then declared again, or another
        // connection still holds an exclusive queue.
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND | AMQPSoftError::RESOURCELOCKED) => true,
        // A message was not acknowledged within RabbitMQ's `consumer_timeout`, or lapin has got a confirm
        // that belongs to no message on this connection.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED) => {
            text.contains("timed out") || text.starts_with("invalid ack")
        }
        AMQPErrorKind::Hard(
            AMQPHardError::CONNECTIONFORCED | AMQPHardError::RESOURCEERROR | AMQPHardError::INTERNALERROR,
        ) => true,
        // Too many connections at the moment.
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) => text.contains("limit"),
        _ => false,
    }
}

/// Codes of Redis's temporary errors: it is loading its data, is out of memory or disk, runs
/// a long script, or hands over to another instance. `NOGROUP` means that somebody deleted
/// the stream; a reconnecting program creates its group again.
const REDIS_MAY_RECOVER: [&str; 12] = [
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOGOODSLAVE",
    "NOGROUP",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
];

/// Returns whether no reply came, or only a part of one.
fn is_broken(error: &RedisError) -> bool {
    error.is_io_error() || error.kind() == redis::ErrorKind::Parse
}

fn redis_may_recover(error: &RedisError) -> bool {
    let Some(errors) = error.clone().into_server_errors() else { return is_broken(error) };
    // Several commands of a pipeline may have failed. All of their errors must be temporary.
    errors.iter().all(|(_, error)| {
        let detail = error.details().unwrap_or_default();
        REDIS_MAY_RECOVER.iter().any(|code| {
            // Redis 6 wraps an error inside a script: ERR Error running script: … -OOM ….
            error.code() == *code || (error.code() == "ERR" && detail.contains(&format!(" -{code} ")))
        }) || detail.starts_with("max number of clients")
            || detail.starts_with("WAIT cannot be used") // This Redis has become a replica.
    })
}

/// Returns the reason without the prefixes that lapin puts before it.
pub(crate) fn rabbitmq_text(error: &lapin::Error) -> String {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(reason) => reason.get_message().to_string(),
        lapin::ErrorKind::IOError(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// Returns the error as Redis sent it, or the error of the connection.
pub(crate) fn redis_text(error: &RedisError) -> String {
    let errors = error.clone().into_server_errors();
    let Some([(_, first), ..]) = errors.as_deref() else { return error.to_string() };
    let (code, detail) = (first.code(), first.details().unwrap_or_default());
    let hint = if detail.starts_with("unknown command") {
        format!("; this program needs Redis {}.{} or newer", MIN_VERSION.0, MIN_VERSION.1)
    } else {
        String::new()
    };
    format!("{code} {detail}{hint}")
}

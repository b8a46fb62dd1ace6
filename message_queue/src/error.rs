//! Why something failed, with either broker.

use crate::record::Reason;
use crate::results::Fault;

/// The error of this chapter's library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The broker's URL can't be understood.
    #[error("{url} is not a broker's URL: {detail}")]
    Url {
        /// What was given, without its password.
        url: String,
        /// What is wrong.
        detail: String,
    },
    /// Nothing answers as a broker there.
    #[error("no broker at {url}")]
    NoBroker {
        /// Its URL, without the password.
        url: String,
        /// What the transport said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// RabbitMQ has something of that name with other properties.
    #[error(
        "{name} exists with other properties: {detail}. It was declared by another version or with other \
         limits; delete it (rabbitmqctl delete_queue {name}) or use another --prefix"
    )]
    Clash {
        /// Name of the queue or exchange.
        name: String,
        /// What RabbitMQ said.
        detail: String,
    },
    /// RabbitMQ or the connection to it failed.
    #[error("RabbitMQ: {0}")]
    RabbitMq(#[from] lapin::Error),
    /// Redis or the connection to it failed.
    #[error("Redis: {0}")]
    Redis(#[from] redis::RedisError),
    /// The connection ended.
    #[error("the connection to the broker is lost")]
    Lost,
    /// Messages come back as unroutable although everything is declared.
    #[error("nothing takes messages for {0}")]
    Unroutable(String),
    /// No server listens to requests. The request was not executed.
    #[error("no server listens to requests of {0:?}")]
    NoServer(String),
    /// No answer in time. The request may have been executed.
    #[error("no answer in time; the request may have been executed")]
    TimedOut,
    /// The connection was lost, or the server, while the request was under way. It
    /// may have been executed.
    #[error("interrupted; the request may have been executed")]
    OutcomeUnknown,
    /// The server refused, and nothing was executed.
    #[error("refused: {detail}")]
    Refused {
        /// What kind of reason.
        reason: Reason,
        /// What exactly.
        detail: String,
    },
    /// What should be published is out of range, and was not.
    #[error("not published: {0}")]
    Invalid(String),
    /// A message that this library can't read.
    #[error("not understood: {0}")]
    Unexpected(String),
    /// This machine can't keep results.
    #[error("{0}; this worker stops, and its jobs go back to the queue")]
    Machine(Fault), // Not a source: its text is in the message already.
    /// A file operation failed.
    #[error("file: {0}")]
    Io(#[from] std::io::Error),
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Machine(fault)
    }
}

impl Error {
    /// Whether a new connection may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::NoBroker { .. } | Self::RabbitMq(_) | Self::Redis(_) | Self::Lost)
    }
}

/// A URL as it may be shown: without user and password.
pub fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

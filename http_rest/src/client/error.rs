//! Why a call failed, and what that says about its effect.

use std::time::Duration;

use crate::protocol::problem::Problem;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL can't be the address of a server.
    #[error("{url:?} is not of the form http://host:port")]
    Address {
        /// The URL that was given.
        url: String,
    },
    /// The HTTP library could not start or could not build the request.
    #[error("cannot prepare the request")]
    Setup(#[source] reqwest::Error),
    /// No connection: the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// The error of the HTTP library.
        #[source]
        source: reqwest::Error,
    },
    /// TLS is not possible with this server or these files. The text says why and what to do.
    /// Another attempt would fail in the same way.
    #[error("{0}")]
    Tls(String),
    /// The client's token cannot be read. The text says why.
    #[error("{0}")]
    Token(String),
    /// The server responded with an error.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// The server responded with something that is not part of this interface.
    #[error("unexpected response {status}: {body}")]
    Unexpected {
        /// The HTTP status.
        status: u16,
        /// The first characters of the body.
        body: String,
        /// The response's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// The server redirected to another address (RFC 9110, section 15.4). This client does not
    /// follow redirects: a server that the user never named could execute the change.
    #[error("{url} redirects ({status}) to {location}; give the right address with --url")]
    Redirect {
        /// The HTTP status.
        status: u16,
        /// The address that responded.
        url: String,
        /// The `Location` header as it was sent.
        location: String,
    },
    /// The connection broke, or the attempt's time ran out, before the whole response arrived.
    #[error("no complete response; the request may have been executed")]
    Broken(#[source] reqwest::Error),
    /// All attempts together took too long.
    #[error("no response in time; the request may have been executed")]
    TimedOut,
    /// The last attempt failed with `last` and was not executed, but an earlier one may
    /// have been.
    #[error("{last}; an earlier attempt may have been executed")]
    EarlierAttempt {
        /// The error of the last attempt.
        last: Box<Error>,
    },
}

impl Error {
    /// Returns whether the server may have executed the request. If not, you can safely send
    /// it again. If so, check first, unless a second execution does no harm.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Setup(_)
            | Self::Unreachable { .. }
            | Self::Tls(_)
            | Self::Token(_) => false,
            Self::Broken(_) | Self::TimedOut | Self::EarlierAttempt { .. } => true,
            // A 303 says where to find the result of the executed request.
            Self::Redirect { status, .. } => *status == 303,
            // With these statuses, the server refused the request. Any other may come from a
            // proxy, or from a server that failed halfway.
            Self::Problem(_) | Self::Unexpected { .. } => {
                !matches!(self.status(), Some(400..=499 | 503 | 507))
            }
        }
    }

    /// Returns the HTTP status, if there was a response.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            Self::Unexpected { status, .. } | Self::Redirect { status, .. } => Some(*status),
            Self::EarlierAttempt { last } => last.status(),
            _ => None,
        }
    }

    /// Returns how long to wait before another attempt, if the server says so
    /// (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Problem(problem) => problem.retry_after,
            Self::Unexpected { retry_after, .. } => *retry_after,
            Self::EarlierAttempt { last } => last.retry_after(),
            _ => None,
        }
    }
}

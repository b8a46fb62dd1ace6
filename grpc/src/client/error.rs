//! Why a call failed, and whether the server may have executed it.

use std::error::Error as StdError;
use std::fmt;

use h2::Reason;
use tcp_socket::base::text::printable;
use tcp_socket::base::tls;
use thiserror::Error;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::{FieldViolation, StatusExt};

use crate::protocol::status::{deadline_exceeded, name};

/// Why a call failed.
#[derive(Debug, Error)]
pub enum Error {
    /// The URL is not the address of a server.
    #[error("{url:?} is not of the form http://host:port")]
    Address {
        /// The URL that was given.
        url: String,
    },
    /// The token cannot be sent as metadata.
    #[error("a token must be one or more visible ASCII characters, without spaces")]
    Token,
    /// The client's token cannot be read. The text says why.
    #[error("{0}")]
    TokenFile(String),
    /// There was no connection, so the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// The transport's error.
        #[source]
        source: Box<Status>,
    },
    /// TLS is not possible with this server or these files. The text says why and what to do.
    /// Another attempt would fail in the same way.
    #[error("{0}")]
    Tls(String),
    /// The call ended with this status.
    #[error("{0}")]
    Status(Box<Failure>),
    /// The call has ended, so nothing more can be sent on it.
    #[error("the call has ended")]
    Ended,
    /// The connection broke. [`Error::may_have_been_executed`] says whether the server
    /// may have executed the call.
    #[error("the connection broke ({}); the call {}", root_cause(.0), outcome(.0))]
    Broken(Box<Status>),
}

impl Error {
    /// Translates the status of a call to the server at `url`.
    pub(super) fn new(status: Status, url: &str) -> Self {
        if let Some(fault) = tls_fault(&status) {
            return Self::Tls(fault);
        }
        match local_cause(&status) {
            Some(LocalCause::NotConnected) => {
                Self::Unreachable { url: url.to_owned(), source: Box::new(status) }
            }
            Some(LocalCause::Broken | LocalCause::NotProcessed) => Self::Broken(Box::new(status)),
            Some(LocalCause::Deadline) => Self::Status(Box::new(Failure::new(&deadline_exceeded()))),
            Some(LocalCause::Tls | LocalCause::Other) | None => Self::Status(Box::new(Failure::new(&status))),
        }
    }

    /// Returns whether the server may have executed the call. If so, the client cannot
    /// know whether it did, and a second `Record` may store the readings twice.
    ///
    /// An `Upload` is not executed as a whole: after any error, the server may have kept
    /// the readings that it received before.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Token
            | Self::TokenFile(_)
            | Self::Unreachable { .. }
            | Self::Tls(_)
            | Self::Ended => false,
            Self::Broken(status) => is_unknown(status),
            Self::Status(failure) => failure.may_have_been_executed,
        }
    }

    /// Returns the reason if the connection was lost or the server is unavailable, and
    /// `None` for any other error. If there is a reason, a new connection may help.
    pub fn disconnect_reason(&self) -> Option<String> {
        match self {
            Self::Unreachable { source, .. } => Some(root_cause(source)),
            Self::Broken(status) => Some(root_cause(status)),
            Self::Status(failure) if failure.code == Code::Unavailable => Some(failure.message.clone()),
            _ => None,
        }
    }
}

/// Returns whether the client cannot know what the server did with the call.
fn is_unknown(status: &Status) -> bool {
    match local_cause(status) {
        Some(LocalCause::NotConnected | LocalCause::NotProcessed | LocalCause::Tls) => false,
        Some(LocalCause::Broken | LocalCause::Deadline | LocalCause::Other) => true,
        // In this contract, the server's other codes mean that it did nothing.
        None => matches!(
            status.code(),
            Code::Cancelled
                | Code::Unknown
                | Code::DeadlineExceeded
                | Code::OutOfRange
                | Code::Internal
                | Code::DataLoss
        ),
    }
}

fn outcome(status: &Status) -> &'static str {
    if is_unknown(status) { "may have been executed" } else { "was not executed" }
}

/// Returns the last cause in the chain. The others say the same in other words.
fn root_cause(status: &Status) -> String {
    let first: &dyn StdError = status;
    let causes = std::iter::successors(first.source(), |cause| (*cause).source());
    causes.last().map_or_else(|| status.message().to_owned(), ToString::to_string)
}

/// A status that is not `OK`, and its details.
#[derive(Debug)]
pub struct Failure {
    /// The kind of failure.
    pub code: Code,
    /// An explanation for people.
    pub message: String,
    /// With `INVALID_ARGUMENT`: the invalid fields, and what is wrong with each.
    pub violations: Vec<FieldViolation>,
    /// The reason in `google.rpc.ErrorInfo`, for programs, such as
    /// [`FELL_BEHIND`](crate::protocol::status::FELL_BEHIND).
    pub reason: Option<String>,
    may_have_been_executed: bool,
}

impl Failure {
    fn new(status: &Status) -> Self {
        let details = status.get_error_details();
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            violations: details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default(),
            reason: details.error_info().map(|info| info.reason.clone()),
            may_have_been_executed: is_unknown(status),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", name(self.code), printable(&self.message))?;
        for violation in &self.violations {
            write!(f, "; {} {}", printable(&violation.field), printable(&violation.description))?;
        }
        Ok(())
    }
}

/// What happened to a call whose status comes from the client's own libraries, not from
/// the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LocalCause {
    /// There was no connection to send it on.
    NotConnected,
    /// The request did not reach a handler: the server said so, or it was never sent. A
    /// retry is safe.
    NotProcessed,
    /// TLS is not possible, so the request did not reach a handler. A retry would not help.
    Tls,
    /// The connection broke or fell silent. The client cannot know what the server did.
    Broken,
    /// The deadline passed by the client's clock.
    Deadline,
    /// Something else, which the status code describes well enough.
    Other,
}

/// Returns why the client's libraries made this status, or `None` if the server sent it.
///
/// tonic keeps the cause as the status's source: a status that came over the
/// wire has none.
pub(super) fn local_cause(status: &Status) -> Option<LocalCause> {
    let mut cause = StdError::source(status);
    cause?;
    if tls_fault(status).is_some() {
        return Some(LocalCause::Tls);
    }
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return Some(LocalCause::NotConnected);
        }
        if error.is::<TimeoutExpired>() {
            return Some(LocalCause::Deadline);
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            // This is how hyper reports a request that it could not put on a connection.
            return Some(LocalCause::NotProcessed);
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
            return Some(LocalCause::Broken); // A PING was not acknowledged.
        }
        if let Some(http2) = error.downcast_ref::<h2::Error>() {
            return Some(of_http2(http2));
        }
        if error.is::<std::io::Error>() {
            return Some(LocalCause::Broken);
        }
        cause = error.source();
    }
    // UNKNOWN is tonic's code for a transport error that it cannot name.
    Some(if status.code() == Code::Unknown { LocalCause::Broken } else { LocalCause::Other })
}

/// Returns what the user should know if the call failed because of TLS.
fn tls_fault(status: &Status) -> Option<String> {
    let first = StdError::source(status)?;
    let causes = || std::iter::successors(Some(first), |cause| (*cause).source());
    let connected = !causes().any(|cause| cause.is::<ConnectError>());
    let http2 = causes().find_map(|cause| cause.downcast_ref::<h2::Error>());
    if http2.is_some_and(|error| error.is_remote() && error.reason() == Some(Reason::INADEQUATE_SECURITY)) {
        return Some("this port speaks TLS: use https instead of http".to_owned());
    }
    tls::fault(first, connected)
        .or_else(|| tls::fault(&tls::alert_from_text(&root_cause(status))?, connected))
}

fn of_http2(error: &h2::Error) -> LocalCause {
    match error.reason() {
        // RFC 9113, section 8.7: "the stream is being closed prior to any
        // processing having occurred".
        Some(Reason::REFUSED_STREAM) => LocalCause::NotProcessed,
        // Section 6.8: streams above the last one that the GOAWAY names were not
        // processed. h2 reports NO_ERROR only for those.
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => LocalCause::NotProcessed,
        None => LocalCause::Broken,
        Some(_) if error.is_go_away() && !error.is_remote() => LocalCause::Broken,
        Some(_) => LocalCause::Other,
    }
}

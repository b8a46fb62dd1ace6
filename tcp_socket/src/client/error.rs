//! The errors of a call, and whether the request may have been executed.

use std::io;
use std::sync::Arc;

use thiserror::Error;

use crate::protocol::message::{ErrorCode, Refusal};

/// Why a call failed.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The given text is not the address of a server.
    #[error("{url:?} is not of the form tcp://host:port")]
    Address {
        /// The given address.
        url: String,
    },
    /// No connection could be made, so the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// The error of the connection attempt.
        #[source]
        source: Arc<io::Error>,
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
    Refused(Refusal),
    /// The other side does not speak this protocol, or not as this client needs it.
    #[error("not a compatible server: {0}")]
    Protocol(String),
    /// The client found the arguments invalid and sent nothing.
    #[error("not sent: {0}")]
    Invalid(String),
    /// The request was certainly not executed.
    #[error("not executed: {0}")]
    NotExecuted(&'static str),
    /// The request may or may not have been executed.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(&'static str),
    /// The watch has ended because its connection was lost.
    #[error("connection lost: {0}")]
    Disconnected(String),
}

impl Error {
    /// Returns whether the request may have been executed despite the error. If not, a retry
    /// is safe.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::OutcomeUnknown(_) => true,
            Self::Refused(refusal) => refusal.code == ErrorCode::UnknownOutcome as u16,
            Self::Address { .. }
            | Self::Unreachable { .. }
            | Self::Tls(_)
            | Self::Token(_)
            | Self::Protocol(_)
            | Self::Invalid(_)
            | Self::NotExecuted(_)
            | Self::Disconnected(_) => false,
        }
    }

    /// Returns whether another connection would give the same error.
    pub(crate) fn is_permanent(&self) -> bool {
        match self {
            Self::Protocol(_) | Self::Tls(_) | Self::Token(_) => true,
            Self::Refused(refusal) => {
                [ErrorCode::BadMagic, ErrorCode::UnsupportedVersion, ErrorCode::BadToken]
                    .map(|code| code as u16)
                    .contains(&refusal.code)
            }
            _ => false,
        }
    }
}

/// Why a connection ended.
#[derive(Debug, Error)]
pub(crate) enum DisconnectReason {
    #[error("the server said goodbye")]
    Goodbye,
    #[error("the server closed it: {0}")]
    Refused(Refusal),
    #[error("{0}")]
    ConnectionLost(#[from] io::Error),
    #[error("nothing arrived from the server for too long")]
    Silence,
    #[error("the server's frames arrive too slowly")]
    Slow,
    #[error("the server sent something that this protocol does not allow")]
    ProtocolError,
    #[error("closed")]
    ClosedByUs,
}

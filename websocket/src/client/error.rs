//! Why a call failed, and whether its request may have been executed nevertheless.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_tungstenite::tungstenite::Error as WebSocketError;

use crate::protocol::message::{ErrorCode, ServerMessage};

/// Why a call failed.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// Not the address of a server.
    #[error("{url:?} is not of the form http://host:port")]
    Address {
        /// What was given.
        url: String,
    },
    /// No connection: the request was never sent.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that was tried.
        url: String,
        /// What the transport said.
        #[source]
        source: Arc<WebSocketError>,
    },
    /// A server responded, but the handshake failed.
    #[error("the handshake failed")]
    Handshake(#[source] Arc<WebSocketError>),
    /// The server refused the request and did not execute it.
    #[error("{reason}")]
    Refused {
        /// The kind of error, for a program to branch on.
        code: ErrorCode,
        /// The explanation, for a person.
        reason: String,
    },
    /// The connection broke; the request may have been executed, or not.
    #[error("the connection broke; the request may have been executed")]
    Broken(#[source] Arc<WebSocketError>),
    /// The server closed the connection. As with [`Error::Broken`], requests in flight may have
    /// been executed.
    #[error("the server closed the connection with {code}: {reason}")]
    Closed {
        /// RFC 6455, section 7.4.
        code: u16,
        /// The explanation, for a person.
        reason: String,
    },
    /// No response in time; see [`Timeouts::answer`](crate::limits::Timeouts::answer). The request
    /// may have been executed, or not.
    #[error("no answer within {0:?}; the request may or may not have been carried out")]
    TimedOut(Duration),
    /// No byte came from the server for [`Timeouts::dead_after`](crate::limits::Timeouts::dead_after).
    #[error("the server is silent")]
    Dead,
    /// A message arrived at less than [`Timeouts::min_rate`](crate::limits::Timeouts::min_rate).
    #[error("the server's message arrives too slowly")]
    TooSlow,
    /// The server sent a message that was not expected here.
    #[error("unexpected message: {0}")]
    Unexpected(String),
    /// This client was closed, or its member of a room is no longer there.
    #[error("closed")]
    Gone,
}

impl Error {
    /// Returns whether the server may have executed the request all the same.
    ///
    /// - `false`: it was not executed. The request never arrived, or it was refused.
    /// - `true`: it may have been. Sending a batch again could record it twice. A chat
    ///   message may be sent again only under the same `message_id`.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::Address { .. } | Self::Unreachable { .. } | Self::Handshake(_) | Self::Refused { .. } => {
                false
            }
            Self::Broken(_)
            | Self::Closed { .. }
            | Self::TimedOut(_)
            | Self::Dead
            | Self::TooSlow
            | Self::Unexpected(_)
            | Self::Gone => true,
        }
    }
}

/// Returns the message, or the refusal that it is.
pub(super) fn unless_refused(message: ServerMessage) -> Result<ServerMessage, Error> {
    match message {
        ServerMessage::Error { code, reason, .. } => Err(Error::Refused { code, reason }),
        message => Ok(message),
    }
}

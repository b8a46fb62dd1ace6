//! Why a call failed, and whether its request may have been executed anyway.

use std::sync::Arc;
use std::time::Duration;

use tcp_socket::base::text::printable;
use thiserror::Error;
use tokio_tungstenite::tungstenite::Error as WebSocketError;

use crate::protocol::message::{ErrorCode, ServerMessage};
use crate::protocol::{FORBIDDEN, UNAUTHENTICATED};

/// Why a call failed.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// The URL is not the address of a server.
    #[error("{url:?} is not of the form http://host:port")]
    Address {
        /// The URL that was given.
        url: String,
    },
    /// The client could not connect, so it never sent the request.
    #[error("no server at {url}")]
    Unreachable {
        /// The address that the client tried.
        url: String,
        /// The error of the connection attempt.
        #[source]
        source: Arc<WebSocketError>,
    },
    /// TLS is not possible with this server or these files. The text says why and what to do.
    /// Another attempt would fail in the same way.
    #[error("{0}")]
    Tls(String),
    /// The client's token cannot be read. The text says why.
    #[error("{0}")]
    Token(String),
    /// A server responded, but the handshake failed.
    #[error("the handshake failed{}", explanation(.0))]
    Handshake(#[source] Arc<WebSocketError>),
    /// The server refused the request and did not execute it.
    #[error("{reason}")]
    Refused {
        /// The kind of error, for programs.
        code: ErrorCode,
        /// The explanation, for people.
        reason: String,
    },
    /// The connection broke. The request may or may not have been executed.
    #[error("the connection broke; the request may have been executed")]
    Broken(#[source] Arc<WebSocketError>),
    /// The server closed the connection. As with [`Error::Broken`], requests in flight may have
    /// been executed.
    #[error("the server closed the connection with {code}: {reason}")]
    Closed {
        /// The close code: see RFC 6455, section 7.4.
        code: u16,
        /// The explanation, for people.
        reason: String,
    },
    /// The response did not arrive in time: see
    /// [`Timeouts::response`](crate::limits::Timeouts::response). The request may or may not have
    /// been executed.
    #[error("no response within {0:?}; the request may have been executed")]
    TimedOut(Duration),
    /// No byte arrived from the server for
    /// [`Timeouts::dead_after`](crate::limits::Timeouts::dead_after).
    #[error("the server is silent")]
    Dead,
    /// A message arrived at less than [`Timeouts::min_rate`](crate::limits::Timeouts::min_rate).
    #[error("the server's message arrives too slowly")]
    TooSlow,
    /// The server sent a message that the client did not expect here.
    #[error("unexpected message: {0}")]
    Unexpected(String),
    /// The client was closed, or its member has left the room or was taken over.
    #[error("the client is closed, or no longer in the room")]
    Gone,
}

impl Error {
    /// Returns whether the server may have executed the request.
    ///
    /// - `false`: it did not. Either the request never arrived, or the server refused it.
    /// - `true`: it may have. If you resend a batch, it may be recorded twice. Resend a chat
    ///   message only under the same `message_id`.
    pub fn may_have_been_executed(&self) -> bool {
        match self {
            Self::Address { .. }
            | Self::Unreachable { .. }
            | Self::Tls(_)
            | Self::Token(_)
            | Self::Closed { code: UNAUTHENTICATED | FORBIDDEN, .. }
            | Self::Handshake(_)
            | Self::Refused { .. } => false,
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

/// Returns the text of a response that refuses the handshake, in parentheses.
fn explanation(error: &WebSocketError) -> String {
    let WebSocketError::Http(response) = error else { return String::new() };
    let text = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default());
    let line = printable(text.lines().next().unwrap_or_default());
    if line.is_empty() { String::new() } else { format!(" ({line})") }
}

/// Returns the message, or an error if the message is a refusal.
pub(super) fn unless_refused(message: ServerMessage) -> Result<ServerMessage, Error> {
    match message {
        ServerMessage::Error { code, reason, .. } => Err(Error::Refused { code, reason }),
        message => Ok(message),
    }
}

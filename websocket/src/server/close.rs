//! Why a connection ends, and with which close code.

use std::fmt;

use tcp_socket::base::principals::Denied;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use crate::protocol::{FORBIDDEN, UNAUTHENTICATED};

/// Why a connection ends.
pub(crate) enum CloseReason {
    /// The peer sent a close frame, perhaps with a code.
    ByPeer(Option<CloseFrame>),
    /// The server closes the connection, with this code and reason.
    ByUs(CloseFrame),
    /// The peer reads nothing, or too slowly.
    WriteTimeout,
    /// The connection broke.
    ConnectionLost(Error),
}

/// Returns the [`CloseReason`] for a connection that the server itself closes.
pub(crate) fn close(code: CloseCode, reason: impl Into<Utf8Bytes>) -> CloseReason {
    CloseReason::ByUs(CloseFrame { code, reason: reason.into() })
}

impl From<Denied> for CloseReason {
    fn from(denied: Denied) -> Self {
        let code = match denied {
            Denied::Unauthenticated(_) => UNAUTHENTICATED,
            Denied::Forbidden(_) => FORBIDDEN,
        };
        close(CloseCode::from(code), denied.to_string())
    }
}

impl From<Error> for CloseReason {
    /// Picks the close code for the rule that the peer broke (RFC 6455, section 7.4.1). The
    /// library doesn't send a close frame on its own.
    fn from(error: Error) -> Self {
        let code = match &error {
            // The stream ended without a close frame: the connection is already gone.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                return Self::ConnectionLost(error);
            }
            Error::Protocol(_) => CloseCode::Protocol,
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Capacity(_) => CloseCode::Size,
            _ => return Self::ConnectionLost(error),
        };
        // A control frame carries at most 125 bytes, and the code takes 2 of them.
        let mut reason = error.to_string();
        while reason.len() > 123 {
            reason.pop();
        }
        close(code, reason)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByPeer(Some(frame)) => write!(f, "closed by the peer with {}", u16::from(frame.code)),
            Self::ByPeer(None) => write!(f, "closed by the peer"),
            Self::ByUs(frame) => write!(f, "closed with {}: {}", u16::from(frame.code), frame.reason),
            Self::WriteTimeout => write!(f, "reset: the peer reads too slowly, or not at all"),
            Self::ConnectionLost(error) => write!(f, "lost: {error}"),
        }
    }
}

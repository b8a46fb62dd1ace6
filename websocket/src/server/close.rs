//! Why a connection ends, and which close code tells the peer.

use std::fmt;

use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

/// Why a connection ends.
pub(crate) enum CloseReason {
    /// The peer closed it in good order, with its code if it sent one.
    ByPeer(Option<CloseFrame>),
    /// We close it, for this reason.
    ByUs(CloseFrame),
    /// The peer reads nothing, or too slowly.
    WriteTimeout,
    /// The connection is gone.
    ConnectionLost(Error),
}

/// Makes the reason of an end by this side.
pub(crate) fn close(code: CloseCode, reason: impl Into<Utf8Bytes>) -> CloseReason {
    CloseReason::ByUs(CloseFrame { code, reason: reason.into() })
}

impl From<Error> for CloseReason {
    /// Picks the close code that tells the peer which rule it broke (RFC 6455, section 7.4.1).
    /// The library sends nothing on its own.
    fn from(error: Error) -> Self {
        let code = match &error {
            // The stream ended without a close frame: there is no message to respond to.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                return Self::ConnectionLost(error);
            }
            Error::Protocol(_) => CloseCode::Protocol,
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Capacity(_) => CloseCode::Size,
            _ => return Self::ConnectionLost(error),
        };
        // A control frame carries at most 125 bytes, 2 of them the code.
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
            Self::WriteTimeout => write!(f, "cut: the peer reads nothing, or too slowly"),
            Self::ConnectionLost(error) => write!(f, "lost: {error}"),
        }
    }
}

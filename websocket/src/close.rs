//! How a connection ends: which close code tells the peer why, and a close of the TCP
//! connection that does not destroy what was said last.

use std::fmt;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Utf8Bytes};

use crate::limits::Limits;

/// Private close code: the member of a room speaks through another connection now.
pub const TAKEN_OVER: u16 = 4001;

/// Why a connection ends.
pub(crate) enum End {
    /// The peer closed it in good order; its code, if it gave one.
    ByPeer(Option<CloseFrame>),
    /// We do, for this reason.
    ByUs(CloseFrame),
    /// The peer reads nothing.
    Stuck,
    /// It is gone.
    Lost(Error),
}

/// An end by this side.
pub(crate) fn close(code: CloseCode, reason: impl Into<Utf8Bytes>) -> End {
    End::ByUs(CloseFrame { code, reason: reason.into() })
}

impl From<Error> for End {
    /// The library sends nothing by itself when a peer breaks the rules; this
    /// tells the peer which one (RFC 6455, section 7.4.1).
    fn from(error: Error) -> Self {
        let code = match &error {
            // The end of the stream without a close frame is no message to answer.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => return Self::Lost(error),
            Error::Protocol(_) => CloseCode::Protocol,
            Error::Utf8(_) => CloseCode::Invalid,
            Error::Capacity(_) => CloseCode::Size,
            _ => return Self::Lost(error),
        };
        // A control frame carries at most 125 bytes, 2 of them the code.
        let mut reason = error.to_string();
        while reason.len() > 123 {
            reason.pop();
        }
        close(code, reason)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByPeer(Some(frame)) => write!(f, "closed by the peer with {}", u16::from(frame.code)),
            Self::ByPeer(None) => write!(f, "closed by the peer"),
            Self::ByUs(frame) => write!(f, "closed with {}: {}", u16::from(frame.code), frame.reason),
            Self::Stuck => write!(f, "cut: the peer reads nothing"),
            Self::Lost(error) => write!(f, "lost: {error}"),
        }
    }
}

/// Ends a connection so that the peer can read what it was last told: says that
/// no more will be written, discards what still comes in, then closes.
pub(crate) async fn linger(mut stream: TcpStream, limits: &Limits) {
    if stream.shutdown().await.is_err() {
        return; // The peer is gone.
    }
    let discard = async {
        let mut left = limits.linger_bytes;
        // On the heap: as an array it would be part of every connection's task.
        let mut scratch = vec![0; 4 * 1024];
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    let _ = timeout(limits.linger_time, discard).await;
}

//! Why the server closes a connection.

use std::io;

use thiserror::Error;

use crate::protocol::frame::BadFrame;
use crate::protocol::message::{ErrorCode, Refusal};

/// Why a connection ends. The text goes to the log.
#[derive(Debug, Error)]
pub(crate) enum CloseReason {
    #[error("closed by the client")]
    ByClient,
    #[error("closed by the client in the middle of a frame")]
    Truncated,
    #[error("goodbye")]
    Goodbye,
    #[error("stopping")]
    Stopping,
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("connection lost: {0}")]
    ConnectionLost(#[from] io::Error),
}

impl From<Refusal> for CloseReason {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BadFrame> for CloseReason {
    fn from(bad: BadFrame) -> Self {
        let code = match bad {
            BadFrame::TooLarge { .. } => ErrorCode::FrameTooLarge,
            BadFrame::Checksum { .. } => ErrorCode::BadChecksum,
        };
        Self::Refused(Refusal::new(code, bad.to_string()))
    }
}

//! When to reconnect after a connection is lost, and when not to.

use tcp_socket::base::retry::Pauses;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::http::StatusCode;

use super::error::Error;
use crate::limits::{MAX_PAUSE, MIN_PAUSE};
use crate::protocol::{FORBIDDEN, UNAUTHENTICATED};

/// The pauses between attempts to reconnect.
pub(super) struct Reconnect {
    pauses: Pauses,
    connected_at: Option<Instant>,
}

impl Reconnect {
    pub(super) fn new() -> Self {
        Self { pauses: Pauses::new(MIN_PAUSE, MAX_PAUSE), connected_at: None }
    }

    /// Notes that the client has connected, and that the server has accepted its first request.
    pub(super) fn on_connect(&mut self) {
        self.connected_at = Some(Instant::now());
    }

    /// Waits until it is time for the next attempt.
    pub(super) async fn pause(&mut self) {
        if self.connected_at.take().is_some_and(|at| at.elapsed() > MAX_PAUSE) {
            self.pauses.reset();
        }
        sleep(self.pauses.next_pause()).await;
    }
}

/// Returns whether another attempt would only fail with the same error.
pub(super) fn is_permanent(error: &Error) -> bool {
    match error {
        Error::Address { .. } | Error::Tls(_) | Error::Token(_) => true,
        Error::Refused { .. } | Error::Unexpected(_) => true,
        Error::Closed { code, .. } => [UNAUTHENTICATED, FORBIDDEN].contains(code),
        Error::Handshake(error) => match &**error {
            WebSocketError::Http(response) => {
                let status = response.status();
                let later = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];
                !status.is_server_error() && !later.contains(&status)
            }
            // The connection broke in the middle of the handshake.
            WebSocketError::Protocol(ProtocolError::HandshakeIncomplete) => false,
            _ => true,
        },
        _ => false,
    }
}

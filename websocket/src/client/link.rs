//! One connection to the server, from the client's side.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error as WebSocketError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use super::Error;
use crate::handshake::SUBPROTOCOL;
use crate::heartbeat::{Dead, Heartbeat};
use crate::message::ServerMessage;

/// How patient a client is.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Longest time from the first packet to the end of the handshake.
    pub connect: Duration,
    /// Longest wait for the answer to a request.
    pub answer: Duration,
    /// How often the client sends a ping.
    pub heartbeat: Duration,
    /// A server of which nothing was heard for this long is given up, at the
    /// next heartbeat.
    pub dead_after: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            heartbeat: Duration::from_secs(10),
            dead_after: Duration::from_secs(20),
        }
    }
}

/// Where a client's connections go, and how patient they are.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: Arc<str>,
    pub(super) timeouts: Timeouts,
}

/// Pause before the first attempt to connect again; it doubles for each one after. A
/// random part (jitter) is added, so that the clients of a server that was restarted
/// do not all come back at once.
const MIN_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Longest wait for the end of a close handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest message that the client takes.
const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// A connection with its heartbeat and what waits to be sent.
pub(super) struct Link {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heartbeat: Heartbeat,
    /// Bounded by its owners, who bound their requests in flight.
    outgoing: VecDeque<Message>,
    unflushed: bool,
}

impl Link {
    /// Connects to an endpoint of a server, whose address begins with `ws://` or `http://`.
    pub(super) async fn connect(target: &Target, path: &str) -> Result<Self, Error> {
        let Target { url, timeouts } = target;
        let url = url.trim_end_matches('/');
        let unreachable = |why| Error::Unreachable { url: url.to_owned(), source: Arc::new(why) };
        let address = || Error::Address { url: url.to_owned() };
        let host = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")).ok_or_else(address)?;
        let mut request =
            format!("ws://{host}{path}").into_client_request().map_err(|_not_a_url| address())?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let connect = connect_async_with_config(request, Some(config), true); // TCP_NODELAY
        let connected = timeout(timeouts.connect, connect).await.unwrap_or_else(|elapsed| {
            Err(WebSocketError::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, elapsed)))
        });
        let (socket, _response) = connected.map_err(|error| match error {
            WebSocketError::Io(_) | WebSocketError::Url(_) => unreachable(error),
            other => Error::Handshake(Arc::new(other)),
        })?;
        let heartbeat = Heartbeat::new(timeouts.heartbeat, timeouts.dead_after);
        Ok(Self { socket, heartbeat, outgoing: VecDeque::new(), unflushed: false })
    }

    /// Queues a request; [`Link::next`] sends it.
    pub(super) fn send(&mut self, request: &impl Serialize) {
        // Fails only for maps whose keys are no strings; there is none.
        self.send_text(serde_json::to_string(request).unwrap_or_default());
    }

    /// As [`Link::send`], already as JSON.
    pub(super) fn send_text(&mut self, text: String) {
        self.outgoing.push_back(Message::Text(text.into()));
    }

    /// The next message; meanwhile sends what is queued, all of it with one flush.
    /// Writing does not keep it from reading: two ends that only write would wait
    /// for each other for ever. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<ServerMessage, Error> {
        loop {
            let Self { socket, heartbeat, outgoing, unflushed } = self;
            // Cancel safe: `exchange` has no state of its own.
            select! {
                biased;
                received = poll_fn(|cx| exchange(socket, outgoing, unflushed, cx)) => {
                    heartbeat.heard();
                    match received? {
                        Message::Text(text) => {
                            let message = serde_json::from_str(&text);
                            let message = message.map_err(|error| Error::Unexpected(error.to_string()))?;
                            if !matches!(message, ServerMessage::Heartbeat { .. }) {
                                return Ok(message);
                            }
                        }
                        Message::Close(frame) => return Err(closed(frame)),
                        // The library answers pings by itself.
                        _ => {}
                    }
                }
                due = heartbeat.due() => match due {
                    Ok(()) => outgoing.push_back(Message::Ping(Bytes::new())),
                    Err(Dead) => return Err(Error::Dead),
                }
            }
        }
    }

    /// Ends the connection in good order: the server knows that we leave.
    pub(super) async fn close(mut self) {
        let goodbye = async {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            self.socket.close(Some(frame)).await?;
            // Until the server's close frame, and the end of the stream after it.
            while let Some(received) = self.socket.next().await {
                received?;
            }
            Ok::<_, WebSocketError>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

fn exchange(
    socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>,
    outgoing: &mut VecDeque<Message>,
    unflushed: &mut bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Message, Error>> {
    let broken = |error| Error::Broken(Arc::new(error));
    while !outgoing.is_empty() {
        match socket.poll_ready_unpin(cx).map_err(broken)? {
            Poll::Pending => break,
            Poll::Ready(()) => {
                let Some(message) = outgoing.pop_front() else { break };
                socket.start_send_unpin(message).map_err(broken)?;
                *unflushed = true;
            }
        }
    }
    if *unflushed && socket.poll_flush_unpin(cx).map_err(broken)?.is_ready() {
        *unflushed = false;
    }
    match ready!(socket.poll_next_unpin(cx)) {
        Some(received) => Poll::Ready(received.map_err(broken)),
        None => Poll::Ready(Err(broken(WebSocketError::ConnectionClosed))),
    }
}

fn closed(frame: Option<CloseFrame>) -> Error {
    // 1005 stands for a close frame without a code (RFC 6455, section 7.1.5).
    frame.map_or(Error::Closed { code: 1005, reason: String::new() }, |frame| Error::Closed {
        code: frame.code.into(),
        reason: frame.reason.to_string(),
    })
}

/// Pauses between attempts to connect, without end.
pub(super) fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(MIN_PAUSE)
        .with_max_delay(MAX_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

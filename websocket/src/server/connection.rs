//! One WebSocket connection on the server: it reads requests, responds, passes events on, and
//! ends in a way that the peer understands.
//!
//! One task does all of this. It reads all messages that have arrived, up to a limit, before it
//! sends the queued responses in one write, because most of the cost is in writing. While a
//! peer doesn't read, the task waits in the middle of a write, and so doesn't read from the
//! peer either. A peer that wants to send requests has to read the responses.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use futures::{FutureExt, SinkExt, StreamExt, poll};
use tcp_socket::base::linger::linger;
use tcp_socket::base::principals::Denied;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::chat::ChatSession;
use super::close::{CloseReason, close};
use super::live::LiveSession;
use crate::limits::{EVENTS_PER_TURN, Limits, MAX_INVALID, READ_BUFFER, READS_PER_TURN, WRITE_BUFFER};
use crate::liveness::{GiveUp, Heartbeat, Meter, MeteredStream, Patience, is_slower};
use crate::protocol::TAKEN_OVER;
use crate::protocol::message::{ErrorCode, ServerMessage};
use crate::protocol::parse::Refusal;

/// The endpoint behind a connection.
pub(crate) enum Session {
    /// `/echo`: sends every message back.
    Echo,
    /// `/chat`: rooms.
    Chat(ChatSession),
    /// `/live`: readings.
    Live(LiveSession),
    /// The caller is refused: it gets nothing but a close frame.
    Denied(Denied),
}

/// A connection after its handshake.
struct Connection<'a, S> {
    socket: WebSocketStream<MeteredStream<S>>,
    session: Session,
    heartbeat: Heartbeat,
    /// Number of invalid messages in a row.
    invalid: usize,
    limits: &'a Limits,
}

/// Runs a connection from the end of its handshake until it is closed. `early` holds the bytes
/// that were read together with the handshake. `tcp` returns the TCP connection below the
/// stream.
pub(crate) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    path: &str,
    stream: S,
    tcp: fn(&S) -> &TcpStream,
    early: Vec<u8>,
    session: Session,
    limits: &Limits,
    stopping: &CancellationToken,
) {
    let started = Instant::now();
    let meter = Arc::<Meter>::default();
    let &Limits { heartbeat, dead_after, min_rate, .. } = limits;
    let patience = Patience { heartbeat, dead_after, min_rate };
    let heartbeat = Heartbeat::new(patience, true, meter.clone());
    let config = Some(config(limits));
    let stream = meter.attach(stream);
    let socket = WebSocketStream::from_partially_read(stream, early, Role::Server, config).await;
    let mut connection = Connection { socket, session, heartbeat, invalid: 0, limits };
    let reason = match &connection.session {
        Session::Denied(denied) => denied.clone().into(),
        _ => {
            let Err(reason) = connection.exchange(stopping).await;
            reason
        }
    };
    let Connection { mut socket, mut session, .. } = connection;
    if let Session::Chat(chat) = &mut session {
        chat.ended(matches!(reason, CloseReason::ByPeer(_)));
    }
    info!("{path} {reason} after {:.1?}", started.elapsed());
    let sent = async {
        match reason {
            CloseReason::ByPeer(_) => socket.flush().await.is_ok(), // The library has queued its close frame.
            CloseReason::ByUs(frame) => socket.close(Some(frame)).await.is_ok(),
            CloseReason::WriteTimeout => {
                // The kernel then sends a reset, and discards what it still holds for the peer.
                let _ = tcp(socket.get_ref().get_ref().get_ref()).set_zero_linger();
                false
            }
            CloseReason::ConnectionLost(_) => false,
        }
    };
    if timeout(limits.connections.linger_time, sent).await.unwrap_or(false) {
        linger(socket.into_inner(), limits.connections.linger()).await;
    }
}

fn config(limits: &Limits) -> WebSocketConfig {
    // At most one message is ever queued beyond the write buffer.
    let longest = limits.max_message.max(1024 * 1024);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(2 * WRITE_BUFFER + longest)
        .max_message_size(Some(limits.max_message))
        .max_frame_size(Some(limits.max_message))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Runs the loop until the connection ends, and returns why it ended.
    async fn exchange(&mut self, stopping: &CancellationToken) -> Result<Infallible, CloseReason> {
        let mut events = Vec::new();
        loop {
            // Cancel safe: a partly read frame stays in the socket, and a received event in the
            // session.
            select! {
                received = self.socket.next() => {
                    let mut next = Some(received);
                    for left in (0..READS_PER_TURN).rev() {
                        let Some(received) = next else { break };
                        self.handle_message(received).await?;
                        next = if left > 0 { self.socket.next().now_or_never() } else { None };
                    }
                }
                () = self.session.wait_for_events() => {}
                due = self.heartbeat.due() => match due {
                    Ok(()) => self.send_heartbeat().await?,
                    Err(GiveUp::Dead) => return Err(close(CloseCode::Policy, "keepalive timeout")),
                    Err(GiveUp::TooSlow) => {
                        return Err(close(CloseCode::Policy, "the message arrives too slowly"));
                    }
                },
                () = stopping.cancelled() => return Err(close(CloseCode::Away, "the server is stopping")),
            }
            self.session.events(&mut events)?;
            for event in events.drain(..) {
                self.queue(Message::Text(event)).await?;
            }
            events.shrink_to(EVENTS_PER_TURN); // Catching up needs more memory, but only rarely.
            with_write_timeout(self.socket.flush(), self.heartbeat.meter(), self.limits).await?;
        }
    }

    /// Handles one message. Queues its response, but doesn't send it yet.
    async fn handle_message(&mut self, received: Option<Result<Message, Error>>) -> Result<(), CloseReason> {
        match received {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                self.heartbeat.on_message();
                let response = self.session.respond(message, &mut self.invalid)?;
                self.queue(response).await
            }
            Some(Ok(Message::Close(frame))) => Err(CloseReason::ByPeer(frame)),
            // The library responds to pings on its own.
            Some(Ok(Message::Ping(payload) | Message::Pong(payload))) => {
                self.heartbeat.on_control_frame(payload.len());
                Ok(())
            }
            Some(Ok(Message::Frame(_))) => Ok(()),
            Some(Err(error)) => Err(CloseReason::from(error)),
            None => Err(CloseReason::ConnectionLost(Error::ConnectionClosed)),
        }
    }

    /// Queues a ping for the peer's library. Since browsers hide pings from scripts, it also
    /// queues a message for the script of a page.
    async fn send_heartbeat(&mut self) -> Result<(), CloseReason> {
        self.queue(Message::Ping(Bytes::new())).await?;
        if matches!(self.session, Session::Echo) {
            return Ok(());
        }
        let next_within_ms = self.limits.heartbeat.as_millis() as u64;
        self.queue(Message::Text(ServerMessage::Heartbeat { next_within_ms }.to_text())).await
    }

    /// Queues a message. It is written here only if the queue is full, and otherwise at the flush.
    async fn queue(&mut self, message: Message) -> Result<(), CloseReason> {
        with_write_timeout(self.socket.feed(message), self.heartbeat.meter(), self.limits).await
    }
}

/// Waits for a write to finish for as long as the peer keeps reading: see
/// [`Limits::write_timeout`].
async fn with_write_timeout(
    write: impl Future<Output = Result<(), Error>>,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), CloseReason> {
    let mut write = pin!(write);
    // Most writes only fill the queue, and need neither a timer nor a look at the clock.
    if let Poll::Ready(written) = poll!(&mut write) {
        return written.map_err(CloseReason::from);
    }
    loop {
        let before = meter.sent();
        match timeout(limits.write_timeout, &mut write).await {
            Ok(written) => return written.map_err(CloseReason::from),
            Err(_elapsed) if is_slower(meter.sent() - before, limits.write_timeout, limits.min_rate) => {
                return Err(CloseReason::WriteTimeout);
            }
            Err(_elapsed) => {}
        }
    }
}

impl Session {
    fn respond(&mut self, message: Message, invalid: &mut usize) -> Result<Message, CloseReason> {
        let request = match (&*self, message) {
            (Self::Echo, message) => return Ok(message),
            (_, Message::Text(request)) => request,
            _ => return Err(close(CloseCode::Unsupported, "this endpoint accepts only text messages")),
        };
        let response = match self {
            Self::Chat(chat) => chat.respond(&request),
            Self::Live(live) => live.respond(&request)?,
            Self::Echo | Self::Denied(_) => return Ok(Message::Text(request)),
        };
        *invalid = match &response {
            Err(Refusal { code: ErrorCode::Invalid, .. }) => *invalid + 1,
            _ => 0,
        };
        if *invalid > MAX_INVALID {
            return Err(close(CloseCode::Policy, "too many invalid messages"));
        }
        let response = response.unwrap_or_else(ServerMessage::from);
        Ok(Message::Text(response.to_text()))
    }

    /// Completes when there may be events to send. Cancel safe.
    async fn wait_for_events(&mut self) {
        match self {
            Self::Echo | Self::Denied(_) => pending().await,
            Self::Chat(chat) => chat.wait_for_events().await,
            Self::Live(live) => live.wait_for_events().await,
        }
    }

    fn events(&mut self, into: &mut Vec<Utf8Bytes>) -> Result<(), CloseReason> {
        match self {
            Self::Echo | Self::Denied(_) => Ok(()),
            Self::Chat(chat) => {
                let by = "another connection took over this name";
                chat.events(into).map_err(|_taken_over| close(CloseCode::from(TAKEN_OVER), by))
            }
            Self::Live(live) => {
                live.events(into);
                Ok(())
            }
        }
    }
}

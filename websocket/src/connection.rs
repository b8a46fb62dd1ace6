//! One WebSocket connection on the server: read, answer, pass events on, flush,
//! and end in a way that the peer understands.
//!
//! One task does it all. It never writes while it could still read more: what
//! is queued together goes out in one write, which is most of what a message
//! costs. While a peer does not read, the task waits for it in the middle of a
//! write, and so does not read from it either: whoever wants to send requests
//! has to take the answers.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;

use futures::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::chat::ChatSession;
use crate::close::{End, TAKEN_OVER, close, linger};
use crate::heartbeat::{GiveUp, Heartbeat, Patience, is_slower};
use crate::limits::Limits;
use crate::live::LiveSession;
use crate::message::{ErrorCode, Refusal, ServerMessage};
use crate::meter::{Meter, MeteredStream};

/// Invalid messages one after the other; beyond it close code 1008. A peer that
/// only ever sends nonsense is broken.
pub const MAX_INVALID: usize = 100;

/// Messages that are read before what they caused is sent.
const READS_PER_TURN: usize = 128;

/// Events that are sent before the next look at what came in.
pub(crate) const EVENTS_PER_TURN: usize = 256;

/// What an idle connection holds for its reads.
const READ_BUFFER: usize = 4 * 1024;

/// Bytes that are gathered at most before they are written.
const WRITE_BUFFER: usize = 64 * 1024;

/// What is behind a connection.
pub(crate) enum Session {
    /// Everything comes back.
    Echo,
    /// Rooms.
    Chat(ChatSession),
    /// Readings.
    Live(LiveSession),
}

/// A connection from the end of its handshake to its own; `early` is what the
/// peer had already sent after the handshake.
pub(crate) async fn run(
    path: &str,
    stream: TcpStream,
    early: Vec<u8>,
    mut session: Session,
    limits: &Limits,
    stopping: &CancellationToken,
) {
    let started = Instant::now();
    let config = Some(config(limits));
    let stream = MeteredStream::new(stream);
    let mut socket = WebSocketStream::from_partially_read(stream, early, Role::Server, config).await;
    let Err(end) = exchange(&mut socket, &mut session, limits, stopping).await;
    if let Session::Chat(chat) = &mut session {
        chat.ended(matches!(end, End::ByPeer(_)));
    }
    info!("{path} {end} after {:.1?}", started.elapsed());
    let sent = async {
        match end {
            End::ByPeer(_) => socket.flush().await.is_ok(), // The library has queued the reply.
            End::ByUs(frame) => socket.close(Some(frame)).await.is_ok(),
            End::Stuck => {
                // What the kernel still holds for the peer is given up with it.
                let _ = socket.get_ref().get_ref().set_zero_linger();
                false
            }
            End::Lost(_) => false,
        }
    };
    if timeout(limits.linger_time, sent).await.unwrap_or(false) {
        linger(socket.into_inner().into_inner(), limits).await;
    }
}

fn config(limits: &Limits) -> WebSocketConfig {
    // More than one message is never queued beyond the write buffer.
    let longest = limits.max_message.max(1024 * 1024);
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_write_buffer_size(2 * WRITE_BUFFER + longest)
        .max_message_size(Some(limits.max_message))
        .max_frame_size(Some(limits.max_frame))
}

async fn exchange(
    socket: &mut WebSocketStream<MeteredStream>,
    session: &mut Session,
    limits: &Limits,
    stopping: &CancellationToken,
) -> Result<Infallible, End> {
    let &Limits { heartbeat, dead_after, min_rate, .. } = limits;
    let patience = Patience { heartbeat, dead_after, min_rate };
    let mut heartbeat = Heartbeat::new(patience, true, socket.get_ref().meter().clone());
    let mut invalid = 0;
    let mut events = Vec::new();
    loop {
        // Cancel safe: a frame that was read in part stays in the socket; an
        // event that was received stays in the session.
        select! {
            received = socket.next() => {
                let mut next = Some(received);
                for left in (0..READS_PER_TURN).rev() {
                    let Some(received) = next else { break };
                    take(received, socket, session, &mut invalid, &mut heartbeat, limits).await?;
                    next = if left > 0 { socket.next().now_or_never() } else { None };
                }
            }
            () = session.wake() => {}
            due = heartbeat.due() => match due {
                Ok(()) => beat(socket, session, heartbeat.meter(), limits).await?,
                Err(GiveUp::Dead) => return Err(close(CloseCode::Policy, "no sign of life")),
                Err(GiveUp::TooSlow) => return Err(close(CloseCode::Policy, "the message arrives too slowly")),
            },
            () = stopping.cancelled() => return Err(close(CloseCode::Away, "the server is stopping")),
        }
        session.events(&mut events)?;
        for event in events.drain(..) {
            in_time(socket.feed(Message::Text(event)), heartbeat.meter(), limits).await?;
        }
        events.shrink_to(EVENTS_PER_TURN); // Catching up takes more, once.
        in_time(socket.flush(), heartbeat.meter(), limits).await?;
    }
}

/// Deals with one message; its answer is queued, not yet sent.
async fn take(
    received: Option<Result<Message, Error>>,
    socket: &mut WebSocketStream<MeteredStream>,
    session: &mut Session,
    invalid: &mut usize,
    heartbeat: &mut Heartbeat,
    limits: &Limits,
) -> Result<(), End> {
    let message = match received {
        Some(Ok(message)) => message,
        Some(Err(error)) => return Err(End::from(error)),
        None => return Err(End::Lost(Error::ConnectionClosed)),
    };
    let answer = match message {
        Message::Text(_) | Message::Binary(_) => {
            heartbeat.on_message();
            session.answer(message, invalid)?
        }
        Message::Close(frame) => return Err(End::ByPeer(frame)),
        // The library answers pings on its own.
        Message::Ping(payload) | Message::Pong(payload) => {
            heartbeat.on_control_frame(payload.len());
            return Ok(());
        }
        Message::Frame(_) => return Ok(()),
    };
    in_time(socket.feed(answer), heartbeat.meter(), limits).await
}

/// A ping for the peer's library, a message for a page's script, which is not
/// shown pings.
async fn beat(
    socket: &mut WebSocketStream<MeteredStream>,
    session: &Session,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), End> {
    in_time(socket.feed(Message::Ping(Bytes::new())), meter, limits).await?;
    if matches!(session, Session::Echo) {
        return Ok(());
    }
    let next_within_ms = limits.heartbeat.as_millis() as u64;
    let message = Message::Text(to_text(&ServerMessage::Heartbeat { next_within_ms }));
    in_time(socket.feed(message), meter, limits).await
}

/// Waits for a write for as long as the peer reads: see [`Limits::write_timeout`].
async fn in_time(
    write: impl Future<Output = Result<(), Error>>,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), End> {
    let mut write = pin!(write);
    loop {
        let before = meter.sent();
        match timeout(limits.write_timeout, &mut write).await {
            Ok(written) => return written.map_err(End::from),
            Err(_elapsed) if is_slower(meter.sent() - before, limits.write_timeout, limits.min_rate) => {
                return Err(End::Stuck);
            }
            Err(_elapsed) => {}
        }
    }
}

impl Session {
    fn answer(&mut self, message: Message, invalid: &mut usize) -> Result<Message, End> {
        let request = match (&*self, message) {
            (Self::Echo, message) => return Ok(message),
            (_, Message::Text(request)) => request,
            _ => return Err(close(CloseCode::Unsupported, "messages are text here")),
        };
        let answer = match self {
            Self::Chat(chat) => chat.answer(&request),
            Self::Live(live) => live.answer(&request),
            Self::Echo => return Ok(Message::Text(request)),
        };
        let answer = answer.unwrap_or_else(|Refusal { id, code, reason }| {
            *invalid = if code == ErrorCode::Invalid { *invalid + 1 } else { 0 };
            ServerMessage::Error { id, code, reason }
        });
        if !matches!(answer, ServerMessage::Error { .. }) {
            *invalid = 0;
        } else if *invalid > MAX_INVALID {
            return Err(close(CloseCode::Policy, "too many invalid messages"));
        }
        Ok(Message::Text(to_text(&answer)))
    }

    /// Completes when there may be events to send. Cancel safe.
    async fn wake(&mut self) {
        match self {
            Self::Echo => pending().await,
            Self::Chat(chat) => chat.wake().await,
            Self::Live(live) => live.wake().await,
        }
    }

    fn events(&mut self, into: &mut Vec<Utf8Bytes>) -> Result<(), End> {
        match self {
            Self::Echo => Ok(()),
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

/// A message as the text of a frame.
pub(crate) fn to_text(message: &ServerMessage) -> Utf8Bytes {
    // Fails only for maps whose keys are no strings; there is none.
    serde_json::to_string(message).unwrap_or_default().into()
}

/// 128 random bits in hexadecimal.
pub(crate) fn random_id() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

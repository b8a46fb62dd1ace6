//! One connection to the server, from the client's side.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{SinkExt, StreamExt};
use serde::Serialize;
use tcp_socket::base::json::Object;
use tcp_socket::base::tls::{self, Socket};
use tcp_socket::base::token::Token;
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL,
};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error as WebSocketError, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tokio_util::either::Either;

use super::error::Error;
use crate::limits::{CLOSE_TIMEOUT, MAX_SERVER_MESSAGE, Timeouts};
use crate::liveness::{GiveUp, Heartbeat, Meter, MeteredStream, Patience};
use crate::protocol::SUBPROTOCOL;
use crate::protocol::message::ServerMessage;

/// Where a client's connections go, and how patient they are.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) url: Arc<str>,
    pub(super) timeouts: Timeouts,
    /// TLS, if the URL asks for it.
    pub(super) tls: Result<Option<Arc<ClientConfig>>, Error>,
    /// Says who the client is. A program can set headers, so it needs no ticket.
    pub(super) token: Result<Option<Token>, Error>,
}

/// The stream below the WebSocket, which [`connect`] makes. The meter counts decrypted bytes.
type Transport = MeteredStream<Socket>;

/// A connection with its heartbeat and its queue of messages to send.
pub(super) struct Connection {
    socket: WebSocketStream<Transport>,
    heartbeat: Heartbeat,
    /// Its length is limited because the owners of connections limit their requests in flight.
    outgoing: VecDeque<Message>,
    unflushed: bool,
}

impl Connection {
    /// Connects to an endpoint of the server. Its URL must begin with `ws://` or `http://`, or for
    /// TLS with `wss://` or `https://`.
    pub(super) async fn connect(target: &Target, path: &str) -> Result<Self, Error> {
        let Target { url, timeouts, tls, token } = target;
        let url = url.trim_end_matches('/');
        let unreachable = |why| Error::Unreachable { url: url.to_owned(), source: Arc::new(why) };
        let address = || Error::Address { url: url.to_owned() };
        let tls = tls.clone()?;
        let schemes = if tls.is_some() { ["https://", "wss://"] } else { ["http://", "ws://"] };
        let host = schemes.iter().find_map(|scheme| url.strip_prefix(scheme)).ok_or_else(address)?;
        let mut request =
            format!("{}{host}{path}", schemes[1]).into_client_request().map_err(|_not_a_url| address())?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        if let Some(token) = token.clone()? {
            let value = HeaderValue::try_from(format!("Bearer {}", token.secret()));
            request.headers_mut().insert(AUTHORIZATION, value.map_err(|_invalid| address())?);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .max_message_size(Some(MAX_SERVER_MESSAGE))
            .max_frame_size(Some(MAX_SERVER_MESSAGE));
        let meter = Arc::<Meter>::default();
        let failed = |error, connected| match (tls::fault(&error, connected), error) {
            (Some(fault), _) => Error::Tls(fault),
            (None, error @ (WebSocketError::Io(_) | WebSocketError::Url(_))) => unreachable(error),
            (None, other) => Error::Handshake(Arc::new(other)),
        };
        let connect = async {
            let stream = open(&request, tls).await.map_err(|error| failed(error.into(), false))?;
            upgrade(request, meter.attach(stream), config).await.map_err(|error| failed(error, true))
        };
        let socket = timeout(timeouts.connect, connect).await.unwrap_or_else(|elapsed| {
            let elapsed = io::Error::new(io::ErrorKind::TimedOut, elapsed);
            Err(unreachable(WebSocketError::Io(elapsed)))
        })?;
        let &Timeouts { heartbeat, dead_after, min_rate, .. } = timeouts;
        let patience = Patience { heartbeat, dead_after, min_rate };
        let heartbeat = Heartbeat::new(patience, false, meter);
        Ok(Self { socket, heartbeat, outgoing: VecDeque::new(), unflushed: false })
    }

    /// Queues a request; [`Connection::next`] sends it.
    pub(super) fn send(&mut self, request: &impl Serialize) {
        // Serialization fails only for maps whose keys are not strings. There are none here.
        self.send_text(serde_json::to_string(request).unwrap_or_default());
    }

    /// Queues a request that is already JSON.
    pub(super) fn send_text(&mut self, text: String) {
        self.outgoing.push_back(Message::Text(text.into()));
    }

    /// Waits for the next message, and meanwhile sends all queued ones with one flush. It keeps
    /// reading while it writes. Otherwise, two ends that only write would wait for each other
    /// forever. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<ServerMessage, Error> {
        loop {
            let Self { socket, heartbeat, outgoing, unflushed } = self;
            // Cancel safe: `exchange` keeps no state of its own.
            select! {
                biased;
                received = poll_fn(|cx| exchange(socket, outgoing, unflushed, cx)) => {
                    match received? {
                        Message::Text(text) => {
                            heartbeat.on_message();
                            let message = serde_json::from_str(&text);
                            let Object(message) =
                                message.map_err(|error| Error::Unexpected(error.to_string()))?;
                            if !matches!(message, ServerMessage::Heartbeat { .. }) {
                                return Ok(message);
                            }
                        }
                        Message::Close(frame) => return Err(closed(frame)),
                        // The library responds to pings on its own.
                        Message::Ping(payload) | Message::Pong(payload) => {
                            heartbeat.on_control_frame(payload.len());
                        }
                        Message::Binary(_) | Message::Frame(_) => heartbeat.on_message(),
                    }
                }
                due = heartbeat.due() => match due {
                    Ok(()) => outgoing.push_back(Message::Ping(Bytes::new())),
                    Err(GiveUp::Dead) => return Err(Error::Dead),
                    Err(GiveUp::TooSlow) => return Err(Error::TooSlow),
                }
            }
        }
    }

    /// Closes the connection with a close frame, so that the server knows that the client left.
    pub(super) async fn close(mut self) {
        let goodbye = async {
            let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            self.socket.close(Some(frame)).await?;
            // Read until the server's close frame, and then to the end of the stream.
            while let Some(received) = self.socket.next().await {
                received?;
            }
            Ok::<_, WebSocketError>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
    }
}

/// Connects to the request's host: TCP, and then TLS if there is a configuration for it.
async fn open(request: &Request, tls: Option<Arc<ClientConfig>>) -> io::Result<Socket> {
    let host = request.uri().host().unwrap_or_default();
    let port = request.uri().port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let stream = TcpStream::connect(format!("{host}:{port}")).await?;
    stream.set_nodelay(true)?;
    match tls {
        None => Ok(Either::Left(stream)),
        Some(tls) => tls::connect(tls, host, stream).await,
    }
}

/// Performs the WebSocket handshake. The library can't know which extensions its user supports, so
/// it leaves some checks of RFC 6455, section 4.1, to us.
async fn upgrade(
    request: Request,
    stream: Transport,
    config: WebSocketConfig,
) -> Result<WebSocketStream<Transport>, WebSocketError> {
    let (socket, response) = client_async_with_config(request, stream, Some(config)).await?;
    check_response(&response)?;
    Ok(socket)
}

/// Checks the server's response. The client offered no extensions, so the server must not
/// select one. The headers with the subprotocol and the proof must not appear twice (sections
/// 11.3.3 and 11.3.4).
fn check_response(response: &Response) -> Result<(), WebSocketError> {
    let count = |name: &HeaderName| response.headers().get_all(name).iter().count();
    let wrong = [(SEC_WEBSOCKET_EXTENSIONS, 0), (SEC_WEBSOCKET_PROTOCOL, 1), (SEC_WEBSOCKET_ACCEPT, 1)]
        .into_iter()
        .find(|(name, most)| count(name) > *most);
    match wrong {
        Some((name, _most)) => Err(ProtocolError::InvalidHeader(Box::new(name)).into()),
        None => Ok(()),
    }
}

/// Sends as many queued messages as possible, and returns the next one that arrives.
fn exchange(
    socket: &mut WebSocketStream<Transport>,
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
    // 1005 means that the close frame had no code (RFC 6455, section 7.1.5).
    frame.map_or(Error::Closed { code: 1005, reason: String::new() }, |frame| Error::Closed {
        code: frame.code.into(),
        reason: frame.reason.to_string(),
    })
}

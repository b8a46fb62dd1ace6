//! The client's connection: one task that writes queued frames, hands out the answers,
//! sends heartbeats, and reconnects.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::base::retry::Pauses;
use crate::client::address::server_addr;
use crate::client::calls::Calls;
use crate::client::error::{DisconnectReason, Error};
use crate::limits::{
    CLOSE_TIMEOUT, CONNECT_TIMEOUT, MAX_IN_FLIGHT, MAX_PAUSE, MAX_SERVER_PAYLOAD, MIN_FRAME_RATE, MIN_PAUSE,
};
use crate::protocol::frame::{HEADER, kind, put_frame};
use crate::protocol::frame_buffer::FrameBuffer;
use crate::protocol::handshake::{Hello, VERSION, WELCOME, Welcome, random_id};
use crate::protocol::message::Refusal;
use crate::protocol::pace::Pace;

/// A connection after its handshake.
pub(crate) struct Connection {
    stream: TcpStream,
    input: FrameBuffer,
    /// Frames that were taken from the queue and are not yet written.
    writing: BytesMut,
    welcome: Welcome,
    /// Whether a whole frame has arrived on it. Only then do the pauses start over.
    useful: bool,
}

/// How to connect.
pub(crate) struct Connector {
    addr: String,
    hello: Hello,
}

impl Connector {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        let addr = server_addr(url)?;
        let client_id = random_id().map_err(|source| unreachable(&addr, source))?;
        Ok(Self { addr, hello: Hello { lowest: VERSION, highest: VERSION, client_id } })
    }

    /// Connects and does the handshake, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(&self) -> Result<Connection, Error> {
        let unreachable = |source| unreachable(&self.addr, source);
        match timeout(CONNECT_TIMEOUT, self.handshake(unreachable)).await {
            Ok(connection) => connection,
            Err(_elapsed) => Err(unreachable(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn handshake(&self, unreachable: impl Fn(io::Error) -> Error) -> Result<Connection, Error> {
        let mut stream = TcpStream::connect(&self.addr).await.map_err(&unreachable)?;
        // Otherwise a request could wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(&unreachable)?;
        // A full server may have said so and closed already: read its answer anyway.
        let _ = stream.write_all(&self.hello.encode()).await;
        let mut bytes = [0; WELCOME];
        stream.read_exact(&mut bytes).await.map_err(&unreachable)?;
        let welcome =
            Welcome::decode(&bytes).ok_or_else(|| Error::Protocol("its answer is not WELCOME".into()))?;
        let mut input = FrameBuffer::new(MAX_SERVER_PAYLOAD);
        match welcome.version {
            // With fewer replies, the server could have forgotten a batch that is sent again.
            VERSION if (welcome.window as usize) < MAX_IN_FLIGHT => {
                Err(Error::Protocol(format!("it keeps only {} replies", welcome.window)))
            }
            VERSION => Ok(Connection { stream, input, writing: BytesMut::new(), welcome, useful: false }),
            0 => loop {
                let frame = input.next_frame().map_err(|bad| Error::Protocol(bad.to_string()))?;
                if let Some(refusal) = frame.and_then(|frame| Refusal::parse(frame.payload)) {
                    return Err(Error::Refused(refusal));
                }
                if input.read_from(&mut stream).await.map_err(&unreachable)? == 0 {
                    return Err(Error::Protocol("it refuses the connection and does not say why".into()));
                }
            },
            other => Err(Error::Protocol(format!("it chose version {other}"))),
        }
    }
}

fn unreachable(addr: &str, source: io::Error) -> Error {
    Error::Unreachable { url: format!("tcp://{addr}"), source }
}

/// Keeps a connection until the client is closed.
pub(crate) async fn run(
    calls: Arc<Calls>,
    connector: Connector,
    first: Connection,
    closing: CancellationToken,
) {
    let mut connection = first;
    let mut pauses = Pauses::new(MIN_PAUSE, MAX_PAUSE);
    loop {
        calls.on_connect(connection.welcome);
        let reason = run_connection(&calls, &mut connection, &closing).await;
        if connection.useful {
            pauses.reset();
        }
        if !closing.is_cancelled() {
            debug!("connection lost: {reason}; reconnecting");
        }
        calls.on_disconnect(&reason);
        drop(connection);
        // Cancel safe: an attempt that is dropped leaves nothing behind.
        match closing.run_until_cancelled(reconnect(&connector, &mut pauses)).await {
            Some(Ok(next)) => connection = next,
            Some(Err(error)) => return calls.close(Some(error)),
            None => return calls.close(None),
        }
    }
}

/// Connects, however many attempts it takes. An error means that no further attempt can
/// succeed.
async fn reconnect(connector: &Connector, pauses: &mut Pauses) -> Result<Connection, Error> {
    loop {
        sleep(pauses.next_pause()).await;
        match connector.connect().await {
            Ok(connection) => return Ok(connection),
            Err(error) if error.is_permanent() => return Err(error),
            Err(error) => debug!("connect: {error}"),
        }
    }
}

/// Uses one connection until it is lost or closed. Returns why it ended.
async fn run_connection(
    calls: &Calls,
    connection: &mut Connection,
    closing: &CancellationToken,
) -> DisconnectReason {
    match exchange(calls, connection, closing).await {
        Ok(()) => {
            let _ = timeout(CLOSE_TIMEOUT, close_gracefully(calls, connection)).await;
            DisconnectReason::ClosedByUs
        }
        Err(reason) => reason,
    }
}

/// Writes and reads until `closing`.
async fn exchange(
    calls: &Calls,
    connection: &mut Connection,
    closing: &CancellationToken,
) -> Result<(), DisconnectReason> {
    let Connection { stream, input, writing, welcome, useful } = connection;
    let (mut reader, writer) = stream.split();
    let silence = Duration::from_millis(welcome.idle_timeout.into());
    let interval = (silence / 3).max(Duration::from_millis(10));
    let mut pace = Pace::new(silence, silence, MIN_FRAME_RATE);
    // Bytes written since the last byte arrived, at most those of one largest frame. The server
    // may answer only when a whole frame has arrived, so the client waits longer for it.
    let mut unconfirmed = 0;
    let mut heartbeat = pin!(sleep(interval));
    let mut closing = pin!(closing.cancelled());
    loop {
        if !writing.has_remaining() {
            calls.take_output(writing);
        }
        while writing.has_remaining() {
            match writer.try_write(writing) {
                Ok(count) => {
                    writing.advance(count);
                    unconfirmed = (unconfirmed + count).min(HEADER + welcome.max_payload as usize);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Cancel safe: `read_from` keeps the bytes that it has read, `notified` keeps a
        // notification that nobody waits for, and the others only wait for a state.
        select! {
            count = input.read_from(&mut reader) => {
                if count? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                pace.on_bytes();
                unconfirmed = 0;
                let handled = calls.handle_frames(input)?;
                *useful |= handled;
                pace.on_frames(handled, input.rest().len());
            }
            ready = writer.writable(), if writing.has_remaining() => {
                ready?;
                pace.on_bytes(); // There is room again: the other side acknowledged some bytes.
            }
            () = calls.queued.notified(), if !writing.has_remaining() => {}
            () = &mut heartbeat => {
                let now = Instant::now();
                if pace.slow().is_some_and(|slow| now > slow) {
                    return Err(DisconnectReason::Slow);
                }
                let sending = Duration::from_millis(unconfirmed as u64 * 1000 / u64::from(MIN_FRAME_RATE));
                if now > pace.deadline() + sending {
                    return Err(DisconnectReason::Silence);
                }
                calls.put_heartbeat();
                heartbeat.as_mut().reset(Instant::now() + interval);
            }
            () = &mut closing => return Ok(()),
        }
    }
}

/// Sends the queued frames and `GOODBYE`, and reads until the server closes.
async fn close_gracefully(calls: &Calls, connection: &mut Connection) -> Result<(), DisconnectReason> {
    connection.stream.write_all(&connection.writing).await?;
    connection.writing.clear();
    calls.take_output(&mut connection.writing);
    put_frame(&mut connection.writing, kind::GOODBYE, 0, 0, |_payload| {});
    connection.stream.write_all(&connection.writing).await?;
    while connection.input.read_from(&mut connection.stream).await? > 0 {
        calls.handle_frames(&mut connection.input)?;
    }
    Ok(())
}

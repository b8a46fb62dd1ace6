//! The client's connection: one task that writes what is queued, hands out what
//! comes back, sends heartbeats and reconnects.

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
    /// Taken from the queue and not yet written.
    writing: BytesMut,
    welcome: Welcome,
    /// Whether it has brought an answer. Only then does the next pause begin anew.
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
        // Without it a request would wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(&unreachable)?;
        // A server that is full may have said so and closed already: read anyway.
        let _ = stream.write_all(&self.hello.encode()).await;
        let mut bytes = [0; WELCOME];
        stream.read_exact(&mut bytes).await.map_err(&unreachable)?;
        let welcome =
            Welcome::decode(&bytes).ok_or_else(|| Error::Protocol("it does not answer WELCOME".into()))?;
        let mut input = FrameBuffer::new(MAX_SERVER_PAYLOAD);
        match welcome.version {
            // Else a batch that is sent again could already be forgotten.
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
                    return Err(Error::Protocol("it refuses and does not say why".into()));
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
        debug!("connection lost: {reason}; reconnecting");
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

/// Connects, for as long as it takes. An error is one that another attempt cannot cure.
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

/// One connection until it is lost or closed.
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
    // Written since something arrived. The server may answer nothing before all of
    // it, or at least one frame, has arrived.
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
        // Cancel safe: `read_from` keeps what it has read, a notification that is not
        // waited for is kept, and the others only wait for a state.
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
                pace.on_bytes(); // There is room again: the server's system acknowledged some.
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

/// The orderly end: what is queued, `GOODBYE`, and reading until the server's.
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

//! The client's connection: one task that writes what is queued, hands out what
//! comes back, sends heartbeats and connects again.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::calls::Shared;
use crate::client::{CONNECT_TIMEOUT, Error, MAX_IN_FLIGHT};
use crate::frame::{kind, put_frame};
use crate::frame_buffer::FrameBuffer;
use crate::handshake::{Hello, VERSION, WELCOME, Welcome, random_id};
use crate::message::Refusal;

/// Most bytes in the payload of a frame from the server: `PROTOCOL.md`, section 9.
const MAX_ANSWER: u32 = 64 * 1024;

/// Pause before the first attempt to connect again; it doubles for each one after. A
/// random part (jitter) is added, so that the clients of a server that was restarted
/// do not all come back at once.
const MIN_PAUSE: Duration = Duration::from_millis(50);

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Bound on the orderly end of a connection.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fall {
    #[error("the server said goodbye")]
    Goodbye,
    #[error("the server ended it: {0}")]
    Refused(Refusal),
    #[error("{0}")]
    Broken(#[from] io::Error),
    #[error("the server has fallen silent")]
    Silence,
    #[error("what came is not of this protocol")]
    Nonsense,
    #[error("closed")]
    Left,
}

/// A connection after its handshake.
pub(crate) struct Link {
    stream: TcpStream,
    input: FrameBuffer,
    /// Taken from the queue and not yet written.
    writing: BytesMut,
    welcome: Welcome,
}

/// How to connect.
pub(crate) struct Dial {
    addr: String,
    hello: Hello,
}

impl Dial {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        let addr = url.strip_prefix("tcp://").unwrap_or(url).trim_end_matches('/').to_owned();
        if addr.contains("://") {
            return Err(Error::Address { url: addr });
        }
        let client_id = random_id().map_err(|source| unreachable(&addr, source))?;
        Ok(Self { addr, hello: Hello { lowest: VERSION, highest: VERSION, client_id } })
    }

    /// Connects and shakes hands, within [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(&self) -> Result<Link, Error> {
        let unreachable = |source| unreachable(&self.addr, source);
        match timeout(CONNECT_TIMEOUT, self.shake_hands(unreachable)).await {
            Ok(link) => link,
            Err(_elapsed) => Err(unreachable(io::ErrorKind::TimedOut.into())),
        }
    }

    async fn shake_hands(&self, unreachable: impl Fn(io::Error) -> Error) -> Result<Link, Error> {
        let mut stream = TcpStream::connect(&self.addr).await.map_err(&unreachable)?;
        // Without it a request would wait for the acknowledgement of the one before.
        stream.set_nodelay(true).map_err(&unreachable)?;
        // A server that is full may have said so and closed already: read anyway.
        let _ = stream.write_all(&self.hello.encode()).await;
        let mut bytes = [0; WELCOME];
        stream.read_exact(&mut bytes).await.map_err(&unreachable)?;
        let welcome =
            Welcome::decode(&bytes).ok_or_else(|| Error::Protocol("it does not answer WELCOME".into()))?;
        let mut input = FrameBuffer::new(MAX_ANSWER);
        match welcome.version {
            // Else a batch that is sent again could already be forgotten.
            VERSION if (welcome.window as usize) < MAX_IN_FLIGHT => {
                Err(Error::Protocol(format!("it keeps only {} replies", welcome.window)))
            }
            VERSION => Ok(Link { stream, input, writing: BytesMut::new(), welcome }),
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
pub(crate) async fn maintain(shared: Arc<Shared>, dial: Dial, first: Link, closing: CancellationToken) {
    let mut link = first;
    loop {
        shared.risen(link.welcome);
        let fall = drive(&shared, &mut link, &closing).await;
        shared.fallen(&fall);
        drop(link);
        if closing.is_cancelled() {
            break;
        }
        warn!("the connection is lost: {fall}; connecting again");
        // Cancel safe: an attempt that is dropped leaves nothing behind.
        match closing.run_until_cancelled(connect_again(&dial)).await {
            Some(again) => link = again,
            None => break,
        }
    }
    shared.close();
}

async fn connect_again(dial: &Dial) -> Link {
    let pauses = ExponentialBuilder::default().with_min_delay(MIN_PAUSE).with_max_delay(MAX_PAUSE);
    for pause in pauses.with_jitter().without_max_times().build() {
        sleep(pause).await;
        match dial.connect().await {
            Ok(link) => return link,
            Err(error) => debug!("connect: {error}"),
        }
    }
    std::future::pending().await // Never reached: the pauses do not end.
}

/// One connection until it falls.
async fn drive(shared: &Shared, link: &mut Link, closing: &CancellationToken) -> Fall {
    match exchange(shared, link, closing).await {
        Ok(()) => {
            let _ = timeout(CLOSE_TIMEOUT, leave(shared, link)).await;
            Fall::Left
        }
        Err(fall) => fall,
    }
}

/// Writes and reads until `closing`.
async fn exchange(shared: &Shared, link: &mut Link, closing: &CancellationToken) -> Result<(), Fall> {
    let Link { stream, input, writing, welcome } = link;
    let (mut reader, writer) = stream.split();
    let silence = Duration::from_millis(welcome.idle_timeout.into());
    let beat = (silence / 3).max(Duration::from_millis(10));
    let mut heard = Instant::now();
    let mut heartbeat = pin!(sleep(beat));
    let mut closing = pin!(closing.cancelled());
    loop {
        if !writing.has_remaining() {
            shared.take_output(writing);
        }
        while writing.has_remaining() {
            match writer.try_write(writing) {
                Ok(count) => writing.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Cancel safe: `read_from` keeps what it has read, a ring that is not
        // waited for is kept, the others only tell of a state.
        select! {
            count = input.read_from(&mut reader) => {
                if count? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                heard = Instant::now();
                shared.take_up(input)?;
            }
            ready = writer.writable(), if writing.has_remaining() => ready?,
            () = shared.queued.notified(), if !writing.has_remaining() => {}
            () = &mut heartbeat => {
                if heard.elapsed() > silence {
                    return Err(Fall::Silence);
                }
                shared.put_heartbeat();
                heartbeat.as_mut().reset(Instant::now() + beat);
            }
            () = &mut closing => return Ok(()),
        }
    }
}

/// The orderly end: what is queued, `GOODBYE`, and reading until the server's.
async fn leave(shared: &Shared, link: &mut Link) -> Result<(), Fall> {
    link.stream.write_all(&link.writing).await?;
    link.writing.clear();
    shared.take_output(&mut link.writing);
    put_frame(&mut link.writing, kind::GOODBYE, 0, 0, |_payload| {});
    link.stream.write_all(&link.writing).await?;
    while link.input.read_from(&mut link.stream).await? > 0 {
        shared.take_up(&mut link.input)?;
    }
    Ok(())
}

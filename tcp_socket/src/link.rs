//! The client's connection: one task that writes what is queued, hands out what
//! comes back, sends heartbeats and connects again.

use std::io;
use std::net::Ipv6Addr;
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
use crate::calls::Shared;
use crate::client::{CONNECT_TIMEOUT, Error, MAX_IN_FLIGHT};
use crate::frame::{HEADER, kind, put_frame};
use crate::frame_buffer::FrameBuffer;
use crate::handshake::{Hello, VERSION, WELCOME, Welcome, random_id};
use crate::message::{ErrorCode, Refusal};
use crate::pace::Pace;

/// Most bytes in the payload of a frame from the server: `PROTOCOL.md`, section 9.
const MAX_ANSWER: u32 = 64 * 1024;

/// Port of a server whose address names none.
const DEFAULT_PORT: u16 = 7878;

/// Lowest rate, in bytes per second, at which the client expects frames to travel in
/// either direction. So long a frame may take, beyond the server's idle timeout.
const MIN_FRAME_RATE: u32 = 4_000;

/// Pause before the first attempt to connect again; it doubles for each one after.
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
    #[error("the server's frames arrive too slowly")]
    Slow,
    #[error("the server sent something that is not of this protocol")]
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
    /// Whether it has brought an answer. Only then does the next pause begin anew.
    useful: bool,
}

/// How to connect.
pub(crate) struct Dial {
    addr: String,
    hello: Hello,
}

impl Dial {
    pub(crate) fn new(url: &str) -> Result<Self, Error> {
        let addr = server_addr(url)?;
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
            VERSION => Ok(Link { stream, input, writing: BytesMut::new(), welcome, useful: false }),
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

/// The host and port in a server's address, such as `tcp://[::1]:7878`. The scheme may
/// be left out, and so may the port if it is 7878.
///
/// # Errors
/// [`Error::Address`] if it has another form.
pub fn server_addr(url: &str) -> Result<String, Error> {
    let wrong = || Error::Address { url: url.to_owned() };
    let addr = url.strip_prefix("tcp://").unwrap_or(url);
    let addr = addr.strip_suffix('/').unwrap_or(addr);
    // `::1` can only be a host: a port has no room beside it without brackets.
    if let Ok(host) = addr.parse::<Ipv6Addr>() {
        return Ok(format!("[{host}]:{DEFAULT_PORT}"));
    }
    let (host, port) = match addr.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().ok().filter(|_| !port.starts_with('+')).ok_or_else(wrong)?)
        }
        _ => (addr, DEFAULT_PORT),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let ipv6 = bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_ok());
    let name = |c: char| !c.is_whitespace() && !c.is_control() && !"/:[]@?#".contains(c);
    if ipv6 || (!host.is_empty() && host.chars().all(name)) {
        Ok(format!("{host}:{port}"))
    } else {
        Err(wrong())
    }
}

fn unreachable(addr: &str, source: io::Error) -> Error {
    Error::Unreachable { url: format!("tcp://{addr}"), source }
}

/// Keeps a connection until the client is closed.
pub(crate) async fn maintain(shared: Arc<Shared>, dial: Dial, first: Link, closing: CancellationToken) {
    let mut link = first;
    let mut pauses = Pauses::new(MIN_PAUSE, MAX_PAUSE);
    loop {
        shared.risen(link.welcome);
        let fall = drive(&shared, &mut link, &closing).await;
        if link.useful {
            pauses.reset();
        }
        debug!("connection lost: {fall}; reconnecting");
        shared.fallen(&fall);
        drop(link);
        // Cancel safe: an attempt that is dropped leaves nothing behind.
        match closing.run_until_cancelled(connect_again(&dial, &mut pauses)).await {
            Some(Ok(again)) => link = again,
            Some(Err(error)) => return shared.close(Some(error)),
            None => return shared.close(None),
        }
    }
}

/// Connects, for as long as it takes. An error is one that another attempt cannot cure.
async fn connect_again(dial: &Dial, pauses: &mut Pauses) -> Result<Link, Error> {
    loop {
        sleep(pauses.next_pause()).await;
        match dial.connect().await {
            Ok(link) => return Ok(link),
            Err(error) if is_permanent(&error) => return Err(error),
            Err(error) => debug!("connect: {error}"),
        }
    }
}

fn is_permanent(error: &Error) -> bool {
    match error {
        Error::Protocol(_) => true,
        Error::Refused(refusal) => [ErrorCode::BadMagic, ErrorCode::UnsupportedVersion]
            .map(|code| code as u16)
            .contains(&refusal.code),
        _ => false,
    }
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
    let Link { stream, input, writing, welcome, useful } = link;
    let (mut reader, writer) = stream.split();
    let silence = Duration::from_millis(welcome.idle_timeout.into());
    let beat = (silence / 3).max(Duration::from_millis(10));
    let mut pace = Pace::new(silence, silence, MIN_FRAME_RATE);
    // Written since something was heard. The server may answer nothing before all of
    // it, or at least one frame, has arrived.
    let mut unheard = 0;
    let mut heartbeat = pin!(sleep(beat));
    let mut closing = pin!(closing.cancelled());
    loop {
        if !writing.has_remaining() {
            shared.take_output(writing);
        }
        while writing.has_remaining() {
            match writer.try_write(writing) {
                Ok(count) => {
                    writing.advance(count);
                    unheard = (unheard + count).min(HEADER + welcome.max_payload as usize);
                }
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
                pace.on_bytes();
                unheard = 0;
                let taken = shared.take_up(input)?;
                *useful |= taken;
                pace.on_frames(taken, input.rest().len());
            }
            ready = writer.writable(), if writing.has_remaining() => {
                ready?;
                pace.on_bytes(); // There is room again: the server's system acknowledged some.
            }
            () = shared.queued.notified(), if !writing.has_remaining() => {}
            () = &mut heartbeat => {
                let now = Instant::now();
                if pace.slow().is_some_and(|slow| now > slow) {
                    return Err(Fall::Slow);
                }
                let sending = Duration::from_millis(unheard as u64 * 1000 / u64::from(MIN_FRAME_RATE));
                if now > pace.deadline() + sending {
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

//! One connection at the server: a single task that reads, answers and writes.
//!
//! Whatever has arrived in one piece is answered in one piece: all whole frames
//! in the buffer are taken up, their answers are collected, and one write sends
//! them. While the client does not read, the write waits, the task reads nothing
//! more, and TCP holds the client back. So a connection's memory has a bound
//! without a queue that could overflow: one input frame, and a little more
//! output than [`OUTPUT`].

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use socket2::SockRef;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::frame::{BadFrame, kind, put_frame};
use crate::frame_buffer::FrameBuffer;
use crate::handshake::{HELLO, Hello, VERSION};
use crate::limits::Limits;
use crate::message::{ErrorCode, Refusal};
use crate::pace::Pace;
use crate::requests::Requests;
use crate::server::Shared;

/// With this much unsent output, no more input is taken up.
pub(crate) const OUTPUT: usize = 64 * 1024;

/// How often a write is tried within [`Limits::write_timeout`].
const WRITE_ATTEMPTS: u32 = 8;

/// Why a connection ends. The text goes to the log.
#[derive(Debug, Error)]
pub(crate) enum End {
    #[error("closed by the client")]
    Closed,
    #[error("closed by the client within a frame")]
    Truncated,
    #[error("goodbye")]
    Goodbye,
    #[error("stopping")]
    Stopping,
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("cut: the client does not read")]
    WriteTimeout,
    #[error("broken: {0}")]
    Broken(#[from] io::Error),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<BadFrame> for End {
    fn from(bad: BadFrame) -> Self {
        let code = match bad {
            BadFrame::TooLarge { .. } => ErrorCode::FrameTooLarge,
            BadFrame::Checksum { .. } => ErrorCode::BadChecksum,
        };
        Self::Refused(Refusal::new(code, bad.to_string()))
    }
}

/// One connection and what belongs to it.
pub(crate) struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    input: FrameBuffer,
    /// Frames that are not yet written.
    output: BytesMut,
    requests: Requests,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> Self {
        let input = FrameBuffer::new(shared.limits.max_payload);
        Self { stream, peer, input, output: BytesMut::new(), requests: Requests::new(shared) }
    }

    /// The connection from its first byte to its last.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        // Answers are written as soon as there is nothing more to add to them;
        // Nagle's algorithm would hold them back until the client acknowledges
        // those before.
        if let Err(error) = self.stream.set_nodelay(true) {
            debug!("nodelay: {error}");
        }
        let welcomed = self.shake_hands(&stopping).await;
        let end = match welcomed {
            Ok(()) => self.talk(&stopping).await.unwrap_or_else(|end| end),
            Err(End::Refused(refusal)) => {
                self.output.clear();
                self.output.put_slice(&refusal_of_connection(&self.requests.shared, &refusal));
                info!("{} refused: {refusal}", self.peer);
                return self.close().await;
            }
            Err(end) => return debug!("{} before the handshake: {end}", self.peer),
        };
        info!("{} ended: {end}", self.peer);
        match end {
            End::Refused(refusal) => put_refusal(&mut self.output, 0, &refusal),
            End::Closed | End::Goodbye | End::Stopping => {
                self.requests.watches.end(&mut self.output);
                put_frame(&mut self.output, kind::GOODBYE, 0, 0, |_payload| {});
            }
            End::Truncated | End::WriteTimeout | End::Broken(_) => return,
        }
        self.close().await;
    }

    /// Waits for the `HELLO` and answers it. At an error nothing was answered.
    async fn shake_hands(&mut self, stopping: &CancellationToken) -> Result<(), End> {
        let limit = self.requests.shared.limits.handshake_timeout;
        // Cancel safe: `hello` leaves what it has read in the buffer, and nobody
        // reads on after the other two.
        let hello = select! {
            hello = timeout(limit, self.hello()) => hello.unwrap_or_else(|_elapsed| {
                Err(Refusal::new(ErrorCode::HandshakeTimeout, format!("no HELLO within {limit:?}")).into())
            })?,
            () = stopping.cancelled() => {
                return Err(Refusal::new(ErrorCode::ShuttingDown, "the server is stopping").into());
            }
        };
        let version = hello.choose();
        if version == 0 {
            let text = format!("this server speaks version 1, not {} to {}", hello.lowest, hello.highest);
            return Err(Refusal::new(ErrorCode::UnsupportedVersion, text).into());
        }
        let (window, remembered) = self.requests.shared.replies.of(hello.client_id);
        self.requests.window = window;
        self.output.put_slice(&self.requests.shared.welcome(version, remembered).encode());
        info!("{} connected, version {version}", self.peer);
        Ok(())
    }

    async fn hello(&mut self) -> Result<Hello, End> {
        loop {
            if !Hello::may_begin(self.input.rest()) {
                return Err(Refusal::new(ErrorCode::BadMagic, "a connection begins with HELLO").into());
            }
            if let Some(hello) = self.input.take_bytes::<HELLO>().and_then(|bytes| Hello::decode(&bytes)) {
                return Ok(hello);
            }
            if self.input.read_from(&mut self.stream).await? == 0 {
                return Err(End::Closed);
            }
        }
    }

    /// Request after request, until either side has had enough.
    async fn talk(&mut self, stopping: &CancellationToken) -> Result<End, End> {
        // As it was told: at most what 32 bits of milliseconds hold.
        let told = self.requests.shared.welcome(VERSION, true).idle_timeout;
        let idle_timeout = Duration::from_millis(told.into());
        let Limits { frame_grace, min_frame_rate, .. } = self.requests.shared.limits;
        let mut pace = Pace::new(idle_timeout, frame_grace, min_frame_rate);
        let mut late = pin!(sleep_until(pace.deadline()));
        let bell = self.requests.watches.bell.clone();
        let mut stop = pin!(stopping.cancelled());
        let mut news = false;
        loop {
            let taken = self.take_up()?;
            pace.on_frames(taken > 0, self.input.rest().len());
            if news {
                let backlog = self.requests.shared.limits.watch_backlog;
                news = self.requests.watches.put_readings(backlog, &mut self.output);
            }
            if !self.output.is_empty() {
                let full = self.output.len() >= OUTPUT;
                pace.pause(self.flush().await?);
                if full {
                    // There may be frames that had no room for an answer.
                    continue;
                }
            }
            // Later deadlines wait until the timer fires: moving it at each frame costs.
            let deadline = pace.deadline();
            if deadline < late.deadline() {
                late.as_mut().reset(deadline);
            }
            // Cancel safe: `read_from` keeps what it has read, a ring of the bell
            // that is not waited for is kept, the others only tell of a state.
            select! {
                count = self.input.read_from(&mut self.stream) => {
                    if count? == 0 {
                        return Ok(if self.input.rest().is_empty() { End::Closed } else { End::Truncated });
                    }
                    pace.on_bytes();
                }
                () = bell.notified() => news = true,
                () = &mut late => {
                    let now = Instant::now();
                    if pace.slow().is_some_and(|slow| now >= slow) {
                        let text = format!("a frame of over {frame_grace:?} needs {min_frame_rate} bytes/s");
                        return Err(Refusal::new(ErrorCode::FrameTooSlow, text).into());
                    }
                    if now >= deadline {
                        let text = format!("nothing arrived within {idle_timeout:?}");
                        return Err(Refusal::new(ErrorCode::IdleTimeout, text).into());
                    }
                    late.as_mut().reset(deadline);
                }
                () = &mut stop => return Ok(End::Stopping),
            }
        }
    }

    /// Takes up the whole frames that have arrived, as long as there is room for
    /// answers; returns how many.
    fn take_up(&mut self) -> Result<usize, End> {
        let mut taken = 0;
        while self.output.len() < OUTPUT
            && let Some(frame) = self.input.next_frame()?
        {
            taken += 1;
            self.requests.take_up(&frame, &mut self.output)?;
        }
        Ok(taken)
    }

    /// Writes all output, mostly at once; returns how long it had to wait.
    async fn flush(&mut self) -> Result<Duration, End> {
        let mut waited = Duration::ZERO;
        while self.output.has_remaining() {
            match self.stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let started = Instant::now();
                    self.wait_until_writable().await?;
                    waited += started.elapsed();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(waited)
    }

    /// Waits for as long as the client reads something now and then.
    async fn wait_until_writable(&mut self) -> Result<(), End> {
        let limit = self.requests.shared.limits.write_timeout;
        let mut progress = Instant::now();
        while self.output.has_remaining() {
            if let Ok(ready) = timeout(limit / WRITE_ATTEMPTS, self.stream.writable()).await {
                return Ok(ready?);
            }
            // The system calls a socket writable only when a third of its buffer is free,
            // which may be hundreds of kilobytes. A slow client takes long to read so
            // much, but a little goes in before.
            match SockRef::from(&self.stream).send(&self.output) {
                Ok(count) => {
                    self.output.advance(count);
                    progress = Instant::now();
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
                Err(_) if progress.elapsed() >= limit => return Err(End::WriteTimeout),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Sends what is left to send, and closes so that it can be read.
    async fn close(mut self) {
        match self.flush().await {
            Ok(_) => linger(self.stream, &self.requests.shared.limits).await,
            Err(end) => debug!("{} last words: {end}", self.peer),
        }
    }
}

pub(crate) fn put_refusal(output: &mut BytesMut, request_id: u32, refusal: &Refusal) {
    put_frame(output, kind::ERROR, 0, request_id, |payload| refusal.put(payload));
}

/// What a client gets that is not let in: a `WELCOME` with version 0, then why.
pub(crate) fn refusal_of_connection(shared: &Shared, refusal: &Refusal) -> BytesMut {
    let mut bytes = BytesMut::from(shared.welcome(0, false).encode().as_slice());
    put_refusal(&mut bytes, 0, refusal);
    bytes
}

/// Ends a connection so that the peer can read what it was last told: says that
/// no more will be written, discards what still comes in, then closes.
pub(crate) async fn linger(mut stream: TcpStream, limits: &Limits) {
    if stream.shutdown().await.is_err() {
        return; // The peer is gone.
    }
    let discard = async {
        let mut left = limits.linger_bytes;
        // On the heap: here it would be part of every connection's task, all along.
        let mut scratch = vec![0; 8 * 1024];
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    let _ = timeout(limits.linger_time, discard).await;
}

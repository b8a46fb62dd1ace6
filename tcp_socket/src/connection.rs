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
use std::sync::{Arc, PoisonError};

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::frame::{BadFrame, CRITICAL_FLAGS, FLAG_END, Frame, FrameBuffer, kind, put_frame};
use crate::handshake::{HELLO, Hello};
use crate::limits::Limits;
use crate::message::{Batch, ErrorCode, Refusal, parse_station, put_measurement};
use crate::replies::{Known, SharedWindow};
use crate::server::Shared;
use crate::store::{Full, MAX_STATIONS};

/// With this much unsent output, no more input is taken up.
const OUTPUT: usize = 64 * 1024;

/// Readings in one `READING` at most.
const READINGS_PER_FRAME: usize = 256;

/// Why a connection ends. The text goes to the log.
#[derive(Debug, Error)]
enum End {
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

/// What a frame can change; apart from the buffers, so that a frame may stay in
/// the one while its answer is put into the other.
struct Requests {
    shared: Arc<Shared>,
    window: SharedWindow,
    watches: Vec<Watch>,
    /// Rung when a watched station has something new.
    bell: Arc<Notify>,
}

/// One watch: a place in the readings of a station.
struct Watch {
    request_id: u32,
    station: String,
    next: u64,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>) -> Self {
        let input = FrameBuffer::new(shared.limits.max_payload);
        let window = SharedWindow::default();
        let requests = Requests { shared, window, watches: Vec::new(), bell: Arc::default() };
        Self { stream, peer, input, output: BytesMut::new(), requests }
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
                self.requests.end_watches(&mut self.output);
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
                return Err(Refusal::new(ErrorCode::ShuttingDown, "the server stops").into());
            }
        };
        let version = hello.choose();
        if version == 0 {
            let text = format!("this server speaks version 1, not {} to {}", hello.lowest, hello.highest);
            return Err(Refusal::new(ErrorCode::UnsupportedVersion, text).into());
        }
        self.requests.window = self.requests.shared.replies.of(hello.client_id);
        self.output.put_slice(&self.requests.shared.welcome(version).encode());
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
        let idle_timeout = self.requests.shared.limits.idle_timeout;
        let mut heard = Instant::now();
        let mut idle = pin!(sleep_until(heard + idle_timeout));
        let bell = self.requests.bell.clone();
        let mut stop = pin!(stopping.cancelled());
        let mut news = false;
        loop {
            let taken = self.take_up()?;
            if taken > 0 {
                heard = Instant::now();
            }
            if news {
                news = self.requests.put_readings(&mut self.output);
            }
            if !self.output.is_empty() {
                let full = self.output.len() >= OUTPUT;
                self.flush().await?;
                if full {
                    // There may be frames that had no room for an answer.
                    continue;
                }
            }
            // Cancel safe: `read_from` keeps what it has read, a ring of the bell
            // that is not waited for is kept, the others only tell of a state.
            select! {
                count = self.input.read_from(&mut self.stream) => if count? == 0 {
                    return Ok(if self.input.rest().is_empty() { End::Closed } else { End::Truncated });
                },
                () = bell.notified() => news = true,
                () = &mut idle => {
                    // Moved only now, and not at each frame: timers cost.
                    let deadline = heard + idle_timeout;
                    if Instant::now() >= deadline {
                        let text = format!("no whole frame within {idle_timeout:?}");
                        return Err(Refusal::new(ErrorCode::IdleTimeout, text).into());
                    }
                    idle.as_mut().reset(deadline);
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

    /// Writes all output, mostly at once.
    async fn flush(&mut self) -> Result<(), End> {
        let limit = self.requests.shared.limits.write_timeout;
        while self.output.has_remaining() {
            match self.stream.try_write(&self.output) {
                Ok(count) => self.output.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    timeout(limit, self.stream.writable()).await.map_err(|_elapsed| End::WriteTimeout)??;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends what is left to send, and closes so that it can be read.
    async fn close(mut self) {
        match self.flush().await {
            Ok(()) => linger(self.stream, &self.requests.shared.limits).await,
            Err(end) => debug!("{} last words: {end}", self.peer),
        }
    }
}

impl Requests {
    /// Does what one frame asks for, and appends the answer. An error is of the
    /// whole connection.
    fn take_up(&mut self, frame: &Frame<'_>, output: &mut BytesMut) -> Result<(), End> {
        let id = frame.request_id;
        let bad = |code, text| Err(End::Refused(Refusal::new(code, text)));
        if id == 0 && frame.kind != kind::GOODBYE {
            return bad(ErrorCode::BadRequestId, "a request has an id other than 0".to_owned());
        }
        if frame.flags & CRITICAL_FLAGS != 0 {
            let text = format!("flags {:04x} of kind {:04x}", frame.flags, frame.kind);
            if id == 0 {
                return bad(ErrorCode::UnknownFlag, text);
            }
            put_refusal(output, id, &Refusal::new(ErrorCode::UnknownFlag, text));
            return Ok(());
        }
        if frame.kind == kind::GOODBYE {
            return Err(End::Goodbye);
        }
        let answered = match frame.kind {
            kind::RECORD => self.record(frame.payload).map(|accepted| {
                put_frame(output, kind::RECORDED, 0, id, |payload| payload.put_u32(accepted));
            }),
            kind::PING => empty(frame.payload).map(|()| put_frame(output, kind::PONG, 0, id, |_payload| {})),
            // One id, two streams of answers: nobody could tell them apart.
            kind::WATCH if self.watches.iter().any(|watch| watch.request_id == id) => {
                return bad(ErrorCode::BadRequestId, format!("request id {id} is in use by a watch"));
            }
            kind::WATCH => self.watch(id, frame.payload).map(|()| {
                put_frame(output, kind::READING, 0, id, |payload| payload.put_u64(0));
            }),
            kind::CANCEL => empty(frame.payload).map(|()| self.cancel(id, output)),
            other => Err(Refusal::new(ErrorCode::UnknownKind, format!("kind {other:04x}"))),
        };
        if let Err(refusal) = answered {
            put_refusal(output, id, &refusal);
        }
        Ok(())
    }

    fn record(&self, payload: &[u8]) -> Result<u32, Refusal> {
        let batch = Batch::parse(payload)?;
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        match window.look_up(batch.id()) {
            Known::Recorded(accepted) => return Ok(accepted),
            Known::No => {}
            Known::TooOld => {
                let text = format!("batch {} is below the window; it was not recorded now", batch.id());
                return Err(Refusal::new(ErrorCode::UnknownOutcome, text));
            }
        }
        let accepted = self.shared.store.record(&batch).map_err(|Full| {
            Refusal::new(ErrorCode::StoreFull, format!("this server keeps at most {MAX_STATIONS} stations"))
        })?;
        window.remember(batch.id(), accepted);
        Ok(accepted)
    }

    fn watch(&mut self, request_id: u32, payload: &[u8]) -> Result<(), Refusal> {
        let station = parse_station(payload)?;
        let most = self.shared.limits.max_watches;
        if self.watches.len() >= most {
            return Err(Refusal::new(ErrorCode::TooManyWatches, format!("at most {most} of a connection")));
        }
        let Some(next) = self.shared.store.watch(station, self.bell.clone()) else {
            return Err(Refusal::new(ErrorCode::UnknownStation, format!("no station {station:?}")));
        };
        self.watches.push(Watch { request_id, station: station.to_owned(), next });
        Ok(())
    }

    /// A `CANCEL` without a watch has crossed with its end: nothing to do.
    fn cancel(&mut self, request_id: u32, output: &mut BytesMut) {
        if let Some(found) = self.watches.iter().position(|watch| watch.request_id == request_id) {
            let watch = self.watches.remove(found);
            self.shared.store.unwatch(&watch.station, &self.bell);
            put_last_reading(output, request_id);
        }
    }

    fn end_watches(&mut self, output: &mut BytesMut) {
        for watch in &self.watches {
            put_last_reading(output, watch.request_id);
        }
    }

    /// Appends what is new at the watched stations, as far as there is room;
    /// returns whether there may be more.
    fn put_readings(&mut self, output: &mut BytesMut) -> bool {
        let backlog = self.shared.limits.watch_backlog;
        for watch in &mut self.watches {
            let mut more = true;
            while more && output.len() < OUTPUT {
                let start = output.len();
                let first = watch.next;
                put_frame(output, kind::READING, 0, watch.request_id, |payload| {
                    let skipped_at = payload.len();
                    payload.put_u64(0);
                    let take = |measurement| put_measurement(payload, &measurement);
                    let store = &self.shared.store;
                    let skipped =
                        store.read_on(&watch.station, &mut watch.next, backlog, READINGS_PER_FRAME, take);
                    payload[skipped_at..skipped_at + 8].copy_from_slice(&skipped.to_be_bytes());
                });
                more = watch.next > first;
                if !more {
                    output.truncate(start);
                }
            }
        }
        let full = output.len() >= OUTPUT;
        if full && !self.watches.is_empty() {
            self.watches.rotate_left(1); // Another one is first in the next round.
        }
        full
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        for watch in &self.watches {
            self.shared.store.unwatch(&watch.station, &self.bell);
        }
    }
}

fn empty(payload: &[u8]) -> Result<(), Refusal> {
    if payload.is_empty() {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::BadPayload, "this kind has no payload"))
}

fn put_last_reading(output: &mut BytesMut, request_id: u32) {
    put_frame(output, kind::READING, FLAG_END, request_id, |payload| payload.put_u64(0));
}

fn put_refusal(output: &mut BytesMut, request_id: u32, refusal: &Refusal) {
    put_frame(output, kind::ERROR, 0, request_id, |payload| refusal.put(payload));
}

/// What a client gets that is not let in: a `WELCOME` with version 0, then why.
pub(crate) fn refusal_of_connection(shared: &Shared, refusal: &Refusal) -> BytesMut {
    let mut bytes = BytesMut::from(shared.welcome(0).encode().as_slice());
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

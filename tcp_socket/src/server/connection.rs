//! One connection of the server: a single task that reads requests, handles them, and writes
//! the responses.
//!
//! Frames that arrive together are answered together: the task handles all whole frames in
//! the buffer, collects the responses, and sends them with one write. While the client does
//! not read, the write waits, the task reads nothing more, and TCP holds the client back.
//! So the connection needs no queue that could overflow. Its memory is limited to one input
//! frame and a little more output than [`OUTPUT`].

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::select;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::base::linger::linger;
use crate::base::principals::Caller;
use crate::limits::{Limits, OUTPUT};
use crate::protocol::frame::{FrameBuffer, kind, put_frame, write_out};
use crate::protocol::handshake::{HELLO, Hello, VERSION, VERSION_WITH_TOKEN};
use crate::protocol::message::{ErrorCode, Refusal};
use crate::protocol::pace::Pace;
use crate::server::close_reason::CloseReason;
use crate::server::requests::Requests;
use crate::server::state::State;

/// One connection and what belongs to it.
pub(crate) struct Connection<S> {
    stream: S,
    peer: SocketAddr,
    state: Arc<State>,
    input: FrameBuffer,
    /// Frames that have not been written yet.
    output: BytesMut,
    requests: Requests,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S, peer: SocketAddr, state: Arc<State>, caller: Caller) -> Self {
        let input = FrameBuffer::new(state.limits.max_payload);
        let requests = Requests::new(state.store.clone(), state.limits.max_watches, caller);
        Self { stream, peer, state, input, output: BytesMut::new(), requests }
    }

    /// Serves the connection from its first byte to its last.
    pub(crate) async fn run(mut self, stopping: CancellationToken) {
        let reason = match self.handshake(&stopping).await {
            Ok(()) => self.serve(&stopping).await.unwrap_or_else(|reason| reason),
            Err(CloseReason::Refused(refusal)) => {
                self.output.clear();
                self.output.put_slice(&self.state.refusal_of_connection(&refusal));
                info!("{} refused: {refusal}", self.peer);
                return self.close().await;
            }
            Err(reason) => return debug!("{} ended during the handshake: {reason}", self.peer),
        };
        info!("{} ended: {reason}", self.peer);
        match reason {
            CloseReason::Refused(refusal) => refusal.put_frame(&mut self.output, 0),
            CloseReason::ByClient | CloseReason::Goodbye | CloseReason::Stopping => {
                self.requests.watches.end(&mut self.output);
                put_frame(&mut self.output, kind::GOODBYE, 0, 0, |_payload| {});
            }
            CloseReason::Truncated | CloseReason::ConnectionLost(_) => return,
        }
        self.close().await;
    }

    /// Waits for the `HELLO` and responds to it. If this fails, no response is in the output.
    async fn handshake(&mut self, stopping: &CancellationToken) -> Result<(), CloseReason> {
        let limit = self.state.limits.handshake_timeout;
        // Cancel safe: `hello` leaves the bytes that it has read in the buffer, and nothing
        // more is read after the timeout or the shutdown.
        let hello = select! {
            hello = timeout(limit, self.hello()) => hello.unwrap_or_else(|_elapsed| {
                Err(Refusal::new(ErrorCode::HandshakeTimeout, format!("no HELLO within {limit:?}")).into())
            })?,
            () = stopping.cancelled() => {
                return Err(Refusal::new(ErrorCode::ShuttingDown, "the server is stopping").into());
            }
        };
        let highest = if self.requests.caller.is_checked() { VERSION_WITH_TOKEN } else { VERSION };
        let version = hello.choose(highest);
        if version == 0 {
            let to =
                if highest > VERSION { format!("s {VERSION} to {highest}") } else { format!(" {VERSION}") };
            let text = format!("this server speaks version{to}, not {} to {}", hello.lowest, hello.highest);
            return Err(Refusal::new(ErrorCode::UnsupportedVersion, text).into());
        }
        let (window, remembered) = self.state.replies.of(hello.client_id);
        self.requests.window = window;
        self.requests.version = version;
        self.output.put_slice(&self.state.welcome(version, remembered).encode());
        info!("{} connected, version {version}", self.peer);
        Ok(())
    }

    async fn hello(&mut self) -> Result<Hello, CloseReason> {
        loop {
            if !Hello::may_begin(self.input.rest()) {
                return Err(Refusal::new(ErrorCode::BadMagic, "a connection begins with HELLO").into());
            }
            if let Some(hello) = self.input.take_bytes::<HELLO>().and_then(|bytes| Hello::decode(&bytes)) {
                return Ok(hello);
            }
            if self.input.read_from(&mut self.stream).await? == 0 {
                return Err(CloseReason::ByClient);
            }
        }
    }

    /// Handles request after request, until one side ends the connection.
    async fn serve(&mut self, stopping: &CancellationToken) -> Result<CloseReason, CloseReason> {
        // The value in `WELCOME`, which holds at most 32 bits of milliseconds.
        let announced = self.state.welcome(VERSION, true).idle_timeout;
        let idle_timeout = Duration::from_millis(announced.into());
        let Limits { frame_grace, min_frame_rate, .. } = self.state.limits;
        let mut pace = Pace::new(idle_timeout, frame_grace, min_frame_rate);
        let mut late = pin!(sleep_until(pace.deadline()));
        let notify = self.requests.watches.notify.clone();
        // These futures outlast many frames. They are set up only once, since that takes time.
        let mut notified = pin!(notify.notified());
        let mut stop = pin!(stopping.cancelled());
        let mut has_readings = false;
        loop {
            let handled = self.handle_frames()?;
            pace.on_frames(handled > 0, self.input.rest().len());
            if has_readings {
                let backlog = self.state.limits.watch_backlog;
                has_readings = self.requests.watches.put_readings(backlog, &mut self.output);
            }
            if !self.output.is_empty() {
                let full = self.output.len() >= OUTPUT;
                pace.pause(self.flush().await?);
                if full {
                    // There may be frames that had no room for their responses.
                    continue;
                }
            }
            // A later deadline is set only when the timer fires, since moving the timer at each
            // frame would take time.
            let deadline = pace.deadline();
            if deadline < late.deadline() {
                late.as_mut().reset(deadline);
            }
            // Cancel safe: `read_from` keeps the bytes that it has read, and the other futures are
            // polled again. `biased` polls them in this order. Bytes arrive most often, and the
            // others matter only when there are none or the task has used up its turn.
            select! {
                biased;
                count = self.input.read_from(&mut self.stream) => {
                    if count? == 0 {
                        let whole = self.input.rest().is_empty();
                        return Ok(if whole { CloseReason::ByClient } else { CloseReason::Truncated });
                    }
                    pace.on_bytes();
                }
                () = &mut notified => {
                    has_readings = true;
                    notified.set(notify.notified());
                }
                () = &mut late => {
                    let now = Instant::now();
                    if pace.slow().is_some_and(|slow| now >= slow) {
                        let text = format!(
                            "a frame must reach {min_frame_rate} bytes/s after its first {frame_grace:?}"
                        );
                        return Err(Refusal::new(ErrorCode::FrameTooSlow, text).into());
                    }
                    if now >= deadline {
                        let text = format!("nothing arrived within {idle_timeout:?}");
                        return Err(Refusal::new(ErrorCode::IdleTimeout, text).into());
                    }
                    late.as_mut().reset(deadline);
                }
                () = &mut stop => return Ok(CloseReason::Stopping),
            }
        }
    }

    /// Handles the whole frames that have arrived, as long as there is room for responses.
    /// Returns how many it has handled.
    fn handle_frames(&mut self) -> Result<usize, CloseReason> {
        let mut handled = 0;
        while self.output.len() < OUTPUT
            && let Some(frame) = self.input.next_frame()?
        {
            handled += 1;
            self.requests.handle_frame(&frame, &mut self.output)?;
        }
        Ok(handled)
    }

    /// Writes all output. Returns how long it had to wait for the client to read.
    async fn flush(&mut self) -> io::Result<Duration> {
        let mut written = pin!(write_out(&mut self.stream, &mut self.output));
        // Usually, the socket has room, and there is no need to look at the clock.
        if let Some(result) = written.as_mut().now_or_never() {
            return result.map(|()| Duration::ZERO);
        }
        let started = Instant::now();
        written.await?;
        Ok(started.elapsed())
    }

    /// Sends the remaining output, and closes the connection so that the client can still read
    /// it.
    async fn close(mut self) {
        match self.flush().await {
            Ok(_) => linger(self.stream, self.state.limits.connections.linger()).await,
            Err(reason) => debug!("{} did not get the last frame: {reason}", self.peer),
        }
    }
}

//! Closing a connection without losing the last message.
//!
//! If a socket is closed while it has unread input, the kernel sends a reset. The reset can
//! destroy the server's last message before the client has read it: the client then sees
//! "connection reset" instead of "413 Content Too Large" (RFC 9112, section 9.6). So a
//! server first shuts down its sending direction, then reads and discards whatever still
//! arrives, within limits, and only then closes the socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How much input to discard at the end of a connection.
#[derive(Debug, Clone, Copy)]
pub struct LingerLimits {
    /// Maximum number of bytes.
    pub bytes: usize,
    /// Maximum time.
    pub time: Duration,
}

/// Ends a connection so that the peer can still read the last message.
pub async fn linger(stream: impl AsyncRead + AsyncWrite + Unpin, limits: LingerLimits) {
    let _ = Lingering::new(stream, limits).shutdown().await; // It fails if the peer is gone.
}

/// A stream whose `shutdown` lingers, for use with a library that owns the stream and shuts
/// it down itself.
#[derive(Debug)]
pub struct Lingering<S> {
    stream: S,
    limits: LingerLimits,
    /// Fires when the lingering must end. It is set once the stream is shut down.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    /// Wraps a stream.
    pub fn new(stream: S, limits: LingerLimits) -> Self {
        Self { stream, limits, until: None }
    }

    /// Returns the wrapped stream.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, limits, until } = &mut *self;
        let until = match until {
            Some(until) => until,
            not_yet => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                not_yet.insert(Box::pin(sleep(limits.time)))
            }
        };
        let mut scratch = [0; 8 * 1024];
        while limits.bytes > 0 && until.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            // After an error, the peer is gone and sends nothing more.
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            let count = buf.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            limits.bytes = limits.bytes.saturating_sub(count);
        }
        Poll::Ready(Ok(()))
    }
}

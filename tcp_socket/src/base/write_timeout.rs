//! Writing to a peer that may have stopped reading.
//!
//! A socket accepts bytes as long as its buffer has room, so a slow peer only delays the
//! writer. A peer that reads nothing would delay it forever, so there is a time limit.
//!
//! To keep this limit, it is not enough to wait until the system reports the socket as
//! writable: Linux does so only when a third of the buffer is free, which may be hundreds of
//! kilobytes. A slow peer needs a long time to read that much, but a smaller write succeeds
//! earlier. So while a write waits, it is also retried from time to time.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Number of attempts to write within the limit.
const ATTEMPTS: u32 = 8;

/// A stream whose writes fail with [`ErrorKind::TimedOut`] when the peer has read nothing for
/// too long.
#[derive(Debug)]
pub struct WriteTimeout {
    stream: TcpStream,
    limit: Duration,
    /// Set while a write waits: when to try it next, and how many attempts have failed.
    waiting: Option<(Pin<Box<Sleep>>, u32)>,
}

impl WriteTimeout {
    /// Wraps `stream`. While a write waits, the peer must read something within `limit`.
    pub fn new(stream: TcpStream, limit: Duration) -> Self {
        Self { stream, limit, waiting: None }
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Self { stream, limit, waiting } = &mut *self;
        if let written @ Poll::Ready(_) = Pin::new(&mut *stream).poll_write(cx, buf) {
            *waiting = None;
            return written;
        }
        let pause = *limit / ATTEMPTS;
        let (timer, failed) = waiting.get_or_insert_with(|| (Box::pin(sleep(pause)), 0));
        loop {
            ready!(timer.as_mut().poll(cx));
            match SockRef::from(&*stream).send(buf) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => *failed += 1,
                written => {
                    *waiting = None;
                    return Poll::Ready(written);
                }
            }
            if *failed == ATTEMPTS {
                return Poll::Ready(Err(io::Error::new(
                    ErrorKind::TimedOut,
                    "the other side has stopped reading",
                )));
            }
            timer.as_mut().reset(Instant::now() + pause);
        }
    }

    /// TLS writes its last records this way, and gives up if one call does not write all of them.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.waiting.is_none()
            && let written @ Poll::Ready(_) = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
        {
            return written;
        }
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_write(cx, first.map_or(&[], |buf| buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

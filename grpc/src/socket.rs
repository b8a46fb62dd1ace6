//! A server's socket, with the two things that the HTTP/2 library leaves open: a
//! time by which the client must have said hello, and an end at which the last
//! word still arrives.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tracing::debug;

use crate::limits::Limits;

/// The client's preface (RFC 9113, section 3.4) and the head of the SETTINGS
/// frame that must follow it.
const HELLO: usize = 24 + 9;

/// An empty SETTINGS frame, then GOAWAY with last stream 0, ENHANCE_YOUR_CALM,
/// and a text: length, type, flags, stream, payload (sections 6.5 and 6.8).
const TOO_MANY_CONNECTIONS: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections";

/// A TCP stream for a server of HTTP/2.
pub(crate) struct Socket {
    stream: TcpStream,
    /// Bytes of [`HELLO`] that are still missing, and until when.
    hello: Option<(usize, Pin<Box<Sleep>>)>,
    linger: Linger,
}

/// The end: bytes still to discard, and until when.
struct Linger {
    bytes: usize,
    limits: Limits,
    until: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    /// The socket of a connection that was accepted just now.
    pub(crate) fn new(stream: TcpStream, limits: &Limits) -> Self {
        let by = Instant::now() + limits.handshake_timeout;
        let linger = Linger { bytes: limits.linger_bytes, limits: limits.clone(), until: None };
        Self { stream, hello: Some((HELLO, Box::pin(sleep_until(by)))), linger }
    }

    /// Tells the client that there are too many connections, in HTTP/2's own
    /// words, and closes.
    pub(crate) async fn refuse(mut self) {
        debug!("over the connection cap");
        let limit = self.linger.limits.linger_time;
        let told = timeout(limit, self.stream.write_all(TOO_MANY_CONNECTIONS)).await;
        if told.is_ok_and(|written| written.is_ok()) {
            let _ = self.shutdown().await;
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((missing, timer)) = &mut self.hello {
            *missing = missing.saturating_sub(buf.filled().len() - before);
            if *missing == 0 {
                self.hello = None;
            } else if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Socket {
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

    /// Says that no more will be written, discards what still comes in, within
    /// bounds, and only then is done.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, linger, .. } = &mut *self;
        let until = match &mut linger.until {
            Some(until) => until,
            none => {
                ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                none.insert(Box::pin(sleep_until(Instant::now() + linger.limits.linger_time)))
            }
        };
        let mut scratch = [0; 8 * 1024];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            // A peer that is gone has nothing more to send, either.
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            let count = buf.filled().len();
            if read.is_err() || count == 0 || count > linger.bytes {
                return Poll::Ready(Ok(()));
            }
            linger.bytes -= count;
        }
    }
}

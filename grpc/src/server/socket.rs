//! A server's socket: the time by which the client must have sent its first bytes, and
//! the last message, which still arrives.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tcp_socket::base::linger::{LingerLimits, Lingering, linger};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use crate::limits::Limits;

/// Length of the client's preface (RFC 9113, section 3.4) and of the head of the
/// SETTINGS frame that must follow it.
const FIRST_BYTES: usize = 24 + 9;

/// An empty SETTINGS frame, then GOAWAY with last stream 0, ENHANCE_YOUR_CALM,
/// and a text: length, type, flags, stream, payload (sections 6.5 and 6.8).
const TOO_MANY_CONNECTIONS: &[u8] =
    b"\0\0\0\x04\0\0\0\0\0\0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections";

/// Returns the socket of a connection that was accepted just now.
pub(super) fn socket(stream: TcpStream, limits: &Limits) -> impl AsyncRead + AsyncWrite + Unpin {
    let (stream, writer) = stream.into_split();
    let timer = Box::pin(sleep(limits.handshake_timeout));
    let reader = FirstBytes { stream, missing: Some((FIRST_BYTES, timer)) };
    Lingering::new(tokio::io::join(reader, writer), linger_limits(limits))
}

/// Tells the client in HTTP/2's own words that there are too many connections, and closes.
pub(super) async fn refuse(mut stream: TcpStream, limits: LingerLimits) {
    let written = timeout(limits.time, stream.write_all(TOO_MANY_CONNECTIONS)).await;
    if written.is_ok_and(|written| written.is_ok()) {
        linger(stream, limits).await;
    }
}

pub(super) fn linger_limits(limits: &Limits) -> LingerLimits {
    LingerLimits { bytes: limits.linger_bytes, time: limits.linger_time }
}

/// Input whose first bytes have to come in time. The HTTP/2 library waits for them
/// without a limit.
struct FirstBytes<R> {
    stream: R,
    /// How many are missing, and until when.
    missing: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<R: AsyncRead + Unpin> AsyncRead for FirstBytes<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some((count, timer)) = &mut self.missing {
            *count = count.saturating_sub(buf.filled().len() - before);
            if *count == 0 {
                self.missing = None;
            } else if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

//! One TCP connection: from its first request to a close that loses nothing.

use std::future::poll_fn;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::limits::Limits;

/// Request after request, until either side has had enough.
pub(crate) async fn run(stream: TcpStream, app: Router, limits: Arc<Limits>, stopping: CancellationToken) {
    // An answer is one small write; Nagle's algorithm would hold it back until
    // the client acknowledges the one before.
    if let Err(error) = stream.set_nodelay(true) {
        debug!("nodelay: {error}");
    }
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_timeout));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // A client that has said everything still listens for the answers: a FIN
        // closes one direction only (RFC 9293, section 3.6).
        .half_close(true)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(app));
    let mut draining = false;
    loop {
        // Cancel safe: polling only borrows the connection, which keeps its state.
        select! {
            // hyper answers by itself what it can't parse, with an empty body: 400,
            // 414 for a long target, 431 for a long header.
            ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => {
                if let Err(error) = ended {
                    debug!("connection ended: {error}");
                }
                break;
            }
            () = stopping.cancelled(), if !draining => {
                std::pin::Pin::new(&mut connection).graceful_shutdown();
                draining = true;
            }
        }
    }
    linger(connection.into_parts().io.into_inner(), &limits).await;
}

/// Ends a connection so that the peer can read what it was last told: says that
/// no more will be written, discards what still comes in, then closes.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, limits: &Limits) {
    if stream.shutdown().await.is_err() {
        return; // The peer is gone.
    }
    let discard = async {
        let mut left = limits.linger_bytes;
        let mut scratch = [0; 8 * 1024];
        while left > 0 {
            match stream.read(&mut scratch).await {
                Ok(0) | Err(_) => break,
                Ok(count) => left = left.saturating_sub(count),
            }
        }
    };
    let _ = timeout(limits.linger_time, discard).await;
}

/// What a connection over the cap is told, without a task or a parser of its own.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 96\r\n\
    \r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections\"}";

/// Refuses a connection. The answer fits into any fresh socket's buffer.
pub(crate) async fn refuse(mut stream: TcpStream, limits: Arc<Limits>) {
    debug!("over the connection cap");
    if stream.write_all(REFUSAL.as_bytes()).await.is_ok() {
        linger(stream, &limits).await;
    }
}

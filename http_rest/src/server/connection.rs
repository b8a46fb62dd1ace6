//! One TCP connection: from its first request to a close that does not lose the last
//! response.

use std::future::poll_fn;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tcp_socket::base::linger::{LingerLimits, linger};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::select;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::limits::Limits;

/// Serves request after request until either side ends the connection.
pub(crate) async fn run(stream: TcpStream, router: Router, limits: Arc<Limits>, stopping: CancellationToken) {
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_timeout));
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // A client that has sent everything still waits for the responses: a FIN closes
        // one direction only (RFC 9293, section 3.6).
        .half_close(true)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router));
    let mut draining = false;
    loop {
        // Cancel safe: polling only borrows the connection, which keeps its state.
        select! {
            // hyper itself responds to what it can't parse, with an empty body: 400, 414
            // for a long target, 431 for a long header.
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
    linger(connection.into_parts().io.into_inner(), limits.connections.linger()).await;
}

/// The response to a connection over the limit, which gets no HTTP parser.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 96\r\n\
    \r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections\"}";

/// Refuses a connection. The response fits into the buffer of any new socket.
pub(crate) async fn refuse(mut stream: TcpStream, limits: LingerLimits) {
    if stream.write_all(REFUSAL.as_bytes()).await.is_ok() {
        linger(stream, limits).await;
    }
}

//! One TCP connection: from its first request to a close that does not lose the last
//! response.

use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tcp_socket::base::linger::{LingerLimits, Lingering, linger};
use tcp_socket::base::principals::Caller;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::select;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::request_layer::Requests;

/// Serves request after request until either side ends the connection.
pub(crate) async fn run(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    requests: Arc<Requests>,
    caller: Caller,
    stopping: CancellationToken,
) {
    let limits = &requests.limits;
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(limits.write_timeout));
    // hyper shuts the stream down at the end; `Lingering` then discards unread input.
    let stream = Lingering::new(Box::pin(stream), limits.connections.linger());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        // A client that has finished sending may still wait for responses: a FIN closes
        // only one direction (RFC 9293, section 3.6).
        .half_close(true)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(|request| requests.respond(router.clone(), request, &caller)),
        );
    let mut connection = pin!(connection);
    // Cancel safe: polling only borrows the connection, which keeps its state.
    let ended = select! {
        // hyper itself responds to a request that it can't parse, with an empty body: 414
        // for a long target, 431 for a long header, and 400 for anything else.
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!("connection ended: {error}");
    }
}

/// The response on a connection beyond the limit, sent without reading a request.
const REFUSAL: &str = "HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/problem+json\r\n\
    retry-after: 1\r\n\
    connection: close\r\n\
    content-length: 96\r\n\
    \r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"too many connections\"}";

/// The response to a request without TLS if the server speaks TLS.
pub(crate) const NOT_TLS: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: application/problem+json\r\n\
    connection: close\r\n\
    content-length: 116\r\n\
    \r\n\
    {\"type\":\"about:blank\",\"title\":\"Bad Request\",\"status\":400,\"detail\":\"this port speaks TLS: use https instead of http\"}";

/// Refuses a connection. Writing the response doesn't wait: it fits into the buffer of any
/// new socket.
pub(crate) async fn refuse(
    mut stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    limits: LingerLimits,
) {
    if stream.write_all(REFUSAL.as_bytes()).await.is_ok() {
        linger(stream, limits).await;
    }
}

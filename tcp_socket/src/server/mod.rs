//! The server: accepts connections, refuses those beyond the limit, and stops gracefully.
//! `connection.rs` serves one connection.

use std::convert::identity;
use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::either::Either;
use tracing::info;

use crate::base::accept::Connections;
use crate::base::linger::linger;
use crate::base::principals::Caller;
use crate::base::tls::{Acceptor, Listener};
use crate::base::write_timeout::WriteTimeout;
use crate::limits::Limits;
use crate::protocol::message::{ErrorCode, Refusal};

use connection::Connection;
use state::State;

mod close_reason;
mod connection;
pub mod dedup;
mod requests;
mod state;
pub mod store;
mod watches;

/// Serves until `shutdown` completes. Then each connection has
/// [`drain_timeout`](crate::base::limits::ConnectionLimits::drain_timeout) to send its
/// responses and a `GOODBYE`, and to close.
///
/// # Errors
/// Only if the listener cannot be used at all, or the system cannot provide random bytes. An
/// error on one connection ends only that connection.
pub async fn serve(
    listener: impl Into<Listener>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let Listener { tcp: listener, tls, principals } = listener.into();
    listener.local_addr()?;
    let connections = Connections::new(&limits.connections);
    let state = Arc::new(State::new(limits)?);
    let (drain_timeout, linger_limits) =
        (state.limits.connections.drain_timeout, state.limits.connections.linger());
    let refusal = Refusal::new(ErrorCode::TooManyConnections, "too many connections");
    let refusal = state.refusal_of_connection(&refusal).freeze();
    let not_tls = Refusal::new(ErrorCode::BadMagic, "this port speaks TLS: use an address with tls://");
    let not_tls = state.refusal_of_connection(&not_tls);
    let tls = Acceptor::new(tls, state.limits.handshake_timeout, linger_limits, &not_tls);

    let serve = |stream, peer| {
        let (state, write_timeout) = (state.clone(), state.limits.write_timeout);
        let principals = principals.clone();
        let wrap = move |stream| WriteTimeout::new(stream, write_timeout);
        tls.handshake_then(stream, wrap, connections.stopping(), move |stream, stopping| {
            let caller = Caller::new(principals.as_ref(), &stream);
            Connection::new(stream, peer, state, caller).run(stopping)
        })
    };
    let refuse = |stream| {
        let refusal = refusal.clone();
        tls.handshake_then(stream, identity, connections.stopping(), move |stream, _stopping| {
            // Without TLS, this runs at once, so every refused client gets the reason. The server
            // lingers only for those that `accept` still has room for.
            let (refused, encrypted) = match stream {
                Either::Left(stream) => (write_at_once(stream, &refusal), None),
                Either::Right(stream) => (None, Some(stream)),
            };
            async move {
                if let Some(stream) = refused {
                    linger(stream, linger_limits).await;
                } else if let Some(mut stream) = encrypted
                    && stream.write_all(&refusal).await.is_ok()
                {
                    linger(stream, linger_limits).await; // Its shutdown also flushes.
                }
            }
        })
    };
    connections.accept(listener, shutdown, serve, refuse).await;
    info!("stopping: no new connections; received requests are still answered");
    connections.finish(drain_timeout).await;
    Ok(())
}

/// Writes without waiting, since a new socket has room for these few bytes. Returns the
/// stream if it accepted all of them.
fn write_at_once(stream: TcpStream, bytes: &[u8]) -> Option<TcpStream> {
    // std's socket writes at once. tokio's would first wait for its driver to report that the
    // socket is writable.
    let stream = stream.into_std().ok()?;
    let written = io::Write::write(&mut (&stream), bytes).ok()?;
    (written == bytes.len()).then(|| TcpStream::from_std(stream).ok())?
}

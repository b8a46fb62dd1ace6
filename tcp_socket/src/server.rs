//! The server: accept connections, refuse what is too many, stop in good order.
//! What happens on a connection is in `connection.rs`.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::connection::{self, Connection, linger};
use crate::handshake::{Id, Welcome, random_id};
use crate::limits::Limits;
use crate::message::{ErrorCode, Refusal};
use crate::replies::{REPLIES_KEPT, Replies};
use crate::store::Store;

/// What every connection can reach.
pub(crate) struct Shared {
    pub(crate) store: Arc<Store>,
    pub(crate) replies: Replies,
    pub(crate) limits: Limits,
    boot_id: Id,
}

impl Shared {
    /// The answer to a `HELLO`.
    pub(crate) fn welcome(&self, version: u16, remembered: bool) -> Welcome {
        let idle_timeout = self.limits.idle_timeout.as_millis();
        Welcome {
            version,
            remembered,
            boot_id: self.boot_id,
            max_payload: self.limits.max_payload,
            window: REPLIES_KEPT as u32,
            max_watches: u32::try_from(self.limits.max_watches).unwrap_or(u32::MAX),
            idle_timeout: u32::try_from(idle_timeout).unwrap_or(u32::MAX),
        }
    }
}

/// Serves until `shutdown` completes, then lets each connection answer what it
/// has received, say `GOODBYE` and close, within [`Limits::drain_timeout`].
///
/// # Errors
/// Only if the listener cannot be used at all, or the system has no randomness;
/// whatever goes wrong on one connection ends that connection.
pub async fn serve(
    listener: TcpListener,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.local_addr()?;
    let slots = Arc::new(Semaphore::new(limits.max_connections));
    let refusals = Arc::new(Semaphore::new(limits.max_refusals));
    let replies = Replies::new(limits.max_connections);
    let shared = Arc::new(Shared { store: Arc::default(), replies, limits, boot_id: random_id()? });
    let connections = TaskTracker::new();
    let (stopping, cut) = (CancellationToken::new(), CancellationToken::new());

    let mut shutdown = pin!(shutdown);
    loop {
        // Cancel safe: an accept that is dropped has taken no connection.
        let (stream, peer) = select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Most often out of descriptors: wait for some to be closed.
                    warn!("accept: {error}");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = &mut shutdown => break,
        };
        // Tokens of their own: all connections look at theirs all the time.
        let cut = cut.child_token();
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            let connection = Connection::new(stream, peer, shared.clone());
            let stopping = stopping.child_token();
            connections.spawn(async move {
                cut.run_until_cancelled(connection.run(stopping)).await;
                drop(slot);
            });
        } else if let Some(stream) = refuse(stream, &shared)
            && let Ok(refusal) = refusals.clone().try_acquire_owned()
        {
            let shared = shared.clone();
            connections.spawn(async move {
                cut.run_until_cancelled(linger(stream, &shared.limits)).await;
                drop(refusal);
            });
        }
    }

    drop(listener); // From here on a new connection is refused, not left waiting.
    stopping.cancel();
    connections.close();
    info!("stopping: no new connections, what was received is answered");
    if timeout(shared.limits.drain_timeout, connections.wait()).await.is_err() {
        warn!(
            "{} connections are still open after {:?}: cut",
            connections.len(),
            shared.limits.drain_timeout
        );
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

/// Over the connection cap: says so at once, without waiting for anything. A new
/// socket has room for these few bytes. Returns the stream if it took them.
fn refuse(stream: TcpStream, shared: &Shared) -> Option<TcpStream> {
    debug!("over the connection cap");
    let refusal = Refusal::new(ErrorCode::TooManyConnections, "too many connections");
    let bytes = connection::refusal_of_connection(shared, &refusal);
    // A blocking socket writes at once; tokio's would first have to hear from
    // its driver that it can be written to.
    let stream = stream.into_std().ok()?;
    let written = io::Write::write(&mut (&stream), &bytes).ok()?;
    (written == bytes.len()).then(|| TcpStream::from_std(stream).ok())?
}

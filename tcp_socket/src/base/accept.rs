//! Accepts connections up to a limit, refuses the rest, and lets the open ones finish when
//! the server stops.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::limits::ConnectionLimits;

/// Pause after a failed accept. Usually, the process has run out of file descriptors and has
/// to wait until a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connections of a server.
///
/// ```no_run
/// # use std::time::Duration;
/// # use tcp_socket::base::{accept::Connections, limits::ConnectionLimits};
/// # use tokio::{io::AsyncWriteExt, net::{TcpListener, TcpStream}};
/// async fn greet(mut stream: TcpStream) {
///     let _ = stream.write_all(b"hello\n").await;
/// }
///
/// # async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) {
/// let connections = Connections::new(&ConnectionLimits::default());
/// let refuse = |stream| async move { drop(stream) };
/// connections.accept(listener, shutdown, |stream, _peer| greet(stream), refuse).await;
/// connections.finish(Duration::from_secs(10)).await;
/// # }
/// ```
#[derive(Debug)]
pub struct Connections {
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    refusal_permits: Arc<Semaphore>,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Connections {
    /// Allows [`max_connections`](ConnectionLimits::max_connections) at a time, and
    /// [`max_refusals`](ConnectionLimits::max_refusals) more that are being refused. Any
    /// further connections are closed at once.
    pub fn new(limits: &ConnectionLimits) -> Self {
        Self {
            tasks: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(limits.max_connections)),
            refusal_permits: Arc::new(Semaphore::new(limits.max_refusals)),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Returns a token that is canceled when the server stops. A connection should then
    /// finish the work it has begun and end.
    pub fn stopping(&self) -> CancellationToken {
        // Each call returns a new child token: connections wait on theirs all the time, and
        // on a shared one, they would compete for its lock.
        self.stopping.child_token()
    }

    /// Accepts connections until `shutdown` completes. Each gets a task that runs the future
    /// returned by `serve`, or by `refuse` once the limit is reached.
    /// [Cutting](Connections::finish) a connection drops its future, whatever it is doing.
    ///
    /// `refuse` is called for every connection beyond the limit. When too many refusals are
    /// running, its future is dropped without being run.
    pub async fn accept<S, R>(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
        serve: impl Fn(TcpStream, SocketAddr) -> S,
        refuse: impl Fn(TcpStream) -> R,
    ) where
        S: Future<Output = ()> + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let mut shutdown = pin!(shutdown);
        loop {
            // Cancel safe: dropping `accept` here loses no connection.
            let (stream, peer) = select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        warn!("cannot accept a connection: {error}");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
            // Our servers write whole messages. Nagle's algorithm would hold back a small one
            // until the peer has acknowledged the previous one.
            if let Err(error) = stream.set_nodelay(true) {
                debug!("cannot set TCP_NODELAY: {error}");
            }
            if let Ok(permit) = self.permits.clone().try_acquire_owned() {
                let connection = serve(stream, peer);
                let cut = self.cut.child_token();
                self.tasks.spawn(async move {
                    cut.run_until_cancelled(connection).await;
                    drop(permit);
                });
            } else {
                debug!("too many connections");
                let refusal = refuse(stream);
                if let Ok(permit) = self.refusal_permits.clone().try_acquire_owned() {
                    let cut = self.cut.child_token();
                    self.tasks.spawn(async move {
                        cut.run_until_cancelled(refusal).await;
                        drop(permit);
                    });
                }
            }
        }
        // The listener is dropped here, so the system refuses new connections.
    }

    /// Tells the connections that the server is stopping, and waits up to `limit` for them
    /// to end. Returns whether all of them have.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tasks.close();
        timeout(limit, self.tasks.wait()).await.is_ok()
    }

    /// [Drains](Connections::drain), then cuts the connections that are still open.
    pub async fn finish(&self, limit: Duration) {
        if !self.drain(limit).await {
            warn!("cutting the connections that are still open after {limit:?}: {}", self.tasks.len());
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

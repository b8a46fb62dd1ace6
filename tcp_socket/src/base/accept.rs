//! Accepting connections: at most so many, the rest refused, and all of them ended in
//! good order when the server stops.

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

/// Pause after an accept that failed. Most often the process has no descriptor left,
/// and has to wait until a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connections of a server.
///
/// ```no_run
/// # use std::time::Duration;
/// # use tcp_socket::base::accept::Connections;
/// # use tokio::{io::AsyncWriteExt, net::{TcpListener, TcpStream}};
/// async fn greet(mut stream: TcpStream) {
///     let _ = stream.write_all(b"hello\n").await;
/// }
///
/// # async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) {
/// let connections = Connections::new(1_000, 10);
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
    /// Allows `max_connections` at a time. Beyond that, up to `max_refusals` at a time
    /// are refused politely; even more are closed at once.
    pub fn new(max_connections: usize, max_refusals: usize) -> Self {
        Self {
            tasks: TaskTracker::new(),
            permits: Arc::new(Semaphore::new(max_connections)),
            refusal_permits: Arc::new(Semaphore::new(max_refusals)),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// A token that is canceled when the server stops. A connection then finishes
    /// what it has begun, and ends.
    pub fn stopping(&self) -> CancellationToken {
        // A child: all connections wait for it all the time, and so don't share a lock.
        self.stopping.child_token()
    }

    /// Accepts connections until `shutdown` completes. Each runs as a task: `serve`
    /// within the limit, `refuse` beyond it. Both are dropped where they are if the
    /// connections are [cut](Connections::finish).
    ///
    /// `refuse` is called for every connection beyond the limit, but what it returns is
    /// dropped unrun when there are too many refusals.
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
            // Cancel safe: an accept that is dropped has not taken a connection.
            let (stream, peer) = select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        warn!("accept: {error}");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                () = &mut shutdown => break,
            };
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
        // The listener is dropped here: new connections are refused by the system.
    }

    /// Tells the connections that the server stops, and waits until all have ended, for
    /// at most `limit`. Returns whether they have.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.stopping.cancel();
        self.tasks.close();
        timeout(limit, self.tasks.wait()).await.is_ok()
    }

    /// [Drains](Connections::drain), and cuts the connections that are still open then.
    pub async fn finish(&self, limit: Duration) {
        if !self.drain(limit).await {
            warn!("{} connections are still open after {limit:?}: cutting them", self.tasks.len());
            self.cut.cancel();
            self.tasks.wait().await;
        }
    }
}

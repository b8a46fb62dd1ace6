//! One connection to Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo};
use tokio::select;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, redis_text, without_password};

/// Longest time to wait for a connection, and for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes is asked for a keepalive this often; TCP
/// alone would not notice for hours that the other end is gone.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

fn info(url: &str) -> Result<ConnectionInfo, Error> {
    url.into_connection_info()
        .map_err(|error| Error::Url { url: without_password(url), detail: error.to_string() })
}

async fn open(
    url: &str,
    info: ConnectionInfo,
    config: AsyncConnectionConfig,
) -> Result<MultiplexedConnection, Error> {
    let config = config.set_connection_timeout(Some(TIMEOUT)).set_response_timeout(Some(TIMEOUT));
    let connected = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await;
    connected.map_err(|error| {
        if error.is_io_error() {
            return Error::NoBroker { url: without_password(url), detail: redis_text(&error) };
        }
        error.into()
    })
}

/// A connection for commands. It does not connect again on its own: its user has more
/// to do then than to repeat a command.
pub(crate) async fn connect(url: &str) -> Result<MultiplexedConnection, Error> {
    open(url, info(url)?, AsyncConnectionConfig::new()).await
}

/// A connection that subscribes: commands and messages on one connection.
pub(crate) struct Subscriber {
    pub(crate) connection: MultiplexedConnection,
    pushes: mpsc::Receiver<PushInfo>,
    /// Messages that found `pushes` full.
    pub(crate) missed: Arc<AtomicU64>,
    /// Canceled when the other end does not answer the heartbeat.
    silent: CancellationToken,
    _heartbeat: AbortOnDropHandle<()>,
}

impl Subscriber {
    /// Connects. At most `capacity` messages wait to be taken; more are dropped and
    /// counted. (Waiting for room instead would stop the whole connection, and
    /// Redis disconnects subscribers that stop reading.)
    pub(crate) async fn connect(url: &str, capacity: usize) -> Result<Self, Error> {
        // RESP3 allows commands and messages on one connection.
        let info = info(url)?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let (sender, pushes) = mpsc::channel(capacity);
        let missed = Arc::new(AtomicU64::new(0));
        let count = missed.clone();
        let config = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| {
            sender.try_send(push).inspect_err(|_| _ = count.fetch_add(1, Ordering::Relaxed))
        });
        let connection = open(url, info.set_redis_settings(settings), config).await?;
        let (mut probe, silent) = (connection.clone(), CancellationToken::new());
        let noticed = silent.clone().drop_guard();
        let heartbeat = tokio::spawn(async move {
            let _noticed = noticed;
            loop {
                sleep(HEARTBEAT).await;
                if redis::cmd("PING").exec_async(&mut probe).await.is_err_and(|error| error.is_io_error()) {
                    return;
                }
            }
        });
        let _heartbeat = AbortOnDropHandle::new(heartbeat);
        Ok(Self { connection, pushes, missed, silent, _heartbeat })
    }

    /// Waits for messages and takes up to `limit` of them. Cancel safe: none is taken
    /// if the future is dropped.
    ///
    /// # Errors
    /// [`Error::Lost`] if the connection has ended.
    pub(crate) async fn receive(&mut self, into: &mut Vec<PushInfo>, limit: usize) -> Result<(), Error> {
        let count = select! {
            biased;
            count = self.pushes.recv_many(into, limit) => count,
            () = self.silent.cancelled() => 0,
        };
        // The sender is dropped with the connection.
        if count == 0 { Err(Error::Lost) } else { Ok(()) }
    }

    /// Returns the messages that have arrived already.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = PushInfo> {
        std::iter::from_fn(|| self.pushes.try_recv().ok())
    }
}

//! One connection to Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, without_password};
use crate::reconnect::MAX_PAUSE;

/// Longest time to wait for a connection, and for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection on which nothing comes is asked for a sign of life this often; TCP
/// alone would not notice for hours that the other end is gone.
pub const HEARTBEAT: Duration = Duration::from_secs(10);

fn info(url: &str) -> Result<ConnectionInfo, Error> {
    url.into_connection_info()
        .map_err(|error| Error::Url { url: without_password(url), detail: error.to_string() })
}

/// A connection for commands that does not connect again: whoever uses it has more
/// to do then than to repeat a command.
pub(crate) async fn connect(url: &str) -> Result<MultiplexedConnection, Error> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    let client = Client::open(info(url)?)?;
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .map_err(|error| Error::NoBroker { url: without_password(url), source: error.into() })
}

/// A connection that subscribes, and connects and subscribes again by itself.
pub(crate) struct Subscriber {
    pub(crate) connection: ConnectionManager,
    pub(crate) pushes: mpsc::Receiver<PushInfo>,
    /// Messages that found `pushes` full.
    pub(crate) missed: Arc<AtomicU64>,
    _heartbeat: AbortOnDropHandle<()>,
}

impl Subscriber {
    /// Connects. At most `capacity` messages wait to be taken; more are dropped and
    /// counted. (To wait for room instead would stop the whole connection, and
    /// Redis closes that of a subscriber who does not read.)
    pub(crate) async fn connect(url: &str, capacity: usize) -> Result<Self, Error> {
        // RESP3: messages and answers on one connection, and news of a disconnection.
        let info = info(url)?;
        let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let (sender, pushes) = mpsc::channel(capacity);
        let missed = Arc::new(AtomicU64::new(0));
        let count = missed.clone();
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(TIMEOUT))
            .set_response_timeout(Some(TIMEOUT))
            .set_max_delay(MAX_PAUSE)
            .set_number_of_retries(usize::MAX)
            .set_push_sender(move |push: PushInfo| {
                sender.try_send(push).inspect_err(|_| _ = count.fetch_add(1, Ordering::Relaxed))
            })
            .set_automatic_resubscription();
        // The manager would try for ever; the first time that is not what a person wants.
        drop(connect(url).await?);
        let connection = ConnectionManager::new_with_config(client, config).await?;
        let mut probe = connection.clone();
        let heartbeat = tokio::spawn(async move {
            loop {
                sleep(HEARTBEAT).await;
                // Without an answer the manager connects again.
                let _ = redis::cmd("PING").exec_async(&mut probe).await;
            }
        });
        Ok(Self { connection, pushes, missed, _heartbeat: AbortOnDropHandle::new(heartbeat) })
    }
}

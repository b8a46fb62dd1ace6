//! One connection to RabbitMQ, and what to do when it is lost.
//!
//! Whoever uses a connection does so in a loop: connect, declare, work until an
//! error, and all of it again. That covers every way in which a connection ends: a
//! broker that restarts, an operator who closes it, a missing heartbeat, a channel
//! that RabbitMQ closed because of a mistake.

use std::str::FromStr;
use std::time::Duration;

use futures::StreamExt;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use crate::error::{Error, without_password};

/// Longest time to wait for a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The broker and this side send something at least this often, in seconds; of
/// which two are missing, the connection is dead. (`?heartbeat=` in the URL decides
/// otherwise.)
pub const HEARTBEAT: u16 = 10;

/// A connection with one channel.
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) connection: Connection,
    _events: AbortOnDropHandle<()>,
}

/// Connects once.
pub(crate) async fn connect(url: &str) -> Result<Session, Error> {
    let shown = without_password(url);
    let mut uri = AMQPUri::from_str(url)
        .map_err(|detail| Error::Url { url: shown.clone(), detail: detail.to_string() })?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    let no_broker = |detail| Error::NoBroker { url: shown.clone(), detail };
    let connecting = Connection::connect_uri(uri, ConnectionProperties::default());
    let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => match error.kind() {
            ErrorKind::IOError(error) => return Err(no_broker(error.to_string())),
            _ => return Err(error.into()),
        },
        Err(_late) => return Err(no_broker(format!("no answer within {CONNECT_TIMEOUT:?}"))),
    };
    let mut events = connection.events_listener();
    let events = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                // Short of memory or disk, RabbitMQ stops reading from publishers.
                Event::ConnectionBlocked(reason) => warn!("blocked: RabbitMQ takes no messages ({reason})"),
                Event::ConnectionUnblocked => warn!("no longer blocked"),
                _ => {}
            }
        }
    });
    let channel = connection.create_channel().await?;
    Ok(Session { channel, connection, _events: AbortOnDropHandle::new(events) })
}

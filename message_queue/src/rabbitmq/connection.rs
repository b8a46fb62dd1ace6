//! One connection to RabbitMQ.
//!
//! Everything that uses a connection does so in a loop: connect, declare, work until an
//! error, and all of it again. That covers every way in which a connection ends: a
//! broker that restarts, an operator who closes it, a missing heartbeat, a channel
//! that RabbitMQ closed because of a mistake. [`reconnect`](crate::reconnect) decides
//! whether and when it goes on.

use futures::StreamExt;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use url::Host;

use crate::address::{parse, refuse, without_password};
use crate::error::Error;
use crate::limits::rabbitmq::{CONNECT_TIMEOUT, HEARTBEAT};

/// A connection with one channel.
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) connection: Connection,
    _events: AbortOnDropHandle<()>,
}

/// Connects once.
pub(crate) async fn connect(url: &str) -> Result<Session, Error> {
    let uri = uri(url)?;
    let no_broker = |detail| Error::NoBroker { url: without_password(url), detail };
    let connecting = Connection::connect_uri(uri.clone(), ConnectionProperties::default());
    let connection = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => match error.kind() {
            ErrorKind::IOError(error) => return Err(no_broker(error.to_string())),
            _ => return Err(explain(url, &uri, error)),
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

fn uri(url: &str) -> Result<AMQPUri, Error> {
    let parsed = parse(url, &["amqp"])?;
    let mut uri: AMQPUri = url.parse().map_err(|error: String| refuse(url, error))?;
    if uri.vhost.is_empty() {
        return Err(refuse(
            url,
            "it names an empty vhost: remove the slash at the end, or write /%2f for the vhost /",
        ));
    }
    // lapin would connect to localhost instead of an IPv6 address.
    if let Some(Host::Ipv6(address)) = parsed.host() {
        uri.authority.host = address.to_string();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(uri)
}

/// Says what is wrong if RabbitMQ refuses a connection.
fn explain(url: &str, uri: &AMQPUri, error: lapin::Error) -> Error {
    let (user, vhost) = (&uri.authority.userinfo.username, &uri.vhost);
    let reason = match error.kind() {
        ErrorKind::ProtocolError(reason) => reason,
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            return Error::Unusable(format!("the server at {} is not RabbitMQ", without_password(url)));
        }
        _ => return error.into(),
    };
    let text = reason.get_message().as_str();
    match reason.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => {
            let guest = if user == "guest" {
                "; by default, guest can log in only from the broker's own machine"
            } else {
                ""
            };
            Error::Unusable(format!(
                "RabbitMQ refused the login for user {user}: check the name and the password in the URL{guest}"
            ))
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.ends_with(" not found") => {
            Error::Unusable(format!(
                "there is no vhost {vhost} on RabbitMQ: leave it out of the URL, or make it with: rabbitmqctl \
                 add_vhost {vhost}"
            ))
        }
        AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED) if text.ends_with(&format!("for user '{user}'")) => {
            Error::Unusable(format!(
                "RabbitMQ does not let user {user} use the vhost {vhost}: allow it with rabbitmqctl \
                 set_permissions -p {vhost} {user} '.*' '.*' '.*'"
            ))
        }
        _ => error.into(),
    }
}

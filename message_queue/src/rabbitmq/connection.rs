//! One connection to RabbitMQ, and the messages that arrive on it.
//!
//! Workers, publishers, subscribers, and servers use a connection in a loop: connect, declare,
//! work until an error, and start over. That covers every way in which a connection ends: a
//! broker that restarts, an operator who closes it, a missing heartbeat, or a channel that
//! RabbitMQ closes after an error. [`reconnect`](crate::reconnect) decides whether and when to
//! start over. (A client of request/reply connects again at its next call instead.)

use async_rs::Runtime;
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ErrorKind, Event};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;
use url::Host;

use super::over_tls::OverTls;
use super::topology::Topology;
use crate::address::{Address, BrokerUrl};
use crate::error::Error;
use crate::limits::rabbitmq::{CONNECT_TIMEOUT, HEARTBEAT};

/// A connection with one channel.
pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) connection: Connection,
    _events: AbortOnDropHandle<()>,
}

impl Session {
    /// Declares everything. A user who may not declare uses the queues that exist: RabbitMQ wants the
    /// permission `configure` even for a declaration that changes nothing.
    pub(crate) async fn declare(&mut self, topology: &Topology) -> Result<(), Error> {
        match topology.declare(&self.channel).await {
            Err(Error::RabbitMq(error)) if is_refusal(&error) => {
                self.channel = self.connection.create_channel().await?; // The refusal closed the other.
                Ok(())
            }
            declared => declared,
        }
    }
}

/// Returns whether a permission is missing.
pub(super) fn is_refusal(error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(reason) = error.kind() else { return false };
    matches!(reason.kind(), AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED))
}

/// Connects once.
pub(crate) async fn connect(url: &BrokerUrl) -> Result<Session, Error> {
    url.open(connect_to).await
}

async fn connect_to(url: &Address) -> Result<Session, Error> {
    let uri = uri(url)?;
    let connection = match timeout(CONNECT_TIMEOUT, open(url, uri.clone())).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => match error.kind() {
            ErrorKind::IOError(error) => return Err(url.not_opened(error)),
            _ => return Err(explain(url, &uri, error)),
        },
        Err(_late) => return Err(url.no_broker(format!("no response within {CONNECT_TIMEOUT:?}"), true)),
    };
    let mut events = connection.events_listener();
    let events = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            match event {
                // When RabbitMQ is short of memory or disk, it stops reading from publishers.
                Event::ConnectionBlocked(reason) => warn!("blocked: RabbitMQ accepts no messages ({reason})"),
                Event::ConnectionUnblocked => warn!("no longer blocked: RabbitMQ accepts messages again"),
                _ => {}
            }
        }
    });
    let channel = connection.create_channel().await?;
    Ok(Session { channel, connection, _events: AbortOnDropHandle::new(events) })
}

async fn open(url: &Address, mut uri: AMQPUri) -> lapin::Result<Connection> {
    let properties = ConnectionProperties::default();
    let Some(tls) = &url.tls else { return Connection::connect_uri(uri, properties).await };
    // lapin itself is built without TLS: given amqps, it would send the password in plaintext.
    uri.scheme = AMQPScheme::AMQP;
    let runtime = Runtime::new(OverTls::new(tls.clone(), uri.authority.host.clone()));
    Connection::connect_uri_with_runtime(uri, properties, runtime).await
}

fn uri(url: &Address) -> Result<AMQPUri, Error> {
    let parsed = url.parse(&["amqp", "amqps"])?;
    let mut uri: AMQPUri = url.text.parse().map_err(|error: String| url.refuse(error))?;
    if uri.vhost.is_empty() {
        return Err(
            url.refuse("it names an empty vhost: remove the slash at the end, or write /%2f for the vhost /")
        );
    }
    // lapin would connect to localhost instead of an IPv6 address.
    if let Some(Host::Ipv6(address)) = parsed.host() {
        uri.authority.host = address.to_string();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT);
    Ok(uri)
}

/// Returns an error that says why RabbitMQ refused a connection.
fn explain(url: &Address, uri: &AMQPUri, error: lapin::Error) -> Error {
    let (user, vhost) = (&uri.authority.userinfo.username, &uri.vhost);
    let reason = match error.kind() {
        ErrorKind::ProtocolError(reason) => reason,
        ErrorKind::ParsingError(_) | ErrorKind::InvalidProtocolVersion(_) => {
            let hint = if url.tls.is_none() { ", or it speaks TLS: then use amqps://" } else { "" };
            return Error::Unusable(format!("the server at {url} is not RabbitMQ{hint}"));
        }
        _ => return error.into(),
    };
    let text = reason.get_message().as_str();
    match reason.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) if uri.query.auth_mechanism.is_some() => {
            Error::Unusable(format!(
                "RabbitMQ refused the login: with auth_mechanism=external, it needs a user with the name in the \
                 client's certificate (--identity), and it must offer that mechanism: {text}"
            ))
        }
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
                "there is no vhost {vhost} on RabbitMQ: leave it out of the URL, or create it with: rabbitmqctl \
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

/// The messages of one queue, on one session.
///
/// One acknowledgement can cover a message and all before it (`multiple`). That is safe here:
/// messages are finished in the order of their delivery, so when one is done, so are those before
/// it. The price is that after a crash, up to a batch of finished messages is redelivered.
pub struct Deliveries {
    session: Session,
    consumer: Consumer,
    batch: usize,
    /// Number of messages that are finished but not yet acknowledged.
    finished: usize,
    /// Delivery tag of the last of them.
    last_tag: u64,
}

impl Deliveries {
    /// Connects and consumes a queue that already exists.
    ///
    /// RabbitMQ sends at most `prefetch` messages ahead of their acknowledgement, so that one
    /// consumer does not get the whole queue. An acknowledgement covers `batch` of them, or fewer
    /// if no further message is waiting.
    ///
    /// # Errors
    /// If no broker answers, or there is no such queue.
    pub async fn open(
        url: impl Into<BrokerUrl>,
        queue: &str,
        prefetch: u16,
        batch: usize,
    ) -> Result<Self, Error> {
        Self::start(connect(&url.into()).await?, queue.into(), prefetch, batch).await
    }

    pub(crate) async fn start(
        session: Session,
        queue: ShortString,
        prefetch: u16,
        batch: usize,
    ) -> Result<Self, Error> {
        let consumer = consume(&session.channel, queue, prefetch).await?;
        let batch = batch.clamp(1, usize::from(prefetch).max(1));
        Ok(Self { session, consumer, batch, finished: 0, last_tag: 0 })
    }

    /// Waits for the next message. Cancel safe: if dropped early, it loses no message.
    ///
    /// # Errors
    /// If the connection, the channel, or the queue is gone.
    pub async fn next(&mut self) -> Result<Delivery, Error> {
        let next = match self.consumer.next().now_or_never() {
            Some(ready) => ready,
            None => {
                self.acknowledge().await?;
                self.consumer.next().await
            }
        };
        Ok(next.ok_or(Error::Disconnected)??)
    }

    /// Marks this message and all before it as finished.
    ///
    /// # Errors
    /// If the connection is gone. RabbitMQ then redelivers the message.
    pub async fn done(&mut self, delivery: Delivery) -> Result<(), Error> {
        self.finished += 1;
        self.last_tag = delivery.delivery_tag;
        if self.finished >= self.batch {
            self.acknowledge().await?;
        }
        Ok(())
    }

    /// Acknowledges the finished messages. Cancel safe: the first poll sends the acknowledgement.
    /// It is never repeated, since RabbitMQ treats a second one for the same messages as an error.
    async fn acknowledge(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.finished) > 0 {
            acknowledge(&self.session.channel, self.last_tag).await?;
        }
        Ok(())
    }

    /// Acknowledges the finished messages and closes the connection. The broker redelivers the
    /// others, which it had sent ahead.
    ///
    /// # Errors
    /// If the connection is gone already.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.acknowledge().await?;
        Ok(self.session.connection.close(200, "done".into()).await?)
    }

    /// Returns the channel, for other commands.
    pub(crate) fn channel(&self) -> &Channel {
        &self.session.channel
    }
}

/// Starts a consumer. `basic.qos` applies only to consumers that start after it, and
/// quorum queues support no limit for the whole channel.
pub(crate) async fn consume(channel: &Channel, queue: ShortString, prefetch: u16) -> Result<Consumer, Error> {
    channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let options = BasicConsumeOptions::default();
    Ok(channel.basic_consume(queue, "".into(), options, FieldTable::default()).await?)
}

/// Acknowledges this message and all before it.
pub(crate) async fn acknowledge(channel: &Channel, tag: u64) -> Result<(), Error> {
    Ok(channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?)
}

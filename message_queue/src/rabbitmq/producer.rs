//! Publishing that loses nothing: each message is kept until the broker has
//! confirmed it, and published again if the broker refuses it, returns it, or goes
//! away before.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt, ready};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation};
use tracing::{info, warn};

use super::connection::{Session, connect};
use super::topology::Topology;
use crate::error::Error;
use crate::limits::rabbitmq::MAX_DECLARATIONS;
use crate::reconnect::Retry;

/// A message and where it goes.
#[derive(Debug, Clone)]
pub struct Message {
    /// The exchange; empty for the one that routes to the queue named by the key.
    pub exchange: ShortString,
    /// The routing key.
    pub routing_key: ShortString,
    /// Whether it comes back if no queue takes it; otherwise it is dropped then.
    pub mandatory: bool,
    /// Delivery mode, message id, headers, ….
    pub properties: BasicProperties,
    /// The content.
    pub payload: Vec<u8>,
}

/// AMQP's delivery mode for a message that is written to disk.
pub(crate) const PERSISTENT: u8 = 2;

/// Publishes with confirms, on a connection of its own: RabbitMQ blocks whole
/// connections, and a consumer on a blocked one could not acknowledge.
pub struct Publisher {
    url: String,
    topology: Topology,
    window: usize,
    session: Option<Arc<Session>>,
    /// To be published, now that they are first in line.
    waiting: VecDeque<Arc<Message>>,
    /// Published on this session, in order, each with its confirm.
    unconfirmed: VecDeque<(Arc<Message>, BoxFuture<'static, lapin::Result<Confirmation>>)>,
    /// Refused or returned by the broker; published again after a pause, when nothing
    /// is unconfirmed any more.
    refused: VecDeque<Arc<Message>>,
    /// Whether the log has already said that the queue is full.
    told_full: bool,
    retry: Retry,
    /// Whether some messages came back: then the queue must be declared again first.
    returned: bool,
    declarations: u32,
    confirmed: u64,
}

impl Publisher {
    /// Connects and declares everything.
    ///
    /// # Errors
    /// If there is no broker, or [`Error::PreconditionFailed`].
    pub async fn connect(url: &str, topology: Topology, window: usize) -> Result<Self, Error> {
        let mut retry = Retry::new();
        let session = retry.first(|| open(url, &topology)).await?;
        Ok(Self {
            url: url.to_owned(),
            topology,
            window: window.max(1),
            session: Some(Arc::new(session)),
            waiting: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            refused: VecDeque::new(),
            told_full: false,
            retry,
            returned: false,
            declarations: 0,
            confirmed: 0,
        })
    }

    /// How many messages the broker has confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Publishes a message; waits while the window is full. Dropped before it
    /// ends, the message is kept all the same.
    ///
    /// # Errors
    /// Only what no repetition can cure.
    pub async fn publish(&mut self, message: Message) -> Result<(), Error> {
        self.waiting.push_back(Arc::new(message));
        self.send_waiting().await?;
        while self.unconfirmed.len() + self.refused.len() >= self.window {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits until every message is confirmed.
    ///
    /// # Errors
    /// Only what no repetition can cure.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while !(self.waiting.is_empty() && self.unconfirmed.is_empty() && self.refused.is_empty()) {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Publishes what waits, on a new session if need be.
    async fn send_waiting(&mut self) -> Result<(), Error> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let session = match &self.session {
            Some(session) => session,
            None => {
                let session = self.retry.retry_connect(|| open(&self.url, &self.topology)).await?;
                info!("connected again; {} messages to publish once more", self.waiting.len());
                self.session.insert(Arc::new(session))
            }
        };
        for message in self.waiting.drain(..) {
            let confirm = publish(session.clone(), message.clone());
            self.unconfirmed.push_back((message, confirm));
        }
        Ok(())
    }

    /// Waits for the fate of the oldest message.
    async fn settle_one(&mut self) -> Result<(), Error> {
        self.send_waiting().await?;
        let Some((_, confirm)) = self.unconfirmed.front_mut() else {
            return self.prepare_refused().await;
        };
        let confirmation = match confirm.await {
            Ok(confirmation) => confirmation,
            Err(error) => return self.on_disconnect(error.into()).await,
        };
        let Some((message, _)) = self.unconfirmed.pop_front() else { return Ok(()) };
        match confirmation {
            Confirmation::Ack(None) | Confirmation::NotRequested => {
                self.confirmed += 1;
                self.retry.progress();
                self.told_full = false;
                self.declarations = 0;
            }
            Confirmation::Nack(returned) => {
                if self.refused.is_empty() && !std::mem::replace(&mut self.told_full, true) {
                    warn!("{} is full: waiting for consumers", message.routing_key);
                }
                self.refused.push_back(message);
                self.on_return(returned);
            }
            // Somebody deleted the queue. What came back may be another message than
            // the one whose confirm brought it; each returned one comes with some confirm.
            returned @ Confirmation::Ack(Some(_)) => self.on_return(returned.take_message()),
        }
        Ok(())
    }

    fn on_return(&mut self, returned: Option<BasicReturnMessage>) {
        if let Some(returned) = returned {
            self.returned = true;
            self.refused.push_back(Arc::new(from_return(returned)));
        }
    }

    /// Makes what was refused or returned ready to be published again.
    async fn prepare_refused(&mut self) -> Result<(), Error> {
        let Some(message) = self.refused.front() else { return Ok(()) };
        if self.returned {
            self.declarations += 1;
            if self.declarations > MAX_DECLARATIONS {
                return Err(Error::Unroutable(message.routing_key.to_string()));
            }
            if let Some(session) = &self.session
                && let Err(error) = self.topology.declare(&session.channel).await
            {
                self.returned = false;
                return self.on_disconnect(error).await;
            }
            self.returned = false;
        }
        self.retry.pause().await;
        self.waiting.append(&mut self.refused);
        Ok(())
    }

    /// Drops the session; what it had not confirmed goes first on the next one.
    async fn on_disconnect(&mut self, mut error: Error) -> Result<(), Error> {
        self.session = None;
        while let Some((message, confirm)) = self.unconfirmed.pop_back() {
            match confirm.now_or_never() {
                Some(Ok(confirmation)) => self.on_return(confirmation.take_message()),
                // Why RabbitMQ closed the channel: `error` may only say that it is closed.
                Some(Err(reason)) if reason.is_amqp_error() => error = reason.into(),
                _ => {}
            }
            self.waiting.push_front(message);
        }
        self.retry.after(error).await
    }
}

/// Publishes a message, and returns the future of its confirm.
///
/// The first poll of that future hands the message over to lapin's thread, which writes it to
/// the socket. Nobody waits until it has: that would cost a switch between two threads and back
/// for each message, and each would be a packet of its own.
fn publish(session: Arc<Session>, message: Arc<Message>) -> BoxFuture<'static, lapin::Result<Confirmation>> {
    let published = async move {
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let (exchange, key) = (message.exchange.clone(), message.routing_key.clone());
        let properties = message.properties.clone();
        session.channel.basic_publish(exchange, key, options, &message.payload, properties).await?.await
    };
    // Fused: `on_disconnect` asks it once more after its end.
    let mut confirm = published.fuse().boxed();
    match (&mut confirm).now_or_never() {
        Some(failed) => ready(failed).fuse().boxed(),
        None => confirm,
    }
}

/// A returned message, as it was published.
fn from_return(returned: BasicReturnMessage) -> Message {
    Message {
        exchange: returned.exchange.clone(),
        routing_key: returned.routing_key.clone(),
        mandatory: true,
        properties: returned.properties.clone(),
        payload: returned.delivery.data,
    }
}

async fn open(url: &str, topology: &Topology) -> Result<Session, Error> {
    let session = connect(url).await?;
    topology.declare(&session.channel).await?;
    session.channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(session)
}

//! Publishes without losing messages: the publisher keeps each one until the broker has confirmed
//! it, and publishes it again if the broker refuses it, returns it, or disconnects first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, ready};
use lapin::message::BasicReturnMessage;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::connection::{Session, connect};
use super::topology::Topology;
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::limits::rabbitmq::{MAX_DECLARATIONS, MAX_REOPEN, MIN_REOPEN, REOPEN_AFTER, SILENT_AFTER};
use crate::reconnect::Retry;

/// A message and where it goes.
#[derive(Debug, Clone)]
pub struct Message {
    /// The exchange. The empty name is the default one, which routes to the queue named by the key.
    pub exchange: ShortString,
    /// The routing key.
    pub routing_key: ShortString,
    /// Whether the broker returns the message if no queue receives it. If not, the broker drops it.
    pub mandatory: bool,
    /// Delivery mode, message ID, headers, and so on.
    pub properties: BasicProperties,
    /// The content.
    pub payload: Vec<u8>,
}

/// AMQP's delivery mode for a message that is written to disk.
pub(crate) const PERSISTENT: u8 = 2;

/// Publishes with confirms, on a connection of its own: RabbitMQ blocks whole
/// connections, and a consumer on a blocked one could not acknowledge.
pub struct Publisher {
    url: BrokerUrl,
    topology: Topology,
    window: usize,
    session: Option<Arc<Session>>,
    /// Messages to publish next.
    waiting: VecDeque<Arc<Message>>,
    /// Messages published on this session, in order, each with its confirm.
    unconfirmed: VecDeque<(Arc<Message>, BoxFuture<'static, lapin::Result<Confirmation>>)>,
    /// Messages that the broker has refused or returned. They are published again after a pause,
    /// once no message is unconfirmed.
    refused: VecDeque<Arc<Message>>,
    /// Set while the broker refuses everything.
    refusals: Option<Refusals>,
    /// Whether the log already says that no confirms arrive.
    told_silent: bool,
    retry: Retry,
    /// Whether the broker has returned messages. Then the queue must be declared again first.
    returned: bool,
    declarations: u32,
    confirmed: u64,
}

/// When to connect again because the broker refuses everything. The queue may be full, which a new
/// connection can't change. Or the queue was without a leader: then only a new connection helps.
struct Refusals {
    reopen_at: Instant,
    /// Time until the next attempt after that.
    interval: Duration,
}

impl Publisher {
    /// Connects and declares everything.
    ///
    /// # Errors
    /// If no broker answers, or a declaration fails: see [`Error::PreconditionFailed`].
    pub async fn connect(
        url: impl Into<BrokerUrl>,
        topology: Topology,
        window: usize,
    ) -> Result<Self, Error> {
        let (url, mut retry) = (url.into(), Retry::new());
        let session = retry.first(|| open(&url, &topology)).await?;
        Ok(Self {
            url,
            topology,
            window: window.max(1),
            session: Some(Arc::new(session)),
            waiting: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            refused: VecDeque::new(),
            refusals: None,
            told_silent: false,
            retry,
            returned: false,
            declarations: 0,
            confirmed: 0,
        })
    }

    /// Returns the number of messages that the broker has confirmed.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Publishes a message, and waits while the window is full. If the future is dropped, the
    /// publisher still keeps the message.
    ///
    /// # Errors
    /// Only an error that another attempt can't cure.
    pub async fn publish(&mut self, message: Message) -> Result<(), Error> {
        self.waiting.push_back(Arc::new(message));
        self.send_waiting().await?;
        while self.waiting.len() + self.unconfirmed.len() + self.refused.len() >= self.window {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Waits until every message is confirmed.
    ///
    /// # Errors
    /// Only an error that another attempt can't cure.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while !(self.waiting.is_empty() && self.unconfirmed.is_empty() && self.refused.is_empty()) {
            self.settle_one().await?;
        }
        Ok(())
    }

    /// Publishes the waiting messages, on a new session if necessary.
    async fn send_waiting(&mut self) -> Result<(), Error> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let session = match &self.session {
            Some(session) => session,
            None => {
                let session = self.retry.retry_connect(|| open(&self.url, &self.topology)).await?;
                info!("connected again; publishing {} unconfirmed messages again", self.waiting.len());
                self.session.insert(Arc::new(session))
            }
        };
        for message in self.waiting.drain(..) {
            let confirm = publish(session.clone(), message.clone());
            self.unconfirmed.push_back((message, confirm));
        }
        Ok(())
    }

    /// Waits until the broker has confirmed, refused, or returned the oldest message.
    async fn settle_one(&mut self) -> Result<(), Error> {
        self.send_waiting().await?;
        let Some((_, confirm)) = self.unconfirmed.front_mut() else {
            return self.prepare_refused().await;
        };
        let confirmation = match timeout(SILENT_AFTER, confirm).await {
            Ok(Ok(confirmation)) => confirmation,
            Ok(Err(error)) => return self.on_disconnect(error.into()).await,
            Err(_silent) => {
                if !std::mem::replace(&mut self.told_silent, true) {
                    warn!(
                        "RabbitMQ has confirmed nothing for {SILENT_AFTER:?}: it is blocked or out of reach, or most \
                         nodes of its cluster are down; waiting"
                    );
                }
                return Ok(()); // The caller tries again.
            }
        };
        let Some((message, _)) = self.unconfirmed.pop_front() else { return Ok(()) };
        match confirmation {
            Confirmation::Ack(None) | Confirmation::NotRequested => {
                self.confirmed += 1;
                self.retry.progress();
                self.refusals = None;
                self.told_silent = false;
                self.declarations = 0;
            }
            Confirmation::Nack(returned) => {
                if self.refusals.is_none() {
                    if self.refused.is_empty() {
                        warn!("{} is full, or without a leader: trying again", message.routing_key);
                    }
                    let reopen_at = Instant::now() + REOPEN_AFTER;
                    self.refusals = Some(Refusals { reopen_at, interval: MIN_REOPEN });
                }
                self.refused.push_back(message);
                self.on_return(returned);
            }
            // Somebody deleted the queue. A confirm may bring back a message other than
            // its own, but each returned message comes with some confirm.
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

    /// Prepares the refused and returned messages to be published again.
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
        match &mut self.refusals {
            None => self.retry.pause().await,
            Some(refusals) => {
                self.retry.pause_until(refusals.reopen_at).await;
                if refusals.reopen_at <= Instant::now() {
                    refusals.reopen_at =
                        Instant::now() + refusals.interval.mul_f64(0.8 + 0.2 * fastrand::f64());
                    refusals.interval = MAX_REOPEN.min(refusals.interval * 2);
                    self.session = None; // Nothing on it is unconfirmed.
                }
            }
        }
        self.waiting.append(&mut self.refused);
        Ok(())
    }

    /// Drops the session. The next one first publishes what this one had not confirmed.
    async fn on_disconnect(&mut self, mut error: Error) -> Result<(), Error> {
        self.session = None;
        while let Some((message, confirm)) = self.unconfirmed.pop_back() {
            match confirm.now_or_never() {
                Some(Ok(confirmation)) => self.on_return(confirmation.take_message()),
                // This says why RabbitMQ closed the channel; `error` may only say that it did.
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
/// the socket. Waiting for that would cost a switch to that thread and back for each message, and
/// would make each a packet of its own.
fn publish(session: Arc<Session>, message: Arc<Message>) -> BoxFuture<'static, lapin::Result<Confirmation>> {
    let published = async move {
        let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
        let (exchange, key) = (message.exchange.clone(), message.routing_key.clone());
        let properties = message.properties.clone();
        session.channel.basic_publish(exchange, key, options, &message.payload, properties).await?.await
    };
    // Fused, since `on_disconnect` may poll it again after its end.
    let mut confirm = published.fuse().boxed();
    match (&mut confirm).now_or_never() {
        Some(failed) => ready(failed).fuse().boxed(),
        None => confirm,
    }
}

/// Turns a returned message back into the message that was published.
fn from_return(returned: BasicReturnMessage) -> Message {
    Message {
        exchange: returned.exchange.clone(),
        routing_key: returned.routing_key.clone(),
        mandatory: true,
        properties: returned.properties.clone(),
        payload: returned.delivery.data,
    }
}

async fn open(url: &BrokerUrl, topology: &Topology) -> Result<Session, Error> {
    let mut session = connect(url).await?;
    session.declare(topology).await?;
    session.channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(session)
}

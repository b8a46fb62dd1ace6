//! Publishing that loses nothing: each message is kept until the broker has
//! confirmed it, and published again if the broker refuses it, returns it, or goes
//! away before.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Confirmation, PublisherConfirm};
use tokio::time::sleep;
use tracing::{info, warn};

use super::connection::{Session, connect};
use super::topology::Topology;
use crate::error::Error;
use crate::reconnect::until_connected;

/// Messages published and not yet confirmed. Waiting for each confirm before the
/// next message would cost a round trip per message; with a window the confirms
/// of many come back while others are on their way.
pub const WINDOW: usize = 1_000;

/// Pause before a message that the broker refused, because the queue is full, is
/// published again. Doubles up to [`LONGEST_PAUSE`].
pub const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// See [`SHORTEST_PAUSE`].
pub const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often in a row messages may come back as unroutable.
const MAX_RETURNS: u32 = 100;

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
    session: Option<Session>,
    /// To be published, now that they are first in line.
    waiting: VecDeque<Message>,
    /// Published on this session, in order.
    unconfirmed: VecDeque<(Message, PublisherConfirm)>,
    /// Refused by the broker; published again after a pause.
    refused: VecDeque<Message>,
    pause: Duration,
    returns: u32,
    confirmed: u64,
}

impl Publisher {
    /// Connects and declares everything.
    ///
    /// # Errors
    /// If there is no broker, or [`Error::Clash`].
    pub async fn connect(url: &str, topology: Topology, window: usize) -> Result<Self, Error> {
        let session = open(url, &topology).await?;
        Ok(Self {
            url: url.to_owned(),
            topology,
            window: window.max(1),
            session: Some(session),
            waiting: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            refused: VecDeque::new(),
            pause: SHORTEST_PAUSE,
            returns: 0,
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
        self.waiting.push_back(message);
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
        while let Some(message) = self.waiting.front() {
            let session = match &self.session {
                Some(session) => session,
                None => {
                    let session = until_connected(|| open(&self.url, &self.topology)).await?;
                    info!("connected again; {} messages to publish once more", self.waiting.len());
                    self.session.insert(session)
                }
            };
            let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
            let published = session.channel.basic_publish(
                message.exchange.clone(),
                message.routing_key.clone(),
                options,
                &message.payload,
                message.properties.clone(),
            );
            match published.await {
                Ok(confirm) => {
                    if let Some(message) = self.waiting.pop_front() {
                        self.unconfirmed.push_back((message, confirm));
                    }
                }
                Err(error) => self.lost(&error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the fate of the oldest message.
    async fn settle_one(&mut self) -> Result<(), Error> {
        self.send_waiting().await?;
        let Some((_, confirm)) = self.unconfirmed.front_mut() else {
            if !self.refused.is_empty() {
                sleep(self.pause).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.waiting.append(&mut self.refused);
            }
            return Ok(());
        };
        let confirmation = match confirm.await {
            Ok(confirmation) => confirmation,
            Err(error) => {
                self.lost(&error.into());
                return Ok(());
            }
        };
        let Some((message, _)) = self.unconfirmed.pop_front() else { return Ok(()) };
        match confirmation {
            Confirmation::Ack(None) | Confirmation::NotRequested => {
                self.confirmed += 1;
                self.pause = SHORTEST_PAUSE;
                self.returns = 0;
            }
            Confirmation::Nack(_) => {
                if self.refused.is_empty() && self.pause == SHORTEST_PAUSE {
                    warn!("{} is full: waiting for consumers", message.routing_key);
                }
                self.refused.push_back(message);
            }
            Confirmation::Ack(Some(returned)) => {
                // Somebody deleted the queue. A new session declares it again; the
                // messages in flight are lost with it, and are published once more.
                // What came back may be another message than the one whose confirm
                // brought it, so both are.
                self.returns += 1;
                if self.returns > MAX_RETURNS {
                    return Err(Error::Unroutable(message.routing_key.to_string()));
                }
                let returned = Message {
                    exchange: returned.exchange.clone(),
                    routing_key: returned.routing_key.clone(),
                    mandatory: true,
                    properties: returned.properties.clone(),
                    payload: returned.delivery.data,
                };
                if returned.payload != message.payload {
                    self.refused.push_back(returned);
                }
                self.refused.push_back(message);
                self.lost(&Error::Unroutable(self.topology.jobs()));
            }
        }
        Ok(())
    }

    /// Drops the session; what it had not confirmed goes first on the next one.
    fn lost(&mut self, error: &Error) {
        warn!("{error}; connecting again");
        self.session = None;
        for (message, _) in self.unconfirmed.drain(..).rev() {
            self.waiting.push_front(message);
        }
    }
}

async fn open(url: &str, topology: &Topology) -> Result<Session, Error> {
    let session = connect(url).await?;
    topology.declare(&session.channel).await?;
    session.channel.confirm_select(ConfirmSelectOptions::default()).await?;
    Ok(session)
}

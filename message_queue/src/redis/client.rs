//! Requests over Redis's Pub/Sub.
//!
//! `PUBLISH` returns the number of subscribers that it reached. If that is 0, there is no server,
//! and the call fails at once. If there are several servers, each of them executes the request:
//! unlike Streams and RabbitMQ's queues, Pub/Sub can't choose one.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio_util::task::AbortOnDropHandle;
use tracing::warn;

use super::connection::{Subscriber, message};
use super::names::KeyNames;
use crate::address::BrokerUrl;
use crate::client::{Broker, Calls, Connection};
use crate::error::Error;
use crate::limits::MAX_IN_FLIGHT;
use crate::limits::redis::MESSAGE_BATCH;
use crate::model::Reading;
use crate::record::{AddressedReply, Request};

struct Requests {
    connection: MultiplexedConnection,
    keys: KeyNames,
    reply_to: String,
    replies: AbortOnDropHandle<()>,
}

#[async_trait]
impl Broker for KeyNames {
    /// Subscribes to a channel of its own for replies.
    async fn open(&self, url: &BrokerUrl, calls: Arc<Calls>) -> Result<Box<dyn Connection>, Error> {
        let mut subscriber = Subscriber::connect(url, MAX_IN_FLIGHT * 2).await?;
        let reply_to = format!("{}{:032x}", self.replies(), fastrand::u128(..));
        subscriber.connection.subscribe(&reply_to).await?;
        let connection = subscriber.connection.clone();
        let replies = AbortOnDropHandle::new(tokio::spawn(dispatch(subscriber, calls)));
        Ok(Box::new(Requests { connection, keys: self.clone(), reply_to, replies }))
    }
}

#[async_trait]
impl Connection for Requests {
    fn is_open(&self) -> bool {
        !self.replies.is_finished()
    }

    async fn send(&self, id: u64, readings: &[Reading], _timeout: Duration) -> Result<(), Error> {
        let request = Request { id: Some(id), reply_to: Some(&self.reply_to), readings };
        let request = serde_json::to_vec(&request)?;
        let mut publish = cmd("PUBLISH");
        publish.arg(self.keys.requests()).arg(request);
        match publish.query_async::<u64>(&mut self.connection.clone()).await {
            Ok(0) => return Err(Error::NoServer(self.keys.prefix.clone())),
            Ok(1) => {}
            Ok(servers) => warn!("{servers} servers received the request, and each executes it"),
            // It may have been sent before the connection broke.
            Err(error) if error.is_io_error() => return Err(Error::OutcomeUnknown),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// Passes each reply to its call. When the connection breaks, every call fails, since nobody
/// would receive the replies.
async fn dispatch(mut subscriber: Subscriber, calls: Arc<Calls>) {
    let mut pushes = Vec::with_capacity(MESSAGE_BATCH);
    while subscriber.receive(&mut pushes, MESSAGE_BATCH).await.is_ok() {
        for (_, body) in pushes.drain(..).filter_map(message) {
            if let Ok(AddressedReply { id, answer: reply }) = serde_json::from_slice(&body) {
                calls.end(id, Ok(reply));
            }
        }
    }
    calls.end_all();
}

//! Requests over RabbitMQ.
//!
//! A request goes to the servers' queue. Its properties hold a correlation ID and the address for
//! the reply: `amq.rabbitmq.reply-to`, RabbitMQ's direct reply-to, which needs no queue per client.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Consumer};
use tokio_util::task::AbortOnDropHandle;

use super::connection::{Session, connect, is_refusal};
use super::topology::{REPLY_TO, Topology};
use crate::address::BrokerUrl;
use crate::client::{Broker, Calls, Connection};
use crate::error::Error;
use crate::model::Reading;
use crate::record::Request;

struct Requests {
    session: Session,
    topology: Topology,
    calls: Arc<Calls>,
    _replies: AbortOnDropHandle<()>,
}

#[async_trait]
impl Broker for Topology {
    async fn open(&self, url: &BrokerUrl, calls: Arc<Calls>) -> Result<Box<dyn Connection>, Error> {
        let session = connect(url).await?;
        // With confirms, RabbitMQ returns an unroutable request at once, with its confirm.
        session.channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let (queue, table) = (REPLY_TO.into(), FieldTable::default());
        let replies = session.channel.basic_consume(queue, "".into(), options, table).await?;
        let _replies = AbortOnDropHandle::new(tokio::spawn(dispatch(replies, calls.clone())));
        Ok(Box::new(Requests { session, topology: self.clone(), calls, _replies }))
    }
}

#[async_trait]
impl Connection for Requests {
    fn is_open(&self) -> bool {
        self.session.channel.status().connected()
    }

    async fn send(&self, id: u64, readings: &[Reading], timeout: Duration) -> Result<(), Error> {
        let request = serde_json::to_vec(&Request { id: None, reply_to: None, readings })?;
        let properties = BasicProperties::default()
            .with_reply_to(REPLY_TO.into())
            .with_correlation_id(id.to_string().into())
            .with_content_type("application/json".into())
            // RabbitMQ drops a waiting request when its caller has given up.
            .with_expiration(timeout.as_millis().to_string().into());
        let queue = self.topology.requests().into();
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let published = self.session.channel.basic_publish("".into(), queue, options, &request, properties);
        // The confirm may bring back an unroutable request, of this call or of another one. That
        // call then ends.
        let unconfirmed =
            |error| if is_refusal(&error) { Error::RabbitMq(error) } else { Error::OutcomeUnknown };
        let confirmation = published.await?.await.map_err(unconfirmed)?;
        if let Some(returned) = confirmation.take_message()
            && let Some(id) = correlation_id(&returned.properties)
        {
            self.calls.end(id, Err(Error::NoServer(self.topology.prefix.clone())));
        }
        Ok(())
    }
}

/// Passes each reply to its call until the session ends. Then every call fails.
async fn dispatch(mut replies: Consumer, calls: Arc<Calls>) {
    while let Some(Ok(reply)) = replies.next().await {
        if let Some(id) = correlation_id(&reply.properties) {
            let reply = serde_json::from_slice(&reply.data);
            calls.end(id, reply.map_err(|error| Error::Unexpected(error.to_string())));
        }
    }
    calls.end_all();
}

fn correlation_id(properties: &BasicProperties) -> Option<u64> {
    properties.correlation_id().as_ref()?.as_str().parse().ok()
}

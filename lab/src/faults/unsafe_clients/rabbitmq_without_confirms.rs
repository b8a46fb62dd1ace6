//! Publishes without confirms: a message counts as sent once it is written to the connection.

use std::sync::Arc;

use futures::future::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Connection, ConnectionProperties};
use message_queue::rabbitmq::producer::Message;
use message_queue::rabbitmq::worker::message;
use tokio::sync::Mutex;

use crate::faults::client::{Connected, Place, Told, calls, job};

/// A connection that may have to be made first.
type Session = Arc<Mutex<Option<(Connection, Channel)>>>;

pub(crate) async fn connect(place: Place) -> Connected {
    let session: Session = Arc::new(Mutex::new(Some(open(&place).await?)));
    calls(move |number| {
        let (session, place) = (session.clone(), place.clone());
        let publish = async move {
            let mut session = session.lock().await;
            let (_, channel) = match session.take_if(|(connection, _)| connection.status().connected()) {
                Some(open) => session.insert(open),
                None => session.insert(open(&place).await?),
            };
            write(channel, message(&place.topology(), &job(number))?).await
        };
        async move { if publish.await.is_ok() { Told::Done } else { Told::NotDone } }.boxed()
    })
}

async fn open(place: &Place) -> anyhow::Result<(Connection, Channel)> {
    let connection = Connection::connect(&place.amqp(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

/// Returns as soon as the message is written.
async fn write(channel: &Channel, message: Message) -> anyhow::Result<()> {
    let Message { exchange, routing_key, properties, payload, .. } = message;
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange, routing_key, options, &payload, properties).await?;
    Ok(())
}

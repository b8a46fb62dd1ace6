//! Publishes without confirms: a message counts as sent once it is written to the connection.

use std::sync::Arc;
use std::time::Duration;

use futures::future::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Connection, ConnectionProperties};
use message_queue::rabbitmq::producer::Message;
use message_queue::rabbitmq::worker::message;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::faults::client::{Connected, Place, Told, calls, job};

/// Maximum time to connect, and to write a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, or `None` if it has to be made first.
type Session = Arc<Mutex<Option<(Connection, Channel)>>>;

pub(crate) async fn connect(place: Place) -> Connected {
    let session: Session = Arc::new(Mutex::new(Some(open(&place).await?)));
    calls(move |number| {
        let (session, place) = (session.clone(), place.clone());
        let publish = async move {
            let mut session = session.lock().await;
            let (connection, channel) = match session.take() {
                Some(open) if open.0.status().connected() => open,
                _ => timeout(PATIENCE, open(&place)).await??,
            };
            let message = message(&place.topology(), &job(number))?;
            timeout(PATIENCE, write(&channel, message)).await??;
            *session = Some((connection, channel)); // After an error, the next call connects again.
            anyhow::Ok(())
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

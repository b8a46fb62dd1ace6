//! A worker with automatic acknowledgement: the broker considers a job done once it has sent it.

use std::time::Duration;

use futures::StreamExt;
use lapin::options::BasicConsumeOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use message_queue::job::Job;
use message_queue::rabbitmq::producer::Publisher;
use tcp_socket::base::journal;
use tokio::time::sleep;

use crate::faults::client::Place;

/// Pause before another attempt to connect.
const PAUSE: Duration = Duration::from_millis(100);

/// Works until its owner is gone. Calls `ready` when it is connected.
pub(crate) async fn work(place: &Place, work_time: Duration, ready: impl FnOnce()) -> anyhow::Result<()> {
    drop(Publisher::connect(&place.amqp(), place.topology(), 1).await?); // It declares the queue.
    let mut ready = Some(ready);
    loop {
        let connected = async {
            let connection = Connection::connect(&place.amqp(), ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            let (queue, tag) = (place.topology().jobs().into(), "".into());
            let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
            let consumer = channel.basic_consume(queue, tag, options, FieldTable::default()).await?;
            anyhow::Ok((connection, consumer))
        };
        if let Ok((_connection, mut consumer)) = connected.await {
            ready.take().into_iter().for_each(|ready| ready());
            while let Some(Ok(delivery)) = consumer.next().await {
                sleep(work_time).await;
                let summary = Job::parse(&delivery.data).and_then(|job| job.summary());
                if let Some(line) = summary.ok().and_then(|summary| serde_json::to_string(&summary).ok()) {
                    journal::append([line]);
                }
            }
        }
        sleep(PAUSE).await;
    }
}

//! A work queue on RabbitMQ in one file.
//!
//! The producer and the consumer don't know each other: they only know the broker and
//! the name of a queue. The broker keeps each job until a consumer *acknowledges* it,
//! that is, says that the job is done.
//!
//! ```sh
//! cargo run -p message_queue --bin brokers                  # terminal 1
//! cargo run -p message_queue --example minimal_rabbitmq     # terminal 2
//! ```

use futures::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Result};

const JOBS: [&str; 2] = ["summarize oslo-1", "summarize rome-7"];

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::var("RABBITMQ_URL").unwrap_or_else(|_| "amqp://127.0.0.1:5672".to_owned());
    let connection = Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;

    // An exclusive queue without a name: the broker picks one, and deletes the queue when
    // this connection ends.
    let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;

    produce(&channel, queue.name().as_str()).await?;
    consume(&channel, queue.name().as_str()).await?;
    connection.close(200, "done".into()).await
}

/// The producer: publishes jobs, and waits until the broker *confirms* that it has them.
async fn produce(channel: &Channel, queue: &str) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    for job in JOBS {
        let options = BasicPublishOptions::default();
        let confirm = channel.basic_publish(
            "".into(),
            queue.into(),
            options,
            job.as_bytes(),
            BasicProperties::default(),
        );
        confirm.await?.await?;
        println!("producer: the broker has {job:?}");
    }
    Ok(())
}

/// The consumer: does one job after the other, and acknowledges each when it is done. If a
/// consumer of a shared queue ends before that, another one gets the job.
async fn consume(channel: &Channel, queue: &str) -> Result<()> {
    let options = BasicConsumeOptions::default();
    let mut jobs = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await?;
    for _ in JOBS {
        let Some(job) = jobs.next().await.transpose()? else { break };
        println!("consumer: does {:?}", String::from_utf8_lossy(&job.data));
        job.ack(BasicAckOptions::default()).await?;
        println!("consumer: acknowledges it");
    }
    Ok(())
}

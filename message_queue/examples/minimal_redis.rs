//! Publish/subscribe on Redis in one file.
//!
//! A publisher sends a message to a *channel*, and Redis passes it on to everyone who
//! is subscribed at that moment. Redis keeps nothing, so everyone else misses the message.
//!
//! ```sh
//! cargo run -p message_queue --bin brokers               # terminal 1
//! cargo run -p message_queue --example minimal_redis     # terminal 2
//! ```

use futures::StreamExt;
use redis::{AsyncCommands, Client, RedisResult};

const CHANNEL: &str = "minimal:readings";

#[tokio::main]
async fn main() -> RedisResult<()> {
    let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".to_owned());
    let client = Client::open(url)?;

    // The publisher can use any connection; a subscriber needs one of its own.
    let mut publisher = client.get_multiplexed_async_connection().await?;
    let subscribers: usize = publisher.publish(CHANNEL, "oslo-1 21.5").await?;
    println!("publisher:  \"oslo-1 21.5\" reached {subscribers} subscribers");

    let mut subscriber = client.get_async_pubsub().await?;
    subscriber.subscribe(CHANNEL).await?;
    println!("subscriber: listens to {CHANNEL}");

    let subscribers: usize = publisher.publish(CHANNEL, "oslo-1 21.7").await?;
    println!("publisher:  \"oslo-1 21.7\" reached {subscribers} subscriber");
    if let Some(message) = subscriber.on_message().next().await {
        println!("subscriber: receives {:?}", message.get_payload::<String>()?);
    }
    Ok(())
}

//! The beginning of a client for the queue chapter, on Redis: it sends a request, and takes any
//! message for the reply.
//!
//! cargo build --bin starter-message_queue-client
//! cargo run --bin check -- message_queue-client \
//!     --client 'target/debug/starter-message_queue-client {url} {prefix}'
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Client, Commands};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let [_, url, prefix, _record, station, metric, value] =
        std::env::args().collect::<Vec<_>>().try_into().expect("six words");
    let client = Client::open(url)?;
    let mut replies = client.get_connection()?;
    let mut replies = replies.as_pubsub();
    let reply_to = format!("{prefix}:reply:{:032x}", fastrand::u128(..));
    replies.subscribe(&reply_to)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let value: f64 = value.parse()?;
    let reading = json!({ "station": station, "metric": metric, "value": value, "recorded_at": now });
    let request = json!({ "id": 1, "reply_to": reply_to, "readings": [reading] });
    let _servers: u64 =
        client.get_connection()?.publish(format!("{prefix}:record:v1"), request.to_string())?;
    let reply: String = replies.get_message()?.get_payload()?;
    println!("{reply}"); // Your part: look at the reply, and don't wait forever.
    Ok(())
}

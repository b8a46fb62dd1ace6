//! A chat server with one room, which is in the server's memory. The exercise `one_room` puts it
//! into Redis, so that several servers share it.
//!
//! cargo run --bin one_room -- 127.0.0.1:8091 redis://127.0.0.1:6379
use std::collections::HashMap;
use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Message as Frame;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Maximum number of messages that a connection reads from the log at a time.
const BATCH: usize = 100;

/// What somebody says. The sender resends it under the same `message_id` if it got no response.
#[derive(Clone, Serialize, Deserialize)]
struct Message {
    name: String,
    message_id: String,
    text: String,
}

/// The only request.
#[derive(Deserialize)]
struct Say {
    id: u64,
    #[serde(flatten)]
    message: Message,
}

/// The room. The chapter's server also knows who is present; this one doesn't.
struct Room {
    log: Mutex<Log>,
    /// Rings when there is a new message. The connections then read the log.
    bell: watch::Sender<()>,
}

/// All messages, and their numbers by name and message ID. The first message has the number 1.
#[derive(Default)]
struct Log {
    messages: Vec<Message>,
    stored: HashMap<(String, String), u64>,
}

impl Room {
    /// Opens the room. Two servers with the same Redis should have the same room.
    async fn open(_redis: &str) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { log: Mutex::default(), bell: watch::Sender::default() }))
    }

    /// Stores a message. Returns its number, and whether it had been stored before.
    async fn say(&self, message: Message) -> Result<(u64, bool)> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (message.name.clone(), message.message_id.clone());
        if let Some(&number) = log.stored.get(&key) {
            return Ok((number, true));
        }
        log.messages.push(message);
        let number = log.messages.len() as u64;
        log.stored.insert(key, number);
        self.bell.send_replace(());
        Ok((number, false))
    }

    /// Returns the next messages after this number, with their numbers.
    async fn after(&self, number: u64) -> Result<Vec<(u64, Message)>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let next = log.messages.iter().skip(number as usize).take(BATCH);
        Ok((number + 1..).zip(next.cloned()).collect())
    }
}

/// Serves one connection: sends all messages from the first one on, and receives new ones.
async fn serve(stream: TcpStream, room: Arc<Room>) -> Result<()> {
    let mut bell = room.bell.subscribe(); // Before the first look at the log: no ring is missed.
    let mut socket = accept_async(stream).await?;
    let mut sent = 0;
    loop {
        for (sequence, Message { name, message_id, text }) in room.after(sent).await? {
            let event = json!({
                "type": "message", "sequence": sequence, "name": name, "message_id": message_id, "text": text
            });
            socket.send(Frame::text(event.to_string())).await?;
            sent = sequence;
            bell.mark_changed(); // There may be more than a batch.
        }
        select! {
            received = socket.next() => match received.transpose()? {
                Some(Frame::Text(text)) => {
                    let Say { id, message } = serde_json::from_str(&text)?;
                    let (sequence, duplicate) = room.say(message).await?;
                    let said = json!({"type": "said", "id": id, "sequence": sequence, "duplicate": duplicate});
                    socket.send(Frame::text(said.to_string())).await?;
                }
                Some(Frame::Close(_)) | None => return Ok(()),
                Some(_) => {} // The library responds to pings.
            },
            rung = bell.changed() => rung?,
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (Some(addr), Some(redis)) = (args.next(), args.next()) else {
        return Err("usage: one_room ADDRESS REDIS_URL".into());
    };
    let room = Room::open(&redis).await?;
    let listener = TcpListener::bind(addr).await?;
    println!("listening on ws://{}", listener.local_addr()?);
    loop {
        let (stream, _peer) = listener.accept().await?;
        let room = room.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, room).await {
                eprintln!("a connection ended: {error}");
            }
        });
    }
}

//! A server that does what a test tells it to, and a proxy that can cut connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use websocket::client::{ChatEvent, ChatEvents};

use crate::local::soon;

/// A proxy between a client and a server. It can cut the connections.
pub struct Proxy {
    pub url: String,
    up: Arc<AtomicBool>,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (up, cuts) = (Arc::new(AtomicBool::new(true)), watch::Sender::new(0));
        let (is_up, subscribe) = (up.clone(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if !is_up.load(Ordering::SeqCst) {
                    continue; // The new connection is closed at once.
                }
                let (target, mut cut) = (target.clone(), subscribe.subscribe());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url, up, cuts }
    }

    /// Breaks all connections, and new ones as well until [`Proxy::mend`] is called.
    pub fn cut(&self) {
        self.up.store(false, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub fn mend(&self) {
        self.up.store(true, Ordering::SeqCst);
    }
}

/// A server that does what the test tells it to.
pub struct Fake(TcpListener);

impl Fake {
    pub async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    pub async fn accept(&self) -> WebSocketStream<TcpStream> {
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let agree = |_request: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", "weather.v1.json".parse().unwrap());
            Ok(response)
        };
        let (stream, _) = soon("a connection", self.0.accept()).await.unwrap();
        tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap()
    }

    /// Accepts a connection, and responds to its first request, `join` or `subscribe`.
    pub async fn agree(&self) -> WebSocketStream<TcpStream> {
        let mut socket = self.accept().await;
        let first = request(&mut socket).await;
        let agreed = match first["type"].as_str() {
            Some("join") => joined(&first, false, 1),
            _ => subscribed(&first, &[], 0),
        };
        send(&mut socket, agreed).await;
        socket
    }

    /// Accepts a connection, reads its handshake request, and sends this text as the response.
    pub async fn respond(&self, response: &str) {
        let (mut stream, _) = soon("a connection", self.0.accept()).await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(response.as_bytes()).await.unwrap();
    }
}

pub async fn request(socket: &mut WebSocketStream<TcpStream>) -> Value {
    let message = soon("a request", socket.next()).await.unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

pub async fn send(socket: &mut WebSocketStream<TcpStream>, message: Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

pub async fn next(events: &mut ChatEvents) -> ChatEvent {
    soon("an event", events.next()).await.expect("an event, not the end").unwrap()
}

/// Returns the response to `join`. `sequence` is the number of the room's newest event.
pub fn joined(join: &Value, resumed: bool, sequence: u64) -> Value {
    json!({"type": "joined", "id": join["id"], "room": join["room"], "name": join["name"], "boot_id": "b",
        "token": "t", "resumed": resumed, "sequence": sequence, "present": [join["name"]]})
}

/// Returns the response to `subscribe`.
pub fn subscribed(subscribe: &Value, stations: &[&str], recorded: u64) -> Value {
    json!({"type": "subscribed", "id": subscribe["id"], "boot_id": "b", "stations": stations,
        "recorded": recorded})
}

/// Returns a message that ben said in room `r`.
pub fn message(sequence: u64) -> Value {
    json!({"type": "message", "room": "r", "sequence": sequence, "name": "ben", "message_id": "x",
        "text": "hi", "sent_at": 0})
}

pub async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap().into());
    }
    head
}

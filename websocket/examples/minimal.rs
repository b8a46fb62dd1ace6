//! The whole idea of this chapter in one file.
//!
//! A WebSocket begins as an HTTP request that asks for an upgrade. From then on, both sides
//! send messages over the same connection whenever they like. So the server can send a
//! client something that it has not asked for.
//!
//! ```sh
//! cargo run -p websocket --example minimal
//! ```

use futures::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{accept_async, connect_async};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?; // Port 0 picks a free port.
    let url = format!("ws://{}", listener.local_addr()?);
    tokio::spawn(serve(listener));
    call(&url).await
}

/// Runs the server. Each connection gets its own task, and a message from one client goes to all
/// of them.
async fn serve(listener: TcpListener) -> Result<(), Error> {
    let (messages, _) = broadcast::channel(100);
    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(forward(stream, messages.clone()));
    }
}

/// Serves one connection. Waits for two things at once: a message from this client, and a
/// message that any client has sent.
async fn forward(stream: TcpStream, messages: broadcast::Sender<String>) -> Result<(), Error> {
    let mut all = messages.subscribe();
    let mut socket = accept_async(stream).await?; // The upgrade.
    loop {
        select! {
            received = socket.next() => match received.transpose()? {
                Some(Message::Text(text)) => _ = messages.send(text.to_string()),
                Some(Message::Close(_)) | None => return Ok(()),
                Some(_) => {} // The library responds to pings.
            },
            Ok(text) = all.recv() => socket.send(Message::text(text)).await?,
        }
    }
}

/// Runs two clients: Anna sends messages, and Ben receives them without asking.
async fn call(url: &str) -> Result<(), Error> {
    let (mut anna, response) = connect_async(url).await?;
    println!("Anna connects: {}", response.status());
    let (mut ben, _) = connect_async(url).await?;
    println!("Ben connects");

    for text in [r#"{"station":"oslo-1","temperature":21.5}"#, "Hello, Ben!"] {
        anna.send(Message::text(text)).await?;
        println!("Anna sends:    {text}");
        if let Some(message) = ben.next().await {
            println!("Ben receives:  {}", message?);
        }
    }
    anna.close(None).await?;
    ben.close(None).await
}

//! The whole idea of this chapter in one file.
//!
//! A WebSocket starts as an HTTP request, which asks for an upgrade. From then on both
//! sides send messages when they like, over the same connection. So the server can
//! tell a client something that it has not asked for.
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
    let listener = TcpListener::bind("127.0.0.1:0").await?; // Port 0: any free one.
    let url = format!("ws://{}", listener.local_addr()?);
    tokio::spawn(serve(listener));
    call(&url).await
}

/// The server: gives each connection a task. What one client sends, all of them get.
async fn serve(listener: TcpListener) -> Result<(), Error> {
    let (news, _) = broadcast::channel(100);
    loop {
        let (stream, _peer) = listener.accept().await?;
        tokio::spawn(forward(stream, news.clone()));
    }
}

/// One connection of the server. It waits for both sides at once: for a message of
/// this client, and for news from the others.
async fn forward(stream: TcpStream, news: broadcast::Sender<String>) -> Result<(), Error> {
    let mut others = news.subscribe();
    let mut socket = accept_async(stream).await?; // The upgrade.
    loop {
        select! {
            received = socket.next() => match received.transpose()? {
                Some(Message::Text(text)) => _ = news.send(text.to_string()),
                Some(Message::Close(_)) | None => return Ok(()),
                Some(_) => {} // The library answers pings.
            },
            Ok(text) = others.recv() => socket.send(Message::text(text)).await?,
        }
    }
}

/// Two clients: Anna sends, and Ben gets it without having asked.
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

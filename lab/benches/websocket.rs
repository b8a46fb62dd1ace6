//! What the WebSocket server costs, compared with bare echoes on the same library.
//!
//! ```sh
//! cargo bench -p lab --bench websocket
//! ```
//!
//! This chapter's server records one reading per message: it parses the JSON, checks and stores the
//! reading, and responds with the request's ID. The three bare servers return each message
//! unchanged:
//!
//! - The first flushes after each message, as `send` does.
//! - The second flushes once it has read all messages that have arrived.
//! - The third does the same as the second, but also parses the JSON into readings. A server for
//!   this protocol can hardly do less, so it is the baseline.
//!
//! All get the same messages from the same client over four connections and take turns, round after
//! round. The server runs on core 0, the client on core 1, and logs are off. The figures are the
//! server's CPU time per message, and how much of it the chapter's server adds to the baseline.

use anyhow::{Context, bail, ensure};
use futures::{FutureExt, SinkExt, StreamExt};
use lab::{Server, Spread, owner_is_gone, pin, role, runtime};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, connect_async};
use websocket::{Limits, Reading};

const ROUNDS: usize = 7;
const CONNECTIONS: usize = 4;
const MESSAGES_EACH: usize = 25_000;
const REQUEST: &str = r#"{"type":"record","id":7,"readings":[{"station":"oslo-1","metric":"temperature","value":-3.5,"recorded_at":1767225600000}]}"#;
const RECORDED: &str = r#"{"type":"recorded","id":7,"accepted":1}"#;

fn main() -> anyhow::Result<()> {
    match role() {
        Some(role) => runtime()?.block_on(serve(&role)),
        None => compare(),
    }
}

async fn serve(role: &str) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listening on ws://{}", listener.local_addr()?);
    if role == "chapter" {
        websocket::serve(listener, Limits::default(), Vec::new(), owner_is_gone()).await?;
        return Ok(());
    }
    let (flush_each, parse) = (role == "each", role == "parsed");
    let accept = async {
        while let Ok((stream, _peer)) = listener.accept().await {
            tokio::spawn(echo(stream, flush_each, parse));
        }
    };
    tokio::select! {
        () = accept => {}
        () = owner_is_gone() => {}
    }
    Ok(())
}

/// The fields of a `record` besides its type.
#[derive(Deserialize)]
struct Record {
    id: u64,
    readings: Vec<Reading>,
}

async fn echo(stream: TcpStream, flush_each: bool, parse: bool) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    // The library fills its buffer with zeros before each read. With the default of 128 KiB, that
    // would cost as much as everything else.
    let config = WebSocketConfig::default().read_buffer_size(16 * 1024);
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    while let Some(received) = socket.next().await {
        let mut next = Some(received);
        while let Some(received) = next {
            let message = received?;
            if parse && let Message::Text(text) = &message {
                let Record { id, readings } = serde_json::from_str(text)?;
                ensure!(id == 7 && readings.len() == 1, "received a different message from the one sent");
            }
            if message.is_text() {
                socket.feed(message).await?;
            }
            next = if flush_each { None } else { socket.next().now_or_never().flatten() };
        }
        socket.flush().await?;
    }
    Ok(())
}

fn compare() -> anyhow::Result<()> {
    let chapter = Server::start("chapter", Some(0))?;
    let each = Server::start("each", Some(0))?;
    let batch = Server::start("batch", Some(0))?;
    let parsed = Server::start("parsed", Some(0))?;
    ensure!(pin(1), "this comparison needs two cores");
    let runtime = runtime()?;
    let measure = |server: &Server, path: &str, response: &'static str, in_flight: usize| {
        let url = format!("{}{path}", server.address());
        let before = server.cpu_time()?;
        runtime.block_on(load(&url, response, in_flight))?;
        let used = server.cpu_time()? - before;
        anyhow::Ok(used.as_secs_f64() * 1e6 / (CONNECTIONS * MESSAGES_EACH) as f64)
    };
    for in_flight in [16, 64] {
        let mut used: [Vec<f64>; 6] = Default::default();
        for round in 0..=ROUNDS {
            let ours = measure(&chapter, "/live", RECORDED, in_flight)?;
            let flushed = measure(&each, "", REQUEST, in_flight)?;
            let batched = measure(&batch, "", REQUEST, in_flight)?;
            let baseline = measure(&parsed, "", REQUEST, in_flight)?;
            if round > 0 {
                // Round 0 is the warm-up.
                let figures = [ours, flushed, batched, baseline, ours - baseline, ours / flushed];
                for (values, value) in used.iter_mut().zip(figures) {
                    values.push(value);
                }
            }
        }
        let [ours, flushed, batched, baseline, added, ratio] = used.map(|values| Spread::of(&values));
        println!("server CPU time per message, {CONNECTIONS} connections with {in_flight} in flight each,");
        println!("median (range) of {ROUNDS} rounds of {} messages", CONNECTIONS * MESSAGES_EACH);
        println!("  record of one reading                     {ours:.2} µs");
        println!("  bare echo, flushed per message            {flushed:.2} µs");
        println!("  bare echo, flushed per batch              {batched:.2} µs");
        println!("  bare echo, flushed per batch, and parsed  {baseline:.2} µs");
        println!("  record, beyond the last echo              {added:.2} µs");
        println!("  record / echo flushed per message         {ratio:.2}");
    }
    Ok(())
}

async fn load(url: &str, response: &'static str, in_flight: usize) -> anyhow::Result<()> {
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let url = url.to_owned();
        connections.spawn(async move {
            let (socket, _) = connect_async(&url).await?;
            exchange(socket, response, in_flight).await
        });
    }
    while let Some(done) = connections.join_next().await {
        done??;
    }
    Ok(())
}

/// Keeps this many messages in flight until each has its response, and checks every response.
async fn exchange<S>(mut socket: WebSocketStream<S>, response: &str, in_flight: usize) -> anyhow::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let request = Message::Text(Utf8Bytes::from_static(REQUEST));
    let (mut sent, mut received) = (0, 0);
    while received < MESSAGES_EACH {
        while sent < MESSAGES_EACH && sent - received < in_flight {
            socket.feed(request.clone()).await?;
            sent += 1;
        }
        socket.flush().await?;
        let mut next = Some(socket.next().await);
        while let Some(message) = next {
            match message.context("the server closed the connection")?? {
                Message::Text(text) if text == response => received += 1,
                Message::Text(other) => bail!("unexpected response {other}"),
                _ => {}
            }
            next = socket.next().now_or_never();
        }
    }
    socket.close(None).await?;
    Ok(())
}

//! Many clients at once: they all see the same order, idle connections cost little, and clients
//! that stop reading do no harm.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};
use tests::{Server, apply, test};
use tokio::io::{AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use websocket::Metric;
use websocket::client::{ChatEvent, Client};

use crate::PAIR;
use crate::fake::Proxy;
use crate::live::reading;
use crate::local::{Raw, TEXT, soon};

const CLIENTS: usize = 50;
const MESSAGES_EACH: usize = 200;
const CUT: usize = 5;

/// Five of fifty clients lose their connections in the middle. Still, all clients see the same
/// messages in the same order, each of them once.
#[apply(test!)]
#[alone]
async fn all_clients_see_the_same_order_and_no_message_is_lost_or_duplicated() {
    let server = PAIR.serve().await;
    let everybody_is_here = Arc::new(Barrier::new(CLIENTS));
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let target = server.addr().to_owned();
        let everybody_is_here = everybody_is_here.clone();
        clients.spawn(async move {
            let proxy = Proxy::start(target.clone()).await;
            let base = if number < CUT { proxy.url.clone() } else { format!("http://{target}") };
            let (chat, mut events) = Client::new(&base).chat("r", &format!("client-{number}")).await.unwrap();
            everybody_is_here.wait().await;
            let speak = tokio::spawn(async move {
                for message in 0..MESSAGES_EACH {
                    if number < CUT && message == 50 + 20 * number {
                        // Sometimes the response is already on its way.
                        let said = tokio::spawn({
                            let chat = chat.clone();
                            async move { chat.say(&format!("{number}:{message}")).await }
                        });
                        tokio::task::yield_now().await;
                        proxy.cut();
                        tokio::task::yield_now().await;
                        proxy.mend();
                        said.await.unwrap().unwrap();
                    } else {
                        chat.say(&format!("{number}:{message}")).await.unwrap();
                    }
                }
                chat
            });
            let mut seen = Vec::with_capacity(CLIENTS * MESSAGES_EACH);
            let mut cuts = 0;
            while seen.len() < CLIENTS * MESSAGES_EACH {
                match soon("an event", events.next()).await.expect("an event, not the end").unwrap() {
                    ChatEvent::Message { sequence, name, text, .. } => seen.push((sequence, name, text)),
                    ChatEvent::Disconnected { .. } => cuts += 1,
                    ChatEvent::Gap { missed } => panic!("{missed} events were lost"),
                    ChatEvent::Joined { .. } | ChatEvent::Presence { .. } => {}
                }
            }
            speak.await.unwrap().leave().await;
            (number, cuts, seen)
        });
    }
    let mut first: Option<Vec<(u64, String, String)>> = None;
    while let Some(client) = clients.join_next().await {
        let (number, cuts, seen) = client.unwrap();
        assert_eq!(cuts > 0, number < CUT, "client {number} was cut {cuts} times");
        let order = first.get_or_insert_with(|| seen.clone());
        assert!(*order == seen, "client {number} saw another order");
    }
    let order = first.unwrap();
    assert!(order.is_sorted_by(|a, b| a.0 < b.0), "sequence numbers must increase");
    let distinct: HashSet<_> = order.iter().map(|(_sequence, _name, text)| text).collect();
    assert_eq!(distinct.len(), CLIENTS * MESSAGES_EACH, "every message must be seen once");
    for number in 0..CLIENTS {
        let of_one = order.iter().filter(|(_, name, _)| *name == format!("client-{number}"));
        let expected = (0..MESSAGES_EACH).map(|message| format!("{number}:{message}"));
        assert!(
            of_one.map(|(_, _, text)| text.clone()).eq(expected),
            "messages must keep the order in which client {number} said them"
        );
    }
    server.stop().await;
}

/// Returns the memory of the server's process, in bytes.
fn resident(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[apply(test!)]
#[alone]
async fn five_thousand_idle_connections_use_little_memory() {
    const CONNECTIONS: usize = 5000;
    let server = PAIR.serve().await;
    let addr = server.addr().parse().unwrap();
    let client = Client::new(server.url());
    let batch = [reading("a", Metric::Wind, 1.0)];
    client.record(&batch).await.unwrap();
    let before = resident(&server);
    let connect = stream::iter(0..CONNECTIONS).map(|number| Raw::open(addr, ["/chat", "/live"][number % 2]));
    let idle: Vec<Raw> = connect.buffer_unordered(64).collect().await;
    assert_eq!(idle.len(), CONNECTIONS);
    let each = (resident(&server) - before) / CONNECTIONS as u64;
    println!("{CONNECTIONS} idle connections: {each} bytes of the server's memory each");
    // It is about 11 kB in a debug build. With the library's default, a read buffer of 128 KiB, the
    // test would fail.
    assert!(each < 16 * 1024, "{each} bytes each");
    // The connections are still open, and the server still responds.
    client.record(&batch).await.unwrap();
    drop(idle);
    client.close().await;
    server.stop().await;
}

/// The server keeps nothing for ten subscribers that never read, and serves the others.
#[apply(test!)]
#[alone]
async fn a_client_that_stops_reading_costs_no_memory_and_slows_nobody_down() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let batch = vec![reading("a", Metric::Wind, 1.0); 10_000];
    // Fill this station's part of the store, so that it stops growing.
    for _ in 0..11 {
        client.record(&batch).await.unwrap();
    }
    let mut stuck = Vec::new();
    for _ in 0..10 {
        let mut raw = Raw::open(server.addr().parse().unwrap(), "/live").await;
        raw.ask(json!({"type": "subscribe", "id": 1})).await;
        stuck.push(raw);
    }
    let mut reader = Client::new(server.url()).live(&["b"], &[]).await.unwrap();
    for _ in 0..10 {
        client.record(&batch).await.unwrap(); // After this, every buffer is full.
    }
    let before = resident(&server);
    for _ in 0..40 {
        assert_eq!(client.record(&batch).await.unwrap(), 10_000);
    }
    client.record(&[reading("b", Metric::Wind, 2.0)]).await.unwrap();
    soon("a reading for the subscriber that reads", reader.next()).await.unwrap().unwrap();
    let grown = resident(&server).saturating_sub(before);
    println!("400,000 readings for ten subscribers that read nothing: the server grew by {grown} bytes");
    // As messages, the readings are 40 MB, and ten queues of them would be 400 MB.
    assert!(grown < 8 * 1024 * 1024, "grew by {grown} bytes");
    drop(stuck);
    reader.close().await;
    client.close().await;
    server.stop().await;
}

/// When a subscriber has fallen behind the ring, the server sends it thousands of readings at
/// once, and needs memory for them.
#[apply(test!)]
#[alone]
async fn the_server_frees_the_memory_of_a_reader_that_has_caught_up() {
    const READERS: usize = 60;
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let mut raw = Raw::open(server.addr().parse().unwrap(), "/live").await;
        raw.ask(json!({"type": "subscribe", "id": 1})).await;
        readers.push(BufReader::new(raw.stream));
    }
    // These are 4,000 series, and more readings than the ring holds.
    let batch: Vec<_> = (0..10_000)
        .map(|number| {
            reading(
                &format!("s-{}", number / 4 % 1000),
                Metric::ALL[number % 4],
                1.0 + 800.0 * f64::from(number % 4 == 2),
            )
        })
        .collect();
    client.record(&batch).await.unwrap();
    let before = resident(&server);
    for reader in &mut readers {
        let mut counted = 0;
        while counted < batch.len() as u64 {
            let message = soon("a message", message(reader)).await;
            counted += match message["type"].as_str() {
                Some("reading") => 1,
                Some("skipped") => message["readings"].as_u64().unwrap(),
                _ => 0,
            };
        }
    }
    let each = resident(&server).saturating_sub(before) / READERS as u64;
    println!("{READERS} readers that have caught up: {each} bytes of the server's memory each");
    // It is about 150 kB, most of it the library's write buffer. If the server also kept the list
    // of events, it would be about 100 kB more.
    assert!(each < 200 * 1024, "{each} bytes each");
    client.close().await;
    server.stop().await;
}

/// Returns the next message, or null for a ping.
async fn message(reader: &mut BufReader<TcpStream>) -> Value {
    let first = reader.read_u8().await.unwrap();
    let mut length = u64::from(reader.read_u8().await.unwrap());
    if length == 126 {
        length = reader.read_u16().await.unwrap().into();
    }
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload).await.unwrap();
    if first == TEXT { serde_json::from_slice(&payload).unwrap() } else { Value::Null }
}

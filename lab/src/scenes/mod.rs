//! Short scenes over each protocol, recorded on the wire.

mod grpc;
mod http_rest;
mod play;
mod rabbitmq;
mod redis;
mod tcp_socket;
pub mod view;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures::future::{FutureExt, LocalBoxFuture};
use message_queue::brokers::Kind;
use tokio::time::timeout;

use crate::run::brokers::Brokers;
use crate::run::server::Server;
use crate::wire::message::Side;
use crate::wire::proxy::Proxy;
use crate::wire::tape::{Event, Tape};
use play::Stage;

/// A protocol with a scene.
pub struct Subject {
    /// Its name on the command line.
    pub id: &'static str,
    /// Its name in headings.
    pub name: &'static str,
    /// What the scene needs.
    pub needs: Needs,
    play: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

/// What a scene needs besides its client.
#[derive(Clone, Copy)]
pub enum Needs {
    /// The lab's server with this role, in a process of its own.
    Server(&'static str),
    /// A private broker. The programs behind it run in this process.
    Broker(Kind),
}

/// All protocols, in the order of the chapters.
pub const ALL: [&Subject; 6] = [
    &Subject {
        id: "http_rest",
        name: "HTTP/REST",
        needs: Needs::Server("http_rest"),
        play: |stage| http_rest::play(stage).boxed_local(),
    },
    &Subject {
        id: "grpc",
        name: "gRPC",
        needs: Needs::Server("grpc_unary"),
        play: |stage| grpc::play(stage).boxed_local(),
    },
    &Subject {
        id: "websocket",
        name: "WebSocket",
        needs: Needs::Server("websocket"),
        play: |stage| websocket::play(stage).boxed_local(),
    },
    &Subject {
        id: "rabbitmq",
        name: "RabbitMQ",
        needs: Needs::Broker(Kind::RabbitMq),
        play: |stage| rabbitmq::play(stage).boxed_local(),
    },
    &Subject {
        id: "redis",
        name: "Redis",
        needs: Needs::Broker(Kind::Redis),
        play: |stage| redis::play(stage).boxed_local(),
    },
    &Subject {
        id: "tcp_socket",
        name: "TCP",
        needs: Needs::Server("tcp_socket"),
        play: |stage| tcp_socket::play(stage).boxed_local(),
    },
];

/// What passed during a scene.
pub struct Recording {
    /// The client's connections.
    pub client: Vec<Event>,
    /// Those of the server, worker, and subscriber behind the broker.
    pub other: Vec<Event>,
}

/// Time that the clients of a scene have to close their connections.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// Plays a scene to its end.
///
/// # Errors
/// If something that the scene needs does not start, or a step of the scene goes wrong.
pub async fn record(subject: &Subject, brokers: &mut Brokers) -> anyhow::Result<Recording> {
    let mut server = None;
    let target = match subject.needs {
        Needs::Server(role) => server.insert(Server::start(role, None)?).address().to_owned(),
        Needs::Broker(kind) => brokers.get(kind)?.0,
    };
    let tapes = [Arc::new(Tape::default()), Arc::new(Tape::default())];
    let start = |tape: &Arc<Tape>| Proxy::start(target.clone(), Some(tape.clone()));
    let [client, other] = [start(&tapes[0])?, start(&tapes[1])?];
    let stage = Stage { client: client.address(), other: other.address(), tape: tapes[0].clone() };
    let played = (subject.play)(&stage).await;
    // All clients say goodbye before the server stops.
    let goodbyes =
        async { tokio::join!(tapes[0].all_closed(Side::Client), tapes[1].all_closed(Side::Client)) };
    let _ = timeout(GOODBYE_WITHIN, goodbyes).await;
    drop(server);
    client.finish().await;
    other.finish().await;
    played.with_context(|| format!("the scene of {} was not played to its end", subject.name))?;
    let [client, other] = tapes.map(|tape| tape.events().0);
    Ok(Recording { client, other })
}

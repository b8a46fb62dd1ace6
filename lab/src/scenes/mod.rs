//! A short scene over each protocol, recorded by a proxy.

pub mod command;
pub mod documents;
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
use crate::wire::decode::Format;
use crate::wire::message::Side;
use crate::wire::proxy::Proxy;
use crate::wire::tape::Tape;
use crate::wire::trace::Trace;
use play::Stage;
use view::{Conversation, Scene};

/// A protocol with a scene.
pub struct Subject {
    /// The protocol, with its decoder and its name on the command line.
    pub format: Format,
    /// Its name in headings.
    pub name: &'static str,
    /// Text in the summary of the first message that asks to record a reading.
    pub record: &'static str,
    needs: Needs,
    play: for<'a> fn(&'a Stage) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

/// What a scene needs besides its client.
#[derive(Clone, Copy)]
enum Needs {
    /// The lab's server with this role, in a process of its own.
    Server(&'static str),
    /// A private broker. The programs behind it run in this process.
    Broker(Kind),
}

impl Subject {
    /// Returns the broker that the scene needs, if any.
    pub fn broker(&self) -> Option<Kind> {
        match self.needs {
            Needs::Server(_) => None,
            Needs::Broker(kind) => Some(kind),
        }
    }
}

/// All protocols, in the order of the chapters.
pub const ALL: [&Subject; 6] = [
    &Subject {
        format: Format::HttpRest,
        name: "HTTP/REST",
        record: "POST /readings",
        needs: Needs::Server("http_rest"),
        play: |stage| http_rest::play(stage).boxed_local(),
    },
    &Subject {
        format: Format::Grpc,
        name: "gRPC",
        record: "/Record",
        needs: Needs::Server("grpc_unary"),
        play: |stage| grpc::play(stage).boxed_local(),
    },
    &Subject {
        format: Format::WebSocket,
        name: "WebSocket",
        record: "record #",
        needs: Needs::Server("websocket"),
        play: |stage| websocket::play(stage).boxed_local(),
    },
    &Subject {
        format: Format::RabbitMq,
        name: "RabbitMQ",
        record: "basic.publish",
        needs: Needs::Broker(Kind::RabbitMq),
        play: |stage| rabbitmq::play(stage).boxed_local(),
    },
    &Subject {
        format: Format::Redis,
        name: "Redis",
        record: "PUBLISH",
        needs: Needs::Broker(Kind::Redis),
        play: |stage| redis::play(stage).boxed_local(),
    },
    &Subject {
        format: Format::TcpSocket,
        name: "TCP",
        record: "RECORD #",
        needs: Needs::Server("tcp_socket"),
        play: |stage| tcp_socket::play(stage).boxed_local(),
    },
];

/// Time that the clients of a scene have to close their connections.
const GOODBYE_WITHIN: Duration = Duration::from_secs(2);

/// Plays a scene to its end, and decodes what passed.
///
/// # Errors
/// If something that the scene needs does not start, or a step of the scene goes wrong.
pub fn record(subject: &Subject, brokers: &mut Brokers) -> anyhow::Result<Scene> {
    // One thread, so that a scene plays in the same way each time. With several, reqwest may not yet
    // have noticed that a connection is free, and opens another one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(play_and_record(subject, brokers))
}

async fn play_and_record(subject: &Subject, brokers: &mut Brokers) -> anyhow::Result<Scene> {
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
    // All clients close their connections before the server stops.
    let goodbyes =
        async { tokio::join!(tapes[0].all_closed(Side::Client), tapes[1].all_closed(Side::Client)) };
    let _ = timeout(GOODBYE_WITHIN, goodbyes).await;
    drop(server);
    client.finish().await;
    other.finish().await;
    played.with_context(|| format!("the scene over {} failed", subject.name))?;
    let trace = |tape: &Tape| Trace::new(tape.events().0, subject.format.decoder());
    let mut lanes = vec!["client", subject.format.server()];
    let mut conversations = vec![Conversation { trace: trace(&tapes[0]), client: 0, server: 1 }];
    if subject.broker().is_some() {
        lanes.push("worker");
        conversations.push(Conversation { trace: trace(&tapes[1]), client: 2, server: 1 });
    }
    Ok(Scene { title: subject.name.into(), lanes, conversations })
}

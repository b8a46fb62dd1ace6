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

use crate::protocols::Address;
use crate::run::brokers::Brokers;
use crate::run::encryption::Encryption;
use crate::run::server::Server;
use crate::wire::both_ends::{Secrets, decrypt, encrypt};
use crate::wire::decode::{Format, NewDecoder, tls};
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
    Ok(runtime.block_on(play_and_record(subject, brokers, None))?.0)
}

/// A scene that was recorded twice.
pub struct Encrypted {
    /// What travelled.
    pub wire: Scene,
    /// The same after decryption.
    pub decrypted: Scene,
    /// What Wireshark needs to decrypt it, too.
    pub secrets: String,
}

/// Plays a scene over TLS. Client and server trust the authority of these certificates, so the proxy
/// can end TLS on both sides. `brokers` has to start brokers with the same certificates.
///
/// # Errors
/// The same as for [`record`].
pub fn record_encrypted(
    subject: &Subject,
    brokers: &mut Brokers,
    encryption: &Encryption,
) -> anyhow::Result<Encrypted> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let secrets = Arc::new(Secrets::default());
    let ends = Ends { encryption, secrets: secrets.clone() };
    let (mut decrypted, wire) = runtime.block_on(play_and_record(subject, brokers, Some(&ends)))?;
    let mut wire = wire.context("nothing was recorded")?;
    wire.title += " over TLS, as it travels";
    decrypted.title += " over TLS, decrypted";
    Ok(Encrypted { wire, decrypted, secrets: secrets.text() })
}

/// What ends TLS on both sides.
struct Ends<'a> {
    encryption: &'a Encryption,
    secrets: Arc<Secrets>,
}

impl Ends<'_> {
    /// Ends TLS before and after a proxy that records on `tape`, and records on `wire` what travels.
    /// Returns both proxies. Clients connect to the second one.
    fn around(
        &self,
        format: Format,
        target: String,
        tape: &Arc<Tape>,
        wire: &Arc<Tape>,
    ) -> anyhow::Result<[Proxy; 2]> {
        let Encryption { server, client } = self.encryption;
        let client = client.config(true, format.alpn())?.context("the client has no TLS")?;
        let mut server = server.config(format.alpn())?.context("the server has no TLS")?;
        Arc::make_mut(&mut server).key_log = self.secrets.clone();
        let inner = Proxy::start(encrypt(client, target)?.to_string(), Some(tape.clone()))?;
        let outer = Proxy::start(decrypt(server, inner.address())?.to_string(), Some(wire.clone()))?;
        Ok([inner, outer])
    }
}

/// Returns the scene and, if TLS was ended on both sides, also what travelled.
async fn play_and_record(
    subject: &Subject,
    brokers: &mut Brokers,
    ends: Option<&Ends<'_>>,
) -> anyhow::Result<(Scene, Option<Scene>)> {
    let mut server = None;
    let options = ends.map(|ends| ends.encryption.arguments()).unwrap_or_default();
    let target = match subject.needs {
        Needs::Server(role) => {
            let arguments = [&["serve", role][..], &options].concat();
            server.insert(Server::run(&arguments, None)?).address().to_owned()
        }
        Needs::Broker(kind) => brokers.get(kind)?.0,
    };
    let [tapes, wires]: [[Arc<Tape>; 2]; 2] = Default::default();
    let start = |at: usize| -> anyhow::Result<Vec<Proxy>> {
        let (target, tape) = (target.clone(), &tapes[at]);
        Ok(match ends {
            None => vec![Proxy::start(target, Some(tape.clone()))?],
            Some(ends) => ends.around(subject.format, target, tape, &wires[at])?.into(),
        })
    };
    let [client, other] = [start(0)?, start(1)?];
    let address = |proxies: &[Proxy]| Address {
        place: proxies.last().map_or_else(String::new, Proxy::address),
        tls: ends.map(|ends| ends.encryption.client.clone()),
    };
    let stage = Stage { client: address(&client), other: address(&other), tape: tapes[0].clone() };
    let played = (subject.play)(&stage).await;
    // All clients close their connections before the server stops.
    let goodbyes =
        async { tokio::join!(tapes[0].all_closed(Side::Client), tapes[1].all_closed(Side::Client)) };
    let _ = timeout(GOODBYE_WITHIN, goodbyes).await;
    drop(server);
    for proxy in client.into_iter().chain(other) {
        proxy.finish().await;
    }
    played.with_context(|| format!("the scene over {} failed", subject.name))?;
    let decrypted = scene(subject, &tapes, subject.format.decoder());
    Ok((decrypted, ends.map(|_| scene(subject, &wires, tls::decoder))))
}

fn scene(subject: &Subject, tapes: &[Arc<Tape>; 2], decoder: NewDecoder) -> Scene {
    let trace = |tape: &Tape| Trace::new(tape.events().0, decoder);
    let mut lanes = vec!["client", subject.format.server()];
    let mut conversations = vec![Conversation { trace: trace(&tapes[0]), client: 0, server: 1 }];
    if subject.broker().is_some() {
        lanes.push("worker");
        conversations.push(Conversation { trace: trace(&tapes[1]), client: 2, server: 1 });
    }
    Scene { title: subject.name.into(), lanes, conversations }
}

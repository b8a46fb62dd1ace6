//! The brokers over TLS. Each test is a table with one row for each broker or fault.

use std::process::Stdio;

use futures::future::join_all;
use message_queue::brokers::{Broker, Kind, Options, available};
use tcp_socket::base::tls::ServerOptions;
use tests::{Output, apply, run_program, test};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use crate::chapters::{file, within};

const PRODUCER: &str = env!("CARGO_BIN_EXE_message_queue-producer");
const CONSUMER: &str = env!("CARGO_BIN_EXE_message_queue-consumer");
const CLIENT: &str = env!("CARGO_BIN_EXE_message_queue-client");

const BOTH: [(Kind, &str); 2] = [(Kind::RabbitMq, "rabbitmq"), (Kind::Redis, "redis")];

/// Starts a private broker with this certificate.
async fn broker(kind: Kind, certificate: &str, mutual: bool) -> Broker {
    let tls = ServerOptions {
        tls: true,
        certificate: file(&format!("{certificate}.pem")).into(),
        key: file(&format!("{certificate}-key.pem")).into(),
        client_ca: mutual.then(|| file("ca.pem").into()),
    };
    spawn_blocking(move || Broker::start(kind, Options { tls, ..Options::default() }).unwrap()).await.unwrap()
}

async fn produce(name: &str, url: &str, args: &[&str]) -> Output {
    run_program(PRODUCER, &[&["--broker", name, "--url", url, "--count", "3"], args].concat()).await
}

#[apply(test!)]
#[long]
#[needs(available())]
async fn the_programs_use_brokers_over_tls_with_certificates_on_both_sides() {
    let (ca, identity) = (file("ca.pem"), file("client-oslo-1.pem"));
    let tls = ["--ca", &ca, "--identity", &identity];
    for (kind, name) in BOTH {
        let broker = broker(kind, "server", true).await;
        let mut urls = vec![broker.url(), broker.url().replace("127.0.0.1", "localhost")];
        if kind == Kind::RabbitMq {
            urls.push(format!("{}?auth_mechanism=external", broker.url()));
        }
        for url in &urls {
            let output = produce(name, url, &tls).await;
            assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{url}");
        }
        let args = [&["--broker", name, "--url", &urls[0], "dead-letters"][..], &tls].concat();
        assert_eq!(run_program(CONSUMER, &args).await.stdout, "0 in all\n");
        let args = [&["--broker", name, "--url", &urls[0]][..], &tls].concat();
        let no_server = run_program(CLIENT, &args).await.stderr;
        assert!(no_server.starts_with(&format!("error: no server at {}", urls[0])), "{no_server}");
        let plain = produce(name, &urls[0].replacen("s:", ":", 1), &[]).await;
        // RabbitMQ sends an alert, but then resets the connection, and the reset may overtake it.
        let alert =
            kind == Kind::RabbitMq && plain.stderr.ends_with(" or it speaks TLS: then use amqps://\n");
        assert!(alert || plain.stderr.contains(SPEAKS_TLS), "{}", plain.stderr);
    }
}

/// The hint where a client cannot know which side is wrong.
const SPEAKS_TLS: &str = "does this port speak TLS?";

/// A fault: the broker's certificate, the client's if the broker asks for one, and what the client
/// says about it.
const FAULTS: [(&str, bool, Option<&str>, &str); 6] = [
    ("server-other-ca", false, None, "this client does not trust the authority of the server's certificate"),
    (
        "server-other-name",
        false,
        None,
        "the server's certificate does not fit: certificate not valid for name",
    ),
    ("server-expired", false, None, "the server's certificate has expired"),
    ("server", true, None, "the server asks for a client certificate"),
    ("server", true, Some("client-expired"), "this client's certificate has expired"),
    ("server", true, Some("client-other-ca"), "the server does not trust the authority of this client's"),
];

#[apply(test!)]
#[long]
#[needs(available())]
async fn the_programs_name_the_fault_and_do_not_retry() {
    let ca = file("ca.pem");
    join_all(BOTH.map(async |(kind, name)| {
        for faults in FAULTS.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let (certificate, mutual, ..) = faults[0];
            let broker = broker(kind, certificate, mutual).await; // RabbitMQ starts slowly, so faults share it.
            for (_, _, identity, expected) in faults {
                let identity = identity.map(|name| file(&format!("{name}.pem")));
                let mut args = vec!["--ca", ca.as_str()];
                args.extend(identity.iter().flat_map(|path| ["--identity", path]));
                let output = produce(name, &broker.url(), &args).await;
                assert_eq!(output.code, Some(1), "{name}: {expected}");
                // One line, so there was no second attempt. After RabbitMQ's alert, a reset may overtake it.
                let reset = kind == Kind::RabbitMq && mutual && output.stderr.contains("(--identity)?");
                assert!(
                    reset || output.stderr.starts_with(&format!("error: {expected}")),
                    "{name}: {}",
                    output.stderr
                );
                assert_eq!(output.stderr.lines().count(), 1, "{name}: {}", output.stderr);
            }
        }
    }))
    .await;
}

#[apply(test!)]
#[needs(available())]
async fn a_plain_rabbitmq_is_named() {
    let ca = file("ca.pem");
    let plain = spawn_blocking(|| Broker::start(Kind::RabbitMq, Options::default()).unwrap()).await.unwrap();
    let output = produce("rabbitmq", &plain.url().replacen(':', "s:", 1), &["--ca", &ca]).await;
    assert!(output.stderr.starts_with("error: the server does not speak TLS on this port"), "{output:?}");
}

/// What a program sends first to an address with TLS: never the login.
#[apply(test!)]
async fn the_first_byte_is_that_of_tls_or_there_is_none() {
    let ca = file("ca.pem");
    for (name, scheme) in [("rabbitmq", "amqps"), ("redis", "rediss"), ("rabbitmq", "AMQPS")] {
        for usable in [true, false] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("{scheme}://user:secret@{}", listener.local_addr().unwrap());
            let args = ["--ca", if usable { &ca } else { "missing.pem" }];
            let first = async {
                let (mut stream, _peer) = listener.accept().await.unwrap();
                stream.read_u8().await.unwrap()
            };
            let sent = tokio::select! {
                first = within(first) => Some(first),
                output = produce(name, &url, &args) => {
                    assert!(output.stderr.starts_with("error: there is no file missing.pem"), "{output:?}");
                    None
                }
            };
            assert_eq!(sent, usable.then_some(0x16), "{url}");
        }
        // The library alone refuses such a URL, too.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://user:secret@{}", listener.local_addr().unwrap());
        let refused = if name == "redis" {
            message_queue::client::Client::connect(&url, message_queue::redis::names::KeyNames::default())
                .await
        } else {
            let topology = message_queue::rabbitmq::topology::Topology::default();
            message_queue::client::Client::connect(&url, topology).await
        };
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("it asks for TLS") && !error.contains("secret"), "{error}");
        drop(listener);
    }
}

#[apply(test!)]
#[needs(available())]
async fn after_the_third_reset_in_a_row_there_is_a_hint() {
    let mut plain = spawn_blocking(|| Broker::start(Kind::Redis, Options::default()).unwrap()).await.unwrap();
    let url = plain.url();
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let mut command = Command::new(CONSUMER);
    command.args(["--broker", "redis", "--url", &url, "subscribe"]).kill_on_drop(true);
    let mut consumer = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut printed = BufReader::new(consumer.stdout.take().unwrap()).lines();
    assert_eq!(within(printed.next_line()).await.unwrap().unwrap(), "subscribed to *");
    plain.kill();
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    for _ in 0..3 {
        // Like Redis with TLS, which gets no ClientHello.
        drop(within(listener.accept()).await.unwrap());
    }
    let mut logged = BufReader::new(consumer.stderr.take().unwrap()).lines();
    let hints = async {
        loop {
            let line = logged.next_line().await.unwrap().unwrap();
            if line.contains(SPEAKS_TLS) {
                break;
            }
        }
    };
    within(hints).await;
}

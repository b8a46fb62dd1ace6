//! The clients, and what each of them promises when it says "done".

use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use message_queue::brokers::Kind;
use message_queue::client::Client as QueueClient;
use message_queue::job::Job;
use message_queue::rabbitmq::producer::{Message, Publisher};
use message_queue::rabbitmq::topology::Topology;
use message_queue::redis::names::KeyNames;
use message_queue::{rabbitmq, redis};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::unsafe_clients::{http_without_key, rabbitmq_without_confirms};
use crate::protocols::{self, STATION, sample};
use crate::wire::decode::Format;

/// What a client says about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// It was done, in the sense of the row.
    Done,
    /// It was certainly not executed.
    NotDone,
    /// Nobody knows: the request may have been executed.
    Unknown,
}

/// Turns the result of a chapter's client into what it says.
macro_rules! told {
    ($result:expr) => {
        match $result {
            Ok(_) => Told::Done,
            Err(error) if error.may_have_been_executed() => Told::Unknown,
            Err(_) => Told::NotDone,
        }
    };
}

/// A client that records numbered readings. Many calls may run at the same time.
pub(super) trait Client: Send + Sync {
    /// Records the reading with this number, and returns what the client says about it.
    fn record(&self, number: u64) -> BoxFuture<'_, Told>;
}

/// A client made from a function.
struct Calls<F>(F);

impl<F: Fn(u64) -> BoxFuture<'static, Told> + Send + Sync> Client for Calls<F> {
    fn record(&self, number: u64) -> BoxFuture<'_, Told> {
        (self.0)(number)
    }
}

pub(super) type Connected = anyhow::Result<Arc<dyn Client>>;

pub(super) fn calls(record: impl Fn(u64) -> BoxFuture<'static, Told> + Send + Sync + 'static) -> Connected {
    Ok(Arc::new(Calls(record)))
}

/// Where a client connects.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The `host:port` of the proxy in front of the server or broker.
    pub address: String,
    /// Prefix of all names on a broker.
    pub prefix: String,
}

impl Place {
    fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn amqp(&self) -> String {
        format!("amqp://{}", self.address)
    }

    pub(super) fn redis(&self) -> String {
        format!("redis://{}", self.address)
    }

    pub(super) fn topology(&self) -> Topology {
        Topology { prefix: self.prefix.clone(), ..Topology::default() }
    }

    pub(super) fn keys(&self) -> KeyNames {
        KeyNames { prefix: self.prefix.clone() }
    }
}

/// What has to run for a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs {
    /// A server: the protocol with this ID.
    Server(&'static str),
    /// A broker, and what is behind it.
    Broker(Kind, Behind),
}

/// What is behind a broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behind {
    /// A server that replies: one of [`programs`](super::programs).
    Server(&'static str),
    /// A worker that does jobs: one of [`programs`](super::programs).
    Worker(&'static str),
    /// A subscriber.
    Subscriber,
}

/// How long what is done is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// As long as the server runs, which has it in memory.
    WhileItRuns,
    /// Whatever breaks.
    Always,
    /// Nobody promises that it is kept.
    Perhaps,
}

/// A client, and what it promises.
#[derive(Debug)]
pub struct Row {
    /// Its name in `--protocols` and `faults.json`.
    pub id: &'static str,
    /// Its name in tables.
    pub name: &'static str,
    /// What it means when the client says "done".
    pub done: &'static str,
    /// The file that makes it so, from the root of the repository.
    pub code: &'static str,
    /// The test that holds it: its file from the root of the repository, and its name.
    pub test: (&'static str, &'static str),
    /// What passes between client and server.
    pub format: Format,
    /// What has to run.
    pub runs: Runs,
    /// Settings of a private Redis.
    pub settings: &'static [&'static str],
    /// How long what is done is kept.
    pub keeps: Keeps,
    /// Whether a request that arrives twice is recognized, by a key or an ID.
    pub recognizes: bool,
    /// Whether the client sends a request again although it may have been executed.
    pub repeats: bool,
    /// Whether changed bytes are noticed.
    pub checks: bool,
    /// Whether it is measured by default.
    pub by_default: bool,
    pub(super) connect: fn(Place) -> BoxFuture<'static, Connected>,
    /// What the truth says about the request with this number.
    pub line: fn(u64) -> String,
}

/// Redis writes each change to its disk before it replies.
const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// Redis writes changes to the file before it replies, but asks the system only once per second to
/// bring them to the disk.
const EVERY_SECOND: &[&str] = &["--appendonly", "yes", "--appendfsync", "everysec"];

const HTTP: Row = Row {
    id: "http_rest",
    name: "HTTP/REST",
    done: "stored in the server's memory",
    code: "http_rest/src/client/retry.rs",
    test: ("tests/tests/http_rest/idempotency.rs", ""),
    format: Format::HttpRest,
    runs: Runs::Server("http_rest"),
    settings: &[],
    keeps: Keeps::WhileItRuns,
    recognizes: true,
    repeats: true,
    checks: false,
    by_default: true,
    connect: |place| {
        async move {
            let client = http_rest::Client::new(&place.http())?;
            calls(move |number| {
                let (client, reading) = (client.clone(), protocols::http_rest::reading(sample(number)));
                async move { told!(client.record(&[reading]).await) }.boxed()
            })
        }
        .boxed()
    },
    line: reading,
};

const GRPC: Row = Row {
    id: "grpc_unary",
    name: "gRPC unary",
    code: "grpc/src/client/retry.rs",
    format: Format::Grpc,
    runs: Runs::Server("grpc_unary"),
    recognizes: false,
    repeats: false,
    connect: |place| {
        async move {
            let client = grpc::Client::new(&place.http(), &grpc::Options::default())?;
            calls(move |number| {
                let (client, reading) = (client.clone(), protocols::grpc::reading(sample(number)));
                async move { told!(client.record(&[reading]).await) }.boxed()
            })
        }
        .boxed()
    },
    ..HTTP
};

const WEBSOCKET: Row = Row {
    id: "websocket",
    name: "WebSocket record",
    code: "websocket/src/client/mod.rs",
    format: Format::WebSocket,
    runs: Runs::Server("websocket"),
    connect: |place| {
        async move {
            let client = websocket::Client::new(&place.http());
            calls(move |number| {
                let (client, reading) = (client.clone(), protocols::websocket::reading(sample(number)));
                async move { told!(client.record(&[reading]).await) }.boxed()
            })
        }
        .boxed()
    },
    ..GRPC
};

const RABBITMQ_JOBS: Row = Row {
    id: "rabbitmq_jobs",
    name: "RabbitMQ work queue",
    done: "on the broker's disk",
    code: "message_queue/src/rabbitmq/producer.rs",
    format: Format::RabbitMq,
    runs: Runs::Broker(Kind::RabbitMq, Behind::Worker("rabbitmq_jobs")),
    keeps: Keeps::Always,
    recognizes: true,
    repeats: true,
    connect: |place| {
        async move {
            let topology = place.topology();
            publisher(&place, move |number| Ok(rabbitmq::worker::message(&topology, &job(number))?)).await
        }
        .boxed()
    },
    line: result,
    ..HTTP
};

const REDIS_JOBS: Row = Row {
    id: "redis_streams",
    name: "Redis Streams",
    done: "on the broker's disk",
    code: "message_queue/src/redis/producer.rs",
    format: Format::Redis,
    runs: Runs::Broker(Kind::Redis, Behind::Worker("redis_jobs")),
    settings: DURABLE,
    connect: |place| {
        async move {
            let limit = message_queue::limits::redis::MAX_LENGTH;
            let producer = redis::producer::Producer::connect(&place.redis(), place.keys(), limit).await?;
            let producer = Arc::new(Mutex::new(producer));
            calls(move |number| {
                let producer = producer.clone();
                let publish = async move {
                    let mut producer = producer.lock().await;
                    producer.publish(&job(number)).await?;
                    producer.flush().await
                };
                async move { told!(publish.await) }.boxed()
            })
        }
        .boxed()
    },
    ..RABBITMQ_JOBS
};

/// All rows, in the order of the chapters. The unsafe ones follow the one that they are compared with.
pub const ALL: [Row; 16] = [
    HTTP,
    Row {
        id: "http_without_key",
        name: "HTTP without a key",
        code: "lab/src/faults/unsafe_clients/http_without_key.rs",
        recognizes: false,
        connect: |place| async move { http_without_key::connect(&place) }.boxed(),
        ..HTTP
    },
    GRPC,
    Row {
        id: "grpc_upload",
        name: "gRPC upload",
        by_default: false,
        connect: |place| {
            async move {
                let client = grpc::Client::new(&place.http(), &grpc::Options::default())?;
                calls(move |number| {
                    let (client, reading) = (client.clone(), protocols::grpc::reading(sample(number)));
                    async move { told!(client.upload(futures::stream::iter([reading]), None).await) }.boxed()
                })
            }
            .boxed()
        },
        ..GRPC
    },
    WEBSOCKET,
    Row {
        id: "websocket_chat",
        name: "WebSocket chat",
        code: "websocket/src/client/chat.rs",
        recognizes: true,
        repeats: true,
        by_default: false,
        connect: |place| {
            async move {
                let client = websocket::Client::new(&place.http());
                let (chat, mut events) = client.chat("lobby", &format!("ada{}", std::process::id())).await?;
                tokio::spawn(async move { while events.next().await.is_some() {} });
                calls(move |number| {
                    let chat = chat.clone();
                    async move { told!(chat.say(&number.to_string()).await) }.boxed()
                })
            }
            .boxed()
        },
        line: |number| format!("{:?}", number.to_string()),
        ..WEBSOCKET
    },
    RABBITMQ_JOBS,
    Row {
        id: "rabbitmq_without_confirms",
        name: "RabbitMQ without confirms",
        done: "written to the connection",
        code: "lab/src/faults/unsafe_clients/rabbitmq_without_confirms.rs",
        keeps: Keeps::Perhaps,
        connect: |place| async move { rabbitmq_without_confirms::connect(place).await }.boxed(),
        ..RABBITMQ_JOBS
    },
    Row {
        id: "rabbitmq_automatic",
        name: "RabbitMQ, automatic acknowledgement",
        code: "lab/src/faults/unsafe_clients/rabbitmq_automatic.rs",
        runs: Runs::Broker(Kind::RabbitMq, Behind::Worker("rabbitmq_automatic")),
        keeps: Keeps::Perhaps,
        recognizes: false,
        by_default: false,
        ..RABBITMQ_JOBS
    },
    Row {
        id: "rabbitmq_publish",
        name: "RabbitMQ publish/subscribe",
        done: "accepted by the broker",
        code: "message_queue/src/rabbitmq/publish_subscribe.rs",
        runs: Runs::Broker(Kind::RabbitMq, Behind::Subscriber),
        keeps: Keeps::Perhaps,
        recognizes: false,
        by_default: false,
        connect: |place| {
            async move {
                let topology = place.topology();
                let message = move |number| {
                    let reading = protocols::message_queue::reading(sample(number));
                    Ok(rabbitmq::publish_subscribe::message(&topology, &reading)?)
                };
                publisher(&place, message).await
            }
            .boxed()
        },
        line: reading,
        ..RABBITMQ_JOBS
    },
    Row {
        id: "rabbitmq_requests",
        name: "RabbitMQ request/reply",
        code: "message_queue/src/client.rs",
        format: Format::RabbitMq,
        runs: Runs::Broker(Kind::RabbitMq, Behind::Server("rabbitmq_requests")),
        recognizes: false,
        repeats: false,
        by_default: false,
        connect: |place| {
            async move { requests(QueueClient::connect(&place.amqp(), place.topology()).await?) }.boxed()
        },
        ..HTTP
    },
    REDIS_JOBS,
    Row {
        id: "redis_every_second",
        name: "Redis Streams, everysec",
        done: "in the broker's file, on its disk within a second",
        settings: EVERY_SECOND,
        keeps: Keeps::Perhaps,
        by_default: false,
        ..REDIS_JOBS
    },
    Row {
        id: "redis_publish",
        name: "Redis Pub/Sub",
        done: "passed on by the broker",
        code: "message_queue/src/redis/publish_subscribe.rs",
        runs: Runs::Broker(Kind::Redis, Behind::Subscriber),
        settings: &[],
        keeps: Keeps::Perhaps,
        recognizes: false,
        repeats: false,
        by_default: false,
        connect: |place| {
            async move {
                let publisher =
                    redis::publish_subscribe::Publisher::connect(&place.redis(), place.keys()).await?;
                let publisher = Arc::new(Mutex::new(publisher));
                calls(move |number| {
                    let publisher = publisher.clone();
                    let reading = protocols::message_queue::reading(sample(number));
                    async move { told!(publisher.lock().await.publish(&[reading]).await) }.boxed()
                })
            }
            .boxed()
        },
        line: reading,
        ..REDIS_JOBS
    },
    Row {
        id: "redis_requests",
        name: "Redis request/reply",
        code: "message_queue/src/client.rs",
        format: Format::Redis,
        runs: Runs::Broker(Kind::Redis, Behind::Server("redis_requests")),
        recognizes: false,
        repeats: false,
        by_default: false,
        connect: |place| {
            async move { requests(QueueClient::connect(&place.redis(), place.keys()).await?) }.boxed()
        },
        ..HTTP
    },
    Row {
        id: "tcp_socket",
        name: "TCP",
        code: "tcp_socket/src/client/connection.rs",
        format: Format::TcpSocket,
        runs: Runs::Server("tcp_socket"),
        checks: true,
        connect: |place| {
            async move {
                let client = tcp_socket::Client::connect(&place.address).await?;
                calls(move |number| {
                    let (client, reading) = (client.clone(), protocols::tcp_socket::reading(sample(number)));
                    async move { told!(client.record(&[reading]).await) }.boxed()
                })
            }
            .boxed()
        },
        ..HTTP
    },
];

/// Returns the row with this ID.
pub fn by_id(id: &str) -> Option<&'static Row> {
    static ROWS: [Row; ALL.len()] = ALL;
    ROWS.iter().find(|row| row.id == id)
}

impl Row {
    /// Returns the broker that the row needs, if any.
    pub fn broker(&self) -> Option<Kind> {
        match self.runs {
            Runs::Server(_) => None,
            Runs::Broker(kind, _) => Some(kind),
        }
    }

    /// Returns what is behind the broker, if there is one.
    pub(super) fn behind(&self) -> Option<Behind> {
        match self.runs {
            Runs::Server(_) => None,
            Runs::Broker(_, behind) => Some(behind),
        }
    }
}

/// What a journal or a subscriber says about a reading.
fn reading(number: u64) -> String {
    let sample = sample(number);
    format!("{STATION} temperature {} {}", sample.temperature, sample.recorded_at)
}

/// What a worker's journal says about a job.
fn result(number: u64) -> String {
    let summary = job(number).summary().ok();
    summary.and_then(|summary| serde_json::to_string(&summary).ok()).unwrap_or_default()
}

pub(super) fn job(number: u64) -> Job {
    Job::example(number.to_string(), number)
}

/// A client that publishes with confirms.
async fn publisher(
    place: &Place,
    message: impl Fn(u64) -> anyhow::Result<Message> + Send + Sync + 'static,
) -> Connected {
    let publisher = Publisher::connect(&place.amqp(), place.topology(), 1).await?;
    let publisher = Arc::new(Mutex::new(publisher));
    calls(move |number| {
        let (publisher, message) = (publisher.clone(), message(number));
        let publish = async move {
            let mut publisher = publisher.lock().await;
            publisher.publish(message.context("cannot make the message")?).await?;
            anyhow::Ok(publisher.flush().await?)
        };
        // The publisher gives up only if no further attempt can help.
        async move { if publish.await.is_ok() { Told::Done } else { Told::Unknown } }.boxed()
    })
}

/// A client that sends requests through a broker.
fn requests(client: QueueClient) -> Connected {
    calls(move |number| {
        let (client, reading) = (client.clone(), protocols::message_queue::reading(sample(number)));
        async move { told!(client.record(&[reading]).await) }.boxed()
    })
}

//! All clients, and what each of them promises when it says "done".

use std::sync::Arc;

use anyhow::Context;
use futures::StreamExt;
use futures::future::FutureExt;
use message_queue::brokers::Kind;
use message_queue::client::Client as QueueClient;
use message_queue::rabbitmq::producer::{Message, Publisher};
use message_queue::{rabbitmq, redis};
use tokio::sync::Mutex;
use websocket::limits::Timeouts;

use super::client::{Connected, Place, Told, calls, job, told};
use super::row::{Behind, Keeps, Row, Runs};
use super::unsafe_clients::{http_without_key, rabbitmq_without_confirms};
use crate::protocols::{self, STATION, sample};
use crate::wire::decode::Format;

/// Turns a chapter's client into one of an experiment: each call records one reading.
macro_rules! records {
    ($client:expr, $place:expr, $chapter:ident) => {{
        let (client, place) = ($client, $place);
        calls(move |number| {
            let (client, place) = (client.clone(), place.clone());
            let reading = protocols::$chapter::reading(sample(number));
            async move {
                let result = client.record(&[reading]).await;
                let _ = result.as_ref().inspect_err(|error| place.note(error));
                told!(result)
            }
            .boxed()
        })
    }};
}

/// Redis writes each change to its disk before it replies.
const DURABLE: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

/// Redis writes each change to its file before it replies, but asks the system to write the file to the
/// disk only once per second.
const EVERY_SECOND: &[&str] = &["--appendonly", "yes", "--appendfsync", "everysec"];

const HTTP: Row = Row {
    id: "http_rest",
    name: "HTTP/REST",
    done: "stored in the server's memory",
    code: "http_rest/src/client/retry.rs",
    test: (
        "tests/tests/http_rest/idempotency.rs",
        "a_repeated_key_gets_the_first_response_and_no_second_effect",
    ),
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
            let client = http_rest::Client::with_tls(&place.http(), &place.options())?;
            records!(client, place, http_rest)
        }
        .boxed()
    },
    line: reading,
};

const GRPC: Row = Row {
    id: "grpc_unary",
    name: "gRPC unary",
    code: "grpc/src/client/retry.rs",
    test: ("tests/tests/grpc/retries.rs", "a_call_that_may_have_been_executed_is_not_retried"),
    format: Format::Grpc,
    runs: Runs::Server("grpc_unary"),
    recognizes: false,
    repeats: false,
    connect: |place| {
        async move {
            let options = grpc::Options { tls: place.options(), ..grpc::Options::default() };
            records!(grpc::Client::new(&place.http(), &options)?, place, grpc)
        }
        .boxed()
    },
    ..HTTP
};

const WEBSOCKET: Row = Row {
    id: "websocket",
    name: "WebSocket record",
    code: "websocket/src/client/mod.rs",
    test: (
        "tests/tests/websocket/client.rs",
        "a_call_fails_when_its_connection_breaks_and_the_next_one_reconnects",
    ),
    format: Format::WebSocket,
    runs: Runs::Server("websocket"),
    connect: |place| {
        async move {
            let client = websocket::Client::with_tls(&place.http(), Timeouts::default(), &place.options());
            records!(client, place, websocket)
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
    test: ("tests/tests/message_queue/faults.rs", "rabbitmq_loses_no_confirmed_job"),
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
    test: ("tests/tests/message_queue/faults.rs", "redis_streams_lose_no_confirmed_job"),
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
        test: ("tests/tests/faults/delivery.rs", "the_unsafe_clients_show_what_the_others_are_good_for"),
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
        test: (
            "tests/tests/websocket/reconnect.rs",
            "a_message_whose_response_was_lost_is_resent_and_stored_once",
        ),
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
                    async move { told!(chat.say(&text(number)).await) }.boxed()
                })
            }
            .boxed()
        },
        line: |number| format!("{:?}", text(number)),
        ..WEBSOCKET
    },
    RABBITMQ_JOBS,
    Row {
        id: "rabbitmq_without_confirms",
        name: "RabbitMQ without confirms",
        done: "written to the connection",
        code: "lab/src/faults/unsafe_clients/rabbitmq_without_confirms.rs",
        test: ("tests/tests/faults/delivery.rs", "the_unsafe_clients_show_what_the_others_are_good_for"),
        keeps: Keeps::Perhaps,
        connect: |place| async move { rabbitmq_without_confirms::connect(place).await }.boxed(),
        ..RABBITMQ_JOBS
    },
    Row {
        id: "rabbitmq_automatic",
        name: "RabbitMQ, automatic acknowledgement",
        code: "lab/src/faults/unsafe_clients/rabbitmq_automatic.rs",
        test: ("tests/tests/faults/delivery.rs", "the_unsafe_clients_show_what_the_others_are_good_for"),
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
        test: (
            "tests/tests/message_queue/reconnect.rs",
            "everything_reconnects_after_an_operator_closes_the_connections",
        ),
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
        test: ("tests/tests/message_queue/request_reply.rs", "an_interrupted_request_does_not_run_twice"),
        format: Format::RabbitMq,
        runs: Runs::Broker(Kind::RabbitMq, Behind::Server("rabbitmq_requests")),
        recognizes: false,
        repeats: false,
        by_default: false,
        connect: |place| {
            async move {
                records!(QueueClient::connect(&place.amqp(), place.topology()).await?, place, message_queue)
            }
            .boxed()
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
        test: (
            "tests/tests/message_queue/reconnect.rs",
            "everything_reconnects_after_an_operator_closes_the_connections",
        ),
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
        test: ("tests/tests/message_queue/request_reply.rs", "an_interrupted_request_does_not_run_twice"),
        format: Format::Redis,
        runs: Runs::Broker(Kind::Redis, Behind::Server("redis_requests")),
        recognizes: false,
        repeats: false,
        by_default: false,
        connect: |place| {
            async move {
                records!(QueueClient::connect(&place.redis(), place.keys()).await?, place, message_queue)
            }
            .boxed()
        },
        ..HTTP
    },
    Row {
        id: "tcp_socket",
        name: "TCP",
        code: "tcp_socket/src/client/connection.rs",
        test: (
            "tests/tests/tcp_socket/once.rs",
            "a_batch_counts_once_when_the_connection_is_cut_after_its_commit",
        ),
        format: Format::TcpSocket,
        runs: Runs::Server("tcp_socket"),
        checks: true,
        connect: |place| {
            async move {
                let url = place.url(["tcp", "tls"]);
                let client = tcp_socket::Client::connect_with_tls(&url, &place.options()).await?;
                records!(client, place, tcp_socket)
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

/// Returns a chat message. It contains its number twice, so one changed digit can't turn it into
/// another message.
fn text(number: u64) -> String {
    format!("{number}.{number}")
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

//! Redis: requests and replies over Pub/Sub, and appending to a stream that nobody reads.

use anyhow::ensure;
use futures::future::{BoxFuture, FutureExt};
use message_queue::brokers;
use message_queue::client::Client;
use message_queue::model::Reading;
use message_queue::redis::names::KeyNames;
use message_queue::redis::server;
use redis::IntoConnectionInfo;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;

use super::batch::{samples, verify_count};
use super::message_queue::reading;
use super::protocol::{Kind, Protocol, Recorder, Served, connected};

/// A request that goes to the server over a channel. Its reply comes back over the client's own
/// channel.
pub(super) const REQUEST_REPLY: Protocol = Protocol {
    id: "redis",
    name: "Redis request/reply",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::ThroughBroker(brokers::Kind::Redis, |address, shutdown, listening| {
        async move {
            Ok(server::serve(address.broker(SCHEMES)?, &KeyNames::default(), &shutdown, listening).await?)
        }
        .boxed()
    }),
    connect: |address, readings| {
        async move {
            let client = Client::connect(address.broker(SCHEMES)?, KeyNames::default()).await?;
            let batch = samples(readings).map(reading).collect();
            connected(RequestReply { client, batch })
        }
        .boxed()
    },
};

/// A new entry in a stream, which Redis keeps in memory only.
pub(super) const APPEND: Protocol = Protocol {
    id: "redis_append",
    name: "Redis stream append",
    kind: Kind::Accepted,
    one_at_a_time: false,
    served: Served::ByBroker(brokers::Kind::Redis),
    connect: |address, readings| {
        async move {
            // The redis crate leaves Nagle's algorithm on. Then the last segment of a batch waits until the
            // broker has acknowledged the others.
            let tcp = TcpSettings::default().set_nodelay(true);
            let client =
                redis::Client::open(url(&address.place).into_connection_info()?.set_tcp_settings(tcp))?;
            let connection = client.get_multiplexed_async_connection().await?;
            let batch = samples(readings).map(reading).collect();
            connected(Append { connection, batch })
        }
        .boxed()
    },
};

/// The schemes of a URL without TLS, and with it.
const SCHEMES: [&str; 2] = ["redis", "rediss"];

pub(super) fn url(address: &str) -> String {
    format!("redis://{address}")
}

struct RequestReply {
    client: Client,
    batch: Vec<Reading>,
}

impl Recorder for RequestReply {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { verify_count(self.client.record(&self.batch).await?, self.batch.len()) }.boxed()
    }
}

struct Append {
    /// Its clones share one connection, which sends all queued commands in one write.
    connection: MultiplexedConnection,
    batch: Vec<Reading>,
}

/// Approximate maximum length of the stream. No program reads the entries, so Redis drops the
/// oldest.
const KEPT: u32 = 1_000;

impl Recorder for Append {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async {
            let payload = serde_json::to_vec(&self.batch)?;
            let mut command = redis::cmd("XADD");
            command
                .arg("lab:appended")
                .arg("MAXLEN")
                .arg("~")
                .arg(KEPT)
                .arg("*")
                .arg("readings")
                .arg(payload);
            let id: String = command.query_async(&mut self.connection.clone()).await?;
            ensure!(id.contains('-'), "{id:?} is not the ID of a stream entry");
            Ok(())
        }
        .boxed()
    }
}

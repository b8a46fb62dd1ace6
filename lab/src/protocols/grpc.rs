//! gRPC: the unary call `Record`, and `Upload`, which streams. All calls share one HTTP/2
//! connection, on which each has its own stream.

use futures::future::{BoxFuture, FutureExt};
use futures::stream;
use grpc::proto::{Metric, Reading};
use grpc::{Client, Config, Options};

use super::batch::{STATION, Sample, samples, verify_count};
use super::protocol::{Address, Kind, MAX_CONNECTIONS, Protocol, Recorder, Served, connected};

/// A call for each batch: one message with the whole batch, and one response.
pub(super) const UNARY: Protocol = Protocol {
    id: "grpc_unary",
    name: "gRPC unary",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener, shutdown| {
        let mut config = Config::default();
        config.limits.connections.max_connections = MAX_CONNECTIONS;
        async { Ok(grpc::serve(listener, config, shutdown.cancelled_owned()).await?) }.boxed()
    }),
    connect: |address, readings| async move { connected(Unary(Grpc::new(&address, readings)?)) }.boxed(),
};

/// A call for each batch: one message for each reading, and one response.
pub(super) const STREAM: Protocol = Protocol {
    id: "grpc_stream",
    name: "gRPC stream",
    connect: |address, readings| async move { connected(Stream(Grpc::new(&address, readings)?)) }.boxed(),
    ..UNARY
};

struct Grpc {
    client: Client,
    batch: Vec<Reading>,
}

impl Grpc {
    fn new(address: &Address, readings: usize) -> anyhow::Result<Self> {
        let options = Options { tls: address.options(), ..Options::default() };
        let client = Client::new(&address.url(["http", "https"]), &options)?;
        Ok(Self { client, batch: samples(readings).map(reading).collect() })
    }
}

pub(crate) fn reading(sample: Sample) -> Reading {
    let Sample { temperature, recorded_at } = sample;
    let metric = Metric::Temperature.into();
    Reading { station: STATION.into(), metric, value: temperature, recorded_at }
}

struct Unary(Grpc);

impl Recorder for Unary {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        let Grpc { client, batch } = &self.0;
        async { verify_count(client.record(batch).await?, batch.len()) }.boxed()
    }
}

struct Stream(Grpc);

impl Recorder for Stream {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        let Grpc { client, batch } = &self.0;
        async {
            let summary = client.upload(stream::iter(batch.clone()), None).await?;
            verify_count(usize::try_from(summary.accepted)?, batch.len())
        }
        .boxed()
    }
}

//! gRPC: `Record` with protobuf, and `Upload`, which streams. All calls share one
//! HTTP/2 connection, on which each is a stream of its own.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use futures::stream;
use grpc::Config;
use grpc::proto::{Metric, Reading};
use grpc::{Client, Options};
use tokio::net::TcpListener;

use super::{Connected, Kind, Protocol, Recorder, STATION, Sample, Served, samples, verify_count};
use crate::server::owner_is_gone;

/// One message with the whole batch, and one reply.
pub(super) const UNARY: Protocol = Protocol {
    id: "grpc_unary",
    name: "gRPC unary",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(serve),
    connect: |address, readings| {
        async move { Ok(Arc::new(Unary(Grpc::new(&address, readings)?)) as Arc<dyn Recorder>) }.boxed()
    },
};

/// A call for each batch: a message for each reading, and one reply.
pub(super) const STREAM: Protocol = Protocol {
    id: "grpc_stream",
    name: "gRPC stream",
    connect: |address, readings| {
        async move { Ok(Arc::new(Stream(Grpc::new(&address, readings)?)) as Arc<dyn Recorder>) }.boxed()
            as BoxFuture<'static, Connected>
    },
    ..UNARY
};

fn serve(listener: TcpListener) -> BoxFuture<'static, anyhow::Result<()>> {
    async { Ok(grpc::serve(listener, Config::default(), owner_is_gone()).await?) }.boxed()
}

struct Grpc {
    client: Client,
    batch: Vec<Reading>,
}

impl Grpc {
    fn new(address: &str, readings: usize) -> anyhow::Result<Self> {
        let client = Client::new(&format!("http://{address}"), &Options::default())?;
        Ok(Self { client, batch: samples(readings).map(reading).collect() })
    }
}

fn reading(sample: Sample) -> Reading {
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

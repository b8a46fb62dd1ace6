//! HTTP/REST: `POST /readings` with JSON. Each call in flight has its own connection, which the
//! client keeps for later calls.

use futures::future::{BoxFuture, FutureExt};
use http_rest::{Client, Limits, Metric, Reading};

use super::batch::{STATION, Sample, samples, verify_count};
use super::protocol::{Kind, MAX_CONNECTIONS, Protocol, Recorder, Served, connected};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "http_rest",
    name: "HTTP/REST",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener, shutdown| {
        let mut limits = Limits::default();
        limits.connections.max_connections = MAX_CONNECTIONS;
        async { Ok(http_rest::serve(listener, limits, shutdown.cancelled_owned()).await?) }.boxed()
    }),
    connect: |address, readings| {
        async move {
            let client = Client::with_tls(&address.url(["http", "https"]), &address.options())?;
            connected(Http { client, batch: samples(readings).map(reading).collect() })
        }
        .boxed()
    },
};

pub(crate) fn reading(sample: Sample) -> Reading {
    let Sample { temperature, recorded_at } = sample;
    Reading { station: STATION.into(), metric: Metric::Temperature, value: temperature, recorded_at }
}

struct Http {
    client: Client,
    batch: Vec<Reading>,
}

impl Recorder for Http {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { verify_count(self.client.record(&self.batch).await?, self.batch.len()) }.boxed()
    }
}

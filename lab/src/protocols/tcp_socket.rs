//! TCP: this repository's binary protocol. All calls share one connection, and each response
//! carries the ID of its request.

use futures::future::{BoxFuture, FutureExt};
use tcp_socket::{Client, Limits, Metric, Reading};

use super::batch::{STATION, Sample, samples, verify_count};
use super::protocol::{Kind, MAX_CONNECTIONS, Protocol, Recorder, Served, connected};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "tcp_socket",
    name: "TCP",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener, shutdown| {
        let mut limits = Limits::default();
        limits.connections.max_connections = MAX_CONNECTIONS;
        async { Ok(tcp_socket::serve(listener, limits, shutdown.cancelled_owned()).await?) }.boxed()
    }),
    connect: |address, readings| {
        async move {
            let url = address.url(["tcp", "tls"]);
            let client = Client::connect_with_tls(&url, &address.options()).await?;
            connected(Tcp { client, batch: samples(readings).map(reading).collect() })
        }
        .boxed()
    },
};

pub(crate) fn reading(sample: Sample) -> Reading {
    let Sample { temperature, recorded_at } = sample;
    Reading { station: STATION.into(), metric: Metric::Temperature, value: temperature, recorded_at }
}

struct Tcp {
    client: Client,
    batch: Vec<Reading>,
}

impl Recorder for Tcp {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { verify_count(self.client.record(&self.batch).await? as usize, self.batch.len()) }.boxed()
    }
}

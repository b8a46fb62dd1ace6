//! WebSocket: JSON in text messages. All calls share one connection, and each response
//! carries the ID of its request.

use futures::future::{BoxFuture, FutureExt};
use websocket::limits::Timeouts;
use websocket::{Client, Limits, Metric, Reading};

use super::batch::{STATION, Sample, samples, verify_count};
use super::protocol::{Kind, MAX_CONNECTIONS, Protocol, Recorder, Served, connected};

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "websocket",
    name: "WebSocket",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener, shutdown| {
        let mut limits = Limits::default();
        limits.connections.max_connections = MAX_CONNECTIONS;
        let origins = Vec::new();
        async { Ok(websocket::serve(listener, limits, origins, shutdown.cancelled_owned()).await?) }.boxed()
    }),
    connect: |address, readings| {
        async move {
            let url = address.url(["http", "https"]);
            let client = Client::with_tls(&url, Timeouts::default(), &address.options());
            connected(WebSocket { client, batch: samples(readings).map(reading).collect() })
        }
        .boxed()
    },
};

pub(crate) fn reading(sample: Sample) -> Reading {
    let Sample { temperature, recorded_at } = sample;
    Reading { station: STATION.into(), metric: Metric::Temperature, value: temperature, recorded_at }
}

struct WebSocket {
    client: Client,
    batch: Vec<Reading>,
}

impl Recorder for WebSocket {
    fn record(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async { verify_count(self.client.record(&self.batch).await?, self.batch.len()) }.boxed()
    }
}

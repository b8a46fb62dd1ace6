//! TCP: this repository's binary protocol. All calls share one connection; a reply
//! carries its request's id.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use tcp_socket::{Client, Limits, Metric, Reading};

use super::{Connected, Kind, Protocol, Recorder, STATION, Sample, Served, samples, verify_count};
use crate::server::owner_is_gone;

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "tcp_socket",
    name: "TCP",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener| {
        async { Ok(tcp_socket::serve(listener, Limits::default(), owner_is_gone()).await?) }.boxed()
    }),
    connect: |address, readings| {
        async move {
            let client = Client::connect(&address).await?;
            Ok(Arc::new(Tcp { client, batch: samples(readings).map(reading).collect() }) as Arc<dyn Recorder>)
        }
        .boxed() as BoxFuture<'static, Connected>
    },
};

fn reading(sample: Sample) -> Reading {
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

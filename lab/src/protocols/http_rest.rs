//! HTTP/REST: `POST /readings` with JSON. Each call in flight has a connection
//! of its own, kept for the next call.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use http_rest::Client;
use http_rest::Limits;
use http_rest::{Metric, Reading};

use super::{Connected, Kind, Protocol, Recorder, STATION, Sample, Served, samples, verify_count};
use crate::server::owner_is_gone;

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "http_rest",
    name: "HTTP/REST",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener| {
        async { Ok(http_rest::serve(listener, Limits::default(), owner_is_gone()).await?) }.boxed()
    }),
    connect: |address, readings| {
        async move {
            let client = Client::new(&format!("http://{address}"))?;
            Ok(Arc::new(Http { client, batch: samples(readings).map(reading).collect() })
                as Arc<dyn Recorder>)
        }
        .boxed() as BoxFuture<'static, Connected>
    },
};

fn reading(sample: Sample) -> Reading {
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

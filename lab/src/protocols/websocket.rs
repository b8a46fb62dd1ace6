//! WebSocket: JSON in text messages. All calls share one connection; a reply
//! carries its request's id.

use std::sync::Arc;

use futures::future::{BoxFuture, FutureExt};
use websocket::Client;
use websocket::Limits;
use websocket::{Metric, Reading};

use super::{Connected, Kind, Protocol, Recorder, STATION, Sample, Served, samples, verify_count};
use crate::server::owner_is_gone;

pub(super) const PROTOCOL: Protocol = Protocol {
    id: "websocket",
    name: "WebSocket",
    kind: Kind::Recorded,
    one_at_a_time: false,
    served: Served::Directly(|listener| {
        async { Ok(websocket::serve(listener, Limits::default(), Vec::new(), owner_is_gone()).await?) }
            .boxed()
    }),
    connect: |address, readings| {
        async move {
            let client = Client::new(&format!("http://{address}"));
            let batch = samples(readings).map(reading).collect();
            Ok(Arc::new(WebSocket { client, batch }) as Arc<dyn Recorder>)
        }
        .boxed() as BoxFuture<'static, Connected>
    },
};

fn reading(sample: Sample) -> Reading {
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

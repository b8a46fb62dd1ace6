//! gRPC: a call that succeeds, one that is refused, and a stream from the server.

use futures::StreamExt;
use grpc::proto::{Metric, Reading};
use grpc::{Client, Options};

use super::play::{IMPOSSIBLE, RECORDED_AT, STATION, Stage, TEMPERATURE, expect_refusal};

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let options = Options { tls: stage.client.options(), ..Options::default() };
    let client = Client::new(&stage.client.url(["http", "https"]), &options)?;
    stage.say("The client records a reading, and then an impossible one.");
    client.record(&[reading(TEMPERATURE)]).await?;
    expect_refusal(&client.record(&[reading(IMPOSSIBLE)]).await)?;
    stage.say("It watches the station while it records another reading.");
    let mut readings = client.watch(STATION, None, None).await?;
    client.record(&[reading(TEMPERATURE)]).await?;
    readings.next().await.transpose()?;
    Ok(())
}

fn reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature.into(), value, recorded_at: RECORDED_AT }
}

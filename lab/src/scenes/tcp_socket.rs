//! The protocol over TCP: versions, a batch, a refusal, a stream, and an orderly close.

use futures::StreamExt;
use tcp_socket::{Client, Metric, Reading};

use super::play::{IMPOSSIBLE, RECORDED_AT, STATION, Stage, TEMPERATURE, expect_refusal};

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    stage.say("The client connects. Both sides agree on a version.");
    let client = Client::connect_with_tls(&stage.client.url(["tcp", "tls"]), &stage.client.options()).await?;
    stage.say("It records a reading, and then an impossible one.");
    client.record(&[reading(TEMPERATURE)]).await?;
    expect_refusal(&client.record(&[reading(IMPOSSIBLE)]).await)?;
    stage.say("It watches the station while it records another reading.");
    let mut readings = client.watch(STATION).await?;
    client.record(&[reading(TEMPERATURE)]).await?;
    readings.next().await.transpose()?;
    stage.say("It says goodbye.");
    client.close().await;
    Ok(())
}

fn reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature, value, recorded_at: RECORDED_AT }
}

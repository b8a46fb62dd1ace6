//! The protocol over TCP: versions, a batch, a refusal, a stream, and a farewell.

use futures::StreamExt;
use tcp_socket::{Client, Metric, Reading};

use super::play::{IMPOSSIBLE, RECORDED_AT, STATION, Stage, TEMPERATURE, expect_refusal};

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let client = Client::connect(&stage.client).await?;
    client.record(&[reading(TEMPERATURE)]).await?;
    expect_refusal(&client.record(&[reading(IMPOSSIBLE)]).await)?;
    let mut readings = client.watch(STATION).await?;
    client.record(&[reading(TEMPERATURE)]).await?;
    readings.next().await.transpose()?;
    drop(readings); // Sends CANCEL.
    client.close().await;
    Ok(())
}

fn reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature, value, recorded_at: RECORDED_AT }
}

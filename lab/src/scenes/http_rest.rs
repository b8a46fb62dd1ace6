//! HTTP/REST: create, record, be refused, ask again only for what changed, and follow a stream.

use futures::StreamExt;
use http_rest::{Client, Metric, Reading, Station};

use super::play::{IMPOSSIBLE, RECORDED_AT, STATION, Stage, TEMPERATURE, expect_refusal};

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let client = Client::new(&format!("http://{}", stage.client))?;
    let (latitude, longitude) = (Some(59.91), Some(10.75));
    let station = Station { id: STATION.into(), name: "Oslo".into(), latitude, longitude };
    let etag = client.create_station(&station).await?.etag;
    client.record(&[reading(TEMPERATURE)]).await?;
    expect_refusal(&client.record(&[reading(IMPOSSIBLE)]).await)?;
    // Nobody changed the station, so the response has no body.
    client.station_if_changed(STATION, &etag).await?;
    let mut readings = client.watch(Some(STATION)).await?;
    client.record(&[reading(TEMPERATURE)]).await?;
    readings.next().await.transpose()?;
    Ok(())
}

fn reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature, value, recorded_at: RECORDED_AT }
}

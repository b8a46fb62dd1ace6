//! HTTP/REST: create a station, record, be refused, ask for the station only if it has changed, and
//! follow a stream.

use futures::StreamExt;
use http_rest::{Client, Metric, Reading, Station};

use super::play::{IMPOSSIBLE, RECORDED_AT, STATION, Stage, TEMPERATURE, expect_refusal};

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let client = Client::with_tls(&stage.client.url(["http", "https"]), &stage.client.options())?;
    let (latitude, longitude) = (Some(59.91), Some(10.75));
    let station = Station { id: STATION.into(), name: "Oslo".into(), latitude, longitude };
    stage.say("The client creates a station.");
    let etag = client.create_station(&station).await?.etag;
    stage.say("It records a reading, and then an impossible one.");
    client.record(&[reading(TEMPERATURE)]).await?;
    expect_refusal(&client.record(&[reading(IMPOSSIBLE)]).await)?;
    stage.say("It asks for the station again. Nobody changed it, so the response has no body.");
    client.station_if_changed(STATION, &etag).await?;
    stage.say("It follows the station's readings while it records another one.");
    let mut readings = client.watch(Some(STATION)).await?;
    client.record(&[reading(TEMPERATURE)]).await?;
    readings.next().await.transpose()?;
    Ok(())
}

fn reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature, value, recorded_at: RECORDED_AT }
}

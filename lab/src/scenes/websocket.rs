//! WebSocket: readings over one connection, and a chat room over another.

use futures::StreamExt;
use websocket::limits::Timeouts;
use websocket::{Client, Metric, Reading};

use super::play::{IMPOSSIBLE, RECORDED_AT, STATION, Stage, TEMPERATURE, expect_refusal};

pub(super) async fn play(stage: &Stage) -> anyhow::Result<()> {
    let url = stage.client.url(["http", "https"]);
    let client = Client::with_tls(&url, Timeouts::default(), &stage.client.options());
    stage.say("The client records a reading, and then an impossible one.");
    client.record(&[reading(TEMPERATURE)]).await?;
    expect_refusal(&client.record(&[reading(IMPOSSIBLE)]).await)?;
    stage.say("It joins a chat room over a second connection, speaks, and leaves.");
    let (chat, mut events) = client.chat("lobby", "ada").await?;
    events.next().await.transpose()?; // The list of members.
    chat.say("It is cold in Oslo.").await?;
    events.next().await.transpose()?;
    chat.leave().await;
    client.close().await;
    Ok(())
}

fn reading(value: f64) -> Reading {
    Reading { station: STATION.into(), metric: Metric::Temperature, value, recorded_at: RECORDED_AT }
}

//! The command `watch`, which continues after a lost connection or a restart of the server.

use std::io::Write;
use std::time::Duration;

use futures::StreamExt;
use tcp_socket::base::retry::Pauses;
use tcp_socket::base::text::printable;
use tcp_socket::client::{Client, Error, Watch};
use tcp_socket::protocol::handshake::Id;
use tcp_socket::protocol::message::{ErrorCode, Update};
use tokio::time::sleep;

/// Shortest and longest pause between attempts to watch again.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Prints each reading of a station to `out` when it is recorded. Notes about the connection
/// go to `notes`, where a failed write is ignored: perhaps nobody reads them anymore.
pub async fn watch(
    client: &Client,
    station: &str,
    count: Option<u64>,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> anyhow::Result<()> {
    let mut instance_id = client.connected().await?;
    let mut watch = client.watch(station).await?;
    let _ = writeln!(notes, "watching {station}");
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        let Update { skipped, readings } = match watch.next().await {
            Some(Ok(update)) => update,
            Some(Err(error)) => {
                let _ = writeln!(notes, "{}; reconnecting", printable(&error.to_string()));
                watch = watch_again(client, station, &mut instance_id, notes).await?;
                continue;
            }
            None => break,
        };
        if skipped > 0 {
            let _ = writeln!(notes, "{skipped} readings were missed: this client was too slow");
        }
        for reading in readings {
            writeln!(out, "{} {} at {}", reading.metric.name(), reading.value, reading.recorded_at)?;
            seen += 1;
        }
    }
    Ok(())
}

/// Watches the station again, once there is a connection and the server knows the station.
async fn watch_again(
    client: &Client,
    station: &str,
    instance_id: &mut Id,
    notes: &mut impl Write,
) -> Result<Watch, Error> {
    let mut pauses = Pauses::new(RETRY_PAUSE.0, RETRY_PAUSE.1);
    let mut said = false;
    loop {
        let now = client.connected().await?;
        if !said {
            let missed = if now == *instance_id {
                "readings recorded in the meantime were missed"
            } else {
                "the server restarted and has forgotten earlier readings"
            };
            let _ = writeln!(notes, "connected again; {missed}");
            (said, *instance_id) = (true, now);
        }
        match client.watch(station).await {
            Ok(watch) => return Ok(watch),
            // A restarted server knows the station once it has a reading for it.
            Err(Error::Refused(refusal)) if refusal.code == ErrorCode::UnknownStation as u16 => {}
            // The connection was lost again.
            Err(Error::NotExecuted(_) | Error::OutcomeUnknown(_)) => {}
            Err(error) => return Err(error),
        }
        sleep(pauses.next_pause()).await;
    }
}

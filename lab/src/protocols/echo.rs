//! Code that the two echoes share.

use std::io;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::batch::{INFORMATION, STATION, samples};

/// Returns the information of this many readings as bytes.
pub(super) fn information(readings: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(readings * INFORMATION);
    for sample in samples(readings) {
        bytes.extend_from_slice(STATION.as_bytes());
        bytes.push(1);
        bytes.extend_from_slice(&sample.temperature.to_be_bytes());
        bytes.extend_from_slice(&sample.recorded_at.to_be_bytes());
    }
    bytes
}

/// Checks that the server returned what was sent.
pub(super) fn verify_echo(sent: &[u8], reply: &[u8]) -> anyhow::Result<()> {
    anyhow::ensure!(sent == reply, "the echo returned bytes that differ from those sent");
    Ok(())
}

/// Accepts connections until `shutdown` is cancelled. There is no limit on connections, because
/// the lab is the only peer.
pub(super) async fn accept_each(
    listener: TcpListener,
    shutdown: CancellationToken,
    mut each: impl FnMut(TcpStream) -> io::Result<()>,
) -> anyhow::Result<()> {
    let accept = async {
        loop {
            let (stream, _peer) = listener.accept().await?;
            stream.set_nodelay(true)?;
            each(stream)?;
        }
    };
    // Cancel safe: after the shutdown, no further connection is needed.
    tokio::select! {
        ended = accept => ended,
        () = shutdown.cancelled() => Ok(()),
    }
}

//! Counts the bytes that a request takes on the wire.

use crate::protocols::Recorder;
use crate::run::running_protocol::RunningProtocol;
use crate::wire::proxy::{Bytes, Proxy};

/// Number of requests before the counting starts. The first requests carry extra bytes: for
/// example, HTTP/2 fills its table of headers and opens its flow-control windows.
const WARM_UP: u32 = 20;

/// Number of requests whose bytes are counted.
const COUNTED: u32 = 100;

/// Bytes on the wire for one request, and for its connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wire {
    /// Bytes from client to server, mean per request.
    pub request: f64,
    /// Bytes from server to client, mean per request.
    pub response: f64,
    /// Bytes in both directions that a connection costs once: handshakes, settings, and the extra
    /// bytes of its first requests.
    pub set_up: f64,
}

/// Sends requests through `proxy`, one at a time, and counts the bytes of the last 100.
///
/// # Errors
/// If the connection or a request fails.
pub async fn count_bytes(target: &RunningProtocol, proxy: &Proxy, readings: u64) -> anyhow::Result<Wire> {
    let at_first = proxy.count(); // A server behind a broker has connected already.
    let recorder = target.connect(readings).await?;
    let repeat = async |times: u32, recorder: &dyn Recorder| -> anyhow::Result<Bytes> {
        for _ in 0..times {
            recorder.record().await?;
        }
        Ok(proxy.count())
    };
    let before = repeat(WARM_UP, &*recorder).await?;
    let after = repeat(COUNTED, &*recorder).await?;
    let request = (after.sent - before.sent) as f64 / f64::from(COUNTED);
    let response = (after.received - before.received) as f64 / f64::from(COUNTED);
    let warm_up = before.sent + before.received - at_first.sent - at_first.received;
    let set_up = warm_up as f64 - f64::from(WARM_UP) * (request + response);
    Ok(Wire { request, response, set_up: set_up.max(0.0) })
}

//! Counts what travels: a forwarding proxy between client and server. What it
//! counts is TCP payload, the bytes that a program writes and reads. Headers of
//! TCP and IP (on Ethernet 66 bytes a segment, mostly) come on top.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::placement::runtime;
use crate::protocols::Recorder;
use crate::target::Target;

/// Requests before counting: the connection settles (HTTP/2 remembers headers,
/// flow control windows are opened).
const WARM_UP: u32 = 20;

/// Requests that are counted.
const COUNTED: u32 = 100;

/// A proxy on a port of its own. Dropped, it cuts its connections.
pub struct Proxy {
    address: String,
    counts: Arc<Counts>,
    /// Its thread ends when this is dropped.
    _open: oneshot::Sender<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Bytes of TCP payload, as the client sees them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bytes {
    /// From client to server.
    pub sent: u64,
    /// From server to client.
    pub received: u64,
}

impl Proxy {
    /// A proxy in front of the server at `target`.
    ///
    /// # Errors
    /// If no port is to be had.
    pub fn start(target: String) -> std::io::Result<Self> {
        let runtime = runtime()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        let counts = Arc::new(Counts::default());
        let (open, dropped) = oneshot::channel::<()>();
        let counted = counts.clone();
        // A thread of its own: a client that blocks its thread must not block this.
        thread::spawn(move || {
            runtime.spawn(async { accept(TcpListener::from_std(listener)?, target, counted).await });
            let _ = runtime.block_on(dropped);
        });
        Ok(Self { address, counts, _open: open })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has forwarded so far.
    pub fn count(&self) -> Bytes {
        Bytes { sent: self.counts.sent.load(Relaxed), received: self.counts.received.load(Relaxed) }
    }
}

async fn accept(listener: TcpListener, target: String, counts: Arc<Counts>) -> std::io::Result<()> {
    let mut connections = JoinSet::new(); // Ends with this task.
    loop {
        let (client, _peer) = listener.accept().await?;
        let Ok(server) = TcpStream::connect(&target).await else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        let (up, down) = (counts.clone(), counts.clone());
        connections.spawn(async move { forward(from_client, to_server, &up.sent).await });
        connections.spawn(async move { forward(from_server, to_client, &down.received).await });
    }
}

/// Counted before it is passed on: whoever has received a byte finds it counted.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: &AtomicU64) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        count.fetch_add(length as u64, Relaxed);
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// What one request costs on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wire {
    /// Bytes from client to server, mean per request.
    pub request: f64,
    /// Bytes from server to client, mean per request.
    pub response: f64,
    /// Bytes in both directions that came once, with the connection: handshakes,
    /// settings, and what the first requests had in excess of later ones.
    pub set_up: f64,
}

/// Counts the bytes of a hundred requests through `proxy`, one at a time.
///
/// # Errors
/// If the connection or a request fails.
pub async fn count_bytes(target: &Target, proxy: &Proxy, readings: u64) -> anyhow::Result<Wire> {
    let at_first = proxy.count(); // A server through a broker has connected already.
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

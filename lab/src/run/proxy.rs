//! A proxy between client and server that forwards everything and counts TCP payload: the bytes
//! that programs write and read. The headers of Ethernet, IP, and TCP are not included. They
//! usually add 66 bytes per segment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::placement::runtime;

/// A proxy on its own port. Dropping it closes its connections.
pub struct Proxy {
    address: String,
    counts: Arc<Counts>,
    /// The proxy's thread ends when this is dropped.
    _open: oneshot::Sender<()>,
}

#[derive(Default)]
struct Counts {
    sent: AtomicU64,
    received: AtomicU64,
}

/// Bytes of TCP payload, from the client's point of view.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bytes {
    /// From client to server.
    pub sent: u64,
    /// From server to client.
    pub received: u64,
}

impl Proxy {
    /// Starts a proxy in front of the server at `target`.
    ///
    /// # Errors
    /// If no port is available.
    pub fn start(target: String) -> std::io::Result<Self> {
        let runtime = runtime()?;
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?.to_string();
        let counts = Arc::new(Counts::default());
        let (open, dropped) = oneshot::channel::<()>();
        let counted = counts.clone();
        // The proxy has its own thread, which keeps running while a client blocks its thread.
        thread::spawn(move || {
            runtime.spawn(async { accept(TcpListener::from_std(listener)?, target, counted).await });
            let _ = runtime.block_on(dropped);
        });
        Ok(Self { address, counts, _open: open })
    }

    /// Returns the `host:port` that the proxy listens on.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns how many bytes the proxy has forwarded so far.
    pub fn count(&self) -> Bytes {
        Bytes { sent: self.counts.sent.load(Relaxed), received: self.counts.received.load(Relaxed) }
    }
}

async fn accept(listener: TcpListener, target: String, counts: Arc<Counts>) -> std::io::Result<()> {
    let mut connections = JoinSet::new(); // The connections end with this task.
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

/// Forwards one direction. Bytes are counted before they are written, so every byte that a
/// peer has received is already counted.
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

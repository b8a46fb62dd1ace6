//! A proxy between client and server. It forwards everything, counts TCP payload, and can record
//! what passes. TCP payload is what programs write and read: the headers of Ethernet, IP, and TCP
//! are not included. They usually add 66 bytes per segment.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::gate::{Act, Faults, Gate};
use super::message::Side;
use super::tape::{Tape, What};

/// A proxy on its own port. Dropping it closes its connections.
pub struct Proxy {
    address: SocketAddr,
    counts: Arc<Counts>,
    target: watch::Sender<Option<String>>,
    /// Canceled once the proxy should accept no further connections.
    stop: CancellationToken,
    /// Completes once all connections have ended after that.
    ended: oneshot::Receiver<()>,
    /// The proxy's thread ends when this is dropped.
    _open: oneshot::Sender<()>,
}

/// Time that [`Proxy::finish`] gives connections to end.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// Maximum time for a server to close a connection after a fault has cut it off from its client.
const NOTICE_WITHIN: Duration = Duration::from_secs(60);

/// Time without accepting after the system refused to accept a connection, or to listen again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    /// Starts a proxy on a free port, in front of the server at `target`. If there is a tape, it
    /// records what passes.
    ///
    /// # Errors
    /// If no port is available.
    pub fn start(target: String, tape: Option<Arc<Tape>>) -> std::io::Result<Self> {
        Self::listen("127.0.0.1:0", target, tape, None)
    }

    /// Like [`Proxy::start`], but listens on the `host:port` in `listen` and makes `faults`, if any.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn listen(
        listen: &str,
        target: String,
        tape: Option<Arc<Tape>>,
        faults: Option<Arc<Faults>>,
    ) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let (open, dropped) = oneshot::channel::<()>();
        let (has_ended, ended) = oneshot::channel::<()>();
        let (stop, counted) = (CancellationToken::new(), counts.clone());
        let (target, targets) = watch::channel(Some(target));
        let stopped = stop.clone();
        // The proxy has its own thread, which keeps running while a client blocks its thread.
        thread::spawn(move || {
            runtime.spawn(async move {
                let listener = TcpListener::from_std(listener)?;
                let mut connections = JoinSet::new(); // The connections end with this task.
                let shared = Shared { counts: counted, tape, faults };
                let accepting = accept(listener, &mut connections, targets, shared);
                stopped.run_until_cancelled(accepting).await;
                let all = async { while connections.join_next().await.is_some() {} };
                let _ = timeout(FINISH_WITHIN, all).await;
                drop(has_ended);
                std::io::Result::Ok(())
            });
            let _ = runtime.block_on(dropped);
        });
        Ok(Self { address, counts, target, stop, ended, _open: open })
    }

    /// Returns the `host:port` that the proxy listens on.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Forwards new connections to another server. With `None`, the proxy does not listen, as if the
    /// server were down.
    pub fn point_at(&self, target: Option<String>) {
        self.target.send_replace(target);
    }

    /// Accepts no further connections, and waits until the others have ended: at most two seconds.
    pub async fn finish(self) {
        self.stop.cancel();
        let _ = self.ended.await; // An error only says that the other end is gone.
    }

    /// Returns how many bytes the proxy has forwarded so far.
    pub fn count(&self) -> Bytes {
        Bytes { sent: self.counts.sent.load(Relaxed), received: self.counts.received.load(Relaxed) }
    }
}

/// What all connections share.
#[derive(Clone)]
struct Shared {
    counts: Arc<Counts>,
    tape: Option<Arc<Tape>>,
    faults: Option<Arc<Faults>>,
}

async fn accept(
    listener: TcpListener,
    connections: &mut JoinSet<()>,
    mut targets: watch::Receiver<Option<String>>,
    shared: Shared,
) {
    let Ok(address) = listener.local_addr() else { return };
    let mut listener = Some(listener);
    let mut number = 0;
    loop {
        let Some(target) = targets.borrow_and_update().clone() else {
            listener = None;
            let _ = targets.wait_for(Option::is_some).await;
            continue;
        };
        if listener.is_none() {
            listener = TcpListener::bind(address).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await.ok(),
                None => None,
            }
        };
        // Cancel safe: a connection that is not accepted yet waits in the system.
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            Ok(()) = targets.changed() => continue,
        };
        let Some((client, peer)) = accepted else {
            // Usually, too many files are open. A connection that ends makes room.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        while connections.try_join_next().is_some() {} // Forgets those that have ended.
        let cut = shared.faults.as_ref().map_or_else(CancellationToken::new, |faults| faults.until_cut());
        // A fault that cuts this connection leaves the others alone.
        let observer = Observer { connection: number, cut: cut.child_token(), shared: shared.clone() };
        let gate = shared.faults.clone().map(|faults| Mutex::new(Gate::new(faults)));
        number += 1;
        connections.spawn(async move {
            connect(client, peer, &target, &observer, gate.as_ref()).await;
            if let Some(tape) = observer.shared.tape {
                tape.closed(observer.connection);
            }
        });
    }
}

/// Connects to the server and forwards both directions.
async fn connect(
    client: TcpStream,
    peer: SocketAddr,
    target: &str,
    observer: &Observer,
    gate: Option<&Mutex<Gate>>,
) {
    let server = TcpStream::connect(target).await;
    let port = server.as_ref().ok().and_then(|server| server.peer_addr().ok()).map_or(0, |addr| addr.port());
    observer.note(Side::Client, What::Open { client: peer.port(), server: port });
    let Ok(server) = server else { return observer.note(Side::Server, What::Reset) };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let both = async {
        tokio::join!(
            forward(&mut from_client, &mut to_server, Side::Client, observer, gate),
            forward(&mut from_server, &mut to_client, Side::Server, observer, gate),
        )
    };
    // A fault that cuts the connection ends both directions at once.
    if observer.cut.run_until_cancelled(both).await.is_none() {
        drop((from_client, to_client));
        // The server notices it, and the tape records when the server closes the connection, too.
        let _ = to_server.shutdown().await;
        let mut rest = vec![0; 64 * 1024];
        let closes = async { while from_server.read(&mut rest).await.is_ok_and(|length| length > 0) {} };
        if timeout(NOTICE_WITHIN, closes).await.is_ok() {
            observer.note(Side::Server, What::End);
        }
    }
}

/// Forwards one direction. Bytes are counted and recorded before they are written, so every byte
/// that a peer has received is already known here.
async fn forward(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    side: Side,
    observer: &Observer,
    gate: Option<&Mutex<Gate>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => {
                observer.note(side, What::End);
                break;
            }
            Ok(length) => {
                observer.data(side, &buffer[..length]);
                if let Some(faults) = &observer.shared.faults {
                    faults.pass().await;
                }
                let written = match gate {
                    None => to.write_all(&buffer[..length]).await,
                    Some(gate) => act(decide(gate, side, &buffer[..length]), to, side, observer).await,
                };
                if written.is_err() {
                    return; // The other direction reports that the peer is gone.
                }
            }
            Err(_) => {
                observer.note(side, What::Reset);
                break;
            }
        }
    }
    let _ = to.shutdown().await;
}

fn decide(gate: &Mutex<Gate>, from: Side, bytes: &[u8]) -> Vec<Act> {
    gate.lock().unwrap_or_else(PoisonError::into_inner).pass(from, bytes)
}

/// Does what the gate has decided.
async fn act(
    acts: Vec<Act>,
    to: &mut OwnedWriteHalf,
    side: Side,
    observer: &Observer,
) -> std::io::Result<()> {
    for act in acts {
        match act {
            Act::Forward(bytes) => to.write_all(&bytes).await?,
            Act::Wait(time) => tokio::time::sleep(time).await,
            Act::WaitForever => std::future::pending().await,
            Act::Cut => {
                observer.cut.cancel();
                std::future::pending::<()>().await; // Nothing after the cut passes.
            }
            Act::End => {
                to.shutdown().await?;
                return Err(ErrorKind::BrokenPipe.into()); // Nothing more passes.
            }
            Act::Say(text) => observer.note(side, What::Note(text)),
        }
    }
    Ok(())
}

/// Counts and records what passes on one connection.
struct Observer {
    connection: u32,
    /// Canceled when a fault cuts the connection.
    cut: CancellationToken,
    shared: Shared,
}

impl Observer {
    fn data(&self, from: Side, bytes: &[u8]) {
        let count = match from {
            Side::Client => &self.shared.counts.sent,
            Side::Server => &self.shared.counts.received,
        };
        count.fetch_add(bytes.len() as u64, Relaxed);
        if let Some(tape) = &self.shared.tape {
            tape.push(self.connection, from, What::Data(bytes.to_vec()));
        }
    }

    fn note(&self, from: Side, what: What) {
        if let Some(tape) = &self.shared.tape {
            tape.push(self.connection, from, what);
        }
    }
}

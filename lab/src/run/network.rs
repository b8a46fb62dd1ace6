//! A network between client and server, as a program experiences it: a forwarder that delays bytes
//! and limits how many pass per second.
//!
//! It delays bytes, not packets. Nothing is lost or reordered, and TCP's own rules (a slow start,
//! an acknowledgement for each segment) still see the short way inside the machine. TCP's handshake
//! also passes at once, so the first bytes of a connection wait one round trip longer instead.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Maximum number of writes on their way in one direction. At this number, the sender has to wait.
const ON_THE_WAY: usize = 4096;

/// A forwarder on its own port. Dropping it lets no further connections through.
pub struct Network {
    address: SocketAddr,
    line: Arc<Line>,
}

/// What all connections share.
struct Line {
    /// In nanoseconds.
    round_trip: AtomicU64,
    /// 0 if there is no limit.
    bits_per_second: AtomicU64,
    closed: AtomicBool,
    /// When each direction has sent everything so far: to the server, and to the client.
    idle_from: [Mutex<Instant>; 2],
}

impl Network {
    /// Starts a forwarder in front of the server at `target`, at first without a delay.
    ///
    /// # Errors
    /// If no port is available.
    pub fn start(target: String) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (address, line) = (listener.local_addr()?, Arc::new(Line::new()));
        let shared = line.clone();
        // Threads, because a runtime's timer can be a millisecond late.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.closed.load(Relaxed) {
                    break;
                }
                let _ = connect(client, &target, &shared); // If it fails, the client is disconnected.
            }
        });
        Ok(Self { address, line })
    }

    /// Returns the address to connect to.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Sets the delay of a round trip, half in each direction, and the limit in bits per second, if
    /// any, that all connections share in each direction.
    pub fn set(&self, round_trip: Duration, bits_per_second: Option<u64>) {
        self.line.round_trip.store(round_trip.as_nanos() as u64, Relaxed);
        self.line.bits_per_second.store(bits_per_second.unwrap_or(0), Relaxed);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.line.closed.store(true, Relaxed);
        let _ = TcpStream::connect(self.address); // Wakes the thread that accepts.
    }
}

impl Line {
    fn new() -> Self {
        let idle_from = [Instant::now(); 2].map(Mutex::new);
        Self { round_trip: 0.into(), bits_per_second: 0.into(), closed: false.into(), idle_from }
    }

    fn round_trip(&self) -> Duration {
        Duration::from_nanos(self.round_trip.load(Relaxed))
    }

    /// Returns when this many bytes will arrive if they are sent now.
    fn arrival(&self, direction: usize, bytes: usize) -> Instant {
        let mut idle_from = self.idle_from[direction].lock().unwrap_or_else(PoisonError::into_inner);
        let mut sent = Instant::now();
        let bits_per_second = self.bits_per_second.load(Relaxed);
        if bits_per_second > 0 {
            sent =
                sent.max(*idle_from) + Duration::from_secs_f64(bytes as f64 * 8.0 / bits_per_second as f64);
            *idle_from = sent;
        }
        sent + self.round_trip() / 2
    }
}

fn connect(client: TcpStream, target: &str, line: &Arc<Line>) -> std::io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    let (there, back) = (line.clone(), line.clone());
    thread::spawn(move || forward(from, to, &there, 0));
    thread::spawn(move || forward(server, client, &back, 1));
    Ok(())
}

/// Forwards one direction. Each piece waits in a queue until it is due, so that many can be on their
/// way at the same time.
fn forward(mut from: TcpStream, to: TcpStream, line: &Line, direction: usize) {
    let after_handshake = Instant::now() + line.round_trip();
    let (queue, due) = sync_channel(ON_THE_WAY);
    thread::spawn(move || write_when_due(&due, to));
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let arrival = line.arrival(direction, count).max(after_handshake + line.round_trip() / 2);
        if queue.send((arrival, buffer[..count].to_vec())).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
}

fn write_when_due(due: &mpsc::Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    for (at, bytes) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

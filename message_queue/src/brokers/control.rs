//! Kills, freezes, and starts nodes of a running cluster, from another terminal.
//!
//! The program that runs the cluster listens on a port of loopback. An order is one line, such as
//! `kill n2`, and so is the response.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::cluster::Cluster;
use super::kind::Error;

/// Maximum length of an order, in bytes.
const MAX_ORDER: u64 = 100;

/// Maximum time until an order has arrived.
const ARRIVE: Duration = Duration::from_secs(5);

/// Maximum time that a node stays frozen. After 60 s of silence, RabbitMQ's nodes would disconnect
/// from it, and it would have to be restarted.
pub const MAX_FREEZE: Duration = Duration::from_secs(40);

/// What to do with a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Kill it like kill -9.
    Kill(String),
    /// Stop it for a while, like kill -STOP.
    Freeze(String, Duration),
    /// Start it again.
    Start(String),
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(name) => write!(f, "kill {name}"),
            Self::Freeze(name, time) => write!(f, "freeze {name} {}", time.as_secs()),
            Self::Start(name) => write!(f, "start {name}"),
        }
    }
}

impl Order {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<_> = line.trim_end().split(' ').collect();
        match words[..] {
            ["kill", name] => Some(Self::Kill(name.into())),
            ["freeze", name, seconds] => {
                let time = Duration::from_secs(seconds.parse().ok()?);
                Some(Self::Freeze(name.into(), time)).filter(|_| time <= MAX_FREEZE)
            }
            ["start", name] => Some(Self::Start(name.into())),
            _ => None,
        }
    }

    /// Sends the order to the program that listens on this port. Returns its response.
    ///
    /// # Errors
    /// If no cluster is running, or the order can't be carried out.
    pub fn send(&self, port: u16) -> Result<String, Error> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|_| {
            Error::Cluster(
                "no cluster is running; start one with: brokers --cluster (and the same ports)".into(),
            )
        })?;
        writeln!(stream, "{self}")?;
        let mut response = String::new();
        stream.read_to_string(&mut response)?;
        match response.trim_end().split_once(": ") {
            Some(("error", text)) => Err(Error::Cluster(text.to_owned())),
            _ => Ok(response.trim_end().to_owned()),
        }
    }

    fn carry_out(&self, cluster: &Arc<Mutex<Cluster>>) -> Result<String, Error> {
        let locked = || cluster.lock().unwrap_or_else(PoisonError::into_inner);
        match self {
            Self::Kill(name) => locked().kill(name).map(|()| format!("{name} is killed")),
            Self::Start(name) => locked().start_again(name).map(|()| format!("{name} is running again")),
            Self::Freeze(name, time) => {
                locked().node(name)?.freeze();
                let (cluster, name, time) = (cluster.clone(), name.clone(), *time);
                let frozen = format!("{name} is frozen for {time:?}");
                thread::spawn(move || {
                    thread::sleep(time);
                    if let Ok(node) = cluster.lock().unwrap_or_else(PoisonError::into_inner).node(&name) {
                        node.wake();
                    }
                });
                Ok(frozen)
            }
        }
    }
}

/// Carries out orders until the process ends.
pub fn serve(listener: TcpListener, cluster: Arc<Mutex<Cluster>>, report: impl Fn(&str) + Send + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = respond(&stream, &cluster, &report); // The other program may be gone.
        }
    });
}

fn respond(mut stream: &TcpStream, cluster: &Arc<Mutex<Cluster>>, report: &impl Fn(&str)) -> io::Result<()> {
    stream.set_read_timeout(Some(ARRIVE))?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ORDER)).read_line(&mut line)?;
    let Some(order) = Order::parse(&line) else { return writeln!(stream, "error: not an order") };
    match order.carry_out(cluster) {
        Ok(done) => {
            report(&done);
            writeln!(stream, "{done}")
        }
        Err(error) => writeln!(stream, "error: {}", error.to_string().replace('\n', " ")),
    }
}

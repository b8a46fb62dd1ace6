//! Shows how Nagle's algorithm and delayed acknowledgements together delay a request. A client
//! sends a header of 16 bytes and a payload of 34 bytes in three different ways.
//!
//! ```sh
//! cargo run --release -p tcp_socket --example nagle
//! ```

use std::io::{Read, Result, Write, stdout};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

const EXCHANGES: usize = 101;

fn main() -> Result<()> {
    let mut out = stdout();
    let two = |stream: &mut TcpStream| {
        stream.write_all(&[0; 16])?;
        stream.write_all(&[0; 34])
    };
    let one = |stream: &mut TcpStream| stream.write_all(&[0; 50]);
    writeln!(out, "two writes, Nagle's algorithm on:  {}", median(false, two)?)?;
    writeln!(out, "two writes, TCP_NODELAY:           {}", median(true, two)?)?;
    writeln!(out, "one write, TCP_NODELAY:            {}", median(true, one)?)
}

/// Returns the median time from a request to its response.
fn median(nodelay: bool, send: impl Fn(&mut TcpStream) -> Result<()>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    client.set_nodelay(nodelay)?;
    let (mut peer, _addr) = listener.accept()?;
    let server = thread::spawn(move || {
        let mut request = [0; 50];
        while peer.read_exact(&mut request).is_ok() && peer.write_all(&[0; 20]).is_ok() {}
    });
    let mut times = Vec::with_capacity(EXCHANGES);
    for _ in 0..EXCHANGES {
        let started = Instant::now();
        send(&mut client)?;
        client.read_exact(&mut [0; 20])?;
        times.push(started.elapsed());
    }
    drop(client);
    let _ = server.join();
    times.sort();
    Ok(format!("{:.1?}", times[EXCHANGES / 2]))
}

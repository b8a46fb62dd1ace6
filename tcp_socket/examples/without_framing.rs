//! The classic mistake: treating the bytes of one `read` as one message.
//!
//! ```sh
//! cargo run -p tcp_socket --example without_framing
//! ```

use std::io::{Read, Result, Write, stdout};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

fn main() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (mut receiver, _peer) = listener.accept()?;
    let (read, was_read) = mpsc::channel();

    let sending = thread::spawn(move || {
        // Three messages in two writes. A kernel may merge and split writes like this at any
        // time; the example does it on purpose, so that it happens every time.
        for (number, bytes) in [(1, "temperature -3.5wind 7.25humi"), (2, "dity 81")] {
            writeln!(stdout(), "write {number}: {bytes:?}")?;
            sender.write_all(bytes.as_bytes())?;
            let _ = was_read.recv();
        }
        Ok(())
    });

    let mut out = stdout();
    let mut buffer = [0; 1024];
    for number in 1.. {
        let count = receiver.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let message = String::from_utf8_lossy(&buffer[..count]);
        let verdict = match message.split(' ').collect::<Vec<_>>()[..] {
            [_metric, value] if value.parse::<f64>().is_ok() => "a reading",
            _ => "not a reading",
        };
        writeln!(out, "message {number}: {message:?} is {verdict}")?;
        let _ = read.send(());
    }
    sending.join().unwrap_or(Ok(()))
}

//! `cargo run -- tap <chapter>`: a proxy in front of a server or broker that you run yourself. It
//! shows each message in the terminal as it passes, and can write what passed for Wireshark. It does
//! not end TLS, so it never has or stores the secrets of others.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write, stdout};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use tcp_socket::base::program::shutdown_signal;

use crate::runtime;
use crate::wire::decode::Format;
use crate::wire::fault::Fault;
use crate::wire::gate::Faults;
use crate::wire::pcap::{self, Recording};
use crate::wire::proxy::Proxy;
use crate::wire::tape::{MAX_KEPT, Tape};
use crate::wire::trace::Trace;

mod keys;
mod lines;
mod live;

use lines::Lines;
use live::Live;

/// Show each message that travels between a client and a server or broker
///
/// Run the server, tap, and the client, each in its own terminal. tap forwards everything, so client
/// and server work as usual, and prints a line for each message. It needs no root. While it runs, keys
/// break what passes: c cuts all connections, s lets nothing pass, d delays everything, f flips a bit
/// in the next request, and r resumes. Press Ctrl-C to stop it.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// What to put tap in front of: http_rest, grpc, websocket, tcp_socket, or one of the message_queue
    /// chapter's brokers, rabbitmq or redis
    #[arg(value_parser = chapter)]
    chapter: Format,
    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Address of the server or broker, as host:port [default: where the chapter's programs expect it]
    #[arg(long, value_name = "ADDRESS", value_parser = host_and_port)]
    to: Option<String>,
    /// Decode this protocol instead [default: the one of CHAPTER]
    #[arg(long, value_name = "CHAPTER", value_parser = chapter)]
    protocol: Option<Format>,
    /// Also show the fields of each message: position, bytes, name, and value
    #[arg(long)]
    bytes: bool,
    /// Break one request on purpose: "cut in request N", "cut after request N", "cut in response N",
    /// "lose response N", "repeat request N", "flip a bit in request N", "silence after request N",
    /// "silence 2s after request N", "stop reading 2s after request N", or "delay 200ms from request N"
    #[arg(long)]
    fault: Option<Fault>,
    /// When tap stops, write the last 64 MiB that passed to this file, as a capture for Wireshark. An
    /// existing file is overwritten. Credentials in headers and logins are replaced by other bytes;
    /// secrets in a URL or a body are not
    #[arg(long, value_name = "FILE.pcapng")]
    write: Option<PathBuf>,
}

fn chapter(name: &str) -> Result<Format, String> {
    if name == "message_queue" {
        return Err("name the broker: rabbitmq or redis".into());
    }
    Format::from_str(name, false).map_err(|_unknown| {
        let names: Vec<_> = Format::value_variants().iter().map(|format| format.name()).collect();
        format!("use one of {}", names.join(", "))
    })
}

/// Accepts a URL, too, because that is what the servers print.
fn host_and_port(text: &str) -> Result<String, &'static str> {
    let address = text.split_once("://").map_or(text, |(_scheme, rest)| rest.trim_end_matches('/'));
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(address.to_owned()),
        _ => Err("use host:port"),
    }
}

/// How to run the programs of a chapter by hand.
struct Programs {
    /// Where the client expects the server or broker.
    address: &'static str,
    /// Command that starts the server or broker.
    start: &'static str,
    /// Option of that command for another address or port.
    place: &'static str,
    /// The client's command up to the address of the server or broker.
    client: &'static str,
}

fn programs(chapter: Format) -> Programs {
    let (address, start, place, client) = match chapter {
        Format::HttpRest => (
            "127.0.0.1:8080",
            "cargo run -p http_rest --bin server",
            "--addr",
            "cargo run -p http_rest --bin client -- --url http://",
        ),
        Format::Grpc => (
            "127.0.0.1:50051",
            "cargo run -p grpc --bin server",
            "--addr",
            "cargo run -p grpc --bin client -- --url http://",
        ),
        Format::WebSocket => (
            "127.0.0.1:8081",
            "cargo run -p websocket --bin server",
            "--addr",
            "cargo run -p websocket --bin client -- --url http://",
        ),
        Format::TcpSocket => (
            "127.0.0.1:7878",
            "cargo run -p tcp_socket --bin server",
            "--addr",
            "cargo run -p tcp_socket --bin client -- --url tcp://",
        ),
        Format::RabbitMq => (
            "127.0.0.1:5672",
            "cargo run -p message_queue --bin brokers",
            "--rabbitmq-port",
            "cargo run -p message_queue --bin client -- --url amqp://",
        ),
        Format::Redis => (
            "127.0.0.1:6379",
            "cargo run -p message_queue --bin brokers",
            "--redis-port",
            "cargo run -p message_queue --bin client -- --broker redis --url redis://",
        ),
    };
    Programs { address, start, place, client }
}

impl Options {
    fn target(&self) -> String {
        self.to.clone().unwrap_or_else(|| programs(self.chapter).address.to_owned())
    }

    fn format(&self) -> Format {
        self.protocol.unwrap_or(self.chapter)
    }

    /// Returns what to do if nothing listens at the target.
    fn advice(&self) -> String {
        let (target, Programs { address, start, place, .. }) = (self.target(), programs(self.chapter));
        let parsed = target.parse::<SocketAddr>().ok().filter(|parsed| parsed.ip().is_loopback());
        let command = match parsed {
            _ if target == address => start.to_owned(),
            Some(_) if place == "--addr" => format!("{start} -- --addr {target}"),
            Some(parsed) => format!("{start} -- {place} {}", parsed.port()),
            None => return format!("nothing listens at {target}"),
        };
        format!("nothing listens at {target}; start the {} with: {command}", self.chapter.server())
    }
}

/// Forwards and shows what passes until Ctrl-C.
///
/// # Errors
/// If it cannot listen, or cannot write the capture.
pub fn run(options: &Options) -> anyhow::Result<()> {
    // Signal handlers first: a signal may come as soon as `listening on` is printed.
    let shutdown = shutdown_signal()?;
    if let Some(path) = &options.write {
        // If the file cannot be written, say so now and not at the end.
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let _ = rlimit::increase_nofile_limit(u64::MAX); // Each connection needs two descriptors.
    let lines = Lines::default();
    let printer = lines.print_to(stdout(), shutdown.clone())?;
    let live = Live::new(options.format(), options.bytes, options.advice(), lines.clone());
    let max_bytes = if options.write.is_some() { MAX_KEPT } else { 0 };
    let tape = Arc::new(Tape::watched(max_bytes, Box::new(live)));
    let faults = Arc::new(Faults::new(options.format().decoder()));
    if let Some(fault) = options.fault {
        faults.arm(fault);
    }
    let proxy = start(options, tape.clone(), faults.clone())?;
    lines.offer(introduction(options, &proxy.address()));
    if TcpStream::connect(options.target()).is_err() {
        lines.offer(options.advice());
    }
    let terminal = keys::read(faults, lines.clone());
    runtime()?.block_on(shutdown.cancelled());
    drop((proxy, terminal));
    let written = options.write.as_ref().map(|path| write(options, &tape, path)).transpose()?;
    lines.end(written);
    printer.join().map_err(|_| anyhow!("the printing thread panicked"))?.context("cannot print")
}

fn start(options: &Options, tape: Arc<Tape>, faults: Arc<Faults>) -> anyhow::Result<Proxy> {
    let (listen, target, name) = (options.listen, options.target(), options.chapter.name());
    let targets = target.to_socket_addrs().with_context(|| format!("cannot find the address of {target}"))?;
    ensure!(
        !targets.into_iter().any(|target| target == listen),
        "{listen} is the address of the {} itself; leave out --listen or name another address",
        options.chapter.server()
    );
    Proxy::listen(&listen.to_string(), target, Some(tape), Some(faults)).map_err(|error| {
        anyhow!(
            "cannot listen on {listen}: {error}; to use a free port, run: cargo run -- tap {name} \
             (it prints its address and the client's command)"
        )
    })
}

fn introduction(options: &Options, address: &str) -> String {
    let (server, client) = (options.chapter.server(), programs(options.chapter).client);
    let scheme = client.rsplit_once(' ').map_or(client, |(_command, scheme)| scheme);
    format!(
        "listening on {scheme}{address}\n\
         in front of the {server} at {}\n\
         run the client with: {client}{address}\n\
         {}\n\
         {}",
        options.target(),
        keys::HELP,
        live::HEADER
    )
}

/// Writes the capture. Returns what to say about it.
fn write(options: &Options, tape: &Tape, path: &PathBuf) -> anyhow::Result<String> {
    let (events, dropped) = tape.events();
    let trace = Trace::without_fields(events, options.format().decoder());
    let (server, port) = (options.format().server(), options.format().standard_port());
    let recording = Recording { trace: &trace, client: "client", server, port };
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        pcap::write(&mut file, &[recording])?;
        anyhow::Ok(file.flush()?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    let mut said = format!("written: {}", path.display());
    if dropped > 0 {
        said +=
            &format!(", without its beginning: only the last 64 MiB are kept ({dropped} events are missing)");
    }
    Ok(said)
}

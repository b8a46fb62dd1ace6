//! The contract of the TCP chapter, `PROTOCOL.md`, in stages.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use lab::wire::decode::Format;
use tcp_socket::protocol::describe;
use tcp_socket::protocol::frame::{FLAG_END, FrameBuffer, kind, put_frame};
use tcp_socket::protocol::handshake::{Hello, Id, WELCOME, Welcome, random_id};
use tcp_socket::protocol::message::{ErrorCode, Refusal, Update, put_batch};
use tcp_socket::{Metric, Reading};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::{Case, Checked, Contract, Stage, same, wrong};

mod faults;
mod requests;
mod state;

use faults::*;
use requests::*;
use state::*;

/// Time within which a server has to respond.
const SOON: Duration = Duration::from_secs(5);

/// Time within which it has to notice that a `HELLO` is late. The document says 5 seconds.
const LATE: Duration = Duration::from_secs(10);

/// Pause between pieces, so that they arrive separately. If they don't, the case is easier to pass.
const PIECE: Duration = Duration::from_millis(20);

/// Maximum number of bytes in a payload to the client: section 9.
const MAX_PAYLOAD: u32 = 65_536;

pub(super) fn contract() -> Contract {
    let stages = vec![
        Stage {
            name: "handshake",
            cases: vec![
                Case::new("it answers HELLO with WELCOME (section 3)", greets),
                Case::new("it chooses the highest common version (section 3.2)", chooses_a_version),
                Case::new("it waits for the rest of a HELLO in pieces (section 3)", greets_in_pieces),
                Case::new("it keeps its instance ID while it runs (section 3.2)", keeps_its_instance_id),
                Case::new("it refuses a version that it does not speak (section 3.2)", refuses_versions),
                Case::new("it refuses bytes that are not a HELLO (section 3.2)", refuses_other_bytes),
            ],
        },
        Stage {
            name: "one request",
            cases: vec![
                Case::new("it answers PING with PONG (section 6.6)", answers_a_ping),
                Case::new("it records a reading (section 6.1)", records_a_reading),
                Case::new("it refuses an invalid reading and goes on (section 6.1)", refuses_a_reading),
                Case::new("it refuses a kind that it does not know (section 10)", refuses_a_kind),
                Case::new("it answers GOODBYE with GOODBYE and closes (section 6.7)", says_goodbye),
            ],
        },
        Stage {
            name: "framing",
            cases: vec![
                Case::new("it reads a request that arrives byte by byte (section 5)", reads_single_bytes),
                Case::new("it reads two requests in one write (section 5)", reads_two_at_once),
                Case::new("it reads a request split across two writes (section 5)", reads_across_writes),
                Case::new("it reads a batch of 10,000 readings (section 6.1)", reads_a_large_batch),
                Case::new("it reads several runs in one batch (section 6.1)", reads_several_runs),
            ],
        },
        Stage {
            name: "pipelining",
            cases: vec![
                Case::new("it handles requests sent before its WELCOME (section 3)", is_not_overtaken),
                Case::new("it answers each of 500 requests in flight (section 5)", answers_many),
                Case::new("it answers the requests before a GOODBYE (section 6.7)", answers_before_goodbye),
                Case::new("it answers the requests before the end of stream (section 4)", answers_at_the_end),
            ],
        },
        Stage {
            name: "exactly once",
            cases: vec![
                Case::new("it records a batch once, however often it is sent (section 7)", records_once),
                Case::new("it remembers a client's batches (section 7)", remembers_a_client),
                Case::new("it knows a batch on another connection, too (section 7)", records_once_in_all),
                Case::new("it accepts a corrected batch under the same ID (section 7)", accepts_a_correction),
                Case::new("it refuses batch ID 0 and one too far ahead (section 7)", refuses_batch_ids),
                Case::new("it says when it no longer knows a batch (section 7)", knows_its_range),
            ],
        },
        Stage {
            name: "watches",
            cases: vec![
                Case::new("it sends readings to a watch (section 6.3)", watches),
                Case::new("it sends no reading of another station (section 6.3)", watches_one_station),
                Case::new("it ends a watch after CANCEL (section 6.5)", cancels),
                Case::new(
                    "it ends a watch after a malformed CANCEL, too (section 6.5)",
                    ends_a_malformed_cancel,
                ),
                Case::new("it ignores a CANCEL without a watch (section 6.5)", cancels_nothing),
                Case::new("it ends each watch before GOODBYE (section 4)", ends_watches),
                Case::new("it refuses a watch of an unknown station (section 6.3)", refuses_a_watch),
                Case::new("it closes if a request has the ID of a watch (section 5)", guards_watch_ids),
            ],
        },
        Stage {
            name: "limits",
            cases: vec![
                Case::new("it refuses a payload beyond its limit at once (section 5)", limits_payloads),
                Case::new("it refuses more than 10,000 readings (section 6.1)", limits_batches),
                Case::new("it refuses more stations than it can keep (section 9)", limits_stations),
                Case::new("it refuses more watches than it announces (section 6.3)", limits_watches),
                Case::new("it refuses a client that says nothing (section 4)", limits_the_handshake),
            ],
        },
        Stage {
            name: "hostile input",
            cases: vec![
                Case::new("it closes after a wrong checksum (section 5)", checks_checksums),
                Case::new("it closes after a request without an ID (section 5)", checks_request_ids),
                Case::new("it closes after a malformed GOODBYE (section 6.7)", checks_goodbyes),
                Case::new("it refuses a critical flag and ignores others (section 10)", checks_flags),
                Case::new("it refuses payloads of the wrong form (section 6.1)", checks_payloads),
                Case::new("it refuses readings out of range (section 6.1)", checks_readings),
                Case::new("it reports the first fault of a batch (section 6.1)", reports_the_first_fault),
                Case::new("it records all of a batch or nothing (section 6.1)", records_all_or_nothing),
                Case::new("it survives clients that vanish (section 4)", survives),
            ],
        },
    ];
    Contract { name: "tcp_socket", format: Format::TcpSocket, document: "tcp_socket/PROTOCOL.md", stages }
}

/// A frame from the server.
#[derive(Debug, Clone, PartialEq)]
struct Received {
    kind: u16,
    flags: u16,
    id: u32,
    payload: Vec<u8>,
}

impl std::fmt::Display for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = flagged(self.kind, self.flags, self.id, &self.payload);
        let fields = describe::frame(&bytes);
        let shown = fields.iter().filter(|field| !["payload length", "CRC-32C"].contains(&field.name));
        let shown = shown.filter(|field| !field.value.is_empty() && field.name != "kind").take(8);
        let shown: Vec<_> = shown.map(|field| format!("{} {}", field.name, field.value)).collect();
        write!(f, "{}: {}", describe::kind_name(self.kind), shown.join(", "))
    }
}

impl Received {
    fn is(&self, kind: u16, id: u32, payload: &[u8]) -> Checked {
        self.is_flagged(kind, 0, id, payload)
    }

    fn is_flagged(&self, kind: u16, flags: u16, id: u32, payload: &[u8]) -> Checked {
        let wanted = Self { kind, flags, id, payload: payload.to_vec() };
        if *self == wanted { Ok(()) } else { wrong(wanted, self) }
    }

    fn is_error(&self, id: u32, code: ErrorCode) -> Checked {
        let refusal = Refusal::parse(&self.payload);
        if (self.kind, self.id) == (kind::ERROR, id)
            && refusal.is_some_and(|refusal| refusal.code == code as u16)
        {
            return Ok(());
        }
        wrong(format!("ERROR: request ID {id}, code {code:?} ({})", code as u16), self)
    }

    /// Checks that it is a `READING` without END, and returns the values of its readings.
    fn values(&self, id: u32) -> Checked<Vec<f64>> {
        match Update::parse(&self.payload) {
            Some(update) if (self.kind, self.flags, self.id, update.skipped) == (kind::READING, 0, id, 0) => {
                Ok(update.readings.iter().map(|reading| reading.value).collect())
            }
            _ => wrong(format!("READING: request ID {id}, skipped 0"), self),
        }
    }
}

fn flagged(kind: u16, flags: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_frame(&mut bytes, kind, flags, id, |into| into.put_slice(payload));
    bytes.to_vec()
}

fn frame(kind: u16, id: u32, payload: &[u8]) -> Vec<u8> {
    flagged(kind, 0, id, payload)
}

/// A reading of a station that only this case uses, so that one server can serve all cases.
fn reading(station: &str, value: f64) -> Reading {
    let recorded_at = 1_767_225_600_000;
    Reading { station: station.to_owned(), metric: Metric::Temperature, value, recorded_at }
}

fn batch(id: u64, readings: &[Reading]) -> Vec<u8> {
    let mut payload = BytesMut::new();
    put_batch(&mut payload, id, readings);
    payload.to_vec()
}

fn station() -> String {
    format!("check-{:08x}", fastrand::u32(..))
}

/// A connection to the server.
struct Connection {
    stream: TcpStream,
    input: FrameBuffer,
    welcome: Welcome,
}

async fn connect(addr: &str) -> Checked<TcpStream> {
    match TcpStream::connect(addr).await {
        Ok(stream) => Ok(stream),
        Err(error) => wrong("a connection", error),
    }
}

async fn write(stream: &mut TcpStream, bytes: &[u8]) -> Checked {
    // If the server closes the connection too early, the case notices when it waits for the response.
    let _ = timeout(SOON, stream.write_all(bytes)).await;
    Ok(())
}

async fn read_welcome(stream: &mut TcpStream, within: Duration) -> Checked<Welcome> {
    let mut bytes = [0; WELCOME];
    match timeout(within, stream.read_exact(&mut bytes)).await {
        Err(_) => wrong("WELCOME (40 bytes)", format!("fewer bytes within {within:?}")),
        Ok(Err(_)) => wrong("WELCOME (40 bytes)", "the end of the stream before that"),
        Ok(Ok(_)) => Welcome::decode(&bytes)
            .map_or_else(|| wrong("WELCOME, which begins with WSTN", "other bytes"), Ok),
    }
}

/// Checks that the server refuses the connection with this code.
async fn refused(mut stream: TcpStream, code: ErrorCode, within: Duration) -> Checked {
    let welcome = read_welcome(&mut stream, within).await?;
    same("WELCOME: version", welcome.version, 0)?;
    let mut connection = Connection { stream, input: FrameBuffer::new(MAX_PAYLOAD), welcome };
    connection.next("ERROR").await?.is_error(0, code)?;
    connection.is_at_the_end().await
}

impl Connection {
    async fn open(addr: &str) -> Checked<Self> {
        Self::open_as(addr, random_id().unwrap_or_default()).await
    }

    async fn open_as(addr: &str, client_id: Id) -> Checked<Self> {
        let mut stream = connect(addr).await?;
        write(&mut stream, &Hello { lowest: 1, highest: 1, client_id }.encode()).await?;
        Self::welcomed(stream).await
    }

    async fn welcomed(mut stream: TcpStream) -> Checked<Self> {
        let welcome = read_welcome(&mut stream, SOON).await?;
        same("WELCOME: version", welcome.version, 1)?;
        Ok(Self { stream, input: FrameBuffer::new(MAX_PAYLOAD), welcome })
    }

    async fn write(&mut self, bytes: &[u8]) -> Checked {
        write(&mut self.stream, bytes).await
    }

    /// Returns the next frame, or `None` at the end of the stream.
    async fn read(&mut self, wanted: &str) -> Checked<Option<Received>> {
        loop {
            match self.input.next_frame() {
                Err(error) => return wrong(wanted, format!("a frame that is not valid: {error}")),
                Ok(Some(frame)) => {
                    let (kind, flags, id) = (frame.kind, frame.flags, frame.request_id);
                    return Ok(Some(Received { kind, flags, id, payload: frame.payload.to_vec() }));
                }
                Ok(None) => {}
            }
            match timeout(SOON, self.input.read_from(&mut self.stream)).await {
                Err(_) => return wrong(wanted, format!("nothing within {SOON:?}")),
                Ok(Ok(0)) if self.input.rest().is_empty() => return Ok(None),
                Ok(Ok(0)) => return wrong(wanted, "the end of the stream within a frame"),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return wrong(wanted, error),
            }
        }
    }

    async fn next(&mut self, wanted: &str) -> Checked<Received> {
        self.read(wanted).await?.map_or_else(|| wrong(wanted, "the end of the stream"), Ok)
    }

    async fn ask(&mut self, kind: u16, id: u32, payload: &[u8]) -> Checked<Received> {
        self.write(&frame(kind, id, payload)).await?;
        self.next(&format!("a response to {} #{id}", describe::kind_name(kind))).await
    }

    /// Records a batch that is valid.
    async fn record(&mut self, id: u32, batch_id: u64, readings: &[Reading]) -> Checked {
        let accepted = (readings.len() as u32).to_be_bytes();
        self.ask(kind::RECORD, id, &batch(batch_id, readings)).await?.is(kind::RECORDED, id, &accepted)
    }

    /// Begins a watch of a station that exists.
    async fn watch(&mut self, id: u32, station: &str) -> Checked {
        self.ask(kind::WATCH, id, station.as_bytes()).await?.is(kind::READING, id, &[0; 8])
    }

    /// Checks that the server still answers, and that it sent nothing before its answer.
    async fn is_alive(&mut self) -> Checked {
        self.ask(kind::PING, 4_000_000_000, b"").await?.is(kind::PONG, 4_000_000_000, b"")
    }

    async fn is_at_the_end(&mut self) -> Checked {
        match self.read("the end of the stream").await? {
            None => Ok(()),
            Some(received) => wrong("the end of the stream", received),
        }
    }

    /// Checks that the server closes the connection with this code.
    async fn is_closed_with(&mut self, code: ErrorCode) -> Checked {
        self.next("ERROR").await?.is_error(0, code)?;
        self.is_at_the_end().await
    }
}

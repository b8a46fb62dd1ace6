//! The guided tour. It builds each frame by hand, without the library's `Client`, so that it
//! can show the bytes on the wire. A test compares its output with the README.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::BytesMut;
use tcp_socket::base::tls::ClientOptions;
use tcp_socket::client::{Transport, open};
use tcp_socket::protocol::describe::{self, Field, quoted};
use tcp_socket::protocol::frame::{FrameBuffer, kind, put_frame};
use tcp_socket::protocol::handshake::{Hello, Id, WELCOME, Welcome, random_id};
use tcp_socket::protocol::message::put_batch;
use tcp_socket::protocol::model::{Metric, Reading};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Maximum time to wait for bytes that the server should send.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);

pub async fn tour(url: &str, tls: &ClientOptions, out: &mut impl Write) -> anyhow::Result<()> {
    let client_id = random_id()?;
    let temperature = reading(Metric::Temperature, -3.5, 0);
    let wind = reading(Metric::Wind, 7.25, 1);

    let mut wire = Wire::connect(url, tls).await?;
    writeln!(out, "1. HELLO and WELCOME: the two sides agree on a version")?;
    wire.handshake(1, 1, client_id, out).await?;

    writeln!(out, "2. RECORD: a batch of two readings")?;
    let batch = [temperature.clone(), wind.clone()];
    wire.send(out, |frames| put_frame(frames, kind::RECORD, 0, 1, |p| put_batch(p, 1, &batch))).await?;
    wire.receive(out, 1).await?;

    writeln!(
        out,
        "3. The same batch again, as after a lost connection: its readings are not recorded twice"
    )?;
    wire.send(out, |frames| put_frame(frames, kind::RECORD, 0, 2, |p| put_batch(p, 1, &batch))).await?;
    wire.receive(out, 1).await?;

    writeln!(out, "4. WATCH: an empty READING confirms that it has begun")?;
    wire.send(out, |frames| {
        put_frame(frames, kind::WATCH, 0, 3, |payload| payload.extend_from_slice(b"oslo-1"));
    })
    .await?;
    wire.receive(out, 1).await?;

    writeln!(
        out,
        "5. RECORD and PING in one write; the responses are shown in the order of their request IDs"
    )?;
    wire.send(out, |frames| {
        put_frame(frames, kind::RECORD, 0, 4, |payload| put_batch(payload, 2, &[wind]));
        put_frame(frames, kind::PING, 0, 5, |_payload| {});
    })
    .await?;
    wire.receive(out, 3).await?;

    writeln!(out, "6. RECORD with an impossible value: an ERROR for this request only")?;
    let impossible = [reading(Metric::Humidity, 130.0, 2)];
    wire.send(out, |frames| put_frame(frames, kind::RECORD, 0, 6, |p| put_batch(p, 3, &impossible))).await?;
    wire.receive(out, 1).await?;

    writeln!(out, "7. GOODBYE: the watch ends, then the connection")?;
    wire.send(out, |frames| put_frame(frames, kind::GOODBYE, 0, 0, |_payload| {})).await?;
    wire.receive(out, 2).await?;
    wire.receive_end(out).await?;

    writeln!(out, "8. Another connection, and a flipped bit: nothing after it can be trusted")?;
    let mut wire = Wire::connect(url, tls).await?;
    wire.handshake(1, 1, client_id, &mut std::io::sink()).await?;
    wire.send(out, |frames| {
        put_frame(frames, kind::PING, 0, 1, |_payload| {});
        frames[7] ^= 0x40;
    })
    .await?;
    wire.receive(out, 1).await?;
    wire.receive_end(out).await?;

    writeln!(out, "9. A client from the future that speaks only versions 2 and 3")?;
    let mut wire = Wire::connect(url, tls).await?;
    wire.handshake(2, 3, client_id, out).await?;
    wire.receive(out, 1).await?;
    wire.receive_end(out).await
}

fn reading(metric: Metric, value: f64, second: u64) -> Reading {
    // Seconds are counted from 2026-01-01T00:00:00Z.
    Reading { station: "oslo-1".to_owned(), metric, value, recorded_at: 1_767_225_600_000 + second * 1000 }
}

/// A connection whose traffic is shown.
struct Wire {
    stream: Transport,
    input: FrameBuffer,
}

impl Wire {
    async fn connect(url: &str, tls: &ClientOptions) -> anyhow::Result<Self> {
        let stream = open(url, tls).await?;
        Ok(Self { stream, input: FrameBuffer::new(64 * 1024) })
    }

    async fn handshake(
        &mut self,
        lowest: u16,
        highest: u16,
        client_id: Id,
        out: &mut impl Write,
    ) -> anyhow::Result<()> {
        let hello = Hello { lowest, highest, client_id };
        show(out, "client", &describe::hello(&hello.encode()))?;
        self.stream.write_all(&hello.encode()).await?;
        self.stream.flush().await?;
        let mut bytes = [0; WELCOME];
        let read = self.stream.read_exact(&mut bytes);
        timeout(RECEIVE_TIMEOUT, read).await.context("the server sent no WELCOME in time")??;
        Welcome::decode(&bytes).context("the server does not speak this protocol")?;
        show(out, "server", &describe::welcome(&bytes))
    }

    /// Shows the frames that `put` appends, and sends them with one write.
    async fn send(&mut self, out: &mut impl Write, put: impl FnOnce(&mut BytesMut)) -> anyhow::Result<()> {
        let mut frames = BytesMut::new();
        put(&mut frames);
        let mut rest = &frames[..];
        while !rest.is_empty() {
            let fields = describe::frame(rest);
            show(out, "client", &fields)?;
            rest = &rest[length(&fields)..];
        }
        self.stream.write_all(&frames).await?;
        Ok(self.stream.flush().await?)
    }

    /// Waits for `count` frames, and shows them in the order of their request IDs.
    async fn receive(&mut self, out: &mut impl Write, count: usize) -> anyhow::Result<()> {
        let mut frames = Vec::new();
        while frames.len() < count {
            if let Some(frame) = self.input.next_frame()? {
                let mut bytes = BytesMut::new();
                let put = |payload: &mut BytesMut| payload.extend_from_slice(frame.payload);
                put_frame(&mut bytes, frame.kind, frame.flags, frame.request_id, put);
                frames.push((frame.request_id, bytes));
            } else {
                let read = self.input.read_from(&mut self.stream);
                let count = timeout(RECEIVE_TIMEOUT, read).await.context("no response arrived in time")??;
                ensure!(count > 0, "the server closed the connection");
            }
        }
        // Frames about the connection, with ID 0, come last.
        frames.sort_by_key(|(id, _)| id.wrapping_sub(1));
        for (_, frame) in &frames {
            show(out, "server", &describe::frame(frame))?;
        }
        Ok(())
    }

    /// Waits for the server to close the connection.
    async fn receive_end(&mut self, out: &mut impl Write) -> anyhow::Result<()> {
        match timeout(RECEIVE_TIMEOUT, self.input.read_from(&mut self.stream))
            .await
            .context("the server did not close the connection in time")??
        {
            0 => Ok(writeln!(out, "   (the server closes the connection)")?),
            _ => bail!("the server sent more than expected"),
        }
    }
}

/// Shows fields, up to 16 bytes on a line.
fn show(out: &mut impl Write, sender: &str, fields: &[Field<'_>]) -> anyhow::Result<()> {
    writeln!(out, "   {sender} sends {} bytes", length(fields))?;
    for field in fields {
        for bytes in field.bytes.chunks(16) {
            // Only text is longer than a line.
            let value = if bytes.len() < field.bytes.len() { &quoted(bytes) } else { &field.value };
            writeln!(out, "     {:<32}  {}", hex(bytes), meaning(field.name, value))?;
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    // Long fields are IDs or text: without spaces, they fit on the line.
    let gap = if bytes.len() > 8 { "" } else { " " };
    let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    pairs.join(gap)
}

fn meaning(name: &str, value: &str) -> String {
    let separator = match name {
        _ if value.is_empty() => "",
        "metric" | "flags" => ": ",
        "CRC-32C" => ", ",
        _ => " ",
    };
    format!("{name}{separator}{value}")
}

/// Returns the total number of bytes in these fields.
fn length(fields: &[Field<'_>]) -> usize {
    fields.iter().map(|field| field.bytes.len()).sum()
}

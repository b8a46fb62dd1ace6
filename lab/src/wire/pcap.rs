//! Writes recordings as a capture for Wireshark. A proxy sees bytes and times, but no packets, so
//! the headers of IP and TCP are made up.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

use etherparse::{PacketBuilder, TcpHeader, TcpOptionElement};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::name_resolution::{Ipv4Record, NameResolutionBlock, Record};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::blocks::unknown::UnknownBlock;
use pcap_file::{DataLink, Endianness, PcapResult};
use tcp_socket::base::text::printable;

use super::message::{Message, Side};
use super::tape::What;
use super::trace::{Step, Trace};

/// Maximum payload of a packet in bytes, as on Ethernet.
const MAX_SEGMENT: u16 = 1460;

/// Number of bytes after which the receiver acknowledges.
const ACKNOWLEDGE_AFTER: u32 = 32 * 1024;

/// Sequence number of each side's first packet. Real ones are random.
const FIRST: [u32; 2] = [1_000_000_000, 4_294_000_000];

/// First port for clients that connected before the recording began.
const UNKNOWN_PORT: u16 = 49_152;

/// Maximum number of characters in a comment.
const MAX_COMMENT: usize = 500;

/// Names of the programs. Their addresses are 127.0.0.1, 127.0.0.2, and so on.
const PROGRAMS: [&str; 4] = ["client", "server", "broker", "worker"];

/// Type of a Decryption Secrets Block, and of a key log of TLS in it.
const SECRETS: u32 = 10;
const KEY_LOG: u32 = 0x544c_534b;

/// What the capture says about itself.
const MADE_UP: &str = "A proxy recorded the bytes that the programs sent, and when. It saw no packets, so \
    the headers of IP and TCP are made up: the addresses, the server's port, the handshakes, the sequence \
    numbers, the acknowledgements, and where a packet begins. Known credentials are replaced.";

/// One recording for a capture.
pub struct Recording<'a> {
    /// What passed.
    pub trace: &'a Trace,
    /// The program that opened the connections: `client`, `server`, or `worker`.
    pub client: &'static str,
    /// The program that accepted them: `server` or `broker`.
    pub server: &'static str,
    /// The protocol's standard port. Wireshark recognizes the protocol by it.
    pub port: u16,
}

/// Writes a capture in the format pcapng.
///
/// # Errors
/// If writing to `out` fails.
pub fn write(out: impl Write, recordings: &[Recording<'_>]) -> anyhow::Result<()> {
    write_with_secrets(out, recordings, "")
}

/// Writes a capture with the secrets of its TLS connections, so that Wireshark shows them decrypted.
///
/// # Errors
/// If writing to `out` fails.
pub fn write_with_secrets(
    out: impl Write,
    recordings: &[Recording<'_>],
    secrets: &str,
) -> anyhow::Result<()> {
    let (mut steps, mut connections) = (Vec::new(), BTreeMap::new());
    for (index, recording) in recordings.iter().enumerate() {
        for step in &recording.trace.steps {
            let key = (index, step.event.connection);
            let connection = connections.entry(key).or_insert_with(|| Connection::new(recording, key.1));
            let messages = step.messages.iter().map(|timed| &timed.message);
            messages.for_each(|message| connection.ends[message.from as usize].messages.push_back(message));
            steps.push((key, step));
        }
    }
    steps.sort_by_key(|(_, step)| step.event.at);
    let (now, clock) = (Instant::now(), SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default());
    let mut out = start(out)?;
    if !secrets.is_empty() {
        out.write_pcapng_block(UnknownBlock::new(SECRETS, 0, &secrets_block(secrets)))?;
    }
    for (key, step) in steps {
        let Some(connection) = connections.get_mut(&key) else { continue };
        connection.at = clock.saturating_sub(now - step.event.at);
        connection.step(step)?;
        for packet in connection.packets.drain(..) {
            out.write_pcapng_block(packet)?;
        }
    }
    Ok(())
}

/// Returns the body of a Decryption Secrets Block: the kind of secrets, their length, and a key log
/// that is padded to a multiple of four bytes.
fn secrets_block(secrets: &str) -> Vec<u8> {
    let mut body = KEY_LOG.to_ne_bytes().to_vec(); // As the section's header says.
    body.extend((secrets.len() as u32).to_ne_bytes());
    body.extend(secrets.as_bytes());
    body.resize(body.len().next_multiple_of(4), 0);
    body
}

/// Writes what comes before the packets.
fn start<W: Write>(out: W) -> PcapResult<PcapNgWriter<W>> {
    let options = vec![SectionHeaderOption::Comment(MADE_UP.into())];
    let section = SectionHeaderBlock { endianness: Endianness::native(), options, ..Default::default() };
    let mut out = PcapNgWriter::with_section_header(out, section)?;
    // The crate writes nanoseconds. Without this option, readers expect microseconds.
    let options = vec![InterfaceDescriptionOption::IfTsResol(9)];
    out.write_pcapng_block(InterfaceDescriptionBlock { linktype: DataLink::IPV4, snaplen: 0, options })?;
    let record = |name: &'static str| {
        let ip_addr = Cow::Owned(address(name).to_vec());
        Record::Ipv4(Ipv4Record { ip_addr, names: vec![name.into()] })
    };
    let records = PROGRAMS.into_iter().map(record).collect();
    out.write_pcapng_block(NameResolutionBlock { records, options: Vec::new() })?;
    Ok(out)
}

fn address(name: &str) -> [u8; 4] {
    let index = PROGRAMS.iter().position(|known| *known == name).unwrap_or(PROGRAMS.len());
    [127, 0, 0, index as u8 + 1]
}

struct Connection<'a> {
    ends: [End<'a>; 2],
    /// Packets that are not written yet.
    packets: Vec<EnhancedPacketBlock<'static>>,
    /// Time of the next packet, since 1970.
    at: Duration,
    /// Comments for that packet.
    comments: Vec<String>,
    /// Set after a reset. Nothing follows it.
    is_over: bool,
}

/// One end of a connection.
struct End<'a> {
    name: &'static str,
    port: u16,
    /// Sequence number of its next byte.
    next: u32,
    /// Sequence number up to which it has acknowledged what the other end sent.
    acknowledged: u32,
    /// Messages that it sends and that have not begun yet.
    messages: VecDeque<&'a Message>,
}

impl<'a> Connection<'a> {
    fn new(recording: &Recording<'_>, number: u32) -> Self {
        let end = |name, port, side: Side| {
            let (next, acknowledged) = (FIRST[side as usize], FIRST[side.other() as usize]);
            End { name, port, next, acknowledged, messages: VecDeque::new() }
        };
        let client = end(recording.client, UNKNOWN_PORT + (number % 16_384) as u16, Side::Client);
        let ends = [client, end(recording.server, recording.port, Side::Server)];
        Self { ends, packets: Vec::new(), at: Duration::ZERO, comments: Vec::new(), is_over: false }
    }

    fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        let from = step.event.from;
        match &step.event.what {
            What::Note(text) => self.comments.push(text.clone()),
            _ if self.is_over => {}
            What::Open { client, server } => {
                self.ends[0].port = *client;
                self.comments.push(format!("the {}'s real port is {server}", self.ends[1].name));
                self.packet(Side::Client, "S", &[])?;
                if *server != 0 {
                    self.packet(Side::Server, "S", &[])?;
                    self.packet(Side::Client, "", &[])?;
                }
            }
            What::Data(bytes) => self.data(from, step.start, bytes)?,
            What::End => {
                self.packet(from, "F", &[])?;
                self.packet(from.other(), "", &[])?;
            }
            What::Reset => {
                self.packet(from, "R", &[])?;
                self.is_over = true;
            }
        }
        Ok(())
    }

    /// Adds bytes that were read at once, and the acknowledgements that are due.
    fn data(&mut self, from: Side, start: u64, bytes: &[u8]) -> anyhow::Result<()> {
        let mut end = start;
        for segment in bytes.chunks(MAX_SEGMENT.into()) {
            end += segment.len() as u64;
            let End { name, messages, .. } = &mut self.ends[from as usize];
            while let Some(message) = messages.front().filter(|message| message.span.start < end) {
                // What the decoder says about a direction is not something that the program sends.
                let is_remark = message.span.is_empty() || message.summary.starts_with("the connection ");
                let verb = if is_remark { ":" } else { " sends" };
                self.comments.push(format!("{name}{verb} {}", message.summary));
                messages.pop_front();
            }
            let is_last = end == start + bytes.len() as u64;
            self.packet(from, if is_last { "P" } else { "" }, segment)?;
            let acknowledged = self.ends[from.other() as usize].acknowledged;
            if self.ends[from as usize].next.wrapping_sub(acknowledged) >= ACKNOWLEDGE_AFTER {
                self.packet(from.other(), "", &[])?;
            }
        }
        Ok(())
    }

    /// Adds one packet with this flag, and with the comments that are due.
    fn packet(&mut self, from: Side, flag: &str, payload: &[u8]) -> anyhow::Result<()> {
        let other = &self.ends[from.other() as usize];
        let address = [self.ends[from as usize].name, other.name].map(address);
        let (port, acknowledgement) = (other.port, other.next);
        let sender = &mut self.ends[from as usize];
        let mut tcp = TcpHeader::new(sender.port, port, sender.next, u16::MAX);
        (tcp.syn, tcp.fin, tcp.rst, tcp.psh) = (flag == "S", flag == "F", flag == "R", flag == "P");
        if tcp.syn {
            tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(MAX_SEGMENT)])?;
        }
        if !tcp.syn || from == Side::Server {
            (tcp.ack, tcp.acknowledgment_number) = (true, acknowledgement);
            sender.acknowledged = acknowledgement;
        }
        let numbered = payload.len() as u32 + u32::from(tcp.syn || tcp.fin);
        sender.next = sender.next.wrapping_add(numbered);
        let mut data = Vec::new();
        PacketBuilder::ipv4(address[0], address[1], 64).tcp_header(tcp).write(&mut data, payload)?;
        let comments = self.comments.drain(..).map(|comment| {
            let comment: String = printable(&comment).chars().take(MAX_COMMENT).collect();
            EnhancedPacketOption::Comment(comment.into())
        });
        self.packets.push(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: self.at,
            original_len: data.len() as u32,
            options: comments.collect(),
            data: data.into(),
        });
        Ok(())
    }
}

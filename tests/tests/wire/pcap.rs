//! Tests of captures: reads them back, packet by packet.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lab::wire::cursor::Cursor;
use lab::wire::message::{Decoder, Purpose, Role, Side};
use lab::wire::pcap::{Recording, write};
use lab::wire::tape::{Event, What};
use lab::wire::trace::Trace;
use lab::wire::units::{Protocol, Reading, Units};
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::name_resolution::Record;
use pcap_file::pcapng::blocks::section_header::SectionHeaderOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use tests::{apply, test};

use crate::tshark::tshark;

/// A protocol whose messages are lines.
struct Lines;

impl Protocol for Lines {
    fn length(&mut self, _from: Side, bytes: &[u8]) -> Result<Option<usize>, String> {
        Ok(bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1))
    }

    fn read(&mut self, from: Side, unit: &mut Cursor<'_>) -> Reading {
        let line = String::from_utf8_lossy(unit.whole()).trim().to_owned();
        if unit.left().starts_with(b"password ") {
            unit.text(9, "name");
            unit.secret(unit.left().len() - 1, "password", b'x');
            return Reading::other("password");
        }
        unit.rest("line", Purpose::Information);
        if line == "refused" {
            return Reading::other(line).refused(true);
        }
        let role = if from == Side::Client { Role::Request } else { Role::Response };
        Reading::of_call(line.chars().take(20).collect::<String>(), role, 1)
    }
}

fn lines() -> Box<dyn Decoder> {
    Box::new(Units::new(Lines))
}

/// Makes up a recording. Its events are a microsecond apart.
#[derive(Default)]
struct Script(Vec<Event>);

impl Script {
    fn add(mut self, connection: u32, from: Side, what: What) -> Self {
        let at = self.0.last().map_or_else(Instant::now, |last| last.at + Duration::from_nanos(1_001));
        self.0.push(Event { at, connection, from, what });
        self
    }

    fn open(self, connection: u32) -> Self {
        self.add(connection, Side::Client, What::Open { client: 50_000 + connection as u16, server: 8_080 })
    }

    fn data(self, connection: u32, from: Side, bytes: impl Into<Vec<u8>>) -> Self {
        self.add(connection, from, What::Data(bytes.into()))
    }

    fn trace(self) -> Trace {
        Trace::without_fields(self.0, lines)
    }
}

pub struct Packet {
    pub at: Duration,
    pub from: ([u8; 4], u16),
    pub to: ([u8; 4], u16),
    pub sequence: u32,
    pub acknowledgement: Option<u32>,
    /// Letters of the flags that are set, besides ACK.
    pub flags: String,
    pub payload: Vec<u8>,
    pub comments: Vec<String>,
}

/// Writes a capture of recordings between a client and a server on port 80, and reads it.
fn packets(trace: &Trace) -> Vec<Packet> {
    read(&capture(trace)).1
}

fn capture(trace: &Trace) -> Vec<u8> {
    let mut file = Vec::new();
    write(&mut file, &[Recording { trace, client: "client", server: "server", port: 80 }]).unwrap();
    file
}

/// Reads a capture: what it says about itself and the programs, and its packets. Checks all checksums.
pub fn read(file: &[u8]) -> (Vec<String>, Vec<Packet>) {
    let mut reader = PcapNgReader::new(file).unwrap();
    let mut about: Vec<String> = Vec::new();
    for option in &reader.section().options {
        if let SectionHeaderOption::Comment(comment) = option {
            about.push(comment.to_string());
        }
    }
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => {
                assert_eq!(interface.linktype, DataLink::IPV4);
                assert!(interface.options.contains(&InterfaceDescriptionOption::IfTsResol(9)));
            }
            Block::NameResolution(names) => {
                for record in names.records {
                    let Record::Ipv4(record) = record else { panic!("{record:?}") };
                    about.push(format!("{:?} {}", record.ip_addr, record.names.join(" ")));
                }
            }
            Block::EnhancedPacket(block) => {
                assert_eq!(block.original_len as usize, block.data.len());
                let comments = block.options.iter().filter_map(|option| match option {
                    EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                    _ => None,
                });
                packets.push(packet(&block.data, block.timestamp, comments.collect()));
            }
            block => panic!("{block:?}"),
        }
    }
    (about, packets)
}

fn packet(data: &[u8], at: Duration, comments: Vec<String>) -> Packet {
    let packet = SlicedPacket::from_ip(data).unwrap();
    let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) = (packet.net, packet.transport) else {
        panic!("not TCP over IPv4: {data:?}");
    };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum());
    assert_eq!(tcp.checksum(), tcp.calc_checksum_ipv4(header.source, header.destination).unwrap());
    let flags = [(tcp.syn(), 'S'), (tcp.psh(), 'P'), (tcp.fin(), 'F'), (tcp.rst(), 'R')];
    Packet {
        at,
        from: (header.source, tcp.source_port()),
        to: (header.destination, tcp.destination_port()),
        sequence: tcp.sequence_number(),
        acknowledgement: tcp.ack().then(|| tcp.acknowledgment_number()),
        flags: flags.into_iter().filter_map(|(is_set, letter)| is_set.then_some(letter)).collect(),
        payload: tcp.payload().to_vec(),
        comments,
    }
}

/// Checks that sequence numbers have no gaps and that nobody acknowledges what was not sent.
/// Returns the bytes of each direction, by the port of the client and whether it sent them.
fn reassemble(packets: &[Packet]) -> HashMap<(u16, bool), Vec<u8>> {
    let (mut next, mut streams) = (HashMap::new(), HashMap::new());
    for packet in packets {
        let expected = next.entry((packet.from, packet.to)).or_insert(packet.sequence);
        assert_eq!(packet.sequence, *expected, "a gap from {:?} to {:?}", packet.from, packet.to);
        let numbered = packet.payload.len() as u32 + u32::from(packet.flags.contains(['S', 'F']));
        *expected = expected.wrapping_add(numbered);
        if let (Some(acknowledged), Some(sent)) =
            (packet.acknowledgement, next.get(&(packet.to, packet.from)))
        {
            assert_eq!(acknowledged, *sent, "an acknowledgement of bytes that were not sent yet");
        }
        assert!(packet.payload.len() <= 1_460);
        let is_client = packet.to.1 == 80;
        let client = if is_client { packet.from.1 } else { packet.to.1 };
        let stream: &mut Vec<u8> = streams.entry((client, is_client)).or_default();
        stream.extend_from_slice(&packet.payload);
    }
    streams
}

/// Describes packets, one by one, as `> S`.
fn flags(packets: &[Packet]) -> Vec<String> {
    let arrow = |packet: &Packet| if packet.to.1 == 80 { '>' } else { '<' };
    packets.iter().map(|packet| format!("{} {}", arrow(packet), packet.flags)).collect()
}

#[apply(test!)]
async fn the_payload_of_a_capture_is_exactly_what_passed() {
    let mut script = Script::default().open(0).open(1).open(2);
    let mut sent: HashMap<(u16, bool), Vec<u8>> = HashMap::new();
    for round in 0..30_usize {
        let (connection, from) = (round % 3, if round % 2 == 0 { Side::Client } else { Side::Server });
        // The sequence numbers of the server overflow in between.
        let length = [1, 1_459, 1_460, 1_461, 65_536, 300_000][round % 6];
        let bytes: Vec<u8> = (0..length).map(|at| (at * 7 + round) as u8).collect();
        sent.entry((50_000 + connection as u16, from == Side::Client)).or_default().extend(&bytes);
        script = script.data(connection as u32, from, bytes);
    }
    for (connection, from) in (0..3).flat_map(|number| [(number, Side::Client), (number, Side::Server)]) {
        // A message that is not complete would be replaced: it may contain a credential.
        sent.entry((50_000 + connection as u16, from == Side::Client)).or_default().push(b'\n');
        script = script.data(connection, from, "\n");
    }
    for connection in 0..3 {
        script = script.add(connection, Side::Client, What::End).add(connection, Side::Server, What::End);
    }
    let packets = packets(&script.trace());
    assert_eq!(reassemble(&packets), sent);
    let server = packets.iter().filter(|packet| packet.from.1 == 80);
    assert!(server.clone().max_by_key(|packet| packet.sequence).unwrap().sequence > u32::MAX - 100_000);
    assert!(server.min_by_key(|packet| packet.sequence).unwrap().sequence < 1_000_000);
}

#[apply(test!)]
async fn a_connection_begins_with_a_handshake_and_ends_with_fin() {
    let script = Script::default()
        .open(0)
        .data(0, Side::Client, "question\n")
        .data(0, Side::Server, "a".repeat(70_000) + "\n")
        .add(0, Side::Client, What::End)
        .add(0, Side::Server, What::End);
    let times: Vec<Instant> = script.0.iter().map(|event| event.at).collect();
    let packets = packets(&script.trace());
    let flags = flags(&packets);
    assert_eq!(flags[..4], ["> S", "< S", "> ", "> P"]);
    assert_eq!(flags[flags.len() - 4..], ["> F", "< ", "< F", "> "]);
    assert_eq!(packets[0].acknowledgement, None);
    // Without acknowledgements in between, 70 kB would not fit into the window.
    assert_eq!(flags.iter().filter(|flags| *flags == "> ").count(), 4, "{flags:?}");
    let last = packets.last().unwrap();
    assert_eq!(last.at - packets[0].at, times[4] - times[0], "times have nanoseconds");
}

#[apply(test!)]
async fn a_packet_has_a_comment_for_each_message_that_begins_in_it() {
    let script = Script::default()
        .open(0)
        .data(0, Side::Client, "one\ntwo\nthr")
        .data(0, Side::Client, "ee\n")
        .add(0, Side::Server, What::Note("the proxy holds the response back".into()))
        .data(0, Side::Server, "x".repeat(1_460) + "\nlate\n\x1b[2J\n")
        .data(0, Side::Client, "refused\nunfinished")
        .add(0, Side::Client, What::End);
    let packets = packets(&script.trace());
    let commented: Vec<_> =
        packets.iter().skip(3).filter(|packet| !packet.payload.is_empty()).map(|p| &p.comments[..]).collect();
    assert_eq!(packets[0].comments, ["the server's real port is 8080"]);
    assert_eq!(commented[0], ["client sends one", "client sends two", "client sends three"]);
    assert_eq!(commented[1], [""; 0]);
    assert_eq!(commented[2], ["the proxy holds the response back", "server sends xxxxxxxxxxxxxxxxxxxx"]);
    assert_eq!(commented[3], ["server sends late", "server sends \\u001b[2J"]);
    let ended = "client: the connection ended after 10 bytes of a message";
    assert_eq!(commented[4], ["client sends refused", ended]);
}

#[apply(test!)]
async fn a_capture_names_the_programs_and_says_what_is_made_up() {
    let client = Script::default().open(0).data(0, Side::Client, "job\n").trace();
    let worker = Script::default().open(0).data(0, Side::Server, "job\n").trace();
    let mut file = Vec::new();
    let recordings = [("client", &client), ("worker", &worker)].map(|(client, trace)| Recording {
        trace,
        client,
        server: "broker",
        port: 5_672,
    });
    write(&mut file, &recordings).unwrap();
    let (about, packets) = read(&file);
    assert!(about[0].contains("made up"), "{about:?}");
    let programs = ["client", "server", "broker", "worker"];
    let names: Vec<String> = programs
        .iter()
        .enumerate()
        .map(|(index, name)| format!("[127, 0, 0, {}] {name}", index + 1))
        .collect();
    assert_eq!(about[1..], names);
    let job = |program| {
        let mut jobs = packets.iter().filter(|packet| !packet.payload.is_empty());
        jobs.find(|packet| packet.from.0 == [127, 0, 0, program]).unwrap()
    };
    assert_eq!(job(1).to, ([127, 0, 0, 3], 5_672));
    assert_eq!((job(3).from.1, job(3).to), (5_672, ([127, 0, 0, 4], 50_000)));
    assert_eq!(job(3).comments, ["broker sends job"]);
}

#[apply(test!)]
async fn connections_that_lost_their_beginnings_stay_apart() {
    let script = Script::default().data(7, Side::Server, "seven\n").data(8, Side::Client, "eight\n");
    let packets = packets(&script.trace());
    assert_eq!(flags(&packets), ["< P", "> P"]);
    assert_ne!(packets[0].to.1, packets[1].from.1);
    assert_eq!(packets[0].comments, ["server sends seven"]);
}

#[apply(test!)]
async fn nothing_follows_a_reset() {
    let script = Script::default()
        .add(0, Side::Client, What::Open { client: 50_000, server: 0 })
        .add(0, Side::Server, What::Reset)
        .open(1)
        .add(1, Side::Client, What::Reset)
        .data(1, Side::Server, "too late\n")
        .add(1, Side::Server, What::End);
    let packets = packets(&script.trace());
    assert_eq!(flags(&packets), ["> S", "< R", "> S", "< S", "> ", "> R"]);
}

#[apply(test!)]
async fn a_password_is_replaced_wherever_a_read_ends() {
    let script = Script::default()
        .open(0)
        .data(0, Side::Client, "password gue")
        .data(0, Side::Client, "st\n")
        .add(0, Side::Client, What::End);
    let packets = packets(&script.trace());
    assert_eq!(reassemble(&packets)[&(50_000, true)], b"password xxxxx\n");
}

#[apply(test!)]
#[needs(tshark())]
async fn wireshark_finds_nothing_wrong_in_a_capture() {
    let mut script = Script::default();
    for connection in 0..3 {
        script = script.open(connection).data(connection, Side::Client, "hello\n");
    }
    for round in 0..20 {
        let from = if round % 4 == 0 { Side::Client } else { Side::Server };
        script = script.data(round % 3, from, "b".repeat(60_000) + "\n");
    }
    script = script.add(0, Side::Server, What::Note("a note".into()));
    for connection in 0..3 {
        script = script.add(connection, Side::Server, What::End).add(connection, Side::Client, What::End);
    }
    let folder = tempfile("expert");
    let file = folder.join("x.pcapng");
    std::fs::write(&file, capture(&script.trace())).unwrap();
    let run = async |options: &[&str]| {
        let file = file.to_str().unwrap();
        tests::run_program("tshark", &[&["-r", file, "-Nn"], options].concat()).await.stdout
    };
    let checks = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];
    let expert = run(&[&checks[..], &["-d", "tcp.port==80,data", "-q", "-z", "expert,warn"]].concat()).await;
    assert_eq!(expert.trim(), "");
    // Retransmissions, segments out of order, full windows, and the like are only notes.
    assert_eq!(run(&["-Y", "tcp.analysis.flags"]).await.trim(), "");
    let first = run(&["-c", "1"]).await;
    assert!(first.contains("client → server"), "{first}");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Returns a new folder.
fn tempfile(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("wire-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

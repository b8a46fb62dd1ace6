//! Reads captures with tshark, which uses the settings and the dissector of this repository.

use std::fs;
use std::path::{Path, PathBuf};

use lab::run::brokers::Brokers;
use lab::run::encryption::{Connection, Encryption};
use lab::scenes::documents::{capture, capture_encrypted, capture_path};
use lab::scenes::view::Scene;
use lab::scenes::{self, Subject};
use lab::wire::decode::Format;
use lab::wire::tape::What;
use message_queue::brokers::available;
use tests::{Output, apply, run_program, test};

use crate::scenes::played;

/// The messages whose names tshark 4.0 does not show, and a part of what it shows instead. A message
/// has the first word of our summary here. An empty word stands for each message of that protocol.
/// The packets' comments name all of these messages.
const SHOWN_AS: [(Format, &str, &str); 9] = [
    // It has another name for these.
    (Format::HttpRest, "body", "JavaScript Object Notation"),
    (Format::Grpc, "connection", "Magic"), // the connection preface
    (Format::WebSocket, "", "JavaScript Object Notation"),
    (Format::Redis, "integer", "Response: "),
    // It waits for the end of a response in chunks, and a live stream has none.
    (Format::HttpRest, "event", "[TCP segment of a reassembled PDU]"),
    // It does not know the version in the protocol header.
    (Format::RabbitMq, "protocol", "AMQP (unknown version)"),
    // It shows what a body belongs to. If the body is cut, it names it in the packet with its end, and
    // our comment is on the one with its beginning.
    (Format::RabbitMq, "body", "Content-Header"),
    (Format::RabbitMq, "body", "[TCP segment of a reassembled PDU]"),
    // It does not know the maps and pushes of RESP3. It does show the text in a push.
    (Format::Redis, "map", "[fragment]"),
];

/// The severity of a warning in tshark. Notes have a lower one, and errors a higher one.
const WARNING: u32 = 0x60_0000;

/// What tshark shows for a reset of the connection, as a warning.
const RESET: &str = "Connection reset (RST)";

/// Returns an error with a remedy if tshark is not installed.
pub fn tshark() -> Result<(), String> {
    let found = std::process::Command::new("tshark").arg("--version").output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no tshark: install it with `apt-get install -y tshark`".to_owned()),
    }
}

/// A packet, as tshark shows it.
#[derive(Debug)]
pub struct Packet {
    /// The innermost protocol, for example `WSTN`.
    pub protocol: String,
    /// What the packet list shows.
    pub info: String,
    /// What tshark notices, except that connections begin and end and that a packet has comments.
    pub expert: Vec<String>,
    /// Its warnings and errors, resets of the connection included.
    pub warnings: Vec<String>,
    /// The packet's comments.
    pub comments: Vec<String>,
}

/// Returns the packets of a capture.
pub async fn packets(capture: &Path) -> Vec<Packet> {
    let columns =
        ["_ws.col.Protocol", "_ws.col.Info", "_ws.expert.severity", "_ws.expert.message", "frame.comment"];
    let columns = columns.into_iter().flat_map(|column| ["-e", column]);
    let format = ["-T", "fields", "-E", SEPARATED].into_iter().chain(columns);
    let output = run(capture, &format.collect::<Vec<_>>()).await;
    output.lines().map(packet).collect()
}

/// Has tshark separate the values of a field with a character that no text contains.
const SEPARATED: &str = "aggregator=\u{1f}";

fn packet(line: &str) -> Packet {
    let split = |text: &str| text.split_terminator('\u{1f}').map(str::to_owned).collect::<Vec<_>>();
    let columns: Vec<&str> = line.split('\t').collect();
    let [protocol, info, severities, expert, comments] = columns[..] else { panic!("{line:?}") };
    let (severities, mut expert, comments) = (split(severities), split(expert), split(comments));
    assert_eq!(severities.len(), expert.len(), "{line:?}");
    let is_warning = |severity: &String| severity.parse::<u32>().unwrap() >= WARNING;
    let noticed = severities.iter().zip(&expert);
    let warnings = noticed.filter(|(severity, _)| is_warning(severity)).map(|(_, text)| text.clone());
    let warnings = warnings.collect();
    expert.retain(|text| !text.to_lowercase().contains("connection ") && !comments.contains(text));
    Packet { protocol: protocol.to_owned(), info: info.to_owned(), expert, warnings, comments }
}

/// Returns the fields of a protocol in all packets of a capture, one a line.
pub async fn fields(capture: &Path, protocol: &str) -> String {
    run(capture, &["-O", protocol, "-Y", protocol]).await
}

/// Runs tshark with the settings of this repository, and has it compute checksums. Checks that it
/// does not complain.
async fn run(capture: &Path, options: &[&str]) -> String {
    let settings = format!("WIRESHARK_CONFIG_DIR={}", root().join("lab/wireshark").display());
    let checksums = ["-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"];
    let begin = [&settings, "tshark", "-r", capture.to_str().unwrap()];
    let output = run_program("env", &[&begin, &checksums, options].concat()).await;
    without_complaints(output)
}

/// Returns what tshark printed, after checking that it had nothing to complain about.
fn without_complaints(output: Output) -> String {
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let complaints = output.stderr.lines().filter(|line| !line.starts_with("Running as user"));
    assert_eq!(complaints.collect::<String>(), "");
    output.stdout
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

#[apply(test!)]
#[needs(tshark())]
async fn with_the_settings_tshark_names_the_fields_of_grpc_messages() {
    let capture = root().join("grpc/captures/scene.pcapng");
    let fields = fields(&capture, "protobuf").await;
    for field in ["Message: weather.v1.RecordRequest", "station = oslo-1", "accepted = 1"] {
        assert!(fields.contains(field), "{field} is not in {fields}");
    }
    assert!(!fields.contains("<UNKNOWN>"), "{fields}");
}

#[apply(test!)]
#[needs(tshark())]
async fn with_the_settings_tshark_shows_json_in_websocket_messages() {
    let packets = packets(&root().join("websocket/captures/scene.pcapng")).await;
    let json = packets.iter().filter(|packet| packet.protocol == "WebSocket/JSON").count();
    assert!(json >= 4, "{packets:?}");
}

#[apply(test!)]
#[needs(tshark())]
async fn the_commands_for_wireshark_in_the_readme_show_our_names() {
    let readme = fs::read_to_string(root().join("tcp_socket/README.md")).unwrap();
    let commands: Vec<_> = readme.lines().filter_map(|line| line.split_once("wireshark ")).collect();
    let commands = commands.into_iter().filter_map(|(before, after)| {
        let (options, capture) = after.trim_end().rsplit_once(' ').unwrap_or(("", after));
        capture.ends_with(".pcapng").then(|| format!("{before} tshark {options} -r {capture}"))
    });
    let commands: Vec<String> = commands.collect();
    assert_eq!(commands.len(), 2, "{commands:?}");
    for (command, name) in commands.iter().zip(["RECORD #1", "(PROTOBUF)"]) {
        let in_root = format!("cd '{}' && {command}", root().display());
        let shown = without_complaints(run_program("sh", &["-c", &in_root]).await);
        assert!(shown.contains(name), "{command}: {shown}");
    }
}

/// Checks a capture: tshark names every message, and warns of nothing but refusals of our server and
/// resets. Returns the number of resets.
async fn check(format: Format, path: &Path) -> usize {
    let (mut named, mut resets) = (0, 0);
    for packet in packets(path).await {
        for warning in &packet.warnings {
            match &**warning {
                RESET => resets += 1,
                refused => {
                    assert!(refused.starts_with("Refused: INVALID_READING"), "{format:?}: {packet:?}");
                }
            }
        }
        assert!(!packet.info.contains("Malformed"), "{format:?}: {packet:?}");
        let parts = packet.comments.iter().filter_map(|comment| comment.split_once(" sends "));
        // Other comments are whole sentences: "The client sends a request with one reading."
        for (_, summary) in parts.filter(|(sender, _)| !sender.contains(' ')) {
            let word = summary.split([' ', ',']).next().unwrap(); // of "RECORD #1, 1 reading"
            let info = packet.info.to_lowercase();
            let is_shown = |(of, message, shown): &(Format, &str, &str)| {
                *of == format && (message.is_empty() || *message == word) && packet.info.contains(shown)
            };
            let is_named = info.contains(&word.to_lowercase());
            assert!(is_named || SHOWN_AS.iter().any(is_shown), "{format:?}: {word} in {packet:?}");
            named += 1;
        }
    }
    assert!(named > 10, "{format:?}");
    resets
}

#[apply(test!)]
#[needs(tshark())]
async fn tshark_names_every_message_of_the_kept_captures_and_finds_nothing_wrong() {
    for subject in scenes::ALL {
        let resets = check(subject.format, &root().join(capture_path(subject.format))).await;
        // Only RabbitMQ resets connections: after its last message, when the client has closed its side.
        assert!(resets == 0 || subject.format == Format::RabbitMq, "{}", subject.name);
    }
}

/// Checks a new capture of each of these scenes.
async fn check_new(subjects: impl Iterator<Item = &'static Subject>) {
    for subject in subjects {
        let scene = played(subject);
        let name = format!("wire-{}-{}.pcapng", subject.format.name(), std::process::id());
        let path = std::env::temp_dir().join(name);
        capture(&path, subject.format, scene).unwrap();
        let resets = check(subject.format, &path).await;
        fs::remove_file(&path).unwrap();
        let steps = scene.conversations.iter().flat_map(|conversation| &conversation.trace.steps);
        let recorded = steps.filter(|step| matches!(step.event.what, What::Reset)).count();
        assert_eq!(resets, recorded, "resets in the scene over {}", subject.name);
    }
}

#[apply(test!)]
#[needs(tshark())]
async fn tshark_names_every_message_of_a_new_capture_and_finds_nothing_wrong() {
    check_new(scenes::ALL.into_iter().filter(|subject| subject.broker().is_none())).await;
}

#[apply(test!)]
#[needs(tshark())]
#[needs(available())]
async fn tshark_names_every_message_of_a_new_capture_of_each_broker() {
    check_new(scenes::ALL.into_iter().filter(|subject| subject.broker().is_some())).await;
}

/// Plays a scene over TLS. The capture contains its secrets, so tshark shows the requests. Without
/// the secrets, it shows none of them.
#[apply(test!)]
#[needs(tshark())]
async fn captures_over_tls_open_decrypted() {
    for (format, shown) in
        [(Format::HttpRest, "POST /readings"), (Format::Grpc, "HEADERS"), (Format::TcpSocket, "RECORD #1")]
    {
        let play = move || {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wire-tls-{}", format.name()));
            let encryption = Encryption::new(Connection::Full, &folder).unwrap().unwrap();
            let subject = scenes::ALL.into_iter().find(|subject| subject.format == format).unwrap();
            scenes::record_encrypted(subject, &mut Brokers::default(), &encryption).unwrap()
        };
        // The scene needs a runtime of its own, and so a thread.
        let mut scene = std::thread::spawn(play).join().unwrap();
        let sent = |scene: &Scene| {
            let steps = scene.conversations.iter().flat_map(|one| &one.trace.steps);
            steps.flat_map(|step| &step.messages).map(|one| one.message.summary.clone()).collect::<Vec<_>>()
        };
        let wire = sent(&scene.wire);
        assert!(wire[0].starts_with("ClientHello, ") && wire[1].starts_with("ServerHello, "), "{wire:?}");
        let readable = |summary: &&String| !summary.starts_with("encrypted, ") && !summary.contains("Hello");
        let readable: Vec<_> = wire.iter().filter(readable).collect();
        assert!(readable.iter().all(|summary| summary.starts_with("change_cipher_spec")), "{readable:?}");
        assert!(!scene.wire.conversations.iter().any(|one| format!("{one:?}").contains("oslo-1")));
        let subject = scenes::ALL.into_iter().find(|subject| subject.format == format).unwrap();
        assert!(sent(&scene.decrypted).iter().any(|summary| summary.contains(subject.record)));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-tls.pcapng", format.name()));
        capture_encrypted(&path, format, &scene).unwrap();
        let all = packets(&path).await;
        assert!(all.iter().any(|packet| packet.info.contains(shown)), "{format:?}: {all:?}");
        let warnings = all.iter().flat_map(|packet| &packet.warnings);
        let unexpected: Vec<_> = warnings.filter(|text| !text.starts_with("Refused: ")).collect();
        assert!(unexpected.is_empty(), "{format:?}: {unexpected:?}");
        scene.secrets.clear();
        capture_encrypted(&path, format, &scene).unwrap();
        assert!(packets(&path).await.iter().all(|packet| !packet.info.contains(shown)), "{format:?}");
    }
}

//! Reads captures with tshark, which uses the settings and the dissector of this repository.

use std::path::{Path, PathBuf};
use std::{fs, thread};

use lab::run::brokers::Brokers;
use lab::scenes;
use lab::scenes::documents::{capture, capture_path};
use lab::wire::decode::Format;
use tests::{apply, run_program, test};

/// What tshark 4.0 itself cannot name, by a part of what it shows instead. The packets' comments name
/// these messages all the same.
const UNNAMED: [(Format, &str); 4] = [
    // It waits for the end of a response in chunks, and a live stream has none.
    (Format::HttpRest, "[TCP segment of a reassembled PDU]"),
    // It does not know the maps and pushes of RESP3.
    (Format::Redis, "[fragment]"),
    // It names a message in the packet with its end, our comments name it in the one with its beginning.
    (Format::Redis, "[continuation]"),
    (Format::RabbitMq, "[TCP segment of a reassembled PDU]"),
];

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
    /// The packet's comments.
    pub comments: Vec<String>,
}

/// Returns the packets of a capture.
pub async fn packets(capture: &Path) -> Vec<Packet> {
    let columns = ["_ws.col.Protocol", "_ws.col.Info", "_ws.expert.message", "frame.comment"];
    let columns = columns.into_iter().flat_map(|column| ["-e", column]);
    let format = ["-T", "fields", "-E", "aggregator=|"].into_iter().chain(columns);
    let lines = run(capture, &format.collect::<Vec<_>>()).await;
    let split = |text: &str| text.split_terminator('|').map(str::to_owned).collect::<Vec<_>>();
    let packet = |line: &str| {
        let columns: Vec<&str> = line.split('\t').collect();
        let [protocol, info, expert, comments] = columns[..] else { panic!("{line:?}") };
        let (mut expert, comments) = (split(expert), split(comments));
        expert.retain(|text| !text.to_lowercase().contains("connection ") && !comments.contains(text));
        Packet { protocol: protocol.to_owned(), info: info.to_owned(), expert, comments }
    };
    lines.lines().map(packet).collect()
}

/// Returns the fields of a protocol in all packets of a capture, one a line.
pub async fn fields(capture: &Path, protocol: &str) -> String {
    run(capture, &["-O", protocol, "-Y", protocol]).await
}

/// Runs tshark with the settings of this repository. Checks that it does not complain.
async fn run(capture: &Path, options: &[&str]) -> String {
    let settings = format!("WIRESHARK_CONFIG_DIR={}", root().join("lab/wireshark").display());
    let begin = [&settings, "tshark", "-r", capture.to_str().unwrap()];
    let output = run_program("env", &[&begin, options].concat()).await;
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
async fn with_the_settings_tshark_names_each_message_in_the_capture_of_this_chapter() {
    let packets = packets(&root().join("tcp_socket/captures/scene.pcapng")).await;
    let mut described = 0;
    for packet in &packets {
        for comment in packet.comments.iter().filter(|comment| comment.contains(" sends ")) {
            let name = comment.split([' ', ',']).nth(2).unwrap(); // "client sends RECORD #1, 1 reading"
            assert!(packet.protocol == "WSTN" && packet.info.contains(name), "{packet:?}");
            described += 1;
        }
    }
    assert!(described > 10, "{packets:?}");
    let noticed: Vec<&String> = packets.iter().flat_map(|packet| &packet.expert).collect();
    assert!(
        matches!(noticed[..], [refused] if refused.starts_with("Refused: INVALID_READING")),
        "{noticed:?}"
    );
}

/// Checks a capture: tshark names every message, and finds nothing wrong.
async fn check(format: Format, path: &Path) {
    let names: &[&str] = match format {
        Format::HttpRest => &["HTTP"],
        Format::Grpc => &["HTTP2", "GRPC"],
        Format::WebSocket => &["HTTP", "WebSocket"],
        Format::TcpSocket => &["WSTN"],
        Format::RabbitMq => &["AMQP"],
        Format::Redis => &["RESP"],
    };
    let mut named = 0;
    for packet in packets(path).await {
        let wrong = |text: &String| {
            ["Malformed", "checksum", "out-of-order", "retransmission", "overlap"]
                .iter()
                .any(|fault| text.to_lowercase().contains(&fault.to_lowercase()))
        };
        assert!(!packet.expert.iter().any(wrong) && !packet.info.contains("Malformed"), "{packet:?}");
        if !packet.comments.iter().any(|comment| comment.split(' ').nth(1) == Some("sends")) {
            continue;
        }
        let is_named = names.iter().any(|name| packet.protocol.contains(name));
        let is_limit = UNNAMED.iter().any(|(of, shown)| *of == format && packet.info.contains(shown));
        assert!(is_named || is_limit, "{format:?}: {packet:?}");
        named += usize::from(is_named);
    }
    assert!(named > 5, "{format:?}");
}

#[apply(test!)]
#[needs(tshark())]
async fn tshark_names_every_message_of_the_kept_captures_and_finds_nothing_wrong() {
    for subject in scenes::ALL {
        check(subject.format, &root().join(capture_path(subject.format))).await;
    }
}

#[apply(test!)]
#[needs(tshark())]
async fn tshark_names_every_message_of_a_new_capture_and_finds_nothing_wrong() {
    for subject in scenes::ALL.into_iter().filter(|subject| subject.broker().is_none()) {
        let play = || scenes::record(subject, &mut Brokers::default()).unwrap();
        let scene = thread::scope(|scope| scope.spawn(play).join().unwrap());
        let name = format!("wire-{}-{}.pcapng", subject.format.name(), std::process::id());
        let path = std::env::temp_dir().join(name);
        capture(&path, subject.format, &scene).unwrap();
        check(subject.format, &path).await;
        fs::remove_file(&path).unwrap();
    }
}

//! The diagrams in the documents, and the captures that the chapters keep. Both come from a real run.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;

use super::view::{Scene, diagram};
use super::{ALL, Encrypted, Subject, record};
use crate::report::docs::replaced;
use crate::run::brokers::Brokers;
use crate::wire::decode::Format;
use crate::wire::pcap::{self, Recording};

/// Width of a diagram in a document, in characters.
const WIDTH: usize = 96;

/// The documents with a diagram, by their paths from the root of the repository.
pub const DOCUMENTS: [(&str, Format); 8] = [
    ("README.md", Format::TcpSocket),
    ("README.id.md", Format::TcpSocket),
    ("http_rest/README.md", Format::HttpRest),
    ("grpc/README.md", Format::Grpc),
    ("websocket/README.md", Format::WebSocket),
    ("message_queue/README.md", Format::RabbitMq),
    ("message_queue/README.md", Format::Redis),
    ("tcp_socket/README.md", Format::TcpSocket),
];

/// Returns the first words of the messages that open connections and declare queues. The diagrams
/// leave these messages out, because they would fill most of the lines.
fn set_up(format: Format) -> &'static [&'static str] {
    match format {
        Format::RabbitMq => &[
            "protocol header",
            "connection.",
            "channel.",
            "confirm.",
            "exchange.",
            "queue.",
            "basic.qos",
            "basic.consume",
            "basic.cancel",
        ],
        Format::Redis => &["HELLO", "CLIENT", "INFO", "XGROUP", "SCRIPT", "XAUTOCLAIM"],
        _ => &[],
    }
}

/// Returns the path of the capture that a chapter keeps, from the root of the repository.
pub fn capture_path(format: Format) -> String {
    match format {
        Format::RabbitMq | Format::Redis => format!("message_queue/captures/{}.pcapng", format.name()),
        _ => format!("{}/captures/scene.pcapng", format.name()),
    }
}

/// Returns the diagram of a scene as it appears between the markers of a document.
pub fn rendered(scene: &Scene, format: Format) -> String {
    format!("```text\n{}```\n", diagram::stable(scene, WIDTH, set_up(format)))
}

/// Returns the topic of the markers around a diagram.
pub fn topic(format: Format) -> String {
    format!("wire {}", format.name())
}

/// Plays all scenes, and writes the diagrams, and the captures that do not exist. The current folder has to be the root
/// of the repository.
///
/// # Errors
/// If a scene cannot be played, or a file is missing or cannot be written.
pub fn write() -> anyhow::Result<()> {
    let mut brokers = Brokers::default();
    for subject in ALL {
        let Subject { format, .. } = *subject;
        let scene = record(subject, &mut brokers)?;
        for (path, _) in DOCUMENTS.into_iter().filter(|(_, shown)| *shown == format) {
            let document = fs::read_to_string(path).with_context(|| {
                format!("cannot read {path}; run this in the root folder of the repository")
            })?;
            let document = replaced(&document, &topic(format), &rendered(&scene, format)).context(path)?;
            fs::write(path, document).with_context(|| format!("cannot write {path}"))?;
        }
        let path = capture_path(format);
        let path = Path::new(&path);
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        if !path.exists() {
            capture(path, format, &scene)?; // The answers in the READMEs depend on each packet.
        }
    }
    Ok(())
}

/// Writes a scene as a capture for Wireshark.
///
/// # Errors
/// If the file cannot be written.
pub fn capture(path: &Path, format: Format, scene: &Scene) -> anyhow::Result<()> {
    write_capture(path, format.standard_port(), scene, "")
}

/// Writes what travelled in an encrypted scene as a capture, with its secrets. Wireshark opens it
/// decrypted.
///
/// # Errors
/// If the file cannot be written.
pub fn capture_encrypted(path: &Path, format: Format, scene: &Encrypted) -> anyhow::Result<()> {
    write_capture(path, format.tls_port(), &scene.wire, &scene.secrets)
}

fn write_capture(path: &Path, port: u16, scene: &Scene, secrets: &str) -> anyhow::Result<()> {
    let recordings = scene.conversations.iter().map(|conversation| Recording {
        trace: &conversation.trace,
        client: scene.lanes[conversation.client],
        server: scene.lanes[conversation.server],
        port,
    });
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        pcap::write_with_secrets(&mut file, &recordings.collect::<Vec<_>>(), secrets)?;
        anyhow::Ok(file.flush()?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

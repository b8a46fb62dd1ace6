//! `cargo run -- wire`: plays a scene over each protocol and shows what travelled.

use std::fs::{self, File};
use std::io::{BufWriter, Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::view::{Scene, diagram, exchange, html};
use super::{ALL, Subject, documents, record};
use crate::run::brokers::{Brokers, INSTALL, is_installed};
use crate::wire::decode::Format;
use crate::wire::pcap::{self, Recording};

/// Width of what is printed, in characters.
const WIDTH: usize = 100;

/// Play a short scene over each protocol and show every message and byte that travels
///
/// A scene connects, records a reading, tries to record an impossible one, shows what is special about
/// its protocol, and says goodbye. For each protocol, the lab prints a sequence diagram and one
/// request byte by byte. It also writes wire.html, in which every arrow unfolds, and a capture for
/// Wireshark.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only these protocols [default: all]
    #[arg(value_name = "PROTOCOL")]
    protocols: Vec<Format>,
    /// Folder for wire.html and the captures
    #[arg(long, default_value = "lab-results")]
    out: PathBuf,
    /// Show nothing, but write the diagrams of the READMEs and the captures of the chapters again
    #[arg(long)]
    write_docs: bool,
}

/// Plays the scenes, shows them, and writes the files.
///
/// # Errors
/// If a scene cannot be played, or a file cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    if options.write_docs {
        return documents::write();
    }
    fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot create the folder {}", options.out.display()))?;
    let (mut brokers, mut scenes, mut exchanges) = (Brokers::default(), Vec::new(), Vec::new());
    let mut out = stdout().lock();
    let mut written = Vec::new();
    let wanted =
        |subject: &&Subject| options.protocols.is_empty() || options.protocols.contains(&subject.format);
    for subject in ALL.into_iter().filter(wanted) {
        if let Some(kind) = subject.broker().filter(|kind| !is_installed(*kind)) {
            writeln!(out, "{}: {kind} is not installed; to add it, run {INSTALL}\n", subject.name)?;
            continue;
        }
        let scene = record(subject, &mut brokers)?;
        writeln!(out, "{}\n\n{}", subject.name, diagram::diagram(&scene, WIDTH))?;
        if let Some(exchange) = exchange::find(&scene, |message| message.summary.contains(subject.record)) {
            writeln!(out, "{}, one request byte by byte\n\n{}", subject.name, exchange.text(WIDTH))?;
            exchanges.push((subject.name.to_owned(), exchange.purposes()));
        }
        let path = options.out.join(format!("{}.pcapng", subject.format.name()));
        capture(&path, subject.format, &scene)?;
        written.push(path);
        scenes.push(scene);
    }
    writeln!(out, "{}", exchange::table(&exchanges).terminal())?;
    let page = options.out.join("wire.html");
    fs::write(&page, html::html(&scenes)).with_context(|| format!("cannot write {}", page.display()))?;
    written.push(page);
    for path in written.iter().rev() {
        writeln!(out, "written: {}", path.display())?;
    }
    Ok(())
}

/// Writes a scene as a capture for Wireshark.
///
/// # Errors
/// If the file cannot be written.
pub fn capture(path: &Path, format: Format, scene: &Scene) -> anyhow::Result<()> {
    let recordings = scene.conversations.iter().map(|conversation| Recording {
        trace: &conversation.trace,
        client: scene.lanes[conversation.client],
        server: scene.lanes[conversation.server],
        port: format.standard_port(),
    });
    let write = || {
        let mut file = BufWriter::new(File::create(path)?);
        pcap::write(&mut file, &recordings.collect::<Vec<_>>())?;
        anyhow::Ok(file.flush()?)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

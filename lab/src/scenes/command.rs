//! `cargo run -- wire`: plays a scene over each protocol and shows what travels.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::Context;

use super::documents::{self, capture};
use super::view::{diagram, exchange, html};
use super::{ALL, Subject, record};
use crate::run::brokers::{Brokers, INSTALL, is_installed};
use crate::wire::decode::Format;

/// Width of the output, in characters.
const WIDTH: usize = 100;

/// Play a short scene over each protocol and show every message and byte that travels
///
/// In each scene, a client connects, records a reading, tries to record an impossible one, uses a
/// special feature of the protocol, and disconnects. The lab prints a sequence diagram and one
/// request byte by byte. It also writes wire.html, in which every arrow unfolds, and a capture of
/// each scene for Wireshark.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Play only the scenes of these protocols [default: all]
    #[arg(value_name = "PROTOCOL")]
    protocols: Vec<Format>,
    /// Folder for wire.html and the captures
    #[arg(long, default_value = "lab-results")]
    out: PathBuf,
    /// Show nothing, but write the diagrams in the READMEs again, and the chapters' captures that are
    /// missing. This needs both brokers
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

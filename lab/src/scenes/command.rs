//! `cargo run -- wire`: plays a scene over each protocol and shows what travels.

use std::fs;
use std::io::{Write, stdout};
use std::path::PathBuf;

use anyhow::Context;

use super::documents::{self, capture, capture_encrypted};
use super::view::{diagram, exchange, html};
use super::{ALL, Encrypted, Subject, record, record_encrypted};
use crate::run::brokers::{Brokers, INSTALL, is_installed};
use crate::run::encryption::{Connection, Encryption};
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
    /// Play the scenes over TLS, through a proxy that decrypts and encrypts again: show what travels,
    /// and the same decrypted. The captures contain the secrets that Wireshark needs to decrypt them
    #[arg(long, conflicts_with = "write_docs")]
    tls: bool,
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
        let suffix = if options.tls { "-tls" } else { "" };
        let path = options.out.join(format!("{}{suffix}.pcapng", subject.format.name()));
        let scene = if options.tls {
            let scene = with_tls(subject, &mut brokers)?;
            writeln!(out, "{}\n\n{}", scene.wire.title, diagram::diagram(&scene.wire, WIDTH))?;
            capture_encrypted(&path, subject.format, &scene)?;
            scenes.push(scene.wire);
            scene.decrypted
        } else {
            let scene = record(subject, &mut brokers)?;
            capture(&path, subject.format, &scene)?;
            scene
        };
        writeln!(out, "{}\n\n{}", scene.title, diagram::diagram(&scene, WIDTH))?;
        if let Some(exchange) = exchange::find(&scene, |message| message.summary.contains(subject.record)) {
            writeln!(out, "{}, one request byte by byte\n\n{}", subject.name, exchange.text(WIDTH))?;
            exchanges.push((subject.name.to_owned(), exchange.purposes()));
        }
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

/// Plays a scene over TLS with certificates of an authority that exists only for it.
fn with_tls(subject: &Subject, brokers: &mut Brokers) -> anyhow::Result<Encrypted> {
    let folder = std::env::temp_dir().join(format!("lab-wire-tls-{}", std::process::id()));
    let mut play = || {
        let encryption = Encryption::new(Connection::Full, &folder)?.context("the scene has no TLS")?;
        brokers.tls = encryption.server.clone();
        record_encrypted(subject, brokers, &encryption)
    };
    let played = play();
    let _ = fs::remove_dir_all(&folder);
    played
}

//! Brokers of the lab's own, on the server's core.

use std::thread;

use anyhow::{Context, anyhow};
use message_queue::brokers::{self, Broker, Kind, Options};

use crate::placement::{Placement, pin};
use crate::protocols::{Protocol, Served};
use crate::results::Missing;

/// The command that adds what is missing.
const INSTALL: &str = "BROKERS=install cargo run --release";

impl Served {
    /// The broker that it takes.
    pub fn broker(&self) -> Option<Kind> {
        match self {
            Self::Directly(_) => None,
            Self::ThroughBroker(kind, _) | Self::ByBroker(kind) => Some(*kind),
        }
    }
}

/// Those protocols that can run on a machine on which `is_installed` tells of each
/// broker, and what the others lack.
pub fn runnable(
    protocols: &[&'static Protocol],
    is_installed: impl Fn(Kind) -> bool,
) -> (Vec<&'static Protocol>, Vec<Missing>) {
    let (mut runnable, mut missing) = (Vec::new(), Vec::new());
    for &protocol in protocols {
        match protocol.served.broker().filter(|kind| !is_installed(*kind)) {
            None => runnable.push(protocol),
            Some(kind) => missing.push(Missing {
                name: protocol.name.into(),
                reason: format!("{kind} is not installed"),
                command: INSTALL.into(),
            }),
        }
    }
    (runnable, missing)
}

/// Whether this machine has the broker.
pub fn is_installed(kind: Kind) -> bool {
    kind.program().is_some()
}

/// Installs both brokers, if `BROKERS=install` asks for it and a protocol takes one.
///
/// # Errors
/// If that fails.
pub fn install_if_wanted(protocols: &[&'static Protocol]) -> anyhow::Result<()> {
    let lacking = protocols.iter().filter_map(|it| it.served.broker()).any(|kind| !is_installed(kind));
    if lacking && brokers::install_is_wanted() {
        brokers::install()?;
    }
    Ok(())
}

/// Those that run. RabbitMQ takes seconds to start, so they are kept while the
/// placement stays.
#[derive(Default)]
pub struct Brokers {
    core: Option<usize>,
    running: Vec<(Kind, Broker)>,
}

impl Brokers {
    /// Stops those that are on another core than this placement wants.
    pub fn place(&mut self, placement: Placement) {
        if self.core != placement.server_core() {
            self.running.clear();
            self.core = placement.server_core();
        }
    }

    /// `host:port` and process of the broker, which is started if it doesn't run.
    ///
    /// # Errors
    /// If it does not start.
    pub fn get(&mut self, kind: Kind) -> anyhow::Result<(String, Option<u32>)> {
        if !self.running.iter().any(|(running, _)| *running == kind) {
            let core = self.core;
            let start = move || {
                // A child inherits the cores of the thread that starts it.
                core.map(pin);
                Broker::start(kind, Options::default())
            };
            let broker =
                thread::spawn(start).join().map_err(|_| anyhow!("the starting thread panicked"))??;
            self.running.push((kind, broker));
        }
        let (_, broker) =
            self.running.iter().find(|(running, _)| *running == kind).context("just started")?;
        let url = broker.url();
        let address = url.split_once("://").map_or(url.as_str(), |(_scheme, address)| address);
        Ok((address.to_owned(), broker.pid()))
    }
}

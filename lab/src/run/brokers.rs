//! Starts private brokers for the lab, on the server's core.

use std::thread;

use anyhow::{Context, anyhow};
use message_queue::brokers::{self, Broker, Kind, Options};
use serde::{Deserialize, Serialize};
use tcp_socket::base::tls::ServerOptions;

use super::placement::{Placement, pin};
use crate::protocols::Protocol;

/// The command that installs missing brokers.
pub(crate) const INSTALL: &str = "BROKERS=install cargo run --release";

/// A protocol that did not run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Missing {
    /// The protocol's name.
    pub name: String,
    /// What is missing on this machine.
    pub reason: String,
    /// The command that installs it.
    pub command: String,
}

/// Returns the protocols that can run on this machine, and what is missing for the others.
/// `is_installed` says whether a broker is installed.
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

/// Returns whether the broker is installed on this machine.
pub fn is_installed(kind: Kind) -> bool {
    kind.program().is_some()
}

/// Installs both brokers if `BROKERS=install` is set and a protocol needs a missing one.
///
/// # Errors
/// If the installation fails.
pub fn install_if_wanted(protocols: &[&'static Protocol]) -> anyhow::Result<()> {
    let mut needed = protocols.iter().filter_map(|protocol| protocol.served.broker());
    if needed.any(|kind| !is_installed(kind)) && brokers::install_is_wanted() {
        brokers::install()?;
    }
    Ok(())
}

/// The running brokers. RabbitMQ takes seconds to start, so they keep running until the
/// placement changes.
#[derive(Default)]
pub struct Brokers {
    core: Option<usize>,
    running: Vec<(Kind, Broker)>,
    /// How brokers that start from now on encrypt connections.
    pub(crate) tls: ServerOptions,
}

impl Brokers {
    /// Stops the brokers if this placement needs them on another core.
    pub(super) fn place(&mut self, placement: Placement) {
        if self.core != placement.server_core() {
            self.running.clear();
            self.core = placement.server_core();
        }
    }

    /// Returns the `host:port` and the process ID of the broker. Starts it first if it isn't
    /// running.
    ///
    /// # Errors
    /// If the broker does not start.
    pub(crate) fn get(&mut self, kind: Kind) -> anyhow::Result<(String, Option<u32>)> {
        if !self.running.iter().any(|(running, _)| *running == kind) {
            let core = self.core;
            let options = Options { tls: self.tls.clone(), ..Options::default() };
            let start = move || {
                // A child inherits the cores of the thread that starts it.
                core.map(pin);
                Broker::start(kind, options)
            };
            let broker =
                thread::spawn(start).join().map_err(|_| anyhow!("the starting thread panicked"))??;
            self.running.push((kind, broker));
        }
        let (_, broker) = self
            .running
            .iter()
            .find(|(running, _)| *running == kind)
            .context("the broker that was just started is missing")?;
        let url = broker.url();
        let address = url.split_once("://").map_or(url.as_str(), |(_scheme, address)| address);
        Ok((address.to_owned(), broker.pid()))
    }
}

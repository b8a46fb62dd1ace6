//! A protocol that is ready to be measured, because everything it needs is running.

use std::sync::Arc;

use super::brokers::Brokers;
use super::encryption::Encryption;
use super::meter::Meter;
use super::network::Network;
use super::placement::Placement;
use super::server::Server;
use crate::protocols::{Address, Protocol, Recorder, Served};
use crate::wire::proxy::Proxy;

/// What all bytes pass on their way to the server or, if there is a broker, to the broker. Then
/// both the client and the server connect through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// Nothing: the programs connect to each other.
    Nothing,
    /// A proxy that counts.
    Proxy,
    /// A forwarder that delays.
    Network,
}

/// A protocol with its running server and the address to connect to. Dropping it stops the
/// server.
pub struct RunningProtocol {
    /// The protocol.
    pub protocol: &'static Protocol,
    /// Reads the CPU time of its processes.
    pub meter: Meter,
    /// Counts the bytes, if this measurement needs it.
    pub proxy: Option<Proxy>,
    /// Delays the bytes, if this measurement needs it.
    pub network: Option<Network>,
    address: Address,
    _server: Option<Server>,
}

impl RunningProtocol {
    /// Starts whatever the protocol needs, on the server's core, and what all bytes pass, on
    /// the client's. With `encryption`, the server and its clients speak TLS.
    ///
    /// # Errors
    /// If the server, its broker, or what is between does not start.
    pub fn start(
        protocol: &'static Protocol,
        placement: Placement,
        brokers: &mut Brokers,
        through: Through,
        encryption: Option<&Encryption>,
    ) -> anyhow::Result<Self> {
        let core = placement.server_core();
        brokers.place(placement);
        let broker = protocol.served.broker().map(|kind| brokers.get(kind)).transpose()?;
        let broker_process = broker.as_ref().and_then(|(_, process)| *process);
        let (mut proxy, mut network) = (None, None);
        let mut between = |address: String| -> anyhow::Result<String> {
            Ok(match through {
                Through::Nothing => address,
                Through::Proxy => proxy.insert(Proxy::start(address, None)?).address().to_owned(),
                Through::Network => network.insert(Network::start(address)?).address(),
            })
        };
        let options = encryption.map(Encryption::arguments).unwrap_or_default();
        let arguments = |role| [&["serve", role][..], &options].concat();
        let (place, server) = match (&protocol.served, broker) {
            (Served::ThroughBroker(..), Some((broker, _))) => {
                let broker = between(broker)?;
                let server = Server::run(&arguments(&format!("{}@{broker}", protocol.id)), core)?;
                (broker, Some(server))
            }
            (_, Some((broker, _))) => (between(broker)?, None),
            (_, None) => {
                let server = Server::run(&arguments(protocol.id), core)?;
                (between(server.address().to_owned())?, Some(server))
            }
        };
        let meter = Meter { server: server.as_ref().map(Server::process), broker: broker_process };
        let address = Address { place, tls: encryption.map(|encryption| encryption.client.clone()) };
        Ok(Self { protocol, meter, proxy, network, address, _server: server })
    }

    /// Returns the `host:port` to connect to.
    pub fn address(&self) -> String {
        self.address.place.clone()
    }

    /// Connects a client that has prepared a batch of this many readings.
    ///
    /// # Errors
    /// If the protocol's client does not connect.
    pub async fn connect(&self, readings: u64) -> anyhow::Result<Arc<dyn Recorder>> {
        (self.protocol.connect)(self.address.clone(), usize::try_from(readings)?).await
    }

    /// Connects a client and waits for its first reply, so that its connection is certainly open.
    ///
    /// # Errors
    /// If the client does not connect, or its request fails.
    pub async fn connect_and_record(&self) -> anyhow::Result<Arc<dyn Recorder>> {
        let recorder = self.connect(1).await?;
        recorder.record().await?;
        Ok(recorder)
    }
}

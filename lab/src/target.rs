//! A protocol, ready to be measured: whatever must run for it runs.

use std::sync::Arc;

use crate::broker::Brokers;
use crate::measure::Meter;
use crate::placement::Placement;
use crate::protocols::{Protocol, Recorder, Served};
use crate::proxy::Proxy;
use crate::server::Server;

/// A protocol with its server and the way to it. Dropped, the server stops.
pub struct Target {
    /// Which one.
    pub protocol: &'static Protocol,
    /// Whose CPU time counts.
    pub meter: Meter,
    /// What counts the bytes; only after [`Target::start_counted`].
    pub proxy: Option<Proxy>,
    address: String,
    _server: Option<Server>,
}

impl Target {
    /// Starts what it needs, on the server's core.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(
        protocol: &'static Protocol,
        placement: Placement,
        brokers: &mut Brokers,
    ) -> anyhow::Result<Self> {
        Self::build(protocol, placement, brokers, false)
    }

    /// The same, with a proxy where the bytes pass: before the server or, through a
    /// broker, before the broker, for both the client and the server.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_counted(
        protocol: &'static Protocol,
        placement: Placement,
        brokers: &mut Brokers,
    ) -> anyhow::Result<Self> {
        Self::build(protocol, placement, brokers, true)
    }

    fn build(
        protocol: &'static Protocol,
        placement: Placement,
        brokers: &mut Brokers,
        counted: bool,
    ) -> anyhow::Result<Self> {
        let core = placement.server_core();
        brokers.place(placement);
        let broker = protocol.served.broker().map(|kind| brokers.get(kind)).transpose()?;
        let broker_process = broker.as_ref().and_then(|(_, process)| *process);
        let mut proxy = None;
        let mut counting = |address: String| -> anyhow::Result<String> {
            if !counted {
                return Ok(address);
            }
            let started = proxy.insert(Proxy::start(address)?);
            Ok(started.address().to_owned())
        };
        let (address, server) = match (&protocol.served, broker) {
            (Served::ThroughBroker(..), Some((broker, _))) => {
                let broker = counting(broker)?;
                let server = Server::start(&format!("{}@{broker}", protocol.id), core)?;
                (broker, Some(server))
            }
            (_, Some((broker, _))) => (counting(broker)?, None),
            (_, None) => {
                let server = Server::start(protocol.id, core)?;
                (counting(server.address().to_owned())?, Some(server))
            }
        };
        let meter = Meter { server: server.as_ref().map(Server::process), broker: broker_process };
        Ok(Self { protocol, meter, proxy, address, _server: server })
    }

    /// Connects a client that has a batch of so many readings prepared.
    ///
    /// # Errors
    /// If the protocol's client does.
    pub async fn connect(&self, readings: u64) -> anyhow::Result<Arc<dyn Recorder>> {
        (self.protocol.connect)(self.address.clone(), usize::try_from(readings)?).await
    }

    /// A client whose connection is certainly open: it has had a reply.
    ///
    /// # Errors
    /// If there is none.
    pub async fn connected(&self) -> anyhow::Result<Arc<dyn Recorder>> {
        let recorder = self.connect(1).await?;
        recorder.record().await?;
        Ok(recorder)
    }
}

//! How the programs of a measurement encrypt their connections.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tcp_socket::base::tls::{ClientOptions, ServerOptions};
use tokio_rustls::rustls::client::Resumption;

use crate::certificates::{self, Options};

/// Name of the client in its certificate.
const STATION: &str = "oslo-1";

/// How a connection begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// Without TLS.
    Plain,
    /// With a full TLS handshake.
    Full,
    /// With the keys of an earlier connection. The server does not show its certificate again.
    Resumed,
    /// With a full handshake in which both sides show a certificate.
    Mutual,
}

/// The options of both sides.
#[derive(Debug, Clone)]
pub struct Encryption {
    /// The server's, which are also the broker's.
    pub server: ServerOptions,
    /// The client's. All clients share one configuration, so no client has to read files.
    pub client: ClientOptions,
}

impl Encryption {
    /// Returns the options, or `None` for a connection without TLS. Certificates that are missing in
    /// `folder` are created.
    ///
    /// # Errors
    /// If the certificates cannot be written or used.
    pub fn new(connection: Connection, folder: &Path) -> anyhow::Result<Option<Self>> {
        if connection == Connection::Plain {
            return Ok(None);
        }
        let options = Options { station: vec![STATION.into()], ..Options::default() };
        certificates::write(folder, &options)?;
        let file = |name: &str| folder.join(name);
        let mutual = connection == Connection::Mutual;
        let server = ServerOptions {
            tls: true,
            certificate: file("server.pem"),
            key: file("server-key.pem"),
            client_ca: mutual.then(|| file("ca.pem")),
        };
        let identity = mutual.then(|| file(&format!("client-{STATION}.pem")).display().to_string());
        let mut client = ClientOptions { ca: Some(file("ca.pem")), identity, ..ClientOptions::default() };
        let config = client.config(true, None)?.context("the client has no TLS")?;
        let mut config = (*config).clone();
        if connection != Connection::Resumed {
            config.resumption = Resumption::disabled();
        }
        client.prepared = Some(config);
        Ok(Some(Self { server, client }))
    }

    /// Returns these options as those of `serve`.
    pub(crate) fn arguments(&self) -> Vec<&str> {
        let paths = [
            ("--certificate", Some(&self.server.certificate)),
            ("--key", Some(&self.server.key)),
            ("--client-ca", self.server.client_ca.as_ref()),
            ("--ca", self.client.ca.as_ref()),
        ];
        let paths = paths.into_iter().filter_map(|(option, path)| Some([option, path?.to_str()?])).flatten();
        let identity = self.client.identity.iter().flat_map(|identity| ["--identity", identity]);
        ["--tls"].into_iter().chain(paths).chain(identity).collect()
    }
}

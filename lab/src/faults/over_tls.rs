//! The server's certificates in an experiment over TLS.

use std::fs;
use std::time::Duration;

use tcp_socket::base::tls::ClientOptions;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep};

use super::breakage::{Breakage, REFUSED, VALID, What};
use super::stage::Stage;
use crate::certificates;
use crate::run::server::Server;

impl Stage<'_> {
    /// Writes certificates, and lets the server begin with the one that the fault needs.
    pub(super) fn write_certificates(&mut self, breakage: &Breakage) -> anyhow::Result<()> {
        let options = certificates::Options { broken: true, station: Vec::new(), ..Default::default() };
        certificates::write(&self.folder.0, &options)?;
        certificates::write_brief(&self.folder.0, "server-brief", VALID.as_secs() as i64)?;
        self.expires = Instant::now() + VALID + Duration::from_secs(1); // Programs compare whole seconds.
        self.tls = Some(ClientOptions { ca: Some(self.path("ca.pem").into()), ..Default::default() });
        self.show(if breakage.what == What::CertificateExpires { "server-brief" } else { "server" })
    }

    /// Lets the server show this certificate when it starts.
    fn show(&self, stem: &str) -> anyhow::Result<()> {
        for end in [".pem", "-key.pem"] {
            fs::copy(self.path(&format!("{stem}{end}")), self.path(&format!("shown{end}")))?;
        }
        Ok(())
    }

    /// Lets the server show a certificate that the client has to refuse, and then a good one.
    pub(super) async fn be_refused(&mut self, stem: &str) -> anyhow::Result<()> {
        for (stem, time) in [(stem, REFUSED), ("server", Duration::ZERO)] {
            self.show(stem)?;
            block_in_place(|| self.program.as_mut().map(Server::stop));
            self.stay_away().await?;
            sleep(time).await;
        }
        Ok(())
    }
}

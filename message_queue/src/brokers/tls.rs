//! The settings of brokers that speak TLS.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde_json::json;
use tcp_socket::base::tls::ServerOptions;

use super::kind::Error;

/// A broker's files for TLS, as absolute paths: a broker opens them in its own folder.
#[derive(Debug)]
pub(super) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

impl Files {
    /// Finds the files and checks them. Returns none without TLS.
    pub(super) fn find(options: &ServerOptions) -> Result<Option<Self>, Error> {
        // The errors of the chapters' servers are clearer than those of brokers.
        let usable = options.config(None).map_err(|error| Error::Tls(format!("{error:#}")))?;
        if usable.is_none() {
            return Ok(None);
        }
        let client_ca = options.client_ca.as_ref().map(|path| path.canonicalize()).transpose()?;
        let (certificate, key) = (options.certificate.canonicalize()?, options.key.canonicalize()?);
        Ok(Some(Self { certificate, key, client_ca }))
    }

    /// Returns arguments for Redis.
    pub(super) fn redis(&self, port: u16) -> Vec<String> {
        let [port, certificate, key] = [port.to_string(), text(&self.certificate), text(&self.key)];
        let mut args = vec!["--port".into(), "0".into(), "--tls-port".into(), port];
        args.extend(["--tls-cert-file".into(), certificate, "--tls-key-file".into(), key]);
        match &self.client_ca {
            None => args.extend(["--tls-auth-clients".into(), "no".into()]),
            Some(ca) => args.extend(["--tls-ca-cert-file".into(), text(ca)]),
        }
        args
    }

    /// Returns lines of `rabbitmq.conf`. If clients need certificates, enables the plugin for their
    /// login: mechanism EXTERNAL, without a password.
    pub(super) fn rabbitmq(&self, port: u16, folder: &Path) -> io::Result<String> {
        let mut lines = format!(
            "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\n\
             ssl_options.certfile = {}\nssl_options.keyfile = {}\n",
            self.certificate.display(),
            self.key.display()
        );
        if let Some(ca) = &self.client_ca {
            fs::write(folder.join("enabled_plugins"), "[rabbitmq_auth_mechanism_ssl].\n")?;
            lines += &format!(
                "ssl_options.cacertfile = {}\nssl_options.verify = verify_peer\n\
                 ssl_options.fail_if_no_peer_cert = true\nauth_mechanisms.1 = PLAIN\n\
                 auth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n",
                ca.display(),
            );
        }
        Ok(lines)
    }

    /// Returns RabbitMQ's users if clients need certificates.
    pub(super) fn users(&self) -> io::Result<Option<String>> {
        self.client_ca.as_deref().map(users).transpose()
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Returns RabbitMQ's users as JSON: guest, and one without a password for each client certificate
/// beside the authority's, such as oslo-1 for `client-oslo-1.pem`.
fn users(ca: &Path) -> io::Result<String> {
    let mut names = Vec::new();
    for file in fs::read_dir(ca.with_file_name(""))? {
        let path = file?.path();
        let stem = path.file_stem().and_then(OsStr::to_str).and_then(|stem| stem.strip_prefix("client-"));
        let name = stem.filter(|name| !name.ends_with("-key"));
        names.extend(name.map(str::to_owned));
    }
    let mut users = vec![json!({ "name": "guest", "password": "guest", "tags": "administrator" })];
    users.extend(names.iter().map(|name| json!({ "name": name, "password_hash": "", "tags": "" })));
    let everything =
        |user: &str| json!({ "user": user, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*" });
    let permissions: Vec<_> =
        ["guest"].into_iter().chain(names.iter().map(String::as_str)).map(everything).collect();
    Ok(json!({ "vhosts": [{ "name": "/" }], "users": users, "permissions": permissions }).to_string())
}

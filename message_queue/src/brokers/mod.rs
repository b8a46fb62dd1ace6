//! Finds, installs, and starts brokers. `producer`, `consumer`, `server`, and `client` use a
//! broker that is already running; `--bin brokers`, the tests, and the lab start their own.

use std::env;
use std::path::Path;
use std::process::Command;

mod cluster;
pub mod control;
mod kind;
mod ports;
mod process;
mod supervised;
mod tls;
mod users;

pub use cluster::{Cluster, ClusterOptions};
pub(crate) use kind::HOW_TO_START;
use kind::how_to_install;
pub use kind::{Error, Kind};
pub use process::{Broker, Options};

/// Returns whether the environment asks for an installation: `BROKERS=install`.
pub fn install_is_wanted() -> bool {
    env::var("BROKERS").is_ok_and(|value| value == "install")
}

/// Installs the packages of Debian or Ubuntu if a broker is missing. First prints the command to
/// stderr.
///
/// # Errors
/// [`Error::Install`] if the command fails, and on other systems, where it says what to run.
pub fn install() -> Result<(), Error> {
    if Kind::RabbitMq.program().is_some() && Kind::Redis.program().is_some() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Error::Install(format!("there is no apt-get here; {}", how_to_install())));
    }
    let root = Command::new("id").arg("-u").output()?.stdout.starts_with(b"0\n");
    let sudo = if root { "" } else { "sudo " };
    let command = format!(
        "{sudo}apt-get update && {sudo}env DEBIAN_FRONTEND=noninteractive \
         apt-get install -y --no-install-recommends rabbitmq-server redis-server"
    );
    eprintln!("installing: {command}");
    eprintln!(
        "afterward, the system may run both as services, even after a reboot; to prevent that, run: \
         {sudo}systemctl disable --now rabbitmq-server redis-server"
    );
    // Stdout belongs to the program that called this, so the command's output goes to stderr.
    let status = Command::new("sh").args(["-c", &format!("{{ {command}; }} >&2")]).status()?;
    if status.success() { Ok(()) } else { Err(Error::Install(format!("{command} ended with {status}"))) }
}

/// Checks that both brokers are installed, as tests need them. Installs them first if
/// `BROKERS=install` asks for it.
///
/// # Errors
/// A sentence for the test's report: what is missing, and how to get it.
pub fn available() -> Result<(), String> {
    if install_is_wanted() {
        install().map_err(|error| error.to_string())?;
    }
    for kind in [Kind::RabbitMq, Kind::Redis] {
        if !cfg!(unix) {
            return Err(Error::NotOnThisSystem { kind }.to_string());
        }
        if kind.program().is_none() {
            return Err(Error::Missing { kind }.to_string());
        }
    }
    Ok(())
}

//! Where the brokers come from. `producer`, `consumer`, `server`, and `client` use
//! one that runs; `--bin brokers`, the tests, and the lab start their own.

use std::env;
use std::path::Path;
use std::process::Command;

mod kind;
mod process;

pub(crate) use kind::HOW_TO_START;
use kind::how_to_install;
pub use kind::{Error, Kind};
pub use process::{Broker, Options};

/// Whether the environment asks for the packages: `BROKERS=install`.
pub fn install_is_wanted() -> bool {
    env::var("BROKERS").is_ok_and(|value| value == "install")
}

/// Installs the missing brokers from the packages of Debian or Ubuntu. Prints the
/// command first, on stderr.
///
/// # Errors
/// [`Error::Install`] on other systems, with their command, or if the command fails.
pub fn install() -> Result<(), Error> {
    if Kind::RabbitMq.program().is_some() && Kind::Redis.program().is_some() {
        return Ok(());
    }
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Error::Install(how_to_install().to_owned()));
    }
    let root = Command::new("id").arg("-u").output()?.stdout.starts_with(b"0\n");
    let sudo = if root { "" } else { "sudo " };
    let command = format!(
        "{sudo}apt-get update && {sudo}env DEBIAN_FRONTEND=noninteractive \
         apt-get install -y --no-install-recommends rabbitmq-server redis-server"
    );
    eprintln!("installing: {command}");
    eprintln!(
        "the system may from now on start both as services; this stops that: \
         {sudo}systemctl disable --now rabbitmq-server redis-server"
    );
    // Its output goes to stderr: stdout belongs to the program that asked.
    let status = Command::new("sh").args(["-c", &format!("{{ {command}; }} >&2")]).status()?;
    if status.success() { Ok(()) } else { Err(Error::Install(format!("{command} ended with {status}"))) }
}

/// What a test needs: both brokers, installed now if `BROKERS=install` asks for
/// it. `Err` says what is lacking and what would change it.
///
/// # Errors
/// As a sentence for the test's report.
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

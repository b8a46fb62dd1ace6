//! Where the brokers come from. `producer`, `consumer`, `server` and `client` use
//! one that runs; `--bin brokers`, the tests and the lab start their own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fmt, io};

mod process;

pub use process::{Broker, Options};

/// One of the two brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// RabbitMQ, spoken to by AMQP 0-9-1
    #[value(name = "rabbitmq")]
    RabbitMq,
    /// Redis
    Redis,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RabbitMq => "RabbitMQ",
            Self::Redis => "Redis",
        })
    }
}

/// How to get a broker when none answers: the rest of an error's line.
pub(crate) const HOW_TO_START: &str =
    "start one with: cargo run -p message_queue --bin brokers, or: docker compose up -d --wait";

impl Kind {
    /// The port that the broker has unless told otherwise.
    pub fn standard_port(self) -> u16 {
        match self {
            Self::RabbitMq => 5672,
            Self::Redis => 6379,
        }
    }

    /// The URL of a broker on that port of this machine.
    pub fn url(self, port: u16) -> String {
        match self {
            Self::RabbitMq => format!("amqp://127.0.0.1:{port}"),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// The URL that the pairs use: of `RABBITMQ_URL` or `REDIS_URL`, otherwise the
    /// standard port on 127.0.0.1.
    pub(crate) fn default_url(self) -> String {
        let variable = match self {
            Self::RabbitMq => "RABBITMQ_URL",
            Self::Redis => "REDIS_URL",
        };
        env::var(variable).unwrap_or_else(|_| self.url(self.standard_port()))
    }

    /// The program that runs this broker, if it is installed.
    ///
    /// Of RabbitMQ the script in its own folder: the `rabbitmq-server` that Debian
    /// puts on the path insists on the user `rabbitmq`.
    pub fn program(self) -> Option<PathBuf> {
        let candidates: &[&str] = match self {
            Self::RabbitMq => &["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            Self::Redis => &[],
        };
        let name = match self {
            Self::RabbitMq => "rabbitmq-server",
            Self::Redis => "redis-server",
        };
        let on_path = env::var_os("PATH").unwrap_or_default();
        let on_path: Vec<PathBuf> = env::split_paths(&on_path).map(|folder| folder.join(name)).collect();
        candidates.iter().map(PathBuf::from).chain(on_path).find(|path| path.is_file())
    }
}

/// Why a broker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not installed.
    #[error("{kind} is not installed; {}", how_to_install())]
    Missing {
        /// Which one.
        kind: Kind,
    },
    /// The way in which brokers are started here needs Unix.
    #[error(
        "this program starts {kind} only on Linux and macOS; elsewhere start it yourself \
         (docker compose up -d --wait), or run this in WSL"
    )]
    NotOnThisSystem {
        /// Which one.
        kind: Kind,
    },
    /// The port is taken.
    #[error("port {port} is taken, maybe by a {kind} that runs already; --{option} picks another")]
    PortTaken {
        /// Which broker.
        kind: Kind,
        /// Its port.
        port: u16,
        /// The option of `--bin brokers` that sets the port.
        option: &'static str,
    },
    /// It ended, or was not ready in time.
    #[error("{kind} did not start:\n{output}")]
    DidNotStart {
        /// Which one.
        kind: Kind,
        /// The end of what it printed.
        output: String,
    },
    /// The system refused something.
    #[error("cannot start a broker")]
    Io(#[from] io::Error),
    /// The packages could not be installed.
    #[error("the installation failed: {0}")]
    Install(String),
}

/// The command that installs both brokers on this machine.
pub(crate) fn how_to_install() -> &'static str {
    if cfg!(target_os = "macos") {
        "install it with: brew install rabbitmq redis"
    } else if Path::new("/usr/bin/apt-get").exists() {
        "install it with: BROKERS=install cargo run -p message_queue --bin brokers"
    } else if Path::new("/usr/bin/dnf").exists() {
        "install it with: dnf install rabbitmq-server redis"
    } else {
        "see https://www.rabbitmq.com/docs/download and https://redis.io/docs/latest/operate/oss_and_stack/install"
    }
}

/// Whether the environment asks for the packages: `BROKERS=install`.
pub fn install_is_wanted() -> bool {
    env::var("BROKERS").is_ok_and(|value| value == "install")
}

/// Installs the packages of Debian or Ubuntu for what is lacking; prints the
/// command first, on stderr.
///
/// # Errors
/// [`Error::Install`] elsewhere, with the command of that platform, or if the
/// command fails.
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

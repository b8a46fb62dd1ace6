//! RabbitMQ or Redis, and the errors of starting a private one.

use std::path::{Path, PathBuf};
use std::{env, fmt, io};

/// One of the two brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// RabbitMQ, over AMQP 0-9-1
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

/// Advice if no broker answers: the end of an error's line.
pub(crate) const HOW_TO_START: &str =
    "start one with: cargo run -p message_queue --bin brokers, or: docker compose up -d --wait";

impl Kind {
    /// Returns the port that the broker uses by default.
    pub fn standard_port(self) -> u16 {
        match self {
            Self::RabbitMq => 5672,
            Self::Redis => 6379,
        }
    }

    /// Returns the URL of a broker on this port of this machine.
    pub fn url(self, port: u16) -> String {
        match self {
            Self::RabbitMq => format!("amqp://127.0.0.1:{port}"),
            Self::Redis => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// Returns the URL that the programs use by default: `RABBITMQ_URL` or `REDIS_URL`, or else
    /// the standard port on 127.0.0.1.
    pub(crate) fn default_url(self) -> String {
        let variable = match self {
            Self::RabbitMq => "RABBITMQ_URL",
            Self::Redis => "REDIS_URL",
        };
        env::var(variable).unwrap_or_else(|_| self.url(self.standard_port()))
    }

    /// Returns the path of this broker's program, if it is installed.
    ///
    /// For RabbitMQ, it prefers the script in RabbitMQ's own folder: the `rabbitmq-server` that
    /// Debian puts on the `PATH` insists on the user `rabbitmq`.
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
        /// The broker.
        kind: Kind,
    },
    /// A private broker can be started only on Unix.
    #[error(
        "this program starts {kind} only on Linux and macOS; elsewhere, start it yourself \
         (docker compose up -d --wait), or run this in WSL"
    )]
    NotOnThisSystem {
        /// The broker.
        kind: Kind,
    },
    /// The port is taken.
    #[error("port {port} is taken, maybe by a {kind} that is already running; pick another with --{option}")]
    PortTaken {
        /// The broker.
        kind: Kind,
        /// Its port.
        port: u16,
        /// The option of `--bin brokers` that sets the port.
        option: &'static str,
    },
    /// It ended, or was not ready in time.
    #[error("{kind} did not start:\n{output}")]
    DidNotStart {
        /// The broker.
        kind: Kind,
        /// The end of its output.
        output: String,
    },
    /// A cluster can't do what it should.
    #[error("{0}")]
    Cluster(String),
    /// A file for TLS is missing or unusable.
    #[error("{0}")]
    Tls(String),
    /// The file of principals or a token is missing or unusable.
    #[error("{0}")]
    Principals(String),
    /// A system call failed.
    #[error("cannot start a broker")]
    Io(#[from] io::Error),
    /// The packages could not be installed.
    #[error("the installation failed: {0}")]
    Install(String),
}

/// Returns the advice for installing both brokers on this machine.
pub(super) fn how_to_install() -> &'static str {
    if cfg!(target_os = "macos") {
        "install both brokers with: brew install rabbitmq redis"
    } else if Path::new("/usr/bin/apt-get").exists() {
        "install both brokers with: BROKERS=install cargo run -p message_queue --bin brokers"
    } else if Path::new("/usr/bin/dnf").exists() {
        "install both brokers with: dnf install rabbitmq-server redis"
    } else {
        "see https://www.rabbitmq.com/docs/download and https://redis.io/docs/latest/operate/oss_and_stack/install"
    }
}

//! RabbitMQ or Redis, and what can go wrong with a private one.

use std::path::{Path, PathBuf};
use std::{env, fmt, io};

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
    /// A private broker can be started only on Unix.
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
pub(super) fn how_to_install() -> &'static str {
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

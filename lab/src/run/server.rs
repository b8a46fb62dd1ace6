//! Runs each server in its own process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tcp_socket::base::journal::Journal;
use tcp_socket::base::tls::{ClientOptions, HTTP_1_1, Listener, ServerOptions};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::meter::cpu_time;
use super::placement::pin;
use crate::protocols::{Address, Served, served_by};

/// A second process of the same program, which runs as a server.
///
/// It gets the arguments `serve <role>`. Its `main` calls [`role`], listens, prints
/// `listening on <address>`, and serves until [`owner_is_gone`] completes. Dropping this value
/// kills the process.
pub struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts the process on this core, counted from 0. With `None`, it runs on the caller's
    /// cores.
    ///
    /// # Errors
    /// If the process does not start or ends before it listens.
    pub fn start(role: &str, core: Option<usize>) -> anyhow::Result<Self> {
        Self::run(&["serve", role], core)
    }

    /// Like [`Server::start`], with these arguments.
    ///
    /// # Errors
    /// The same.
    pub(crate) fn run(args: &[&str], core: Option<usize>) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C in a terminal reaches every process of the group. The lab decides when its
        // servers stop, so they get a group of their own.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let spawn = move || {
            // A child inherits the cores of the thread that starts it.
            if let Some(core) = core {
                ensure!(pin(core), "core {core} is not available");
            }
            command.spawn().context("cannot start the server")
        };
        let mut child =
            thread::spawn(spawn).join().map_err(|_| anyhow::anyhow!("the spawning thread panicked"))??;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("the server's output is not piped")?)
            .read_line(&mut line)?;
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .context("the server ended before it was listening")?
            .to_owned();
        Ok(Self { child, address })
    }

    /// Returns what the server printed after `listening on`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns the process ID.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process, as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks the server to finish its requests and to stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    /// Returns the CPU time that the process has used so far. Threads that have ended are not
    /// included.
    ///
    /// # Errors
    /// If there is no `/proc/<pid>/task/*/schedstat` (not Linux).
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        cpu_time(self.child.id())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody needs the server's data any more, so there is no reason to wait for a graceful
        // shutdown.
        self.kill();
    }
}

/// Returns the role that [`Server::start`] gave this process, or `None` if the process was
/// started in another way.
pub fn role() -> Option<String> {
    std::env::args().skip_while(|argument| argument != "serve").nth(1)
}

/// Completes when the process that started this one has ended or dropped its [`Server`]. The
/// pipe to stdin then closes, even if that process was killed.
pub async fn owner_is_gone() {
    let end = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    let _ = end.await;
}

/// A server in a process of its own.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// The protocol's ID. For a server behind a broker, @ and the broker's host:port follow
    role: String,
    /// Address and port to listen on
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    #[command(flatten)]
    journal: Journal,
    #[command(flatten)]
    tls: ServerOptions,
    #[command(flatten)]
    broker_tls: ClientOptions,
}

/// Runs a protocol's server in the process that [`Server::start`] started. A server behind a broker
/// prints the broker's address as its own.
///
/// # Errors
/// If there is no such protocol, or it cannot listen or open its journal.
pub async fn serve(options: &Serve) -> anyhow::Result<()> {
    let role = &options.role;
    options.journal.open()?;
    let (id, broker) =
        role.split_once('@').map_or((&role[..], None), |(id, broker)| (id, Some(broker.to_owned())));
    let served = served_by(id).with_context(|| format!("there is no protocol {id:?}"))?;
    let shutdown = until_owner_is_gone();
    match (served, broker) {
        (Served::Directly(serve), None) => {
            let listener = TcpListener::bind(options.listen).await?;
            println!("listening on {}", listener.local_addr()?);
            let mut tls = options.tls.config(Some(HTTP_1_1))?;
            if let Some(tls) = &mut tls {
                // Whichever protocol this serves, its client offers only the name of its own.
                Arc::make_mut(tls).alpn_protocols.push(b"h2".to_vec());
            }
            serve(Listener { tcp: listener, tls, principals: None }, shutdown).await
        }
        (Served::ThroughBroker(_, serve), Some(broker)) => {
            let tls = options.broker_tls.ca.is_some().then(|| options.broker_tls.clone());
            let address = Address { place: broker.clone(), tls };
            serve(address, shutdown, Box::new(move || println!("listening on {broker}"))).await
        }
        _ => bail!("{role:?} does not name a server"),
    }
}

/// Returns a token that is canceled when [`owner_is_gone`] completes.
pub(crate) fn until_owner_is_gone() -> CancellationToken {
    let shutdown = CancellationToken::new();
    let gone = shutdown.clone();
    tokio::spawn(async move {
        owner_is_gone().await;
        gone.cancel();
    });
    shutdown
}

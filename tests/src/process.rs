//! Runs child processes that cannot outlive their test. If the test fails, it shows what they
//! printed.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::signal::{Pid, Signal, kill};

/// Time within which a server has to print `listening on` or `connected to`. It is generous,
/// because the machine may be busy and the tests don't measure time.
const START: Duration = Duration::from_secs(60);

/// Maximum duration of a client's run.
const RUN: Duration = Duration::from_secs(120);

/// Maximum time until a server has stopped. The servers themselves wait up to 10 s for requests
/// in progress.
const STOP: Duration = Duration::from_secs(15);

/// The two binaries of a chapter. [`pair!`](crate::pair) finds them.
#[derive(Debug, Clone, Copy)]
pub struct Pair {
    /// The chapter's name.
    pub chapter: &'static str,
    /// Path of the server's binary.
    pub server: &'static str,
    /// Path of the client's binary.
    pub client: &'static str,
}

/// Returns the [`Pair`] of the chapter with this name. It only works inside a test file.
#[macro_export]
macro_rules! pair {
    ($chapter:literal) => {
        $crate::Pair {
            chapter: $chapter,
            server: env!(concat!("CARGO_BIN_EXE_", $chapter, "-server")),
            client: env!(concat!("CARGO_BIN_EXE_", $chapter, "-client")),
        }
    };
}

impl Pair {
    /// Starts the server on a free port.
    pub async fn serve(&self) -> Server {
        Server::start(self.server, &["--addr", "127.0.0.1:0"]).await
    }

    /// Runs the client against a server until the client exits.
    pub async fn client(&self, server: &Server, args: &[&str]) -> Output {
        let url = ["--url", server.url()];
        run_program(self.client, &[args, &url].concat()).await
    }
}

/// Returns an address on which no program listens. The socket is bound to it, so no other program
/// can take the address as long as the socket exists.
pub(crate) fn unused_address() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let addr = socket.local_addr().expect("its address");
    (socket, addr)
}

/// What a process printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code, or `None` if a signal ended the process.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

/// Runs a program with an empty stdin until it exits. Panics if that takes too long.
pub async fn run_program(program: &str, args: &[&str]) -> Output {
    let child = Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output =
        timeout(RUN, child).await.unwrap_or_else(|_| panic!("{program} {args:?} ran for over {RUN:?}"));
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A server process. If its test panics before stopping it, the server is killed, and what it
/// printed is shown.
pub struct Server {
    program: String,
    child: Child,
    url: String,
    printed: Arc<watch::Sender<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Server {
    /// Starts a server and waits until it prints `listening on <url>` or, if it gets its requests
    /// from a broker, `connected to <url>, …`.
    pub async fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let printed = Arc::new(watch::Sender::new(String::new()));
        let (found, url) = oneshot::channel();
        let readers = vec![
            tokio::spawn(collect(child.stdout.take().unwrap(), printed.clone(), Some(found))),
            tokio::spawn(collect(child.stderr.take().unwrap(), printed.clone(), None)),
        ];
        let mut server = Self { program: program.to_owned(), child, url: String::new(), printed, readers };
        server.url = timeout(START, url)
            .await
            .unwrap_or_else(|_| panic!("{program} did not listen within {START:?}"))
            .unwrap_or_else(|_| panic!("{program} ended without listening"));
        server
    }

    /// Returns the address that it printed, such as `http://127.0.0.1:41234`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the address without its scheme: host and port.
    pub fn addr(&self) -> &str {
        self.url.split_once("://").map_or(&self.url, |(_scheme, addr)| addr)
    }

    /// Returns the process ID.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the server runs")
    }

    /// Sends SIGTERM and does not wait until the server has stopped.
    pub fn terminate(&self) {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM).expect("SIGTERM");
    }

    /// Stops the server with SIGTERM and returns everything that it printed to stdout and stderr.
    /// Panics unless it exits with code 0 in time.
    pub async fn stop(mut self) -> String {
        self.terminate();
        self.wait().await
    }

    /// Waits until the server has stopped after [`Server::terminate`]. Returns what it printed, like
    /// [`Server::stop`].
    pub async fn wait(&mut self) -> String {
        let status = timeout(STOP, self.child.wait()).await;
        let status =
            status.unwrap_or_else(|_| panic!("{} did not stop within {STOP:?}", self.program)).unwrap();
        assert_eq!(status.code(), Some(0), "{} ended with {status}", self.program);
        for reader in self.readers.drain(..) {
            reader.await.unwrap();
        }
        self.printed()
    }

    /// Waits until the server exits on its own, and returns its exit code.
    pub async fn exit_code(mut self) -> Option<i32> {
        let status = timeout(STOP, self.child.wait()).await;
        status.unwrap_or_else(|_| panic!("{} did not end within {STOP:?}", self.program)).unwrap().code()
    }

    /// Waits until the server has printed `text` to stdout or stderr.
    pub async fn has_printed(&self, text: &str) {
        let mut printed = self.printed.subscribe();
        let found = timeout(RUN, printed.wait_for(|printed| printed.contains(text))).await;
        assert!(found.is_ok(), "{} did not print {text:?} within {RUN:?}", self.program);
    }

    fn printed(&self) -> String {
        self.printed.borrow().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- {} printed:\n{}---", self.program, self.printed());
        }
    }
}

async fn collect(
    from: impl AsyncRead + Unpin,
    into: Arc<watch::Sender<String>>,
    mut url: Option<oneshot::Sender<String>>,
) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        into.send_modify(|into| {
            into.push_str(&line);
            into.push('\n');
        });
        // A server behind a broker prints the broker's URL and then where its requests come from.
        let connected = || line.strip_prefix("connected to ")?.split_once(", ").map(|(url, _)| url);
        if let Some(found) = line.strip_prefix("listening on ").or_else(connected)
            && let Some(url) = url.take()
        {
            let _ = url.send(found.to_owned());
        }
    }
}

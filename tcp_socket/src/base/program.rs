//! What programs need besides their actual work: logs, shutdown signals, a listener, output,
//! error messages, and exit codes.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::text::{is_unsafe, printable};

/// Exit code after a second signal: 128 plus the number of SIGINT, as a shell would report it.
const INTERRUPTED: i32 = 130;

/// Sends logs to stderr. The environment variable `RUST_LOG` selects them (for example, `info`);
/// if it is not set, `default` does. All messages and fields are made [`printable`], since they
/// may quote text from outside.
///
/// # Errors
/// If `RUST_LOG` is not a list of levels and targets.
pub fn start_logs(default: &str) -> anyhow::Result<()> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_not_set| default.to_owned());
    let filter: Targets = filter
        .parse()
        .context("RUST_LOG is not a list of levels and targets, such as info or tcp_socket=debug")?;
    let fields = debug_fn(|writer, field, value| {
        let value = format!("{value:?}");
        match field.name() {
            "message" => write!(writer, "{}", printable(&value)),
            name => write!(writer, "{name}={}", printable(&value)),
        }
    });
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .fmt_fields(fields.delimited(" "));
    tracing_subscriber::registry().with(to_stderr).with(filter).init();
    Ok(())
}

/// Returns a token that is canceled by Ctrl-C or, on Unix, by SIGTERM. A second signal
/// ends the program at once, whatever it is waiting for.
///
/// Call this before the program reports that it is ready: until then, a signal ends the
/// program without cleanup.
///
/// # Errors
/// If the signal handlers or their thread cannot be set up.
pub fn shutdown_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let stop = token.clone();
    // The signals get their own thread: the program's other threads may all be blocked, for
    // example while writing to a pipe that nobody reads.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let entered = runtime.enter();
    #[cfg(unix)]
    let mut signal = {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Cancel safe: the next call receives a signal that this one did not return.
        async move || {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
    };
    #[cfg(windows)]
    let mut signal = {
        let mut interrupt = tokio::signal::windows::ctrl_c()?;
        async move || _ = interrupt.recv().await
    };
    drop(entered);
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        runtime.block_on(async {
            signal().await;
            stop.cancel();
            signal().await;
        });
        std::process::exit(INTERRUPTED);
    })?;
    Ok(token)
}

/// Listens on an address, and raises the limit on open files as far as the system allows.
/// `chapter` is the name of the package for the hint in the error.
///
/// # Errors
/// If the address can't be used. The error says how to use another one.
pub async fn listen(addr: SocketAddr, chapter: &str) -> anyhow::Result<TcpListener> {
    // Each connection needs a file descriptor, and the limit is often only 1,024. If it can't
    // be raised, the accept loop still copes with running out of descriptors.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!("cannot raise the limit on open files: {error}");
    }
    TcpListener::bind(addr).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on {addr}: {error}; to use a free port, run: cargo run -p {chapter} --bin server -- \
             --addr 127.0.0.1:0 (it prints its address; give that to the client with --url)"
        )
    })
}

/// Returns the exit code for a program's result, and prints an error as one line to stderr.
pub fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // `eprintln!` would panic if nobody reads stderr anymore.
            let _ = writeln!(io::stderr(), "error: {}", printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Stdout, for programs that print text from outside.
///
/// - It escapes text as [`printable`] does, but keeps line breaks. Call [`printable`] yourself
///   for each field that came from outside; otherwise, a line break in it could forge a line.
/// - When nobody reads the output anymore (`client readings oslo-1 | head -1`), it ends the
///   program silently.
#[derive(Debug)]
pub struct Output(io::Stdout);

/// Returns the program's [`Output`].
pub fn output() -> Output {
    Output(io::stdout())
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(bytes);
        let mut written = Ok(());
        for line in text.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            let line = if line.contains(is_unsafe) { printable(line) } else { line.into() };
            written = written.and_then(|()| self.0.write_all(line.as_bytes()));
            written = written.and_then(|()| self.0.write_all(end.as_bytes()));
        }
        exit_if_unread(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        exit_if_unread(self.0.flush())
    }
}

/// Ends the program if nobody reads its output anymore.
fn exit_if_unread(written: io::Result<()>) -> io::Result<()> {
    if written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
    written
}

//! Brokers, programs, and folders for a test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use message_queue::brokers::{Broker, Kind, Options};
use message_queue::job::Job;
use message_queue::limits;
use message_queue::rabbitmq::topology::Topology;
use message_queue::rabbitmq::worker::WorkQueue;
use message_queue::redis::names::KeyNames;
use message_queue::results::Results;
use message_queue::worker::Worker;
use tests::signal::{Pid, Signal, kill};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// A test that needs both brokers: `#[apply(broker_test!)]`.
macro_rules! broker_test {
    ($($test:tt)*) => {
        ::tests::test! {
            #[needs($crate::support::available())]
            $($test)*
        }
    };
}
pub(crate) use broker_test;

/// Checks that both brokers can be started here; the error says what is missing. Checks only once.
pub fn available() -> Result<(), String> {
    static AVAILABLE: LazyLock<Result<(), String>> = LazyLock::new(message_queue::brokers::available);
    AVAILABLE.clone()
}

/// Maximum time that a test waits for anything.
pub const LONG: Duration = Duration::from_secs(60);

pub const BOTH: [Kind; 2] = [Kind::RabbitMq, Kind::Redis];

pub const PRODUCER: &str = env!("CARGO_BIN_EXE_message_queue-producer");
pub const CONSUMER: &str = env!("CARGO_BIN_EXE_message_queue-consumer");
pub const BROKERS: &str = env!("CARGO_BIN_EXE_message_queue-brokers");

/// Returns the broker of this test run, which ends with this process. Tests share it, and each
/// uses a prefix of its own.
pub fn shared(kind: Kind) -> &'static Mutex<Broker> {
    static RABBITMQ: OnceLock<Mutex<Broker>> = OnceLock::new();
    static REDIS: OnceLock<Mutex<Broker>> = OnceLock::new();
    let broker = match kind {
        Kind::RabbitMq => &RABBITMQ,
        Kind::Redis => &REDIS,
    };
    broker.get_or_init(|| Mutex::new(Broker::start(kind, Options::default()).unwrap()))
}

pub fn url(kind: Kind) -> String {
    shared(kind).lock().unwrap().url()
}

/// Returns a prefix that no other test uses.
pub fn prefix() -> String {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("test-{}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// Returns the names with this prefix.
pub fn topology(prefix: &str) -> Topology {
    Topology { prefix: prefix.to_owned(), ..Topology::default() }
}

/// Returns a worker on RabbitMQ that does its jobs at once and keeps the results in the folder.
pub fn rabbitmq_worker(topology: &Topology, folder: &Folder) -> Worker<WorkQueue> {
    Worker {
        queue: WorkQueue {
            url: url(Kind::RabbitMq).into(),
            topology: topology.clone(),
            prefetch: limits::rabbitmq::PREFETCH,
            max_wait: limits::rabbitmq::MAX_WAIT,
        },
        results: folder.results(),
        work_time: Duration::ZERO,
    }
}

pub fn keys(prefix: &str) -> KeyNames {
    KeyNames { prefix: prefix.to_owned() }
}

pub fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::RabbitMq => "rabbitmq",
        Kind::Redis => "redis",
    }
}

/// A folder that is deleted at the end of the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("mq-{}-{}", std::process::id(), prefix()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    pub fn results(&self) -> Results {
        Results::open(&self.0).unwrap()
    }

    /// Returns the IDs of the jobs that have a result.
    pub fn done(&self) -> BTreeSet<String> {
        let names =
            fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
    }

    /// Panics unless exactly these example jobs have a result, and each has the right one.
    pub fn assert_done(&self, batch: &str, count: u64) {
        let expected: BTreeSet<String> = (1..=count).map(|number| format!("{batch}-{number}")).collect();
        let done = self.done();
        let (lost, extra): (Vec<_>, Vec<_>) =
            (expected.difference(&done).collect(), done.difference(&expected).collect());
        assert!(lost.is_empty() && extra.is_empty(), "lost {lost:?}, unexpected {extra:?}");
        for number in 1..=count {
            let id = format!("{batch}-{number}");
            let text = fs::read_to_string(self.0.join(format!("{id}.json"))).unwrap();
            let expected = Job::example(id, number).summary().unwrap();
            assert_eq!(text, serde_json::to_string(&expected).unwrap());
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running program whose output the test can read.
pub struct Program {
    child: Child,
    lines: watch::Receiver<Vec<String>>,
    readers: Vec<JoinHandle<()>>,
    shown: Arc<watch::Sender<Vec<String>>>,
}

impl Program {
    pub fn start(program: &str, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (shown, lines) = watch::channel(Vec::new());
        let shown = Arc::new(shown);
        let readers = vec![
            tokio::spawn(collect(child.stdout.take().unwrap(), shown.clone())),
            tokio::spawn(collect(child.stderr.take().unwrap(), shown.clone())),
        ];
        Self { child, lines, readers, shown }
    }

    /// Starts a consumer of jobs.
    pub fn worker(kind: Kind, url: &str, prefix: &str, results: &Folder, more: &[&str]) -> Self {
        let args = ["--broker", name(kind), "--url", url, "--prefix", prefix, "--results", results.path()];
        Self::start(CONSUMER, &[&args, more].concat())
    }

    /// Starts a producer of jobs.
    pub fn producer(kind: Kind, url: &str, prefix: &str, more: &[&str]) -> Self {
        let args = ["--broker", name(kind), "--url", url, "--prefix", prefix];
        Self::start(PRODUCER, &[&args, more].concat())
    }

    /// Waits until this many lines contain the text.
    pub async fn shows(&mut self, text: &str, times: usize) {
        let enough = |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).count() >= times;
        let shown = timeout(LONG, self.lines.wait_for(enough)).await.is_ok_and(|shown| shown.is_ok());
        assert!(shown, "no {times} lines with {text:?} in:\n{}", self.end_of_output());
    }

    /// Returns the number of lines that contain the text so far.
    pub fn count(&self, text: &str) -> usize {
        self.lines.borrow().iter().filter(|line| line.contains(text)).count()
    }

    /// Returns the word after this text in the output.
    pub fn word_after(&self, text: &str) -> String {
        let lines = self.lines.borrow();
        let found = lines.iter().find_map(|line| line.split_once(text));
        found.unwrap().1.split(' ').next().unwrap().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Kills it like kill -9.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
        for reader in self.readers.drain(..) {
            reader.await.unwrap(); // The end of its output may still be in the pipe.
        }
    }

    /// Waits until it ends with exit code 0; returns its output.
    pub async fn success(&mut self) -> String {
        self.ends(0).await
    }

    /// Waits until it ends with this exit code; returns its output.
    pub async fn ends(&mut self, code: i32) -> String {
        let status = timeout(LONG, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("still running:\n{}", self.end_of_output())).unwrap();
        for reader in self.readers.drain(..) {
            reader.await.unwrap();
        }
        assert_eq!(status.code(), Some(code), "{}", self.end_of_output());
        self.shown.borrow().join("\n") + "\n"
    }

    /// Presses Ctrl-C until it ends, and returns its exit code.
    pub async fn interrupt_until_it_ends(&mut self) -> Option<i32> {
        let end = async {
            loop {
                self.signal(Signal::SIGINT);
                if let Ok(status) = timeout(Duration::from_millis(50), self.child.wait()).await {
                    return status.unwrap().code();
                }
            }
        };
        timeout(Duration::from_secs(5), end).await.unwrap()
    }

    /// Stops it as Ctrl-C does, and returns its output.
    pub async fn stop(&mut self) -> String {
        self.signal(Signal::SIGINT);
        self.success().await
    }

    fn end_of_output(&self) -> String {
        let lines = self.lines.borrow();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

async fn collect(from: impl AsyncRead + Unpin, into: Arc<watch::Sender<Vec<String>>>) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        into.send_modify(|lines| lines.push(line));
    }
}

/// Waits until a condition holds, and checks it often.
pub async fn eventually(condition: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(LONG, look).await.is_ok(), "this never happened: {condition}");
}

/// A proxy between a program and its broker. It can cut connections, or silence them.
pub struct Proxy {
    pub port: u16,
    control: watch::Sender<Mode>,
    _accepting: JoinHandle<()>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// Forwards everything.
    Open,
    /// Closes connections at once.
    Cut,
    /// Keeps connections open but forwards nothing, so neither end notices.
    Silent,
}

impl Proxy {
    pub async fn before(url: &str) -> Self {
        let target = url.rsplit('/').next().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (control, mode) = watch::channel(Mode::Open);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(pass(client, target.clone(), mode.clone()));
            }
        });
        Self { port, control, _accepting: accepting }
    }

    pub fn set(&self, mode: Mode) {
        self.control.send_replace(mode);
    }
}

async fn pass(mut client: TcpStream, target: String, mut mode: watch::Receiver<Mode>) {
    if *mode.borrow() == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else { return };
    let changed = tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        changed = mode.wait_for(|mode| *mode != Mode::Open) => changed.map(|mode| *mode),
    };
    // Silent connections stay open until the proxy cuts them or is dropped.
    if changed.is_ok_and(|mode| mode == Mode::Silent) {
        let _ = mode.wait_for(|mode| *mode == Mode::Cut).await;
    }
}

/// Returns the most memory that a process has used so far (`VmHWM`), in MiB.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let line = line.unwrap_or_else(|| panic!("process {pid} has ended"));
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

//! A broker of our own as a child process: started, found ready, stopped, and
//! never left behind.
//!
//! What runs is a shell that runs the broker. Its stdin is a pipe from this
//! process, and when that closes it kills its whole process group. The kernel
//! closes the pipe however this process ends, kill -9 included, on every Unix, and
//! whichever thread started the broker (`PR_SET_PDEATHSIG` would be Linux only,
//! `unsafe`, and bound to the thread).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::kind::{Error, Kind};

/// What RabbitMQ logs at the end of its start.
const STARTED: &str = "Server startup complete";

/// A broker that is not ready by then has failed. RabbitMQ takes 4 to 12 s; a busy
/// machine some more.
const START: Duration = Duration::from_secs(120);

/// A broker asked to stop is killed after that. RabbitMQ takes 2 to 3 s.
const STOP: Duration = Duration::from_secs(15);

/// Ports are tried from this range: below the ephemeral ports, of which one may
/// still be held by a connection that was closed.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// `$1` is a folder to delete at a sudden end, or empty. Fd 3 is the pipe; the
/// broker must not hold it. After SIGTERM, which the whole group gets, the shell
/// waits for the broker; when the broker has ended, however, so has everything.
const SUPERVISOR: &str = r#"
    exec 3<&0 </dev/null
    folder=$1; shift
    trap : TERM
    "$@" 3<&- &
    broker=$!
    (trap '' TERM; cat <&3 >/dev/null; [ -z "$folder" ] || rm -rf "$folder"; kill -KILL 0) &
    exec 3<&-
    while kill -0 $broker 2>/dev/null; do wait $broker; done
    kill -KILL 0
"#;

/// How to start a broker.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its port; `None` picks a free one.
    pub port: Option<u16>,
    /// Where it keeps its data; `None` is a temporary folder that goes with it.
    pub data: Option<PathBuf>,
    /// Redis: further arguments. RabbitMQ: lines of its `rabbitmq.conf`.
    pub settings: Vec<String>,
}

/// A broker that runs as long as this value, or this process, whichever is shorter.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    port: u16,
    /// RabbitMQ: its port for other nodes and for `rabbitmqctl`, and that of `epmd`,
    /// which tells them that port.
    node_ports: (u16, u16),
    folder: PathBuf,
    keep_folder: bool,
    settings: Vec<String>,
    process: Option<Child>,
}

impl Broker {
    /// Starts a broker and waits until it is ready.
    ///
    /// # Errors
    /// If it is not installed, the port is taken, or it does not start; then with
    /// the end of what it printed.
    pub fn start(kind: Kind, options: Options) -> Result<Self, Error> {
        if !cfg!(unix) {
            return Err(Error::NotOnThisSystem { kind });
        }
        kind.program().ok_or(Error::Missing { kind })?;
        let port = match options.port {
            Some(port) if is_free(port) => port,
            Some(port) => return Err(taken(kind, port)),
            None => free_port()?,
        };
        let keep_folder = options.data.is_some();
        let folder = match options.data {
            Some(folder) => folder,
            None => temporary_folder(kind),
        };
        group::private_folder().create(&folder)?;
        let mut broker = Self {
            kind,
            port,
            node_ports: (0, 0),
            folder: folder.canonicalize()?,
            keep_folder,
            settings: options.settings,
            process: None,
        };
        let result = broker.run();
        // A port may be taken between the look at it and its use: once more, with others.
        if result.is_err() && options.port.is_none() {
            broker.kill();
            broker.port = free_port()?;
            broker.run()?;
        } else {
            result?;
        }
        Ok(broker)
    }

    /// Its address for clients.
    pub fn url(&self) -> String {
        self.kind.url(self.port)
    }

    /// The end of what it has printed so far.
    pub fn output(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.folder.join("output.log")) {
            let _ = file.read_to_end(&mut text);
        }
        let start = text.len().saturating_sub(4_000);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }

    /// The process id of the broker itself.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("pid")).ok()?.trim().parse().ok()
    }

    /// Whether its process still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Kills it as kill -9 does. Its data stays for [`Broker::restart`].
    pub fn kill(&mut self) {
        self.end(group::KILL);
    }

    /// Asks it to stop, and waits for that.
    pub fn stop(&mut self) {
        self.end(group::TERMINATE);
    }

    /// Starts it again on the same port and data, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill();
        self.run()
    }

    /// Runs RabbitMQ's `rabbitmqctl` on this node, and returns what it printed.
    ///
    /// # Errors
    /// If it can't be run or fails.
    pub fn rabbitmqctl(&self, args: &[&str]) -> io::Result<String> {
        let program = Kind::RabbitMq.program().ok_or(io::ErrorKind::NotFound)?;
        let mut command = Command::new(program.with_file_name("rabbitmqctl"));
        self.set_environment(&mut command);
        let output = command.args(["-n", &self.node_name()]).args(args).stdin(Stdio::null()).output()?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        Err(io::Error::other(format!("{printed}{}", String::from_utf8_lossy(&output.stderr))))
    }

    fn run(&mut self) -> Result<(), Error> {
        let output = File::create(self.folder.join("output.log"))?;
        let folder = if self.keep_folder { Path::new("") } else { &self.folder };
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISOR, "supervisor"]).arg(folder);
        match self.kind {
            Kind::RabbitMq => {
                self.node_ports = (free_port()?, free_port()?);
                self.rabbitmq(&mut command)?;
            }
            Kind::Redis => self.redis(&mut command)?,
        }
        command.current_dir(&self.folder).stdin(Stdio::piped());
        command.stdout(output.try_clone()?).stderr(output);
        group::set_own(&mut command); // So that Ctrl-C does not reach the broker.
        self.process = Some(command.spawn()?);
        let deadline = Instant::now() + START;
        while !self.is_ready() {
            if !self.is_running() || Instant::now() > deadline {
                let output = self.output();
                self.kill();
                return Err(Error::DidNotStart { kind: self.kind, output });
            }
            sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn redis(&self, command: &mut Command) -> Result<(), Error> {
        let program = self.kind.program().ok_or(Error::Missing { kind: self.kind })?;
        command.arg(program).args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(&self.folder).arg("--pidfile").arg(self.folder.join("pid"));
        command.args(&self.settings);
        Ok(())
    }

    fn rabbitmq(&self, command: &mut Command) -> Result<(), Error> {
        let program = self.kind.program().ok_or(Error::Missing { kind: self.kind })?;
        fs::write(self.folder.join("enabled_plugins"), "[].\n")?;
        fs::write(self.folder.join("rabbitmq.conf"), self.settings.join("\n") + "\n")?;
        // `epmd` as a child of ours: Erlang would start one that outlives it.
        let both = "epmd -port \"$ERL_EPMD_PORT\" -address 127.0.0.1 & exec \"$0\" -noinput";
        command.args(["sh", "-c", both]).arg(program);
        self.set_environment(command);
        Ok(())
    }

    /// Keeps the node away from everything that the system's own one uses.
    fn set_environment(&self, command: &mut Command) {
        let folder = |name: &str| self.folder.join(name);
        let (node_port, epmd_port) = self.node_ports;
        command
            .env("HOME", &self.folder)
            .env("ERL_EPMD_PORT", epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Otherwise `rabbitmqctl` starts an `epmd` of its own when the node is down.
            .env("ERL_FLAGS", "-start_epmd false")
            .env("ERL_CRASH_DUMP", folder("crash.dump"))
            .env("RABBITMQ_ALLOW_INPUT", "1") // The script then becomes the node, and has its process id.
            .env("RABBITMQ_NODENAME", self.node_name())
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_DIST_PORT", node_port.to_string())
            .env("RABBITMQ_MNESIA_BASE", folder("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_PID_FILE", folder("pid"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder("enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", folder("rabbitmq.conf"))
            .env("RABBITMQ_CONF_ENV_FILE", folder("none"))
            .env("RABBITMQ_GENERATED_CONFIG_DIR", folder("config"))
            .env("RABBITMQ_FEATURE_FLAGS_FILE", folder("feature_flags"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", folder("plugins"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 1:1 -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            );
    }

    fn node_name(&self) -> String {
        // The data belongs to a node's name, so it must be the same in a kept folder.
        if self.keep_folder { "brokers@localhost".into() } else { format!("private-{}@localhost", self.port) }
    }

    /// A handshake, not only an open port: RabbitMQ listens before it answers. And its
    /// own word for it: version 4 answers before its start is over, and until then
    /// loses what is published to `amq.rabbitmq.reply-to`.
    fn is_ready(&self) -> bool {
        if self.kind == Kind::RabbitMq && !self.output().contains(STARTED) {
            return false;
        }
        let (question, answer): (&[u8], u8) = match self.kind {
            Kind::RabbitMq => (b"AMQP\0\0\x09\x01", 1),
            Kind::Redis => (b"PING\r\n", b'+'),
        };
        let talk = || -> io::Result<u8> {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(question)?;
            let mut first = [0];
            stream.read_exact(&mut first)?;
            Ok(first[0])
        };
        talk().is_ok_and(|first| first == answer)
    }

    fn end(&mut self, signal: group::Signal) {
        let Some(mut process) = self.process.take() else { return };
        let group = process.id();
        group::send(group, signal);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline && matches!(process.try_wait(), Ok(None)) {
            sleep(Duration::from_millis(10));
        }
        group::send(group, group::KILL);
        let _ = process.wait();
        // The shell is gone; the others of its group may still be dying, and hold the port.
        while Instant::now() < deadline && group::is_alive(group) {
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end(if self.keep_folder { group::TERMINATE } else { group::KILL });
        if !self.keep_folder {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn taken(kind: Kind, port: u16) -> Error {
    let option = match kind {
        Kind::RabbitMq => "rabbitmq-port",
        Kind::Redis => "redis-port",
    };
    Error::PortTaken { kind, port, option }
}

fn temporary_folder(kind: Kind) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{kind}-{}-{count}-{:08x}", std::process::id(), fastrand::u32(..)).to_lowercase();
    std::env::temp_dir().join(name)
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn free_port() -> io::Result<u16> {
    (0..1_000)
        .map(|_| fastrand::u16(PORTS))
        .find(|port| is_free(*port))
        .ok_or_else(|| io::Error::other("no free port found"))
}

/// A process group of our own, so that one signal reaches all of a broker's processes.
#[cfg(unix)]
mod group {
    use std::fs::DirBuilder;
    use std::os::unix::fs::DirBuilderExt;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use nix::errno::Errno;
    pub(super) use nix::sys::signal::Signal;
    use nix::sys::signal::killpg;
    use nix::unistd::Pid;

    pub(super) const TERMINATE: Signal = Signal::SIGTERM;
    pub(super) const KILL: Signal = Signal::SIGKILL;

    pub(super) fn private_folder() -> DirBuilder {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
    }

    pub(super) fn set_own(command: &mut Command) {
        command.process_group(0);
    }

    pub(super) fn send(group: u32, signal: Signal) {
        let _ = killpg(Pid::from_raw(group.cast_signed()), signal);
    }

    pub(super) fn is_alive(group: u32) -> bool {
        killpg(Pid::from_raw(group.cast_signed()), None) != Err(Errno::ESRCH)
    }
}

/// Elsewhere [`Broker::start`] refuses before any of this is used.
#[cfg(not(unix))]
mod group {
    use std::fs::DirBuilder;
    use std::process::Command;

    pub(super) type Signal = ();
    pub(super) const TERMINATE: Signal = ();
    pub(super) const KILL: Signal = ();

    pub(super) fn private_folder() -> DirBuilder {
        DirBuilder::new()
    }

    pub(super) fn set_own(_command: &mut Command) {}

    pub(super) fn send(_group: u32, _signal: Signal) {}

    pub(super) fn is_alive(_group: u32) -> bool {
        false
    }
}

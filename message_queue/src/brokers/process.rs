//! A private broker as a child process.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tcp_socket::base::principals;
use tcp_socket::base::tls::ServerOptions;

use super::kind::{Error, Kind};
use super::ports::{free_port, is_free};
use super::supervised::{KILL, Signal, Supervised, TERMINATE, private_folder, signal_process};
use super::tls::Files;
use super::users::Users;

/// Text that RabbitMQ logs at the end of its start.
const RABBITMQ_STARTED: &str = "Server startup complete";

/// The same for Redis.
const REDIS_STARTED: &str = "Ready to accept connections";

/// Shell command that starts `epmd`, where Erlang's nodes look up each other's ports.
const EPMD: &str = "epmd -port \"$ERL_EPMD_PORT\" -address 127.0.0.1 &";

/// File with RabbitMQ's users and queues.
const DEFINITIONS: &str = "definitions.json";

/// Time after which a broker that is not ready has failed. RabbitMQ needs 4 to 12 s, and more on
/// a busy machine.
const START: Duration = Duration::from_secs(120);

/// How to start a broker.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its port; `None` picks a free one.
    pub port: Option<u16>,
    /// Folder for its data; `None` means a temporary one, which is deleted with the broker.
    pub data: Option<PathBuf>,
    /// Further arguments for Redis, or lines of RabbitMQ's `rabbitmq.conf`.
    pub settings: Vec<String>,
    /// Whether it speaks TLS, and only that.
    pub tls: ServerOptions,
    /// Who may use it, and what for.
    pub principals: principals::Options,
}

/// The part that a process plays.
#[derive(Debug)]
pub(super) enum Role {
    /// A broker on its own.
    Alone,
    /// A node of a RabbitMQ cluster.
    Node {
        /// Its name, such as n1.
        name: String,
        /// The folder with the cookie, the password that the nodes share.
        home: PathBuf,
        /// The port of the cluster's `epmd`.
        epmd: u16,
    },
    /// A Sentinel. Its option `settings` holds its whole configuration.
    Sentinel,
}

/// A broker that runs until this value is dropped or this process ends.
#[derive(Debug)]
pub struct Broker {
    kind: Kind,
    port: u16,
    /// RabbitMQ's port for other nodes and for `rabbitmqctl`, and the port of `epmd`, where they
    /// look up the first one.
    node_ports: (u16, u16),
    folder: PathBuf,
    keep_folder: bool,
    settings: Vec<String>,
    tls: Option<Files>,
    users: Option<Users>,
    role: Role,
    process: Option<Supervised>,
}

impl Broker {
    /// Starts a broker and waits until it is ready.
    ///
    /// # Errors
    /// If it is not installed, if the port is taken, or if it does not start. The last error holds
    /// the end of its output.
    pub fn start(kind: Kind, options: Options) -> Result<Self, Error> {
        Self::start_as(Role::Alone, kind, options)
    }

    pub(super) fn start_as(role: Role, kind: Kind, options: Options) -> Result<Self, Error> {
        if !cfg!(unix) {
            return Err(Error::NotOnThisSystem { kind });
        }
        kind.program().ok_or(Error::Missing { kind })?;
        let port = match options.port {
            Some(port) if is_free(port) => port,
            Some(port) => return Err(taken(kind, port)),
            None => free_port()?,
        };
        let (tls, users) = (Files::find(&options.tls)?, Users::find(&options.principals)?);
        let keep_folder = options.data.is_some();
        let folder = match options.data {
            Some(folder) => folder,
            None => temporary_folder(kind),
        };
        private_folder().create(&folder)?;
        let mut broker = Self {
            kind,
            port,
            node_ports: (0, 0),
            folder: folder.canonicalize()?,
            keep_folder,
            settings: options.settings,
            tls,
            users,
            role,
            process: None,
        };
        let result = broker.run();
        // Somebody may have taken a port after the check, so try once more with others.
        if result.is_err() && options.port.is_none() {
            broker.kill();
            broker.port = free_port()?;
            broker.run()?;
        } else {
            result?;
        }
        Ok(broker)
    }

    /// Returns its address for clients.
    pub fn url(&self) -> String {
        let url = self.kind.url(self.port);
        if self.tls.is_some() { url.replacen(':', "s:", 1) } else { url }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Sets the settings for the next start.
    pub(super) fn set_settings(&mut self, settings: Vec<String>) {
        self.settings = settings;
    }

    /// Returns the end of its output so far.
    pub fn output(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(self.folder.join("output.log")) {
            let _ = file.read_to_end(&mut text);
        }
        let start = text.len().saturating_sub(4_000);
        String::from_utf8_lossy(&text[start..]).into_owned()
    }

    /// Returns the process ID of the broker itself, not of its shell.
    pub fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("pid")).ok()?.trim().parse().ok()
    }

    /// Returns whether its process is still running.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(Supervised::is_running)
    }

    /// Kills it like kill -9. Its data stays for [`Broker::restart`].
    pub fn kill(&mut self) {
        self.end(KILL);
    }

    /// Stops it like kill -STOP: it keeps its connections, but does nothing until
    /// [`Broker::wake`].
    pub fn freeze(&self) {
        if let Some(pid) = self.pid() {
            signal_process(pid, true);
        }
    }

    /// Lets a frozen broker continue.
    pub fn wake(&self) {
        if let Some(pid) = self.pid() {
            signal_process(pid, false);
        }
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) {
        self.end(TERMINATE);
    }

    /// Starts it again with the same port and data, and waits until it is ready.
    ///
    /// # Errors
    /// The same as for [`Broker::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill();
        self.run()
    }

    /// Runs RabbitMQ's `rabbitmqctl` on this node, and returns its output.
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
        let program = self.kind.program().ok_or(Error::Missing { kind: self.kind })?;
        let mut command = match (self.kind, &self.role) {
            (Kind::RabbitMq, role) => {
                let epmd = if let Role::Node { epmd, .. } = role { *epmd } else { free_port()? };
                self.node_ports = (free_port()?, epmd);
                self.rabbitmq(folder, &program)?
            }
            (Kind::Redis, Role::Sentinel) => self.sentinel(folder, &program)?,
            (Kind::Redis, _) => self.redis(folder, &program)?,
        };
        command.current_dir(&self.folder).stdout(output.try_clone()?).stderr(output);
        self.process = Some(Supervised::spawn(&mut command)?);
        let deadline = Instant::now() + START;
        while !self.is_ready() {
            if !self.is_running() || Instant::now() > deadline {
                let output = self.output();
                self.kill();
                return Err(Error::DidNotStart { kind: self.kind, output });
            }
            sleep(Duration::from_millis(20));
        }
        let _ = fs::remove_file(self.folder.join(DEFINITIONS)); // RabbitMQ has only hashes of the tokens in it.
        Ok(())
    }

    fn redis(&self, folder: &Path, program: &Path) -> io::Result<Command> {
        let mut command = Supervised::command(folder, program);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(&self.folder).arg("--pidfile").arg(self.folder.join("pid"));
        command.args(self.tls.iter().flat_map(|tls| tls.redis(self.port))).args(&self.settings);
        if let Some(users) = &self.users {
            let file = self.folder.join("users.acl");
            fs::write(&file, users.redis())?;
            command.arg("--aclfile").arg(file);
        }
        Ok(command)
    }

    /// A Sentinel writes what it learns into its configuration.
    fn sentinel(&self, folder: &Path, program: &Path) -> io::Result<Command> {
        let conf = self.folder.join("sentinel.conf");
        if !conf.exists() {
            let (port, data) = (self.port, self.folder.display());
            let head = format!("port {port}\nbind 127.0.0.1\ndir {data}\npidfile {data}/pid\n");
            fs::write(&conf, head + &self.settings.join("\n") + "\n")?;
        }
        let mut command = Supervised::command(folder, program);
        command.arg(conf).arg("--sentinel");
        Ok(command)
    }

    fn rabbitmq(&self, folder: &Path, program: &Path) -> Result<Command, Error> {
        fs::write(self.folder.join("enabled_plugins"), "[].\n")?;
        let tls = self.tls.as_ref().map(|tls| tls.rabbitmq(self.port, &self.folder)).transpose()?;
        let mut conf = tls.unwrap_or_default() + &self.settings.join("\n") + "\n";
        let definitions = match (&self.users, &self.tls) {
            (Some(users), _) => Some(users.rabbitmq()?),
            (None, Some(tls)) => tls.users()?,
            (None, None) => None,
        };
        // With definitions, RabbitMQ makes no user guest of its own.
        if let Some(definitions) = definitions {
            let file = self.folder.join(DEFINITIONS);
            fs::write(&file, definitions)?;
            conf += &format!("load_definitions = {}\n", file.display());
        }
        fs::write(self.folder.join("rabbitmq.conf"), conf)?;
        let mut command = Supervised::command(folder, "sh");
        // Start `epmd` in this group: the one that Erlang would start outlives the broker. The nodes of
        // a cluster share one, which outlives each of them.
        let epmd = if let Role::Alone = self.role { EPMD } else { "" };
        command.args(["-c", &format!("{epmd} exec \"$0\" -noinput")]).arg(program);
        self.set_environment(&mut command);
        Ok(command)
    }

    /// Keeps the node away from everything that the system's own RabbitMQ uses.
    fn set_environment(&self, command: &mut Command) {
        let folder = |name: &str| self.folder.join(name);
        let (node_port, epmd_port) = self.node_ports;
        let home = if let Role::Node { home, .. } = &self.role { home } else { &self.folder };
        command
            .env("HOME", home)
            .env("ERL_EPMD_PORT", epmd_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            // Otherwise `rabbitmqctl` starts an `epmd` of its own when the node is down.
            .env("ERL_FLAGS", "-start_epmd false")
            .env("ERL_CRASH_DUMP", folder("crash.dump"))
            .env("RABBITMQ_ALLOW_INPUT", "1") // The script then becomes the node, with its process ID.
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
        if let Role::Node { name, .. } = &self.role {
            return format!("{name}@localhost");
        }
        // The data belongs to a node's name, so a kept folder needs the same name each time.
        if self.keep_folder { "brokers@localhost".into() } else { format!("private-{}@localhost", self.port) }
    }

    /// Returns whether the broker is ready. An open port is not enough, since RabbitMQ listens
    /// before it responds, so this tries a handshake. RabbitMQ must also have logged the end of its
    /// start: version 4 responds earlier, but then loses replies to `amq.rabbitmq.reply-to`. With
    /// TLS, or if Redis wants a login, only the log counts.
    fn is_ready(&self) -> bool {
        let (kind, only_log) = (self.kind, self.tls.is_some() || self.users.is_some());
        let started = if kind == Kind::RabbitMq { RABBITMQ_STARTED } else { REDIS_STARTED };
        if (only_log || kind == Kind::RabbitMq) && !self.output().contains(started) {
            return false;
        }
        if only_log {
            return true;
        }
        let (request, expected): (&[u8], u8) = match self.kind {
            Kind::RabbitMq => (b"AMQP\0\0\x09\x01", 1),
            Kind::Redis => (b"PING\r\n", b'+'),
        };
        let respond = || -> io::Result<u8> {
            let mut stream = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)))?;
            stream.set_read_timeout(Some(Duration::from_secs(1)))?;
            stream.write_all(request)?;
            let mut first = [0];
            stream.read_exact(&mut first)?;
            Ok(first[0])
        };
        respond().is_ok_and(|first| first == expected)
    }

    fn end(&mut self, signal: Signal) {
        if let Some(process) = self.process.take() {
            process.end(signal);
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.end(if self.keep_folder { TERMINATE } else { KILL });
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

pub(super) fn temporary_folder(kind: Kind) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{kind}-{}-{count}-{:08x}", std::process::id(), fastrand::u32(..)).to_lowercase();
    std::env::temp_dir().join(name)
}

//! A cluster of each broker on this machine: three RabbitMQ nodes, and a Redis primary with two
//! replicas and three Sentinels.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use std::{fs, mem};

use super::kind::{Error, Kind};
use super::ports::free_port;
use super::process::{Broker, Options, Role, temporary_folder};
use super::supervised::{KILL, Supervised, private_folder, write_secret};
use crate::limits::redis::PRIMARY;

/// Number of RabbitMQ nodes, of Redis processes, and of Sentinels.
const NODES: u16 = 3;

/// Distance between the port of a Redis and that of its Sentinel: 6379 and 26379.
const SENTINEL_OFFSET: u16 = 20_000;

/// Maximum time until the Sentinels know each other, or have agreed on a new primary. They need
/// 2 to 3 s.
const AGREE: Duration = Duration::from_secs(30);

/// Settings of each Redis. It sends its data to a new replica at once, and a replica deletes the
/// file in which it received them: after a restart, it would bring back old data.
const REDIS: [&str; 4] = ["--repl-diskless-sync-delay", "0", "--rdb-del-sync-files", "yes"];

/// Which clusters to start, and where.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClusterOptions {
    /// Only the cluster of this broker.
    pub only: Option<Kind>,
    /// Port of the first RabbitMQ node; the others use the next two. `None` picks free ports.
    pub rabbitmq_port: Option<u16>,
    /// Port of the first Redis; the others use the next two. Each Sentinel's port is larger by
    /// 20,000. `None` picks free ports.
    pub redis_port: Option<u16>,
}

/// Nodes that run until this value is dropped or this process ends.
#[derive(Debug, Default)]
pub struct Cluster {
    /// `n1` to `n3` for RabbitMQ, `r1` to `r3` for Redis, and `s1` to `s3` for the Sentinels.
    nodes: BTreeMap<String, Broker>,
    /// The `epmd` of the RabbitMQ nodes, and the folder with their cookie.
    epmd: Option<(Supervised, PathBuf)>,
}

impl Cluster {
    /// Starts the nodes, and waits until they form clusters.
    ///
    /// # Errors
    /// If a broker is not installed, a port is taken, or a node does not start.
    pub fn start(options: ClusterOptions) -> Result<Self, Error> {
        let wanted = |kind| options.only.is_none_or(|only| only == kind);
        let mut cluster = Self::default();
        if wanted(Kind::Redis) {
            cluster.start_redis(options.redis_port)?;
        }
        if wanted(Kind::RabbitMq) {
            cluster.start_rabbitmq(options.rabbitmq_port)?;
        }
        if wanted(Kind::Redis) {
            cluster.wait_for_sentinels()?;
        }
        Ok(cluster)
    }

    fn start_redis(&mut self, first: Option<u16>) -> Result<(), Error> {
        for index in 0..NODES {
            let port = first.map(|first| first + index);
            let mut settings: Vec<_> = REDIS.map(String::from).to_vec();
            if let Some(primary) = self.nodes.get("r1") {
                settings.extend(replica_of(primary.port()));
            }
            let options = Options { port, settings, ..Options::default() };
            let redis = Broker::start(Kind::Redis, options)?;
            self.nodes.insert(format!("r{}", index + 1), redis);
        }
        let primary = self.node("r1")?.port();
        for index in 0..NODES {
            let port = first.map(|first| first + index + SENTINEL_OFFSET);
            // Two Sentinels have to agree that the primary is gone, after a second of silence.
            let settings = vec![
                format!("sentinel monitor {PRIMARY} 127.0.0.1 {primary} 2"),
                format!("sentinel down-after-milliseconds {PRIMARY} 1000"),
                format!("sentinel failover-timeout {PRIMARY} 5000"),
            ];
            let options = Options { port, settings, ..Options::default() };
            let sentinel = Broker::start_as(Role::Sentinel, Kind::Redis, options)?;
            self.nodes.insert(format!("s{}", index + 1), sentinel);
        }
        Ok(())
    }

    /// Starts three nodes at the same time. Then the second and the third join the first.
    fn start_rabbitmq(&mut self, first: Option<u16>) -> Result<(), Error> {
        let home = temporary_folder(Kind::RabbitMq);
        private_folder().create(&home)?;
        // Otherwise, all nodes would create it at once, and one could read what another has half written.
        write_secret(
            &home.join(".erlang.cookie"),
            &format!("{:016x}", getrandom::u64().map_err(io::Error::from)?),
        )?;
        let port = free_port()?;
        let mut command = Supervised::command(&home, "epmd");
        command.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
        self.epmd = Some((Supervised::spawn(&mut command)?, home.clone()));

        let start = |index: u16| {
            let role = Role::Node { name: format!("n{}", index + 1), home: home.clone(), epmd: port };
            let port = first.map(|first| first + index);
            Broker::start_as(role, Kind::RabbitMq, Options { port, ..Options::default() })
        };
        let started: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..NODES).map(|index| scope.spawn(move || start(index))).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        for (index, node) in started.into_iter().enumerate() {
            let node = node.unwrap_or_else(|_panic| Err(io::Error::other("the start panicked").into()))?;
            self.nodes.insert(format!("n{}", index + 1), node);
        }
        for name in ["n2", "n3"] {
            for args in [&["stop_app"][..], &["join_cluster", "n1@localhost"], &["start_app"]] {
                self.node(name)?.rabbitmqctl(args)?;
            }
        }
        Ok(())
    }

    /// Waits until the Sentinels know each other and the replicas. Before that, they can't replace
    /// the primary.
    fn wait_for_sentinels(&self) -> Result<(), Error> {
        let others = (NODES - 1).to_string();
        let ready = |name: &str| {
            let state: BTreeMap<String, String> = self.ask(name, &["SENTINEL", "MASTER", PRIMARY])?;
            let known = |what| state.get(what) == Some(&others);
            Some(()).filter(|()| known("num-other-sentinels") && known("num-slaves"))
        };
        wait("the Sentinels know each other", || ["s1", "s2", "s3"].into_iter().try_for_each(ready))
    }

    /// Asks a Redis or a Sentinel. Returns `None` if it does not answer.
    fn ask<T: redis::FromRedisValue>(&self, name: &str, command: &[&str]) -> Option<T> {
        let client = redis::Client::open(self.nodes.get(name)?.url()).ok()?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
        connection.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        let (command, args) = command.split_first()?;
        redis::cmd(command).arg(args).query(&mut connection).ok()
    }

    /// Returns what clients need: the addresses of all RabbitMQ nodes, or those of all Sentinels.
    pub fn url(&self, kind: Kind) -> String {
        let prefix = if kind == Kind::Redis { 's' } else { 'n' };
        let nodes = self.nodes.iter().filter(|(name, _)| name.starts_with(prefix));
        let urls: Vec<_> = nodes.map(|(_, node)| node.url().replace("redis:", "redis+sentinel:")).collect();
        urls.join(",")
    }

    /// Returns a node.
    ///
    /// # Errors
    /// If none has this name.
    pub fn node(&self, name: &str) -> Result<&Broker, Error> {
        self.nodes.get(name).ok_or_else(|| self.unknown(name))
    }

    fn unknown(&self, name: &str) -> Error {
        let names: Vec<_> = self.nodes.keys().map(String::as_str).collect();
        Error::Cluster(format!("there is no node {name}; use one of {}", names.join(", ")))
    }

    /// Returns whether there is a node with this name, and it runs.
    pub fn is_running(&mut self, name: &str) -> bool {
        self.nodes.get_mut(name).is_some_and(Broker::is_running)
    }

    /// Kills a node like kill -9.
    ///
    /// # Errors
    /// If none has this name.
    pub fn kill(&mut self, name: &str) -> Result<(), Error> {
        let error = self.unknown(name);
        self.nodes.get_mut(name).ok_or(error)?.kill();
        Ok(())
    }

    /// Starts a node again after [`Cluster::kill`], and waits until it is ready. A Redis comes back as
    /// a replica of the current primary.
    ///
    /// # Errors
    /// If none has this name, if it still runs, or if it does not start.
    pub fn start_again(&mut self, name: &str) -> Result<(), Error> {
        let error = self.unknown(name);
        let Some(node) = self.nodes.get_mut(name) else { return Err(error) };
        if node.is_running() {
            return Err(Error::Cluster(format!("{name} is running")));
        }
        let port = node.port();
        let mut settings = None;
        if name.starts_with('r') {
            // It comes back empty. As the primary, it would empty its replicas too.
            let another = || self.primary_port().filter(|primary| *primary != port);
            wait("the Sentinels have replaced the primary", || another().map(drop))?;
            let replica = another().into_iter().flat_map(replica_of);
            settings = Some(REDIS.into_iter().map(String::from).chain(replica).collect());
        }
        let Some(node) = self.nodes.get_mut(name) else { return Ok(()) };
        if let Some(settings) = settings {
            node.set_settings(settings);
        }
        node.restart()
    }

    fn primary_port(&self) -> Option<u16> {
        let ask = |name| self.ask::<(String, u16)>(name, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY]);
        ["s1", "s2", "s3"].into_iter().find_map(ask).map(|(_host, port)| port)
    }

    /// Returns the name of the Redis that is the primary, according to the Sentinels.
    ///
    /// # Errors
    /// If no Sentinel answers.
    pub fn primary(&self) -> Result<&str, Error> {
        let port = self.primary_port();
        let mut redis = self.nodes.iter().filter(|(name, _)| name.starts_with('r'));
        let found = redis.find(|(_, redis)| Some(redis.port()) == port);
        found.map(|(name, _)| name.as_str()).ok_or_else(|| Error::Cluster("no Sentinel answers".into()))
    }

    /// Stops all nodes.
    pub fn stop(&mut self) {
        let nodes = mem::take(&mut self.nodes);
        thread::scope(|scope| {
            for node in nodes.into_values() {
                scope.spawn(move || drop(node));
            }
        });
        if let Some((epmd, home)) = self.epmd.take() {
            epmd.end(KILL);
            let _ = fs::remove_dir_all(home);
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

fn replica_of(primary: u16) -> [String; 3] {
    ["--replicaof".into(), "127.0.0.1".into(), primary.to_string()]
}

fn wait(what: &str, happened: impl Fn() -> Option<()>) -> Result<(), Error> {
    let deadline = Instant::now() + AGREE;
    while happened().is_none() {
        if Instant::now() > deadline {
            return Err(Error::Cluster(format!("this did not happen within {AGREE:?}: {what}")));
        }
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

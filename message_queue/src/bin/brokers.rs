//! Runs both brokers in a terminal, without Docker.
//!
//! ```sh
//! cargo run -p message_queue --bin brokers      # terminal 1
//! cargo run -p message_queue --bin producer     # terminal 2
//! cargo run -p message_queue --bin consumer     # terminal 3
//! ```
//!
//! With `--cluster`, each broker is a cluster, whose nodes you can kill from another terminal:
//!
//! ```sh
//! cargo run -p message_queue --bin brokers -- --cluster       # terminal 1
//! cargo run -p message_queue --bin brokers -- --kill n2       # terminal 2
//! ```

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use message_queue::brokers::control::{self, MAX_FREEZE, Order};
use message_queue::brokers::{Broker, Cluster, ClusterOptions, Kind, Options, install, install_is_wanted};
use tcp_socket::base::principals;
use tcp_socket::base::program::{finish, output, shutdown_signal};
use tcp_socket::base::text::printable;
use tcp_socket::base::tls::ServerOptions;

/// RabbitMQ's usual port for TLS.
const AMQPS_PORT: u16 = 5671;

/// Distance between the port of RabbitMQ's first node and the one on which a cluster takes orders.
const CONTROL_OFFSET: u16 = 10;

/// Starts the RabbitMQ and the Redis that are installed on this machine. Ctrl-C stops
/// both and deletes their data, unless --data names a folder for it.
#[derive(Parser)]
#[command(name = "brokers")]
struct Args {
    /// Start only this broker
    #[arg(long, value_enum)]
    only: Option<Kind>,
    /// Port of RabbitMQ [default: 5672, or 5671 with --tls]
    #[arg(long)]
    rabbitmq_port: Option<u16>,
    /// Port of Redis
    #[arg(long, default_value_t = Kind::Redis.standard_port())]
    redis_port: u16,
    /// Folder for data that outlives this program
    #[arg(long, conflicts_with = "principals")]
    data: Option<PathBuf>,
    /// Install missing brokers first, as BROKERS=install does (Debian, Ubuntu)
    #[arg(long)]
    install: bool,
    /// Start clusters: RabbitMQ nodes n1, n2, and n3 on three ports from --rabbitmq-port on, Redis
    /// servers r1, r2, and r3 on three ports from --redis-port on, and Sentinels s1, s2, and s3, whose
    /// ports are larger by 20000
    #[arg(long, conflicts_with_all = ["data", "tls", "principals"])]
    cluster: bool,
    /// Kill this node of the cluster that runs in another terminal, like kill -9
    #[arg(long, value_name = "NODE", group = "order", conflicts_with = "cluster")]
    kill: Option<String>,
    /// Freeze this node, like kill -STOP
    #[arg(long, value_name = "NODE", group = "order", conflicts_with = "cluster", requires = "for_time")]
    freeze: Option<String>,
    /// How long to freeze it, such as 20s; at most 40s
    #[arg(long = "for", value_name = "SECONDS", value_parser = seconds, requires = "freeze")]
    for_time: Option<Duration>,
    /// Start this node again
    #[arg(long, value_name = "NODE", group = "order", conflicts_with = "cluster")]
    start: Option<String>,
    #[command(flatten)]
    tls: ServerOptions,
    #[command(flatten)]
    principals: principals::Options,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse().map(Duration::from_secs);
    number.ok().filter(|time| *time <= MAX_FREEZE).ok_or(format!("use up to {MAX_FREEZE:?}, for example 20s"))
}

impl Args {
    /// Returns the port of RabbitMQ, or of its first node.
    fn rabbitmq_port(&self) -> u16 {
        let usual = if self.tls.tls { AMQPS_PORT } else { Kind::RabbitMq.standard_port() };
        self.rabbitmq_port.unwrap_or(usual)
    }

    /// Returns the order for a cluster in another terminal.
    fn order(&self) -> Option<Order> {
        let kill = self.kill.clone().map(Order::Kill);
        let freeze = self.freeze.clone().zip(self.for_time).map(|(name, time)| Order::Freeze(name, time));
        kill.or(freeze).or(self.start.clone().map(Order::Start))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    finish(run(Args::parse()).await)
}

async fn run(args: Args) -> anyhow::Result<()> {
    if let Some(order) = args.order() {
        let done = order.send(args.rabbitmq_port() + CONTROL_OFFSET)?;
        return Ok(writeln!(output(), "{}", printable(&done))?);
    }
    if args.cluster {
        return run_cluster(&args).await;
    }
    let shutdown = shutdown_signal()?;
    let starting = tokio::task::spawn_blocking(move || start(&args));
    // Ctrl-C during the start: when this process ends, the brokers end too.
    let mut brokers = tokio::select! {
        started = starting => started??,
        () = shutdown.cancelled() => exit(0),
    };
    writeln!(output(), "Ctrl-C stops {}", if brokers.len() == 1 { "it" } else { "both" })?;
    while shutdown.run_until_cancelled(tokio::time::sleep(Duration::from_millis(500))).await.is_some() {
        for broker in &mut brokers {
            if !broker.is_running() {
                // The output may be long, so the error comes last.
                for line in broker.output().lines() {
                    _ = writeln!(io::stderr(), "{}", printable(line)); // Stderr may be closed.
                }
                anyhow::bail!("{} has ended; the end of its output is above", broker.url());
            }
        }
    }
    writeln!(output(), "stopping")?;
    tokio::task::spawn_blocking(move || brokers.iter_mut().for_each(Broker::stop)).await?;
    Ok(())
}

async fn run_cluster(args: &Args) -> anyhow::Result<()> {
    let (shutdown, started) = (shutdown_signal()?, Instant::now());
    let (rabbitmq_port, redis_port) = (args.rabbitmq_port(), args.redis_port);
    let options =
        ClusterOptions { only: args.only, rabbitmq_port: Some(rabbitmq_port), redis_port: Some(redis_port) };
    let (only, wants_install) = (args.only, args.install);
    let starting = tokio::task::spawn_blocking(move || -> anyhow::Result<_> {
        if wants_install || install_is_wanted() {
            install()?;
        }
        // First the port for orders: if it is taken, another cluster is running.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, rabbitmq_port + CONTROL_OFFSET));
        Ok((
            listener.context("cannot listen for orders; is another cluster running?")?,
            Cluster::start(options)?,
        ))
    });
    // Ctrl-C during the start: when this process ends, the nodes end too.
    let (listener, cluster) = tokio::select! {
        started = starting => started??,
        () = shutdown.cancelled() => exit(0),
    };
    for (kind, variable) in [(Kind::RabbitMq, "RABBITMQ_URL"), (Kind::Redis, "REDIS_URL")] {
        if only.is_none_or(|only| only == kind) {
            writeln!(output(), "{kind}: for the other programs: export {variable}={}", cluster.url(kind))?;
        }
    }
    let cluster = Arc::new(Mutex::new(cluster));
    control::serve(listener, cluster.clone(), |done| _ = writeln!(output(), "{}", printable(done)));
    writeln!(output(), "ready after {:.1} s; Ctrl-C stops all nodes", started.elapsed().as_secs_f64())?;
    shutdown.cancelled().await;
    writeln!(output(), "stopping")?;
    // If a node is starting at this moment, it ends with this process.
    tokio::task::spawn_blocking(move || _ = cluster.try_lock().map(|mut cluster| cluster.stop())).await?;
    Ok(())
}

fn start(args: &Args) -> anyhow::Result<Vec<Broker>> {
    if args.install || install_is_wanted() {
        install()?;
    }
    let mut brokers = Vec::new();
    // Redis first: it is ready at once, and if its port is taken, the error does not have to wait
    // for RabbitMQ.
    for (kind, port) in [(Kind::Redis, args.redis_port), (Kind::RabbitMq, args.rabbitmq_port())] {
        if args.only.is_some_and(|only| only != kind) {
            continue;
        }
        // A power cut should not lose the last second of data that is kept.
        let durable = ["--appendonly", "yes", "--appendfsync", "always"].map(String::from);
        let durable = if kind == Kind::Redis && args.data.is_some() { durable.to_vec() } else { Vec::new() };
        let data = args.data.as_ref().map(|folder| folder.join(kind.to_string().to_lowercase()));
        let broker = Broker::start(
            kind,
            Options {
                port: Some(port),
                data,
                settings: durable,
                tls: args.tls.clone(),
                principals: args.principals.clone(),
            },
        )?;
        writeln!(output(), "{kind} at {}", broker.url())?;
        if args.principals.principals.is_some() {
            let login = broker.url().replacen("://", "://NAME@", 1);
            writeln!(output(), "  for the other programs: --url {login} --token-file NAME.token")?;
        } else if args.tls.tls || port != kind.standard_port() {
            let variable = if kind == Kind::Redis { "REDIS_URL" } else { "RABBITMQ_URL" };
            writeln!(output(), "  for the other programs: export {variable}={}", broker.url())?;
        }
        brokers.push(broker);
    }
    Ok(brokers)
}

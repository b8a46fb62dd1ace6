//! Everything that has to run for one experiment, and how it breaks.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::stream::BoxStream;
use message_queue::brokers::{Broker, Kind, Options};
use message_queue::error::Error;
use message_queue::publish_subscribe::Event;
use message_queue::{rabbitmq, redis};
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::task::{AbortHandle, block_in_place};
use tokio::time::sleep;

use super::breakage::{ALARM, AWAY, Breakage, FROZEN, What};
use super::client::{Place, Request, micros};
use super::row::{Behind, Row, Runs};
use crate::run::server::Server;
use crate::wire::fault::Kind as WireFault;
use crate::wire::gate::{Faults, Network};
use crate::wire::proxy::Proxy;
use crate::wire::tape::Tape;

/// Time that each job takes if its worker is killed, in milliseconds.
const WORK_TIME: u64 = 20;

/// Time in which a fault has to strike.
const STRIKE_WITHIN: Duration = Duration::from_secs(10);

/// Pause between two looks at something.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A broker for an experiment.
pub(super) enum Held<'a> {
    /// None is needed.
    None,
    /// Shared with other experiments.
    Shared(RwLockReadGuard<'a, Broker>),
    /// Not shared now, since it will break.
    Alone(RwLockWriteGuard<'a, Broker>),
    /// A private one.
    Own(Box<Broker>),
}

impl Held<'_> {
    fn get(&mut self) -> anyhow::Result<&mut Broker> {
        match self {
            Self::Alone(broker) => Ok(broker),
            Self::Own(broker) => Ok(broker),
            Self::None | Self::Shared(_) => anyhow::bail!("this broker must not break"),
        }
    }

    fn address(&self) -> Option<String> {
        let url = match self {
            Self::None => return None,
            Self::Shared(broker) => broker.url(),
            Self::Alone(broker) => broker.url(),
            Self::Own(broker) => broker.url(),
        };
        Some(url.split_once("://").map_or(url.clone(), |(_scheme, address)| address.to_owned()))
    }
}

/// What has to run. Dropping it ends everything.
pub(super) struct Stage<'a> {
    pub row: &'static Row,
    /// The proxy that the client connects to.
    near: Proxy,
    pub near_faults: Arc<Faults>,
    pub tape: Arc<Tape>,
    /// The proxy that the programs behind a broker connect to.
    far: Option<(Proxy, Arc<Faults>)>,
    /// The server, or the program behind the broker.
    program: Option<Server>,
    arguments: Vec<String>,
    /// What a subscriber has heard.
    heard: Arc<Mutex<Vec<String>>>,
    subscriber: Option<AbortHandle>,
    prefix: String,
    folder: PathBuf,
    /// How many lines the truth had each time the server lost its memory.
    pub lives: Vec<usize>,
    broker: Held<'a>,
}

impl<'a> Stage<'a> {
    /// Starts everything for a row.
    pub(super) async fn set(
        row: &'static Row,
        breakage: &Breakage,
        mut broker: Held<'a>,
    ) -> anyhow::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("faults-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(&name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        if row.broker() == Some(Kind::Redis) {
            let settings = row.settings.iter().map(|setting| (*setting).to_owned()).collect();
            let started =
                block_in_place(|| Broker::start(Kind::Redis, Options { settings, ..Default::default() }))?;
            broker = Held::Own(Box::new(started));
        }
        let mut stage = Self {
            row,
            near: Proxy::start("127.0.0.1:0".into(), None)?,
            near_faults: Arc::new(Faults::new(row.format.decoder())),
            tape: Arc::default(),
            far: None,
            program: None,
            arguments: Vec::new(),
            heard: Arc::default(),
            subscriber: None,
            prefix: name,
            folder,
            lives: Vec::new(),
            broker,
        };
        let target = match stage.broker.address() {
            None => String::new(),
            Some(address) => {
                let faults = Arc::new(Faults::new(row.format.decoder()));
                let far = Proxy::listen("127.0.0.1:0", address.clone(), None, Some(faults.clone()))?;
                stage.far = Some((far, faults));
                address
            }
        };
        stage.arguments = stage.arguments(breakage);
        let target = stage.start_program(target)?;
        if stage.row.behind() == Some(Behind::Subscriber) {
            stage.subscribe().await?;
        }
        let (tape, faults) = (stage.tape.clone(), stage.near_faults.clone());
        stage.near = Proxy::listen("127.0.0.1:0", target, Some(tape), Some(faults))?;
        Ok(stage)
    }

    /// Where the client connects.
    pub(super) fn place(&self) -> Place {
        Place { address: self.near.address(), prefix: self.prefix.clone() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Returns the arguments of the server or program, or nothing if there is none.
    fn arguments(&self, breakage: &Breakage) -> Vec<String> {
        let journal = ["--journal".to_owned(), self.path("journal")];
        let work_time = if breakage.what == What::WorkerKilled { WORK_TIME } else { 0 };
        match self.row.runs {
            Runs::Server(role) => ["serve".into(), role.into()].into_iter().chain(journal).collect(),
            Runs::Broker(_, Behind::Server(name) | Behind::Worker(name)) => {
                let address = self.far.as_ref().map_or_else(String::new, |(proxy, _)| proxy.address());
                let mut arguments = self.program_arguments(name, &address, "journal");
                arguments.extend(["--work-time".into(), work_time.to_string()]);
                arguments
            }
            Runs::Broker(_, Behind::Subscriber) => Vec::new(),
        }
    }

    fn program_arguments(&self, name: &str, address: &str, journal: &str) -> Vec<String> {
        let (results, journal) = (self.path("results"), self.path(journal));
        let options = ["--address", address, "--prefix", &self.prefix, "--results", &results];
        let all = ["program", name].into_iter().chain(options).chain(["--journal", &journal]);
        all.map(str::to_owned).collect()
    }

    /// Starts the server or program. Returns where clients connect: to the server, or to `broker`.
    fn start_program(&mut self, broker: String) -> anyhow::Result<String> {
        if self.arguments.is_empty() {
            return Ok(broker);
        }
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        let program = block_in_place(|| Server::run(&arguments, None))?;
        let address = program.address().to_owned();
        self.program = Some(program);
        Ok(if self.row.broker().is_some() { broker } else { address })
    }

    /// Subscribes to all readings, and writes down what arrives.
    async fn subscribe(&mut self) -> anyhow::Result<()> {
        let address = self.far.as_ref().map_or_else(String::new, |(proxy, _)| proxy.address());
        let place = Place { address, prefix: self.prefix.clone() };
        let mut events: BoxStream<'static, Result<Event, Error>> = match self.row.broker() {
            Some(Kind::RabbitMq) => {
                let patterns = ["readings.#".to_owned()];
                rabbitmq::publish_subscribe::subscribe(&place.amqp(), place.topology(), &patterns).await?
            }
            _ => {
                let patterns = ["*".to_owned()];
                redis::publish_subscribe::subscribe(&place.redis(), &place.keys(), &patterns).await?
            }
        };
        let heard = self.heard.clone();
        let listening = tokio::spawn(async move {
            while let Some(Ok(event)) = events.next().await {
                if let Event::Reading { reading, .. } = event {
                    let line = format!(
                        "{} {} {} {}",
                        reading.station,
                        reading.metric.name(),
                        reading.value,
                        reading.recorded_at
                    );
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            }
        });
        self.subscriber = Some(listening.abort_handle());
        Ok(())
    }

    /// Returns what was executed, in order.
    pub(super) fn truth(&self) -> Vec<String> {
        let journal = fs::read_to_string(self.folder.join("journal")).unwrap_or_default();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        journal.lines().map(str::to_owned).chain(heard.iter().cloned()).collect()
    }

    /// Lets something break, and mends it. Faults of the connection are already armed. Returns when it
    /// broke, and when it was mended if it was not a single moment, in microseconds.
    pub(super) async fn break_and_mend(&mut self, breakage: &Breakage) -> anyhow::Result<(u64, Option<u64>)> {
        let began = micros();
        match breakage.what {
            What::Connection(WireFault::StopReading(time))
                if self.row.behind() == Some(Behind::Subscriber) =>
            {
                let faults = &self.far.as_ref().context("there is no subscriber")?.1;
                faults.set_network(Network::Silent);
                sleep(time).await;
                faults.set_network(Network::Open);
            }
            What::Connection(kind) => {
                let struck = async {
                    loop {
                        match self.near_faults.struck() {
                            Some(struck) => return micros() - struck.elapsed().as_micros() as u64,
                            None => sleep(LOOK_AGAIN).await,
                        }
                    }
                };
                let struck = tokio::time::timeout(STRIKE_WITHIN, struck).await;
                let began = struck.context("the fault did not strike")?;
                return match kind {
                    WireFault::Silence(Some(time)) | WireFault::StopReading(time) => {
                        sleep(time).await;
                        Ok((began, Some(micros())))
                    }
                    _ => Ok((began, None)),
                };
            }
            What::ServerKilled | What::WorkerKilled => {
                self.program.as_mut().context("there is no program to kill")?.kill();
                self.stay_away().await?;
            }
            What::ServerStopped => {
                block_in_place(|| self.program.as_mut().map(Server::stop));
                self.stay_away().await?;
            }
            What::ServerFrozen => {
                let process = self.program.as_ref().context("there is no server")?.process();
                signal(process, "STOP")?;
                sleep(FROZEN).await;
                signal(process, "CONT")?;
            }
            What::BrokerKilled => {
                self.broker.get()?.kill();
                self.point_at(None);
                sleep(AWAY).await;
                let broker = self.broker.get()?;
                block_in_place(|| broker.restart())?;
                self.point_at(self.broker.address());
            }
            What::BrokerAlarm => {
                self.set_alarm(true).await?;
                sleep(ALARM).await;
                self.set_alarm(false).await?;
            }
            What::ClientKilled => {} // The experiment does it.
        }
        Ok((began, Some(micros())))
    }

    /// Starts the server or worker again after a while.
    async fn stay_away(&mut self) -> anyhow::Result<()> {
        if self.row.broker().is_none() {
            self.near.point_at(None);
        }
        self.lives.push(self.truth().len());
        sleep(AWAY).await;
        let target = self.start_program(self.broker.address().unwrap_or_default())?;
        self.near.point_at(Some(target));
        Ok(())
    }

    fn point_at(&self, broker: Option<String>) {
        self.near.point_at(broker.clone());
        if let Some((far, _)) = &self.far {
            far.point_at(broker);
        }
    }

    /// Makes the broker believe that it has no memory left, or enough again.
    async fn set_alarm(&mut self, alarm: bool) -> anyhow::Result<()> {
        match self.row.broker() {
            Some(Kind::RabbitMq) => {
                let limit = if alarm { "0" } else { "0.4" };
                let broker = self.broker.get()?;
                block_in_place(|| broker.rabbitmqctl(&["set_vm_memory_high_watermark", limit]))?;
            }
            _ => {
                let address = self.broker.address().context("there is no broker")?;
                let client = ::redis::Client::open(format!("redis://{address}"))?;
                let mut connection = client.get_multiplexed_async_connection().await?;
                let mut command = ::redis::cmd("CONFIG");
                command.arg("SET").arg("maxmemory").arg(if alarm { "1" } else { "0" });
                command.query_async::<()>(&mut connection).await?;
            }
        }
        Ok(())
    }

    /// Runs a client in a process of its own, and kills it after `strike` calls. Returns the calls, and
    /// when it was killed. The last calls are those that it did not live to see.
    pub(super) async fn kill_a_client(
        &self,
        strike: usize,
        in_flight: u64,
    ) -> anyhow::Result<(Vec<Request>, u64)> {
        let name = format!("client:{}", self.row.id);
        let mut arguments = self.program_arguments(&name, &self.near.address(), "told");
        arguments.extend(["--in-flight".into(), in_flight.to_string()]);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut client = block_in_place(|| Server::run(&arguments, None))?;
        let told = || fs::read_to_string(self.folder.join("told")).unwrap_or_default();
        let enough = async {
            while told().lines().count() < strike {
                sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(STRIKE_WITHIN, enough).await.context("the client does nothing")?;
        client.kill();
        let killed = micros();
        let told = told();
        let requests: Vec<Request> =
            told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        ensure!(!requests.is_empty(), "the client left no calls");
        Ok((requests, killed))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(subscriber) = &self.subscriber {
            subscriber.abort();
        }
        self.program = None; // It must not write anymore.
        if let Held::Own(broker) = &mut self.broker {
            broker.kill(); // Nobody needs its data.
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Sends a signal to a process.
fn signal(process: u32, name: &str) -> anyhow::Result<()> {
    let arguments = [format!("-{name}"), process.to_string()];
    let status = std::process::Command::new("kill").args(arguments).status();
    ensure!(status.context("cannot run kill")?.success(), "the process is gone");
    Ok(())
}

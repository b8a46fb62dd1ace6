//! Everything that has to run for one experiment. It can break, and be mended.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::StreamExt;
use futures::stream::BoxStream;
use message_queue::brokers::{Broker, Kind, Options};
use message_queue::error::Error;
use message_queue::publish_subscribe::Event;
use message_queue::{rabbitmq, redis};
use tcp_socket::base::tls::ClientOptions;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::task::{AbortHandle, block_in_place};
use tokio::time::{Instant, sleep, sleep_until};

use super::breakage::{ALARM, AWAY, Breakage, EXPIRED, FROZEN, VALID, What};
use super::client::{Place, Request, Told, micros};
use super::row::{Behind, Row, Runs};
use crate::run::server::Server;
use crate::wire::decode::tls;
use crate::wire::fault::Kind as WireFault;
use crate::wire::gate::{Faults, Network};
use crate::wire::proxy::Proxy;
use crate::wire::tape::Tape;

/// Time that each job takes if its worker is killed, in milliseconds.
const WORK_TIME: u64 = 20;

/// Maximum time until a fault strikes.
const STRIKE_WITHIN: Duration = Duration::from_secs(10);

/// Pause between two checks.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// A broker for an experiment.
pub(super) enum Held<'a> {
    /// No broker is needed.
    None,
    /// A broker that other experiments use, too.
    Shared(RwLockReadGuard<'a, Broker>),
    /// A shared broker that no other experiment uses at the moment, because it will break.
    Alone(RwLockWriteGuard<'a, Broker>),
    /// A private broker.
    Own(Box<Broker>),
}

impl Held<'_> {
    fn get(&mut self) -> anyhow::Result<&mut Broker> {
        match self {
            Self::Alone(broker) => Ok(broker),
            Self::Own(broker) => Ok(broker),
            Self::None | Self::Shared(_) => anyhow::bail!("a shared broker must not break"),
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

/// Everything that runs for one experiment. Dropping it ends everything.
pub(super) struct Stage<'a> {
    pub row: &'static Row,
    /// The proxy that the client connects to.
    near: Proxy,
    pub near_faults: Arc<Faults>,
    pub tape: Arc<Tape>,
    /// The proxy that the programs behind a broker connect to.
    far: Option<(Proxy, Arc<Faults>)>,
    /// The server, or the program behind the broker.
    pub(super) program: Option<Server>,
    arguments: Vec<String>,
    /// The readings that a subscriber has received.
    heard: Arc<Mutex<Vec<String>>>,
    subscriber: Option<AbortHandle>,
    prefix: String,
    pub(super) folder: Folder,
    /// When the server's first certificate expires, if that is the fault.
    pub(super) expires: Instant,
    /// What the errors of the client said.
    pub errors: Arc<Mutex<BTreeSet<String>>>,
    /// How the client encrypts its connections, if it does.
    pub(super) tls: Option<ClientOptions>,
    /// How many lines [`Self::truth`] had each time the server lost its memory.
    pub lives: Vec<usize>,
    broker: Held<'a>,
}

impl<'a> Stage<'a> {
    /// Starts everything that a row needs.
    pub(super) async fn set(
        row: &'static Row,
        breakage: &Breakage,
        mut broker: Held<'a>,
    ) -> anyhow::Result<Self> {
        let name = format!("faults-{:016x}", getrandom::u64()?);
        let folder = Folder::create(std::env::temp_dir().join(&name))?;
        if row.broker() == Some(Kind::Redis) {
            let settings = row.settings.iter().map(|setting| (*setting).to_owned()).collect();
            let started =
                block_in_place(|| Broker::start(Kind::Redis, Options { settings, ..Default::default() }))?;
            broker = Held::Own(Box::new(started));
        }
        let decoder = if breakage.over_tls() { tls::decoder } else { row.format.decoder() };
        let mut stage = Self {
            row,
            near: Proxy::start("127.0.0.1:0".into(), None)?,
            near_faults: Arc::new(Faults::new(decoder)),
            tape: Arc::default(),
            far: None,
            program: None,
            arguments: Vec::new(),
            heard: Arc::default(),
            subscriber: None,
            prefix: name,
            folder,
            expires: Instant::now() + VALID,
            errors: Arc::default(),
            tls: None,
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
        if breakage.over_tls() {
            stage.write_certificates(breakage)?;
        }
        stage.arguments = stage.arguments(breakage);
        let target = stage.start_program(target)?;
        if stage.row.behind() == Some(Behind::Subscriber) {
            stage.subscribe().await?;
        }
        let (tape, faults) = (stage.tape.clone(), stage.near_faults.clone());
        stage.near = Proxy::listen("127.0.0.1:0", target, Some(tape), Some(faults))?;
        Ok(stage)
    }

    /// Returns where the client connects.
    pub(super) fn place(&self) -> Place {
        let (tls, errors) = (self.tls.clone(), self.errors.clone());
        Place { tls, errors, ..Place::new(self.near.address(), self.prefix.clone()) }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.folder.0.join(name).display().to_string()
    }

    /// Returns the arguments of the server or program, or nothing if there is none.
    fn arguments(&self, breakage: &Breakage) -> Vec<String> {
        let journal = ["--journal".to_owned(), self.path("journal")];
        let work_time = if breakage.what == What::WorkerKilled { WORK_TIME } else { 0 };
        match self.row.runs {
            Runs::Server(role) => {
                let (certificate, key) = (self.path("shown.pem"), self.path("shown-key.pem"));
                let tls = ["--tls".into(), "--certificate".into(), certificate, "--key".into(), key];
                let tls = tls.into_iter().filter(|_| breakage.over_tls());
                ["serve".into(), role.into()].into_iter().chain(journal).chain(tls).collect()
            }
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

    /// Subscribes to all readings, and notes what arrives.
    async fn subscribe(&mut self) -> anyhow::Result<()> {
        let address = self.far.as_ref().map_or_else(String::new, |(proxy, _)| proxy.address());
        let place = Place::new(address, self.prefix.clone());
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
        let journal = fs::read_to_string(self.folder.0.join("journal")).unwrap_or_default();
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        journal.lines().map(str::to_owned).chain(heard.iter().cloned()).collect()
    }

    /// Breaks something, and mends it. A fault of the connection is already armed, so this only waits
    /// for it. Returns when the fault struck and, if it lasted for some time, when it was mended, in
    /// microseconds since 1970.
    pub(super) async fn break_and_mend(&mut self, breakage: &Breakage) -> anyhow::Result<(u64, Option<u64>)> {
        let mut began = micros();
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
                let began = struck.context("the fault did not strike in time")?;
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
            What::CertificateExpires => {
                sleep_until(self.expires + EXPIRED).await;
                began = micros();
                self.be_refused("server-brief").await?;
            }
            What::CertificateReplaced => self.be_refused("server-other-ca").await?,
            What::ClientKilled => {} // The experiment does it.
        }
        Ok((began, Some(micros())))
    }

    /// Starts the server or worker again after a while.
    pub(super) async fn stay_away(&mut self) -> anyhow::Result<()> {
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

    /// Makes the broker believe that it is out of memory, or that it has enough again.
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

    /// Runs a client in a process of its own, and kills it after `strike` calls while another one is in
    /// flight. Returns the calls that it had begun, and when the client was killed.
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
        let told = || fs::read_to_string(self.folder.0.join("told")).unwrap_or_default();
        let enough = async {
            while told().lines().filter(|line| line.starts_with('{')).count() < strike {
                sleep(LOOK_AGAIN).await;
            }
            // This call gets no response, so it is still in flight when the client is killed.
            self.near_faults.arm_next(WireFault::LoseResponse);
            while self.near_faults.struck().is_none() {
                sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(STRIKE_WITHIN, enough)
            .await
            .context("the client did not make enough calls in time")?;
        let killed = micros();
        client.kill();
        let told = told();
        let mut requests: Vec<Request> =
            told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let ended: HashSet<u64> = requests.iter().map(|request| request.number).collect();
        let begun = told.lines().filter_map(|line| line.strip_prefix("begun ")?.parse().ok());
        let unfinished = begun.filter(|number| !ended.contains(number));
        requests.extend(unfinished.map(|number| Request {
            number,
            started: killed,
            ended: killed,
            told: Told::Unknown,
        }));
        ensure!(!requests.is_empty(), "the client completed no call");
        Ok((requests, killed))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(subscriber) = &self.subscriber {
            subscriber.abort();
        }
        self.program = None; // It must no longer write to the folder.
        if let Held::Own(broker) = &mut self.broker {
            broker.kill(); // Nobody needs its data.
        }
    }
}

/// Sends a signal to a process.
fn signal(process: u32, name: &str) -> anyhow::Result<()> {
    let arguments = [format!("-{name}"), process.to_string()];
    let status = std::process::Command::new("kill").args(arguments).status();
    ensure!(status.context("cannot run kill")?.success(), "cannot send SIG{name} to process {process}");
    Ok(())
}

/// A folder that is removed at the end.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    fn create(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

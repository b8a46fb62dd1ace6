//! Puts jobs into a stream.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd};
use tracing::{info, warn};

use super::connection::open_group;
use super::names::KeyNames;
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::job::Job;
use crate::limits::redis::{PIPELINE, WAIT};
use crate::reconnect::Retry;

/// Adds jobs as long as there is room, and returns how many it added. A script runs as one step,
/// so two producers can't both take the last place.
const ADD: &str = "
    local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
    local added = 0
    for i = 2, #ARGV do
        if added >= room then break end
        redis.call('XADD', KEYS[1], '*', 'job', ARGV[i])
        added = added + 1
    end
    return added";

/// Adds jobs, in batches.
pub struct Producer {
    url: BrokerUrl,
    keys: KeyNames,
    max_length: usize,
    replicas: u32,
    connection: Option<MultiplexedConnection>,
    retry: Retry,
    unconfirmed: Vec<Vec<u8>>,
    confirmed: u64,
}

impl Producer {
    /// Connects. The stream holds at most `max_length` jobs.
    ///
    /// # Errors
    /// If no broker answers.
    pub async fn connect(
        url: impl Into<BrokerUrl>,
        keys: KeyNames,
        max_length: usize,
    ) -> Result<Self, Error> {
        let (url, mut retry, unconfirmed) = (url.into(), Retry::new(), Vec::new());
        let connection = Some(retry.first(|| open_group(&url, &keys)).await?);
        Ok(Self { url, keys, max_length, replicas: 0, connection, retry, unconfirmed, confirmed: 0 })
    }

    /// Confirms a job only when this many replicas have it, too. If the primary then fails, the
    /// replica that takes its place has the job.
    pub fn with_replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// Returns how many jobs Redis has accepted.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Adds a job. The producer collects [`PIPELINE`] jobs, sends them together, and waits while
    /// the stream has no room. After a connection error, it sends the same jobs again, so those
    /// that had arrived are in the stream twice, with the same IDs.
    ///
    /// # Errors
    /// Only an error that another attempt can't cure.
    pub async fn publish(&mut self, job: &Job) -> Result<(), Error> {
        self.unconfirmed.push(serde_json::to_vec(job)?);
        if self.unconfirmed.len() >= PIPELINE { self.flush().await } else { Ok(()) }
    }

    /// Waits until Redis has accepted every job.
    ///
    /// # Errors
    /// Only an error that another attempt can't cure.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let mut warned = false;
        while !self.unconfirmed.is_empty() {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => {
                    let connection = self.retry.retry_connect(|| open_group(&self.url, &self.keys)).await?;
                    info!("connected again; sending {} unconfirmed jobs again", self.unconfirmed.len());
                    self.connection.insert(connection)
                }
            };
            let mut add = cmd("EVAL");
            add.arg(ADD).arg(1).arg(self.keys.jobs()).arg(self.max_length).arg(&self.unconfirmed);
            let added = match add.query_async::<usize>(connection).await {
                Ok(added) if added > 0 => replicated(connection, self.replicas).await.map(|()| added),
                added => added,
            };
            match added {
                Ok(added) => {
                    self.confirmed += added as u64;
                    self.unconfirmed.drain(..added.min(self.unconfirmed.len()));
                    if added > 0 {
                        self.retry.progress();
                    }
                    if !self.unconfirmed.is_empty() {
                        if !std::mem::replace(&mut warned, true) {
                            warn!("{} is full: waiting for consumers", self.keys.jobs());
                        }
                        self.retry.pause().await;
                    }
                }
                Err(error) => {
                    self.connection = None;
                    self.retry.after(error.into()).await?;
                }
            }
        }
        Ok(())
    }
}

/// Waits until this many replicas have everything that was sent on the connection. If the primary is
/// replaced meanwhile, the connection breaks.
async fn replicated(connection: &mut MultiplexedConnection, wanted: u32) -> Result<(), RedisError> {
    let (mut reached, mut warned) = (0, false);
    while reached < wanted {
        let mut wait = cmd("WAIT");
        wait.arg(wanted).arg(WAIT.as_millis() as u64);
        reached = wait.query_async::<u32>(connection).await?;
        if reached < wanted && !std::mem::replace(&mut warned, true) {
            warn!("{reached} of {wanted} replicas have the jobs: waiting for the others");
        }
    }
    Ok(())
}

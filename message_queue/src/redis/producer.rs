//! Puts jobs into the stream: new ones, and dead letters that are redriven.

use redis::aio::MultiplexedConnection;
use redis::cmd;
use redis::streams::StreamRangeReply;
use tcp_socket::base::retry::Pauses;
use tokio::time::sleep;
use tracing::{info, warn};

use super::connection::open_group;
use super::names::KeyNames;
use crate::error::Error;
use crate::job::Job;
use crate::limits::MIN_PAUSE;
use crate::limits::redis::{FULL_MAX_PAUSE, MAX_LENGTH, PIPELINE};
use crate::reconnect::Retry;

/// Adds jobs as long as there is room, and returns how many. A script runs as one
/// step, so that two producers can't both take the last place.
const ADD: &str = "
    local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
    local added = 0
    for i = 2, #ARGV do
        if added >= room then break end
        redis.call('XADD', KEYS[1], '*', 'job', ARGV[i])
        added = added + 1
    end
    return added";

/// Moves a dead letter back to the jobs, as one step, if there is room.
const REDRIVE: &str = "
    if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return 0 end
    redis.call('XADD', KEYS[1], '*', 'job', ARGV[3])
    redis.call('XDEL', KEYS[2], ARGV[2])
    return 1";

/// Adds jobs, in batches.
pub struct Producer {
    url: String,
    keys: KeyNames,
    max_length: usize,
    connection: Option<MultiplexedConnection>,
    retry: Retry,
    unconfirmed: Vec<Vec<u8>>,
    confirmed: u64,
}

impl Producer {
    /// Connects. The stream holds at most `max_length` jobs.
    ///
    /// # Errors
    /// If there is no broker.
    pub async fn connect(url: &str, keys: KeyNames, max_length: usize) -> Result<Self, Error> {
        let mut retry = Retry::new();
        let connection = Some(retry.first(|| open_group(url, &keys)).await?);
        let (url, unconfirmed) = (url.to_owned(), Vec::new());
        Ok(Self { url, keys, max_length, connection, retry, unconfirmed, confirmed: 0 })
    }

    /// Returns how many jobs Redis has accepted.
    pub fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// Adds a job; sends when [`PIPELINE`] are together, and waits while there is no
    /// room. After an error of the connection the same jobs are sent again: those
    /// that had arrived are then twice in the stream, with the same ids.
    ///
    /// # Errors
    /// Only an error that another attempt can't cure.
    pub async fn publish(&mut self, job: &Job) -> Result<(), Error> {
        self.unconfirmed.push(serde_json::to_vec(job).map_err(std::io::Error::from)?);
        if self.unconfirmed.len() >= PIPELINE { self.flush().await } else { Ok(()) }
    }

    /// Waits until Redis has accepted every job.
    ///
    /// # Errors
    /// Only an error that another attempt can't cure.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let (mut pauses, mut told) = (Pauses::new(MIN_PAUSE, FULL_MAX_PAUSE), false);
        while !self.unconfirmed.is_empty() {
            let connection = match &mut self.connection {
                Some(connection) => connection,
                None => {
                    let connection = self.retry.retry_connect(|| open_group(&self.url, &self.keys)).await?;
                    info!("connected again; {} jobs to send once more", self.unconfirmed.len());
                    self.connection.insert(connection)
                }
            };
            let mut add = cmd("EVAL");
            add.arg(ADD).arg(1).arg(self.keys.jobs()).arg(self.max_length).arg(&self.unconfirmed);
            match add.query_async::<usize>(connection).await {
                Ok(added) => {
                    self.confirmed += added as u64;
                    self.unconfirmed.drain(..added.min(self.unconfirmed.len()));
                    if added > 0 {
                        pauses.reset();
                        self.retry.progress();
                    }
                    if !self.unconfirmed.is_empty() {
                        if !std::mem::replace(&mut told, true) {
                            warn!("{} is full: waiting for consumers", self.keys.jobs());
                        }
                        sleep(pauses.next_pause()).await;
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

/// Lists the dead letters, as `show(job, error, attempts)`, and with `redrive` moves
/// them back to the jobs as if they were new. Returns how many.
///
/// # Errors
/// If there is no broker, or the connection is lost: what was not moved is still there.
pub async fn dead_letters(
    url: &str,
    keys: &KeyNames,
    redrive: bool,
    mut show: impl FnMut(&[u8], &str, u32) -> std::io::Result<()>,
) -> Result<usize, Error> {
    let mut connection = open_group(url, keys).await?;
    let (mut count, mut after) = (0, "-".to_owned());
    loop {
        let mut range = cmd("XRANGE");
        range.arg(keys.dead_letters()).arg(&after).arg("+").arg("COUNT").arg(PIPELINE);
        let page: StreamRangeReply = range.query_async(&mut connection).await?;
        let Some(last) = page.ids.last() else { return Ok(count) };
        after = format!("({}", last.id);
        for letter in &page.ids {
            let job: Vec<u8> = letter.get("job").unwrap_or_default();
            let error: String = letter.get("error").unwrap_or_default();
            show(&job, &error, letter.get("attempts").unwrap_or(1))?;
            count += 1;
            if redrive {
                let mut back = cmd("EVAL");
                back.arg(REDRIVE).arg(2).arg(keys.jobs()).arg(keys.dead_letters());
                let moved: bool =
                    back.arg(MAX_LENGTH).arg(&letter.id).arg(job).query_async(&mut connection).await?;
                if !moved {
                    warn!("{} is full; the rest stays", keys.jobs());
                    return Ok(count - 1);
                }
            }
        }
    }
}

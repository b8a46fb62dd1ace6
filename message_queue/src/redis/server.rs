//! The server's side of request/reply over Pub/Sub: takes requests from the channel,
//! and publishes each reply where its request says.

use std::sync::atomic::Ordering;

use redis::PushInfo;
use redis::aio::MultiplexedConnection;
use tokio::select;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{Subscriber, message};
use super::names::KeyNames;
use super::protocol::{Address, Received, ReplyMessage};
use crate::error::Error;
use crate::limits::MAX_REQUEST;
use crate::limits::redis::{MAX_WAITING_REQUESTS, REQUEST_BATCH};
use crate::model::from_json;
use crate::reconnect::Retry;
use crate::record::{Reason, Reply, Store};

/// Serves requests until `shutdown`. `listening` is called when the first one can
/// be taken.
///
/// # Errors
/// If there is no broker at first, or an error that a new connection can't cure. After any
/// other error, it connects again on its own.
pub async fn serve(
    url: &str,
    keys: &KeyNames,
    shutdown: &CancellationToken,
    listening: impl FnOnce(),
) -> Result<(), Error> {
    let store = Store::default();
    let open = async || {
        let mut subscriber = Subscriber::connect(url, MAX_WAITING_REQUESTS).await?;
        subscriber.connection.subscribe(keys.requests()).await?;
        Ok(subscriber)
    };
    let mut retry = Retry::new();
    let mut subscriber = retry.first(&open).await?;
    listening();
    loop {
        let ended = answer_all(subscriber, keys, &store, &mut retry, shutdown).await;
        let Err(error) = ended else { return Ok(()) };
        // Cancel safe: nothing is held while there is no connection.
        select! {
            connected = retry.reconnect(error, &open) => subscriber = connected?,
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}

async fn answer_all(
    mut subscriber: Subscriber,
    keys: &KeyNames,
    store: &Store,
    retry: &mut Retry,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut pushes = Vec::with_capacity(REQUEST_BATCH);
    loop {
        // Cancel safe, both: see `Subscriber::receive`.
        select! {
            biased;
            () = shutdown.cancelled() => break,
            received = subscriber.receive(&mut pushes, REQUEST_BATCH) => received?,
        }
        if answer(&mut subscriber.connection, keys, store, pushes.drain(..)).await? {
            retry.progress();
        }
        match subscriber.missed.swap(0, Ordering::Relaxed) {
            0 => {}
            missed => warn!("{missed} requests dropped: more than {MAX_WAITING_REQUESTS} were waiting"),
        }
    }
    info!("stopping: no new requests, those in hand are answered");
    // Redis sends nothing more. The requests that have arrived still get their replies.
    let _ = subscriber.connection.unsubscribe(keys.requests()).await;
    let rest: Vec<_> = subscriber.drain().collect();
    answer(&mut subscriber.connection, keys, store, rest.into_iter()).await?;
    Ok(())
}

/// Executes requests and publishes the replies together. Returns whether there were
/// any.
async fn answer(
    connection: &mut MultiplexedConnection,
    keys: &KeyNames,
    store: &Store,
    pushes: impl Iterator<Item = PushInfo>,
) -> Result<bool, Error> {
    let mut replies = redis::pipe();
    for (_, request) in pushes.filter_map(message) {
        let Some((Address { id, reply_to }, answer)) = execute(store, &request) else { continue };
        // Replies go only to clients' channels, whatever else a request names.
        if reply_to.starts_with(&keys.replies())
            && let Ok(reply) = serde_json::to_vec(&ReplyMessage { id, answer })
        {
            replies.cmd("PUBLISH").arg(reply_to).arg(reply).ignore();
        }
    }
    if replies.is_empty() {
        return Ok(false);
    }
    replies.exec_async(connection).await?;
    Ok(true)
}

fn execute(store: &Store, request: &[u8]) -> Option<(Address, Reply)> {
    let received = if request.len() > MAX_REQUEST {
        Err(format!("longer than {MAX_REQUEST} bytes"))
    } else {
        from_json(request)
    };
    match received {
        Ok(Received { id, reply_to, readings }) => Some((Address { id, reply_to }, store.record(readings))),
        Err(error) => Some((from_json(request).ok()?, Reply::refused(Reason::Invalid, error))),
    }
}

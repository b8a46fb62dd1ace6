//! The server's side of request/reply over Pub/Sub: it takes requests from a channel, and
//! publishes each reply on the channel that the request names.

use std::sync::atomic::Ordering;

use redis::PushInfo;
use redis::aio::MultiplexedConnection;
use tokio::select;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::connection::{Subscriber, message};
use super::names::KeyNames;
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::limits::redis::{MAX_WAITING_REQUESTS, MESSAGE_BATCH};
use crate::reconnect::Retry;
use crate::record::{Address, AddressedReply, Store};

/// Serves requests until `shutdown`. Calls `listening` when it can take the first one.
///
/// # Errors
/// If no broker answers at the start, or after an error that a new connection can't cure. After
/// any other error, it reconnects on its own.
pub async fn serve(
    url: impl Into<BrokerUrl>,
    keys: &KeyNames,
    shutdown: &CancellationToken,
    listening: impl FnOnce(),
) -> Result<(), Error> {
    let (url, store) = (url.into(), Store::default());
    let open = async || {
        let mut subscriber = Subscriber::connect(&url, MAX_WAITING_REQUESTS).await?;
        subscriber.connection.subscribe(keys.requests()).await?;
        Ok(subscriber)
    };
    let mut retry = Retry::new();
    let mut next = Some(retry.first(&open).await?);
    listening();
    while let Some(subscriber) = next {
        let ended = serve_connection(subscriber, keys, &store, &mut retry, shutdown).await;
        next = retry.next(ended, &open, shutdown).await?;
    }
    Ok(())
}

async fn serve_connection(
    mut subscriber: Subscriber,
    keys: &KeyNames,
    store: &Store,
    retry: &mut Retry,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    let mut pushes = Vec::with_capacity(MESSAGE_BATCH);
    loop {
        // Both are cancel safe: see `Subscriber::receive`.
        select! {
            biased;
            () = shutdown.cancelled() => break,
            received = subscriber.receive(&mut pushes, MESSAGE_BATCH) => received?,
        }
        if execute(&mut subscriber.connection, keys, store, pushes.drain(..)).await? {
            retry.progress();
        }
        match subscriber.missed.swap(0, Ordering::Relaxed) {
            0 => {}
            missed => warn!("{missed} requests dropped: more than {MAX_WAITING_REQUESTS} were waiting"),
        }
    }
    info!("stopping: taking no new requests; those already taken get their replies");
    // After this, Redis sends no more requests. Those that have arrived still get their replies.
    let _ = subscriber.connection.unsubscribe(keys.requests()).await;
    let rest: Vec<_> = subscriber.drain().collect();
    execute(&mut subscriber.connection, keys, store, rest.into_iter()).await?;
    Ok(())
}

/// Executes requests and publishes the replies together. Returns whether there were
/// any.
async fn execute(
    connection: &mut MultiplexedConnection,
    keys: &KeyNames,
    store: &Store,
    pushes: impl Iterator<Item = PushInfo>,
) -> Result<bool, Error> {
    let mut replies = redis::pipe();
    for (_, request) in pushes.filter_map(message) {
        let Some((Address { id, reply_to }, reply)) = store.execute_addressed(&request) else { continue };
        // Replies go only to clients' channels, even if a request names another channel.
        if reply_to.starts_with(&keys.replies())
            && let Ok(reply) = serde_json::to_vec(&AddressedReply { id, answer: reply })
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

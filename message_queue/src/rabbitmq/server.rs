//! The server's side of request/reply: it takes requests from a queue, and sends each reply to
//! the address in the request.

use futures::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel};
use tokio::select;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::connection::{Deliveries, connect};
use super::topology::{REPLY_TO, Topology};
use crate::address::BrokerUrl;
use crate::error::Error;
use crate::limits::rabbitmq::{MESSAGE_PREFETCH, SERVER_ACK_BATCH, SERVER_DRAIN_TIMEOUT};
use crate::reconnect::Retry;
use crate::record::{Reason, Reply, Store};

/// Serves requests until `shutdown`. Calls `listening` when it can take the first one.
///
/// # Errors
/// If no broker answers at the start, or after an error that a new connection can't cure. After
/// any other error, it reconnects on its own.
pub async fn serve(
    url: impl Into<BrokerUrl>,
    topology: &Topology,
    shutdown: &CancellationToken,
    listening: impl FnOnce(),
) -> Result<(), Error> {
    let (url, store) = (url.into(), Store::default());
    let open = async || {
        let session = connect(&url).await?;
        topology.declare_requests(&session.channel).await?;
        Deliveries::start(session, topology.requests().into(), MESSAGE_PREFETCH, SERVER_ACK_BATCH).await
    };
    let mut retry = Retry::new();
    let mut next = Some(retry.first(&open).await?);
    listening();
    while let Some(deliveries) = next {
        let ended = serve_connection(deliveries, &store, &mut retry, shutdown).await;
        next = retry.next(ended, &open, shutdown).await?;
    }
    Ok(())
}

async fn serve_connection(
    mut deliveries: Deliveries,
    store: &Store,
    retry: &mut Retry,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    loop {
        // Both are cancel safe: see `Deliveries::next`.
        let request = select! {
            biased;
            () = shutdown.cancelled() => break,
            next = deliveries.next() => next?,
        };
        // A redelivered request may have been executed, by another server or here before the
        // connection broke. So it gets a reply, but is not executed again.
        let result = if request.redelivered {
            Reply::refused(Reason::Interrupted, "may have been executed by a server that went away")
        } else {
            store.execute(&request.data)
        };
        // Only direct reply-to: a request must not make the server write into any other queue.
        if let Some(reply_to) = request.properties.reply_to()
            && reply_to.as_str().starts_with(REPLY_TO)
        {
            let correlation = request.properties.correlation_id().clone().unwrap_or_default();
            reply(deliveries.channel(), reply_to.clone(), correlation, &result)?;
        }
        deliveries.done(request).await?;
        retry.progress();
    }
    info!("stopping: taking no new requests; those already taken get their replies");
    // The wait is bounded, since the broker may be gone.
    select! {
        finished = deliveries.finish() => finished,
        () = sleep(SERVER_DRAIN_TIMEOUT) => Ok(()),
    }
}

/// Hands a reply to lapin's thread, which writes it to the socket. Waiting for that would cost a
/// thread switch for each reply. If the connection is lost instead, the next acknowledgement fails.
fn reply(
    channel: &Channel,
    reply_to: ShortString,
    correlation: ShortString,
    result: &Reply,
) -> Result<(), Error> {
    let body = serde_json::to_vec(result)?;
    let properties = BasicProperties::default()
        .with_correlation_id(correlation)
        .with_content_type("application/json".into());
    // Not mandatory: a caller that is gone needs no reply.
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), reply_to, options, &body, properties).now_or_never().transpose()?;
    Ok(())
}

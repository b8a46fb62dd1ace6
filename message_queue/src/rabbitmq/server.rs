//! The server's side of request/reply: takes requests from the queue, and replies to
//! each where it says.

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
use crate::error::Error;
use crate::limits::rabbitmq::{MESSAGE_PREFETCH, SERVER_ACK_BATCH, SERVER_DRAIN_TIMEOUT};
use crate::reconnect::Retry;
use crate::record::{Reason, Reply, Store};

/// Serves requests until `shutdown`. `listening` is called when the first one can
/// be taken.
///
/// # Errors
/// If there is no broker at first; later it connects again on its own.
pub async fn serve(
    url: &str,
    topology: &Topology,
    shutdown: &CancellationToken,
    listening: impl FnOnce(),
) -> Result<(), Error> {
    let store = Store::default();
    let open = async || {
        let session = connect(url).await?;
        topology.declare_requests(&session.channel).await?;
        Deliveries::start(session, topology.requests().into(), MESSAGE_PREFETCH, SERVER_ACK_BATCH).await
    };
    let mut retry = Retry::new();
    let mut next = Some(retry.first(&open).await?);
    listening();
    while let Some(deliveries) = next {
        let ended = answer_all(deliveries, &store, &mut retry, shutdown).await;
        next = retry.next(ended, &open, shutdown).await?;
    }
    Ok(())
}

async fn answer_all(
    mut deliveries: Deliveries,
    store: &Store,
    retry: &mut Retry,
    shutdown: &CancellationToken,
) -> Result<(), Error> {
    loop {
        // Cancel safe, both: see `Deliveries::next`.
        let request = select! {
            biased;
            () = shutdown.cancelled() => break,
            next = deliveries.next() => next?,
        };
        // A request that was delivered to another server, or here before the connection broke,
        // may have been executed: it gets a reply, but is not executed again.
        let answer = if request.redelivered {
            Reply::refused(Reason::Interrupted, "may have been executed by a server that went away")
        } else {
            store.answer(&request.data)
        };
        // To direct reply-to only: a request must not make the server write elsewhere.
        if let Some(reply_to) = request.properties.reply_to()
            && reply_to.as_str().starts_with(REPLY_TO)
        {
            let correlation = request.properties.correlation_id().clone().unwrap_or_default();
            reply(deliveries.channel(), reply_to.clone(), correlation, &answer)?;
        }
        deliveries.done(request).await?;
        retry.progress();
    }
    info!("stopping: no new requests, those in hand are answered");
    // Bounded, since the broker may be gone.
    select! {
        finished = deliveries.finish() => finished,
        () = sleep(SERVER_DRAIN_TIMEOUT) => Ok(()),
    }
}

/// Gives a reply to lapin's thread, which writes it to the socket. Waiting until it has would
/// cost a switch between two threads for each reply. If it can't, the connection is lost, and so
/// is the next acknowledgement.
fn reply(
    channel: &Channel,
    reply_to: ShortString,
    correlation: ShortString,
    answer: &Reply,
) -> Result<(), Error> {
    let body = serde_json::to_vec(answer)?;
    let properties = BasicProperties::default()
        .with_correlation_id(correlation)
        .with_content_type("application/json".into());
    // Not mandatory: a caller that has left needs no reply.
    let options = BasicPublishOptions::default();
    channel.basic_publish("".into(), reply_to, options, &body, properties).now_or_never().transpose()?;
    Ok(())
}

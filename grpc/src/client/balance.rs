//! Several servers: each call goes to one of them, and a server that fails its health check
//! gets no calls until it passes again.

use std::convert::Infallible;

use futures::future::join_all;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus::Serving;
use tonic_health::pb::health_client::HealthClient;
use tower::ServiceExt;
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::Change;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::util::BoxCloneSyncService;

use crate::limits::{CALLS_AHEAD, CHECK_INTERVAL, CHECK_TIMEOUT};
use crate::protocol::proto::weather_service_server::SERVICE_NAME;

/// What carries calls: one connection, or several.
pub(super) type Transport = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// Returns a service that chooses one of these servers for each call. It looks at two servers at
/// random, and takes the one with fewer calls in flight (*power of two choices*).
pub(super) fn balanced(servers: Vec<Channel>) -> Transport {
    let (changes, discovered) = mpsc::channel(servers.len());
    tokio::spawn(check_all(servers, changes));
    let discovered = ReceiverStream::new(discovered).map(Ok::<_, Infallible>);
    let balance = Buffer::new(Balance::new(discovered), CALLS_AHEAD);
    BoxCloneSyncService::new(balance.map_err(Status::from_error))
}

/// Checks all servers twice a second, and reports which of them should get calls. If none
/// passes, all get calls, so that a call fails with the reason instead of waiting.
async fn check_all(servers: Vec<Channel>, changes: mpsc::Sender<Change<usize, PendingRequests<Channel>>>) {
    let mut in_use = vec![false; servers.len()];
    loop {
        let mut healthy = join_all(servers.iter().cloned().map(is_serving)).await;
        if !healthy.contains(&true) {
            healthy.fill(true);
        }
        for (index, server) in servers.iter().enumerate() {
            let change = match (in_use[index], healthy[index]) {
                (false, true) => {
                    Change::Insert(index, PendingRequests::new(server.clone(), CompleteOnResponse::default()))
                }
                (true, false) => Change::Remove(index),
                _ => continue,
            };
            if changes.send(change).await.is_err() {
                return;
            }
        }
        in_use = healthy;
        if timeout(CHECK_INTERVAL, changes.closed()).await.is_ok() {
            return; // The last clone of the client was dropped.
        }
    }
}

/// Returns whether a server says that it is serving, or has no health service. A server that
/// is suspended says nothing, so there is a time limit.
async fn is_serving(server: Channel) -> bool {
    let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
    match timeout(CHECK_TIMEOUT, HealthClient::new(server).check(request)).await {
        Ok(Ok(response)) => response.get_ref().status == i32::from(Serving),
        Ok(Err(status)) => status.code() == Code::Unimplemented,
        Err(_elapsed) => false,
    }
}

//! Tests on clusters of RabbitMQ and Redis. All of them share one start.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::ExitCode;

mod document;
mod rabbitmq;
mod redis;
#[path = "../message_queue/support.rs"]
#[allow(dead_code, reason = "it has more than these tests need")]
mod support;
mod terminals;

/// Returns the clusters of this test run, which end with this process. A test that changes one
/// runs alone, and puts it back in order at its end.
fn shared() -> std::sync::MutexGuard<'static, message_queue::brokers::Cluster> {
    use std::sync::{Mutex, OnceLock, PoisonError};

    use message_queue::brokers::{Cluster, ClusterOptions};
    static CLUSTER: OnceLock<Mutex<Cluster>> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| Mutex::new(Cluster::start(ClusterOptions::default()).unwrap()));
    cluster.lock().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    tests::run()
}

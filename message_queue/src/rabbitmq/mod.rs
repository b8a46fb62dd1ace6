//! RabbitMQ: queues that keep messages until they are acknowledged.
//!
//! Read [`topology`] first, then [`worker`].

pub mod client;
pub mod connection;
mod over_tls;
pub mod producer;
pub mod publish_subscribe;
pub mod server;
pub mod topology;
pub mod worker;

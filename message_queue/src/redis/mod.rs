//! Redis: Pub/Sub, which keeps nothing, and Streams, which keep each job until it is acknowledged
//! and deleted.
//!
//! Read [`worker`] and [`publish_subscribe`] side by side.

pub mod client;
pub mod connection;
pub mod names;
pub mod producer;
pub mod publish_subscribe;
pub mod server;
pub mod worker;

//! Starts everything that a measurement needs, and chooses the cores.

pub mod brokers;
pub mod conditions;
pub mod encryption;
pub mod meter;
pub mod network;
pub mod placement;
pub mod running_protocol;
pub(crate) mod server;

//! Everything that has to run for a measurement, and on which core.

pub mod brokers;
pub mod conditions;
pub mod meter;
pub mod placement;
pub mod proxy;
pub mod running_protocol;
pub(crate) mod server;

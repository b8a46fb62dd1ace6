//! Clients and workers that leave out what makes those of the chapters safe, for comparison.

pub(crate) mod http_without_key;
pub(crate) mod rabbitmq_automatic;
pub(crate) mod rabbitmq_without_confirms;

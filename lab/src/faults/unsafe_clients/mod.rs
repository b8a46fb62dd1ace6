//! Clients and workers that leave out what makes the chapters' own ones safe, for comparison.

pub(crate) mod http_without_key;
pub(crate) mod rabbitmq_automatic;
pub(crate) mod rabbitmq_without_confirms;

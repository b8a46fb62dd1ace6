//! Clients and workers that leave out what makes the chapters' own ones safe, for comparison.

pub(super) mod http_without_key;
pub(super) mod rabbitmq_automatic;
pub(super) mod rabbitmq_without_confirms;

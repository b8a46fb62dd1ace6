//! # Message queues
//!
//! Programs that do not know each other, and need not run at the same time: each
//! talks to a *broker*, which takes messages from one and gives them to another.
//! Here the brokers are the real ones, RabbitMQ and Redis, and three patterns are
//! shown on both:
//!
//! - a **work queue**: each job is done by one of several workers, and given to
//!   another if that one dies;
//! - **publish/subscribe**: each message goes to everybody who subscribed to it;
//! - **request/reply**: `record` across the broker, with an answer that finds its way back.
//!
//! Read in this order:
//!
//! 1. [`job`]: what a worker does, and how its effect happens once.
//! 2. [`rabbitmq::topology`]: the queues.
//! 3. [`rabbitmq::work_queue`]: the worker.
//!
//! Then, one idea a file: [`rabbitmq::publisher`] (confirms), [`rabbitmq::deliveries`]
//! (acknowledgements), [`rabbitmq::publish_subscribe`], [`rabbitmq::request_reply`];
//! the same on Redis: [`redis::work_queue`] (Streams), [`redis::publish_subscribe`],
//! [`redis::request_reply`]. [`brokers`] says where the brokers come from.

pub mod broker_process;
pub mod brokers;
pub mod cli;
pub mod error;
pub mod job;
pub mod model;
pub mod rabbitmq;
pub mod reconnect;
pub mod record;
pub mod redis;

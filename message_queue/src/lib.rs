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
//! Read `examples/minimal_rabbitmq.rs` and `examples/minimal_redis.rs` first: each shows a whole
//! pattern in one file. Then read, in this order:
//!
//! 1. [`results`]: how the effect of a job happens once.
//! 2. [`rabbitmq::topology`]: the queues, and why each is as it is.
//! 3. [`rabbitmq::deliveries`]: consuming and acknowledging.
//!
//! Then read one idea at a time. Most files have the same name for [`rabbitmq`] and [`redis`]: a
//! worker, a producer that loses nothing, publish/subscribe, the client and the server of
//! request/reply, and a connection that ends. Both share [`job`] (what a worker does),
//! [`record`] (what a request means), [`model`] (the readings), [`reconnect`] (when to try
//! again), [`error`], [`address`], and [`cli`] (what the binaries share). Every limit is in
//! [`limits`]. Where brokers come from is in [`brokers`].

pub mod address;
pub mod brokers;
pub mod cli;
pub mod error;
pub mod job;
pub mod limits;
pub mod model;
pub mod rabbitmq;
pub mod reconnect;
pub mod record;
pub mod redis;
pub mod results;

//! # Message queues
//!
//! Two programs can communicate without knowing each other, or even running at the same
//! time: each talks to a *broker*, which accepts messages from one and delivers them to the
//! other. This chapter uses two real brokers, RabbitMQ and Redis, and shows three patterns on
//! both:
//!
//! - a **work queue**: one of several workers does each job, and another one gets it if that
//!   one dies;
//! - **publish/subscribe**: each message goes to all subscribers;
//! - **request/reply**: a client sends `record` through the broker, and a reply comes back.
//!
//! Read `examples/minimal_rabbitmq.rs` and `examples/minimal_redis.rs` first: each shows a whole
//! pattern in one file. Then read, in this order:
//!
//! 1. [`results`]: how the effect of a job happens once.
//! 2. [`rabbitmq::topology`]: the queues, and the reasons for their properties.
//! 3. [`worker`]: what a worker does with a job, and when it acknowledges.
//!
//! Then read one idea at a time. A file such as [`client`] holds the part that both brokers
//! share, and [`rabbitmq`] and [`redis`] have a file of the same name for their own part. Both
//! also share [`job`] (what a job is), [`record`] (what a request means), [`model`] (the
//! readings), [`reconnect`] (when to try again), [`error`], [`address`], and [`cli`] (the common
//! options of the binaries). [`limits`] holds every limit, and [`brokers`] finds, installs, and
//! starts brokers.

pub mod address;
pub mod brokers;
pub mod cli;
pub mod client;
pub mod error;
pub mod job;
pub mod limits;
pub mod model;
pub mod publish_subscribe;
pub mod rabbitmq;
pub mod reconnect;
pub mod record;
pub mod redis;
pub mod results;
pub mod worker;

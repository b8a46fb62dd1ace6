//! RabbitMQ: queues that keep messages until they are acknowledged.
//!
//! Read [`topology`] first, then [`work_queue`].

pub mod connection;
pub mod deliveries;
pub mod publish_subscribe;
pub mod publisher;
pub mod request_reply;
pub mod topology;
pub mod work_queue;

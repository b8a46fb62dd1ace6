//! # HTTP/REST
//!
//! HTTP is a conversation of one question and one answer: a *method* (`GET`,
//! `POST`, …) applied to a *resource* (`/readings`), answered by a *status
//! code* and, mostly, a body. REST is the habit of modelling a service as such
//! resources and leaving the meaning of methods, statuses and headers to HTTP,
//! so that every proxy, cache, browser and `curl` already understands it.
//!
//! Read in this order:
//!
//! 1. [`model`]: what is exchanged.
//! 2. [`server`]: the routes, the sockets, and how the process stops.
//! 3. [`readings`]: record a batch, read it back.
//!
//! Then, one idea a file: [`client`] (the other end), [`validation`] (every wrong
//! field is named), [`problem`] (errors, RFC 9457), [`stations`] (a resource and its
//! methods), [`conditional`] (ETags, no lost update), [`idempotency`] (a `POST` that
//! may be repeated), [`pagination`], [`live`] and [`watch`] (server-sent events, both
//! ends), [`retry`] (when a client may try again), [`middleware`] and [`body`] (what
//! every request goes through), [`connection`] (a close that loses nothing),
//! [`limits`] (every bound in one place), [`store`] (what is kept), [`openapi`] (the
//! description for machines).

pub mod body;
pub mod client;
pub mod conditional;
pub mod connection;
pub mod idempotency;
pub mod limits;
pub mod live;
pub mod middleware;
pub mod model;
pub mod openapi;
pub mod pagination;
pub mod problem;
pub mod readings;
pub mod retry;
pub mod server;
pub mod stations;
pub mod store;
pub mod validation;
pub mod watch;

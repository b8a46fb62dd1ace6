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
//! ends), [`retry`] (when a client may try again), [`request_layer`] and [`body`] (what
//! every request goes through), [`connection`] (a close that loses nothing),
//! [`limits`] (every bound in one place), [`store`] (what is kept), [`openapi`] (the
//! description for machines).

pub mod client;
pub mod limits;
pub mod protocol;
pub mod server;

pub use client::{retry, watch};
pub use protocol::{model, problem, validation};
pub use server::{
    body, conditional, connection, idempotency, live, openapi, pagination, readings, request_layer, stations,
    store,
};

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
//! 1. [`model`]: what is exchanged, as JSON.
//! 2. [`server`]: sockets, routes, and how the process stops.
//! 3. [`readings`]: the two handlers behind `/readings`.
//! 4. [`client`]: the other end.
//!
//! Then, one idea a file: [`problem`] (errors, RFC 9457), [`store`] (what is
//! kept, and how much), [`limits`] (every bound in one place).

pub mod client;
pub mod limits;
pub mod model;
pub mod problem;
pub mod readings;
pub mod server;
pub mod store;

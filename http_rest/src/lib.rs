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
//! 2. [`server`]: the routes, the sockets, and how the process stops.
//! 3. [`readings`]: the handlers behind `/readings`.
//! 4. [`client`]: the other end.
//!
//! Then, one idea a file: [`problem`] (errors, RFC 9457), [`stations`] (a resource
//! and its methods), [`conditional`] (ETags, no lost update), [`idempotency`] (a
//! `POST` that may be repeated), [`pagination`], [`live`] (server-sent events),
//! [`body`] and [`middleware`] (what every request goes through), [`connection`]
//! (a close that loses nothing), [`limits`] (every bound in one place), [`store`]
//! (what is kept), [`openapi`]; on the client's side [`retry`] and [`watch`].

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
pub mod watch;

//! What travels between client and server, and how it is checked.

pub(crate) mod headers;
pub mod model;
pub mod problem;
pub(crate) mod validation;

//! What travels between client and server, and the checks of it.

pub(crate) mod headers;
pub mod model;
pub mod problem;
pub(crate) mod validation;

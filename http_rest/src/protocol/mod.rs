//! What travels between client and server, and the checks of it.

pub mod model;
pub mod problem;
pub mod validation;

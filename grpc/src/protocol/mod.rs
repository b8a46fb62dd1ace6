//! The protocol: the messages, the statuses, and what a valid reading is.

pub(crate) mod model;
#[allow(missing_docs, clippy::all, clippy::missing_errors_doc, reason = "generated")]
#[allow(rustdoc::broken_intra_doc_links, reason = "the proto's comments are for all languages")]
pub mod proto;
pub mod status;

pub use model::is_token;

/// Key of the metadata that identifies a call in the server's log.
pub(crate) const REQUEST_ID: &str = "x-request-id";

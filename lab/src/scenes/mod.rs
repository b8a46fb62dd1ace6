//! Short scenes over each protocol: what travels, and how it is shown.
//!
//! [`view`] shows recordings: as a diagram, as named bytes, as a table, and as a page.

pub mod view;

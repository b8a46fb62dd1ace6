//! Where links lead.

use crate::markdown::{Document, Link};
use crate::repository::{REPOSITORY, none};
use tests::{apply, test};

/// What a relative link leads to.
pub struct Destination {
    /// From the root of the repository; that of the document itself for `#anchor`.
    pub path: String,
    /// What follows the `#`.
    pub anchor: Option<String>,
}

/// `None` if the link leads out of the repository.
pub fn destination(document: &Document, link: &Link) -> Option<Destination> {
    if link.target.contains("://") || link.target.starts_with("mailto:") {
        return None;
    }
    let (target, anchor) = match link.target.split_once('#') {
        Some((target, anchor)) => (target, Some(anchor.to_owned())),
        None => (link.target.as_str(), None),
    };
    if target.is_empty() {
        return Some(Destination { path: document.path.clone(), anchor });
    }
    let mut path: Vec<_> = document.path.split('/').collect();
    path.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            // Above the root it stays, and is no file's path.
            ".." if path.last().is_some_and(|last| *last != "..") => _ = path.pop(),
            _ => path.push(part),
        }
    }
    Some(Destination { path: path.join("/"), anchor })
}

#[apply(test!)]
async fn every_relative_link_leads_to_a_file() {
    let mut violations = Vec::new();
    let mut seen = 0;
    for document in &REPOSITORY.documents {
        for link in &document.links {
            let Some(Destination { path, .. }) = destination(document, link) else { continue };
            seen += 1;
            if !REPOSITORY.files.contains(&path) && !REPOSITORY.has_folder(&path) {
                let (from, line) = (&document.path, link.line);
                violations.push(format!("{from}:{line}: {path:?} is not in the repository"));
            }
        }
    }
    assert!(seen > 0);
    none(&violations);
}

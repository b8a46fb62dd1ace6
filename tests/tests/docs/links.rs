//! Checks that links lead to a file or folder of the repository and, after a `#`, to a heading.

use std::collections::HashMap;

use tests::{apply, test};
use url::Url;

use crate::markdown::{Document, Link};
use crate::repository::{REPOSITORY, none};

/// Returns the path that a link leads to, from the root of the repository, or `None` if it leads to
/// another site. A path above the root keeps its first `/`, so it matches no file.
pub fn destination(document: &Document, link: &Link) -> Option<String> {
    let base = Url::parse("file:///root/").unwrap().join(&document.path).unwrap();
    let to = base.join(&link.target).ok().filter(|to| to.scheme() == "file")?;
    let inside = to.path().strip_prefix("/root").map(|path| path.trim_matches('/'));
    Some(inside.unwrap_or(to.path()).to_owned())
}

/// Returns the anchors that GitHub gives to the headings of a document. Headings become lower case,
/// spaces become `-`, and all other characters except letters, digits, `_`, and `-` are removed. A
/// repeated anchor gets a number.
fn anchors(headings: &[impl AsRef<str>]) -> Vec<String> {
    let mut times = HashMap::new();
    let slugs = headings.iter().map(|heading| {
        let lower = heading.as_ref().to_lowercase().replace(' ', "-");
        let slug: String = lower.chars().filter(|c| c.is_alphanumeric() || "_-".contains(*c)).collect();
        let before = times.entry(slug.clone()).and_modify(|times| *times += 1).or_insert(0);
        if *before == 0 { slug } else { format!("{slug}-{before}") }
    });
    slugs.collect()
}

#[apply(test!)]
async fn anchors_are_made_as_github_makes_them() {
    let headings = [
        "Try it",
        "What, and how",
        "`a::b` of a_b-c",
        "RabbitMQ & Redis",
        "Größe in °C",
        "Try it!",
        "TRY IT",
    ];
    let expected =
        ["try-it", "what-and-how", "ab-of-a_b-c", "rabbitmq--redis", "größe-in-c", "try-it-1", "try-it-2"];
    assert_eq!(anchors(&headings), expected);
}

#[apply(test!)]
async fn every_relative_link_leads_to_a_file_or_heading() {
    assert!(REPOSITORY.documents.iter().any(|document| !document.links.is_empty()));
    let mut violations = Vec::new();
    for document in &REPOSITORY.documents {
        for link in &document.links {
            let Some(path) = destination(document, link) else { continue };
            let anchor = link.target.split_once('#').map(|(_, anchor)| anchor.to_owned());
            let other = REPOSITORY.documents.iter().find(|document| document.path == path);
            let reason = match (anchor, other) {
                _ if !REPOSITORY.files.contains(&path) && !REPOSITORY.has_folder(&path) => {
                    format!("{path:?} is not in the repository")
                }
                (None, _) => continue,
                (Some(anchor), Some(other)) if anchors(&other.headings).contains(&anchor) => continue,
                (Some(anchor), _) => format!("{path} has no heading for #{anchor}"),
            };
            violations.push(format!("{}:{}: {reason}", document.path, link.line));
        }
    }
    none(&violations);
}

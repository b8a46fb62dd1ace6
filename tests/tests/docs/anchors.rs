//! Anchors, the `#` part of links.

use std::collections::HashMap;
use tests::{apply, test};

use crate::links::destination;
use crate::repository::{REPOSITORY, none};

/// The anchors that GitHub gives the headings of a document.
///
/// The rule is that of the `TableOfContentsFilter` of [html-pipeline], GitHub's own
/// filters: lower case; of the rest only letters, digits, `_`, `-` and spaces; spaces
/// become `-`; what was there before gets a number.
///
/// [html-pipeline]: https://github.com/gjtorikian/html-pipeline
fn anchors(headings: &[impl AsRef<str>]) -> Vec<String> {
    let mut times = HashMap::new();
    let slugs = headings.iter().map(|heading| {
        let lower = heading.as_ref().to_lowercase();
        let kept = lower.chars().filter(|c| c.is_alphanumeric() || "_- ".contains(*c));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let before: &mut usize = times.entry(slug.clone()).or_default();
        *before += 1;
        if *before == 1 { slug } else { format!("{slug}-{}", *before - 1) }
    });
    slugs.collect()
}

#[apply(test!)]
async fn a_slug_is_made_as_github_makes_it() {
    let headings = [
        ("Try it", "try-it"),
        ("What goes wrong, and how it shows", "what-goes-wrong-and-how-it-shows"),
        ("`Store::record` of a_b-c", "storerecord-of-a_b-c"),
        ("RabbitMQ & Redis", "rabbitmq--redis"),
        ("Größe in °C", "größe-in-c"),
        ("Try it!", "try-it-1"),
        ("TRY IT", "try-it-2"),
    ];
    let (headings, expected): (Vec<_>, Vec<_>) = headings.into_iter().unzip();
    assert_eq!(anchors(&headings), expected);
}

#[apply(test!)]
async fn every_anchor_is_a_heading() {
    let mut violations = Vec::new();
    for document in &REPOSITORY.documents {
        for link in &document.links {
            let Some(to) = destination(document, link) else { continue };
            let Some(anchor) = to.anchor else { continue };
            let reason = match REPOSITORY.documents.iter().find(|document| document.path == to.path) {
                Some(other) if anchors(&other.headings).contains(&anchor) => continue,
                Some(_) => format!("{} has no heading for #{anchor}", to.path),
                None => format!("#{anchor}: {} is no Markdown file, so it has no anchors", to.path),
            };
            violations.push(format!("{}:{}: {reason}", document.path, link.line));
        }
    }
    none(&violations);
}

//! What the rules look at in a Markdown document.

use std::sync::LazyLock;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

pub struct Document {
    /// From the root of the repository.
    pub path: String,
    /// The text of each.
    pub headings: Vec<String>,
    pub links: Vec<Link>,
    pub fences: Vec<Fence>,
    /// Code within a line.
    pub spans: Vec<Span>,
}

/// A link, or an image.
pub struct Link {
    pub line: usize,
    pub target: String,
    /// The link's text, if that is one span of code.
    pub code: Option<String>,
}

/// A fenced block of code.
pub struct Fence {
    /// Of its first line inside.
    pub line: usize,
    /// What stands behind the opening backticks.
    pub info: String,
    pub text: String,
}

pub struct Span {
    pub line: usize,
    pub text: String,
}

impl Document {
    pub fn parse(path: &str, text: &str) -> Self {
        static HTML_LINK: LazyLock<Regex> =
            LazyLock::new(|| Regex::new(r#"\b(?:src|href)\s*=\s*["']([^"']*)"#).unwrap());

        let mut document =
            Self { path: path.to_owned(), headings: vec![], links: vec![], fences: vec![], spans: vec![] };
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_TASKLISTS;
        let (events, ranges): (Vec<_>, Vec<_>) = Parser::new_ext(text, options).into_offset_iter().unzip();
        for (at, range) in ranges.iter().enumerate() {
            let line = 1 + text[..range.start].matches('\n').count();
            match &events[at..] {
                [Event::Start(Tag::Link { dest_url, .. }), rest @ ..] => {
                    let code = match rest {
                        [Event::Code(code), Event::End(TagEnd::Link), ..] => Some(code.to_string()),
                        _ => None,
                    };
                    document.links.push(Link { line, target: dest_url.to_string(), code });
                }
                [Event::Start(Tag::Image { dest_url, .. }), ..] => {
                    document.links.push(Link { line, target: dest_url.to_string(), code: None });
                }
                [Event::Html(html) | Event::InlineHtml(html), ..] => {
                    for found in HTML_LINK.captures_iter(html) {
                        document.links.push(Link { line, target: found[1].to_owned(), code: None });
                    }
                }
                [Event::Start(Tag::Heading { .. }), rest @ ..] => {
                    document.headings.push(text_until(rest, |end| matches!(end, TagEnd::Heading(_))));
                }
                [Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))), rest @ ..] => {
                    let text = text_until(rest, |end| *end == TagEnd::CodeBlock);
                    document.fences.push(Fence { line: line + 1, info: info.to_string(), text });
                }
                [Event::Code(code), ..] => document.spans.push(Span { line, text: code.to_string() }),
                _ => {}
            }
        }
        document
    }
}

fn text_until(events: &[Event<'_>], is_end: impl Fn(&TagEnd) -> bool) -> String {
    let inside = events.iter().take_while(|event| !matches!(event, Event::End(end) if is_end(end)));
    let texts = inside.filter_map(|event| match event {
        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
        _ => None,
    });
    texts.collect()
}

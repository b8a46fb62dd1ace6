//! The parts of a Markdown document that the other tests check.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use regex::Regex;

#[derive(Default)]
pub struct Document {
    /// Path from the root of the repository.
    pub path: String,
    /// The headings' texts.
    pub headings: Vec<String>,
    pub links: Vec<Link>,
    /// Fenced code blocks.
    pub fences: Vec<Code>,
    /// Code within a line.
    pub spans: Vec<Code>,
}

/// A link, or an image.
pub struct Link {
    pub line: usize,
    pub target: String,
    /// The link's text, if it is a single span of code.
    pub code: Option<String>,
}

pub struct Code {
    /// Line number of the text's first line.
    pub line: usize,
    /// The text after a block's opening backticks.
    pub info: String,
    pub text: String,
}

impl Document {
    pub fn parse(path: &str, text: &str) -> Self {
        let html_link = Regex::new(r#"\b(?:src|href)\s*=\s*["']([^"']*)"#).unwrap();
        let mut document = Self { path: path.to_owned(), ..Self::default() };
        let options = Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES | Options::ENABLE_TASKLISTS;
        let (events, ranges): (Vec<_>, Vec<_>) = Parser::new_ext(text, options).into_offset_iter().unzip();
        for (event, (at, range)) in events.iter().zip(ranges.iter().enumerate()) {
            let line = 1 + text[..range.start].matches('\n').count();
            let rest = &events[at + 1..];
            match event {
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    let code = match rest {
                        [Event::Code(code), Event::End(TagEnd::Link), ..] => Some(code.to_string()),
                        _ => None,
                    };
                    document.links.push(Link { line, target: dest_url.to_string(), code });
                }
                Event::Html(html) | Event::InlineHtml(html) => {
                    let found = html_link.captures_iter(html).map(|found| found[1].to_owned());
                    document.links.extend(found.map(|target| Link { line, target, code: None }));
                }
                Event::Start(Tag::Heading { .. }) => document.headings.push(text_of(rest)),
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    let code = Code { line: line + 1, info: info.to_string(), text: text_of(rest) };
                    document.fences.push(code);
                }
                Event::Code(text) => {
                    document.spans.push(Code { line, info: String::new(), text: text.to_string() });
                }
                _ => {}
            }
        }
        document
    }
}

/// Returns the text up to the end of a heading or a code block.
fn text_of(events: &[Event<'_>]) -> String {
    let texts = events.iter().map_while(|event| match event {
        Event::End(TagEnd::Heading(_) | TagEnd::CodeBlock) => None,
        Event::Text(text) | Event::Code(text) => Some(text.as_ref()),
        _ => Some(""),
    });
    texts.collect()
}

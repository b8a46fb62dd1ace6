//! The lab's HTML pages. Each is a single file that opens offline: it contains its style and its
//! script, if it has one. maud escapes all text.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The style of all pages and plots, for light and dark mode, print, and narrow screens.
const STYLE: &str = concat!(include_str!("plot.css"), include_str!("page.css"));

/// Returns a complete page. `title` is also its heading. `style` comes after the style of all pages.
pub fn page(title: &str, style: &str, script: &str, content: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(style)) }
            }
            body {
                h1 { (title) }
                (content)
                @if !script.is_empty() { script { (PreEscaped(script)) } }
            }
        }
    };
    page.into_string()
}

/// Returns a figure with its caption. On a narrow screen, `content` scrolls sideways.
pub fn figure(caption: &str, content: &Markup, note: &str) -> Markup {
    html! {
        figure {
            figcaption { (caption) }
            div.wide { (content) }
            @if !note.is_empty() { p.note { (note) } }
        }
    }
}

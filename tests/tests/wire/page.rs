//! Tests of the page that shows scenes.

use lab::scenes::view::html::html;
use lab::wire::cursor::hex;
use lab::wire::message::Side::{Client, Server};
use lab::wire::tape::What;
use regex::Regex;
use tests::{apply, test};

use crate::views::{scene, sends, short, unit};

/// Returns the bytes in hexadecimal of each message on the page, with a line between leaves, and its
/// fields with their depths.
fn messages(page: &str) -> Vec<(String, Vec<String>)> {
    let leaf = Regex::new("<span>([0-9a-f ]+)</span>").unwrap();
    let field =
        Regex::new(r#"<li( class="group")?(?: tabindex="0")? style="--depth:(\d)"><b>(\w+)</b>"#).unwrap();
    let parts = page.split("<div class=\"message\">").skip(1);
    let parts = parts.map(|part| {
        let (bytes, fields) = part.split_once("<ul").unwrap();
        let leaves: Vec<_> = leaf.captures_iter(bytes).map(|found| found[1].to_owned()).collect();
        let fields = field.captures_iter(fields).map(|found| {
            let kind = if found.get(1).is_some() { " group" } else { "" };
            format!("{} {}{kind}", &found[2], &found[3])
        });
        (leaves.join("|"), fields.collect())
    });
    parts.collect()
}

#[apply(test!)]
async fn the_page_shows_each_byte_and_the_field_it_belongs_to() {
    let scene = short(3);
    let expected: Vec<_> = scene.conversations[0]
        .trace
        .steps
        .iter()
        .flat_map(|step| step.messages.iter().map(move |timed| (step.event.connection, &timed.message)))
        .map(|(connection, message)| hex(scene.conversations[0].trace.bytes(connection, message)))
        .collect();
    let shown = messages(&html(&[scene]));
    assert_eq!(expected.len(), 6);
    assert_eq!(shown.iter().map(|(bytes, _)| bytes.replace('|', " ")).collect::<Vec<_>>(), expected);
    // Length, kind, call, and text.
    assert_eq!(shown[2].0, "00 10|46|01|48 45 41 44 45 52 53 20 23 31 20 32 30 30");
    let fields = ["0 head group", "1 length", "1 kind", "1 call", "0 text"];
    assert!(shown.iter().all(|(_, shown)| *shown == fields), "{shown:?}");
}

#[apply(test!)]
async fn the_page_escapes_what_was_received() {
    let attack = "<script>alert(1)</script>\"><img onerror=x>";
    let mut scene = scene(
        &[
            sends(0, 0, Client, &[unit(b'Q', 1, attack)], 999),
            vec![(1, 0, Client, What::Note(attack.into()))],
        ]
        .concat(),
    );
    scene.title = attack.into();
    scene.lanes[0] = attack;
    let page = html(&[scene]);
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert_eq!(page.matches("<script").count(), 1, "only the page's own script");
    assert!(!page.contains("<img"));
}

#[apply(test!)]
async fn the_page_says_what_it_leaves_out() {
    let many: Vec<_> = (0..45).map(|number| unit(b'O', 0, &format!("number {number}"))).collect();
    let moments =
        [sends(0, 0, Client, &many, 9_999), sends(0, 0, Server, &[unit(b'Q', 1, &"x".repeat(1_300))], 9_999)];
    let page = html(&[scene(&moments.concat())]);
    assert_eq!(messages(&page).len(), 41);
    assert!(
        page.contains("and 40 more<") && page.contains("and 5 more messages, which are not shown"),
        "{page}"
    );
    assert!(page.contains("1,044 more bytes") && messages(&page)[40].0.matches("78").count() == 256);
}

#[apply(test!)]
async fn the_page_opens_offline() {
    let page = html(&[short(1_000), short(7)]);
    for loads in ["src=", "href=\"h", "href=\"/", "@import", "url(", "http:", "https:", "fetch("] {
        assert!(!page.contains(loads), "the page must load nothing from elsewhere: {loads}");
    }
    for anchor in ["scene-1", "scene-2"] {
        assert!(page.contains(&format!("href=\"#{anchor}\"")) && page.contains(&format!("id=\"{anchor}\"")));
    }
}

#[apply(test!)]
async fn the_page_colors_arrows_by_their_role() {
    let page = html(&[short(1_000)]);
    let arrow = Regex::new(r#"<details class="row (s\d) (\w+)">"#).unwrap();
    let shown: Vec<_> =
        arrow.captures_iter(&page).map(|found| format!("{} {}", &found[1], &found[2])).collect();
    assert_eq!(shown, ["s0 right", "s2 left", "s0 right", "s1 left"]);
    assert!(
        page.contains("(2.0 ms)") && page.contains("1.496 s later") && page.contains("· refused"),
        "{page}"
    );
}

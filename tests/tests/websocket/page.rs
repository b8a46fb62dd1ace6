//! The page in a real browser: how it shows readings, names, and reasons for errors.

use serde_json::json;
use tcp_socket::base::token::Token;
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, test};
use websocket::Client;
use websocket::Metric;

use crate::PAIR;
use crate::browser::{Browser, chromium};
use crate::live::reading;

/// The page escapes text from outside as the terminal client does.
#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn the_page_shows_invisible_characters_as_the_terminal_does() {
    let server = PAIR.serve().await;
    let mut browser = Browser::start().await;
    let page = browser.open(server.url(), 1280, 800).await;
    for text in [
        "plain, ümlaut, 好, नमस्ते, สวัสดี, 👩\u{200d}💻, می\u{200c}خواهم",
        "\u{1b}[2J\u{7}\0\u{7f}",
        "C1: \u{9b}31m\u{85}",
        "override: \u{202e}abc\u{202c} \u{2066}x\u{2069} \u{200f}\u{61c}",
        "zero width: \u{200b}\u{2060}\u{feff}\u{ad}",
        "fillers: \u{3164}\u{115f}\u{1160}\u{2800}\u{ffa0}",
        "lines: \r\n\t\u{2028}\u{2029}",
        "beyond 16 bits: \u{e0041}\u{f0000}\u{1d173}",
        "private: \u{e000}",
    ] {
        let expected = tcp_socket::base::text::printable(text);
        let shown = browser.evaluate(&page, &format!("printable({})", json!(text))).await;
        assert_eq!(shown, json!(expected), "{text:?}");
    }
    // All text goes through `printable`. Only the line breaks and tabs of a message are kept.
    browser
        .evaluate(&page, "said({ name: 'e\\u202eve', text: 'a\\u200bb\\n\\tc\\u001b', sent_at: 0 })")
        .await;
    browser.evaluate(&page, "line('\\u2066eve\\n joined')").await;
    browser.evaluate(&page, "state('chat-state', 'lost', 'x\\u0007')").await;
    browser.evaluate(&page, "problem('name', 'x\\u202e')").await;
    browser.evaluate(&page, "note('\\u3164')").await;
    browser.evaluate(&page, "showRaw('in', '/chat', '{\"x\":\"\\u202e\"}')").await;
    browser.until(&page, r"$('log').textContent.startsWith('e\\u202eve: a\\u200bb\n\tc\\u001b ')").await;
    // A message from another day is shown with its date.
    browser.until(&page, "/19(69|70)/.test(document.querySelector('#log time').textContent)").await;
    browser.until(&page, r"$('log').lastChild.textContent === '\\u2066eve\\n joined'").await;
    browser.shows(&page, "chat-state", r"x\u0007").await;
    browser.shows(&page, "name-problem", r"x\u202e").await;
    browser.shows(&page, "note", r"\u3164").await;
    browser.until(&page, r#"$('raw').lastChild.textContent.endsWith('/chat {"x":"\\u202e"}')"#).await;
    drop(browser);
    server.stop().await;
}

#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn the_page_offers_the_known_stations_and_shows_raw_messages() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let client = Client::new(server.url());
    let mut now = reading("oslo-1", Metric::Temperature, 2.5);
    now.recorded_at = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let mut soon_after = reading("rome-1", Metric::Wind, 8.0);
    soon_after.recorded_at = now.recorded_at + 1;
    let first = reading("oslo-1", Metric::Temperature, -3.5); // The date is January 1, 2026.
    client.record(&[first, now.clone(), reading("bern-2", Metric::Humidity, 40.0)]).await.unwrap();
    client.record(&[soon_after]).await.unwrap();

    // The page shows readings from before it was opened, and offers their stations.
    let mut browser = Browser::start().await;
    let page = browser.open(server.url(), 1280, 800).await;
    browser.call(Some(&page), "Emulation.setTimezoneOverride", json!({"timezoneId": "UTC"})).await;
    let offered = "[...$('station').options].map((option) => option.value).join()";
    browser.until(&page, &format!("{offered} === 'bern-2,oslo-1,rome-1'")).await;
    browser.shows(&page, "latest", "humidity at bern-2: 40 %, the latest of 1").await;
    let axis = "[...document.querySelectorAll('#chart .date')].map((text) => text.textContent)";
    let day = |ms: u64| format!("new Date({ms}).toLocaleDateString(undefined, {{ dateStyle: 'medium' }})");

    // The axis shows dates only if not all readings are from today.
    browser.fill(&page, "station", "oslo-1").await;
    browser.shows(&page, "latest", "temperature at oslo-1: 2.5 °C, the latest of 2").await;
    let dates = format!("[{}, {}]", day(now.recorded_at), day(1_767_225_600_000));
    browser.until(&page, &format!("{axis}.join('|') === {dates}.join('|')")).await;
    assert!(browser.evaluate(&page, axis).await[1].as_str().is_some_and(|date| date.contains("2026")));
    browser.fill(&page, "station", "rome-1").await;
    browser.shows(&page, "latest", "wind at rome-1: 8 m/s, the latest of 1").await;
    assert_eq!(browser.evaluate(&page, axis).await, json!([]));
    browser.fill(&page, "metric", "pressure").await;
    browser.shows(&page, "latest", "There is no pressure among the newest readings of rome-1.").await;
    browser.fill(&page, "metric", "wind").await;

    // A new station is added to the sorted list, but doesn't replace the one shown.
    client.record(&[reading("lima-1", Metric::Wind, 1.0)]).await.unwrap();
    browser.until(&page, &format!("{offered} === 'bern-2,lima-1,oslo-1,rome-1'")).await;
    browser.shows(&page, "latest", "wind at rome-1: 8 m/s, the latest of 1").await;

    // The raw messages show both directions, are limited in number, and can be paused and cleared.
    let raw = "[...$('raw').children].map((li) => li.className + ' ' + li.textContent.replace(/^(.).*? \\//, '$1 /'))";
    let lines = browser.evaluate(&page, raw).await;
    assert_eq!(lines[0], "event · /live connected");
    assert_eq!(lines[1], r#"out → /live {"type":"subscribe","id":1}"#);
    assert!(lines[2].as_str().unwrap().starts_with(r#"in ← /live {"type":"subscribed","id":1,"#), "{lines}");
    assert!(lines[3].as_str().unwrap().starts_with(r#"out → /live {"type":"readings","id":"#), "{lines}");
    let batch: Vec<_> = (0..300).map(|n| reading("lima-1", Metric::Humidity, f64::from(n) / 4.0)).collect();
    client.record(&batch).await.unwrap();
    browser.until(&page, "$('raw').lastChild.textContent.includes('\"value\":74.75')").await;
    assert_eq!(browser.evaluate(&page, "$('raw').children.length").await, 200);
    browser.evaluate(&page, "$('pause').click(); $('clear').click()").await;
    client.record(&batch[..3]).await.unwrap();
    browser.shows(&page, "pause", "Resume (3 not shown)").await;
    assert_eq!(browser.evaluate(&page, "$('raw').children.length").await, 0);
    browser.evaluate(&page, "$('pause').click()").await;
    browser.until(&page, "$('raw').textContent.includes('3 messages were not shown')").await;
    client.record(&batch[..1]).await.unwrap();
    browser.until(&page, "$('raw').lastChild.textContent.includes('\"lima-1\"')").await;

    // A restarted server has no readings. The page forgets them too, but not the chosen station.
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    browser.until(&page, "$('live-state').dataset.state === 'lost'").await;
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    browser.until(&page, "$('live-state').dataset.state === 'open'").await;
    browser.shows(&page, "note", "The server restarted and has forgotten earlier readings.").await;
    browser.until(&page, "$('latest').textContent.startsWith('No readings yet.')").await;
    assert_eq!(browser.evaluate(&page, offered).await, "");
    assert_eq!(browser.evaluate(&page, "document.querySelectorAll('#chart polyline').length").await, 0);
    let client = Client::new(server.url());
    client.record(&[reading("bern-2", Metric::Wind, 3.0)]).await.unwrap();
    browser.shows(&page, "latest", "wind at bern-2: 3 m/s, the latest of 1").await;
    client.record(&[reading("rome-1", Metric::Wind, 4.0)]).await.unwrap();
    browser.shows(&page, "latest", "wind at rome-1: 4 m/s, the latest of 1").await;
    drop(browser);
    server.stop().await;
}

/// The browser tells the page only that the handshake failed, so the page has to ask why.
#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn a_page_whose_origin_is_refused_says_why_and_stops_trying() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let origin = format!("http://weather.test:{}", addr.rsplit_once(':').unwrap().1);
    let mut browser = Browser::start().await;
    let page = browser.open(&origin, 390, 844).await;
    browser.until(&page, "!$('refused').hidden").await;
    let shown = browser.evaluate(&page, "$('refused').innerText").await;
    let shown = shown.as_str().unwrap();
    assert!(shown.contains("(HTTP status 403)"), "{shown}");
    assert!(shown.contains(&format!("--allow-origin {origin}")), "{shown}");
    browser.shows(&page, "live-state", "readings: refused").await;
    browser.screenshot(&page, "refused").await;
    browser.type_line(&page, "ana").await;
    browser.shows(&page, "chat-state", "chat: refused").await;
    // Neither connection is going to try again.
    let attempts = "[live, member.connection].map(({ timer, socket, attempts }) => [timer ?? null, socket ?? null, attempts])";
    assert_eq!(browser.evaluate(&page, attempts).await, json!([[null, null, 0], [null, null, 0]]));

    // While no server is running, the page keeps trying, with growing pauses.
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    drop(server);
    browser.evaluate(&page, "$('again').click()").await;
    browser.until(&page, "live.attempts >= 4 && member.connection.attempts >= 4").await;
    browser
        .shows(&page, "live-state", "readings: cannot connect: the server does not respond; reconnecting")
        .await;
    assert_eq!(browser.evaluate(&page, "$('refused').hidden").await, true);

    // A server without the option refuses the page again; a server with it doesn't.
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    browser.until(&page, "!$('refused').hidden && live.refused && member.connection.refused").await;
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr, "--allow-origin", &origin]).await;
    browser.evaluate(&page, "$('again').click()").await;
    browser.shows(&page, "live-state", "readings: live").await;
    browser.shows(&page, "chat-state", "chat: ana in lobby").await;
    assert_eq!(browser.evaluate(&page, "$('refused').hidden").await, true);
    drop(browser);
    server.stop().await;
}

#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn the_page_asks_for_a_token_and_never_shows_it() {
    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-principals.toml");
    let token = Token::generate().unwrap();
    let entry = format!("name = \"ada\"\nrole = \"operator\"\ntoken_sha256 = \"{}\"\n", token.sha256());
    std::fs::write(&file, format!("[[principal]]\n{entry}")).unwrap();
    let args = ["--addr", "127.0.0.1:0", "--principals", file.to_str().unwrap()];
    let server = Server::start(PAIR.server, &args).await;
    let mut browser = Browser::start().await;
    let page = browser.open(server.url(), 1280, 800).await;
    for text in ["wst_wrong", token.secret()] {
        browser
            .until(&page, "!$('identify').hidden && $('token-problem').textContent.includes('token')")
            .await;
        browser.evaluate(&page, "$('token').focus()").await;
        browser.type_line(&page, text).await;
    }
    browser.until(&page, "$('identify').hidden && $('live-state').textContent === 'readings: live'").await;
    let shown = "document.documentElement.outerHTML + location.href + $('token').value";
    let shown = browser.evaluate(&page, shown).await.as_str().unwrap().to_owned();
    assert!(!shown.contains(token.secret()), "{shown}");
    drop(browser);
    let printed = server.stop().await;
    assert!(!printed.contains(token.secret()), "{printed}");
}

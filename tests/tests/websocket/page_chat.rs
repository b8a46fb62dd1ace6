//! The chat in the page, in a real browser.

use std::process::Stdio;

use serde_json::json;
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, test};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use websocket::Client;
use websocket::Metric;

use crate::PAIR;
use crate::browser::{Browser, chromium, log_has};
use crate::live::reading;
use crate::local::soon;

#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn two_pages_and_a_terminal_chat_and_survive_a_restart() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let mut terminal = Command::new(PAIR.client)
        .args(["chat", "--name", "terminal", "--url", server.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut keyboard = terminal.stdin.take().unwrap();
    let mut screen = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let mut shown = async |what: &str| loop {
        let line = soon(what, screen.next_line()).await.unwrap().unwrap();
        if line.contains(what) {
            return;
        }
    };
    shown("joined; in the room: terminal").await;

    // Both join using only the keyboard: the name field has the focus.
    let mut browser = Browser::start().await;
    let ana = browser.open(server.url(), 1280, 800).await;
    browser.type_line(&ana, "ana").await;
    browser.until(&ana, "document.activeElement.id === 'text'").await;
    let ben = browser.open(server.url(), 390, 844).await;
    browser.type_line(&ben, "ben").await;
    let present = "[...document.querySelectorAll('#present li')].map((li) => li.textContent).join()";
    for page in [&ana, &ben] {
        browser.until(page, &format!("{present} === 'ana,ben,terminal'")).await;
        assert_eq!(
            browser.evaluate(page, "document.getElementById('chat-state').dataset.state").await,
            "open"
        );
    }

    // A message is shown as text, even if it looks like HTML.
    let markup = "<img src=x onerror=\"document.title='owned'\"><b>hi</b> & good morning";
    browser.type_line(&ana, markup).await;
    for page in [&ana, &ben] {
        browser.until(page, &log_has(markup)).await;
        assert_eq!(browser.evaluate(page, "document.querySelectorAll('#log img').length").await, 0);
        assert_eq!(browser.evaluate(page, "document.title").await, "Weather and chat over WebSocket");
    }
    shown("ana: <img src=x").await;
    keyboard.write_all("greetings from the terminal\n".as_bytes()).await.unwrap();
    for page in [&ana, &ben] {
        browser.until(page, &log_has("terminal: greetings from the terminal")).await;
    }

    // The chart shows new readings as they are recorded.
    let client = Client::new(server.url());
    for number in 0..40 {
        let mut reading = reading("oslo-1", Metric::Temperature, -3.5 + (number % 7) as f64 * 0.5);
        reading.recorded_at += number * 60_000;
        client.record(&[reading]).await.unwrap();
    }
    for page in [&ana, &ben] {
        browser.until(page, "document.getElementById('latest').textContent === 'temperature at oslo-1: -1.5 °C, the latest of 40'").await;
        let points = "document.querySelector('#chart polyline').getAttribute('points').split(' ').length";
        assert_eq!(browser.evaluate(page, points).await, 40);
        let overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(
            browser.evaluate(page, overflow).await,
            false,
            "the page must not be wider than the screen"
        );
    }
    browser.screenshot(&ana, "desktop").await;
    browser.screenshot(&ben, "phone").await;

    // After a connection fails silently, the next one takes the name over: nobody sees ben leave.
    browser.evaluate(&ben, "member.connection.disconnected(1006, 'the network failed')").await;
    browser.until(&ben, "document.getElementById('chat-state').dataset.state === 'open'").await;
    browser.type_line(&ben, "back again").await;
    browser.until(&ana, &log_has("ben: back again")).await;
    assert_eq!(browser.evaluate(&ana, &log_has("ben joined")).await, true);
    assert_eq!(browser.evaluate(&ana, &log_has("ben left")).await, false);

    // The server is killed, ana writes something meanwhile, and another server starts.
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    for page in [&ana, &ben] {
        browser.until(page, "document.getElementById('chat-state').dataset.state === 'lost'").await;
        browser.until(page, "document.getElementById('live-state').dataset.state === 'lost'").await;
    }
    let waiting = ["said while there was no server", "and a second one", "two\nlines, 好"];
    for text in waiting {
        browser.fill(&ana, "text", text).await;
        browser.press(&ana, "Enter", "\r").await;
    }
    let unsent = "[...document.querySelectorAll('#outbox li')].map((li) => li.innerText)";
    let pending = waiting.map(|text| format!("{text}\nNot sent yet: waiting for the connection."));
    assert_eq!(browser.evaluate(&ana, unsent).await, json!(pending));
    browser.screenshot(&ana, "lost").await;
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    for page in [&ana, &ben] {
        for text in waiting {
            browser.until(page, &log_has(&format!("ana: {text}"))).await;
        }
        browser.until(page, &log_has("the server restarted")).await;
        browser.until(page, &format!("{present} === 'ana,ben,terminal'")).await;
        browser.until(page, "document.getElementById('live-state').dataset.state === 'open'").await;
    }
    shown("ana: said while there was no server").await;
    browser.until(&ana, &format!("{unsent}.length === 0")).await;

    // The screenshot shows the page in dark mode.
    browser
        .call(
            Some(&ana),
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}),
        )
        .await;
    browser.screenshot(&ana, "dark").await;
    // Another connection takes over with the token, and the page gives up the name.
    let steal = "new Promise((resolve) => {
        const socket = new WebSocket(location.origin.replace('http', 'ws') + '/chat');
        const { room, name, token } = member;
        socket.onopen = () => socket.send(JSON.stringify({ type: 'join', id: 1, room, name, token, after: 0 }));
        socket.onmessage = ({ data }) => resolve(JSON.parse(data).resumed);
    })";
    assert_eq!(browser.evaluate(&ana, steal).await, true);
    browser.until(&ana, "!document.getElementById('join').hidden && member === undefined").await;
    browser
        .until(
            &ana,
            "document.getElementById('name-problem').textContent === 'another connection took over this name'",
        )
        .await;
    drop(keyboard);
    soon("the terminal client", terminal.wait()).await.unwrap();
    drop(browser);
    server.stop().await;
}

/// The test also sends the longest texts that the server accepts.
#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn the_page_keeps_a_refused_text_and_says_why_next_to_it() {
    let server = PAIR.serve().await;
    let mut browser = Browser::start().await;
    let ben = browser.open(server.url(), 390, 844).await;
    browser.type_line(&ben, "ben").await;
    browser.until(&ben, "document.activeElement.id === 'text'").await;
    let ana = browser.open(server.url(), 1280, 800).await;

    // The page refuses these names and rooms, except for the last three, which the server refuses.
    let long = "The name has 33 characters; use at most 32.";
    let room = "Enter a room name of 1 to 32 characters: a-z, 0-9, and -.";
    for (field, value, reason) in [
        ("name", String::new(), "Enter a name."),
        ("name", "x".repeat(33), long),
        ("name", "好".repeat(33), long),
        ("name", "𠮷".repeat(33), long),
        ("room", String::new(), room),
        ("room", "Lobby".to_owned(), room),
        ("room", "two words".to_owned(), room),
        ("room", "a".repeat(33), room),
        ("name", "ben".to_owned(), "ben"),
        ("name", "a\u{7}b".to_owned(), "name"),
        ("name", "a\u{202e}b".to_owned(), "name"),
    ] {
        browser.fill(&ana, "name", "ana").await;
        browser.fill(&ana, "room", "lobby").await;
        browser.fill(&ana, field, &value).await;
        browser.press(&ana, "Enter", "\r").await;
        let problem = format!("$('{field}-problem').textContent");
        browser.until(&ana, &format!("{problem}.includes({})", json!(reason))).await;
        let kept = format!("document.getElementById('{field}').value");
        assert_eq!(browser.evaluate(&ana, &kept).await, json!(value), "{reason}");
        assert_eq!(browser.evaluate(&ana, "document.activeElement.id").await, json!(field), "{reason}");
    }
    // These 32 characters have 64 UTF-16 units and 128 bytes. The field must not cut any off.
    let name = "𠮷".repeat(32);
    browser.fill(&ana, "name", &name).await;
    browser.press(&ana, "Enter", "\r").await;
    browser.until(&ana, "document.activeElement.id === 'text'").await;
    browser.until(&ben, &log_has(&format!("{name} joined"))).await;

    // A message that the page refuses stays in its field and is not sent.
    let long = "The message is too long: shorten it to at most 1000 bytes.";
    let control = |which: &str| format!("The message contains {which}, which cannot be sent; remove it.");
    for (text, reason) in [
        ("好".repeat(400), long.to_owned()),
        ("é".repeat(501), long.to_owned()),
        ("😀".repeat(251), long.to_owned()),
        ("x".repeat(1001), long.to_owned()),
        ("bell\u{7}".to_owned(), control(r"\u0007")),
        ("\u{1b}[2J".to_owned(), control(r"\u001b")),
        ("next\u{85}line".to_owned(), control(r"\u0085")),
        (" \n ".to_owned(), "Enter a message.".to_owned()),
    ] {
        browser.fill(&ana, "text", &text).await;
        browser.press(&ana, "Enter", "\r").await;
        browser.shows(&ana, "text-problem", &reason).await;
        assert_eq!(browser.evaluate(&ana, "document.getElementById('text').value").await, json!(text));
    }
    // Half of a surrogate pair cannot be sent at all. (A Rust string can't contain one either.)
    browser.evaluate(&ana, "void ($('text').value = 'half \\ud83d')").await;
    browser.press(&ana, "Enter", "\r").await;
    browser.shows(&ana, "text-problem", &control(r"\ud83d")).await;

    for (size, shown) in [(799, false), (800, true), (1000, true)] {
        browser.fill(&ana, "text", &"x".repeat(size)).await;
        assert_eq!(browser.evaluate(&ana, "!document.getElementById('count').hidden").await, json!(shown));
    }
    browser.shows(&ana, "count", "1000 of 1000 bytes").await;
    for text in [
        "好".repeat(333),
        "é".repeat(500),
        "😀".repeat(250),
        "x".repeat(1000),
        "two\nlines".to_owned(),
        "a\ttab".to_owned(),
    ] {
        browser.fill(&ana, "text", &text).await;
        browser.press(&ana, "Enter", "\r").await;
        browser.shows(&ana, "text-problem", "").await;
        assert_eq!(browser.evaluate(&ana, "document.getElementById('text').value").await, "");
        let said = format!(
            "[...document.querySelectorAll('#log li > bdi')].at(-1)?.textContent === {}",
            json!(text)
        );
        browser.until(&ben, &said).await;
    }
    // While an input method composes a character, Enter sends nothing.
    browser.fill(&ana, "text", "ni hao").await;
    let composing = "!$('text').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, cancelable: true }))";
    assert_eq!(browser.evaluate(&ana, composing).await, false);
    assert_eq!(browser.evaluate(&ana, "$('text').value").await, "ni hao");

    // If the page's check misses something, the server's refusal brings the text back, or
    // shows it above the field if something else has been typed there.
    browser.evaluate(&ana, "textProblem = () => ''").await;
    for text in ["好".repeat(400), "x".repeat(1001)] {
        browser.fill(&ana, "text", &text).await;
        browser.press(&ana, "Enter", "\r").await;
        browser.until(&ana, &format!("$('text-problem').textContent.includes('{} bytes')", text.len())).await;
        let reason = browser.evaluate(&ana, "$('text-problem').textContent").await;
        let reason = reason.as_str().unwrap();
        assert_eq!(browser.evaluate(&ana, "$('text').value").await, json!(text));

        let say = "$('say').requestSubmit(); $('text').value = 'typed meanwhile'";
        browser.evaluate(&ana, say).await;
        let unsent = format!("{text}\nNot sent: {reason}\n");
        browser.until(&ana, &format!("$('outbox').innerText.startsWith({})", json!(unsent))).await;
        assert_eq!(browser.evaluate(&ana, "$('text').value").await, "typed meanwhile");
        browser.evaluate(&ana, "document.querySelector('#outbox button').click()").await;
        let both = format!("typed meanwhile\n{text}");
        assert_eq!(browser.evaluate(&ana, "$('text').value").await, json!(both));
        assert_eq!(browser.evaluate(&ana, "$('outbox').children.length").await, 0);
    }

    // A message whose response is lost is resent under its ID, and stored only once.
    let cut = "(() => {
        $('text').value = 'kept once';
        $('say').requestSubmit();
        const before = $('outbox').innerText;
        member.connection.disconnected(1006, 'the network failed');
        return [before, $('outbox').innerText];
    })()";
    let shown = browser.evaluate(&ana, cut).await;
    assert_eq!(shown, json!(["", "kept once\nNot sent yet: waiting for the connection."]));
    browser.until(&ana, "outbox.size === 0 && $('outbox').children.length === 0").await;
    browser.fill(&ana, "text", "after it").await;
    browser.press(&ana, "Enter", "\r").await;
    for page in [&ana, &ben] {
        browser.until(page, &log_has("after it")).await;
        assert_eq!(browser.evaluate(page, &log_has("kept once")).await, true);
    }
    let sent = "[...document.querySelectorAll('#raw .out')].filter((li) => li.textContent.includes('kept once')).map((li) => li.textContent.match(/\"message_id\":\"(\\w+)\"/)[1])";
    let sent = browser.evaluate(&ana, sent).await;
    assert!(sent[0] == sent[1] && sent.as_array().is_some_and(|sent| sent.len() == 2), "{sent}");

    // When the page reconnects, somebody else has the name. The unsent message stays, even after a
    // join under another name, and can be edited and sent.
    let lose = "member.token = 'no longer valid';
        member.connection.disconnected(1006, 'the network failed');
        $('text').value = 'written before';
        $('say').requestSubmit()";
    browser.evaluate(&ana, lose).await;
    browser.until(&ana, "$('name-problem').textContent.includes('somebody else')").await;
    assert_eq!(browser.evaluate(&ana, "document.activeElement.id").await, "name");
    let unsent = format!("written before\nNot sent: you wrote it in room lobby as {name}.\n");
    let listed = format!("$('outbox').innerText.startsWith({})", json!(unsent));
    assert_eq!(browser.evaluate(&ana, &listed).await, true);
    browser.fill(&ana, "name", "ana").await;
    browser.press(&ana, "Enter", "\r").await;
    browser.shows(&ana, "chat-state", "chat: ana in lobby").await;
    assert_eq!(browser.evaluate(&ana, &listed).await, true);
    browser.evaluate(&ana, "document.querySelector('#outbox button').click()").await;
    assert_eq!(browser.evaluate(&ana, "document.activeElement.id").await, "text");
    browser.press(&ana, "Enter", "\r").await;
    browser.until(&ben, &log_has("ana: written before")).await;
    drop(browser);
    server.stop().await;
}

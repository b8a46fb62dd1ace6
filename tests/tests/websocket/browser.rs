//! The page in real browsers: headless Chromium, driven over the Chrome DevTools
//! Protocol, which is JSON over a WebSocket as well.

use std::path::PathBuf;
use std::process::Stdio;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tests::signal::{Pid, Signal, kill, killpg, own_group};
use tests::{Server, apply, test};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use websocket::Client;
use websocket::Metric;

use crate::PAIR;
use crate::live::reading;
use crate::local::soon;

/// What this test lacks, if anything.
pub fn chromium() -> Result<(), String> {
    let found = std::process::Command::new("chromium").arg("--version").output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no chromium: install it with `apt-get install -y chromium`".to_owned()),
    }
}

struct Browser {
    child: Child,
    profile: PathBuf,
    tools: WebSocketStream<MaybeTlsStream<TcpStream>>,
    ids: u64,
}

/// One tab, by its DevTools session.
struct Page(String);

impl Browser {
    async fn start() -> Self {
        let profile =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", std::process::id()));
        let mut command = std::process::Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0", "about:blank"])
            // A name for this machine that the server does not know as its own.
            .arg("--host-resolver-rules=MAP weather.test 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        own_group(&mut command); // To end all of its processes.
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line =
                soon("the DevTools address", lines.next_line()).await.unwrap().expect("chromium starts");
            if let Some(url) = line.strip_prefix("DevTools listening on ") {
                break url.to_owned();
            }
        };
        // Chromium keeps writing to stderr, which must not block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (tools, _) = connect_async(url).await.unwrap();
        Self { child, profile, tools, ids: 0 }
    }

    async fn call(&mut self, session: Option<&Page>, method: &str, params: Value) -> Value {
        self.ids += 1;
        let mut request = json!({"id": self.ids, "method": method, "params": params});
        if let Some(Page(session)) = session {
            request["sessionId"] = json!(session);
        }
        self.tools.send(Message::text(request.to_string())).await.unwrap();
        loop {
            let message = soon(method, self.tools.next()).await.unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.ids {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }

    /// Opens the page in a tab of that size.
    async fn open(&mut self, url: &str, width: u32, height: u32) -> Page {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach).await;
        let page = Page(session["sessionId"].as_str().unwrap().to_owned());
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call(Some(&page), "Emulation.setDeviceMetricsOverride", size).await;
        // Only one tab has the focus. Let each one behave as if it had.
        self.call(Some(&page), "Emulation.setFocusEmulationEnabled", json!({"enabled": true})).await;
        self.call(Some(&page), "Page.navigate", json!({"url": url})).await;
        self.call(Some(&page), "Page.bringToFront", json!({})).await;
        // The page itself focuses this field once it is shown.
        self.until(&page, "document.readyState === 'complete' && document.activeElement.id === 'name'").await;
        page
    }

    async fn evaluate(&mut self, page: &Page, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call(Some(page), "Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits, inside the page, for a condition.
    async fn until(&mut self, page: &Page, condition: &str) {
        let wait = format!(
            "new Promise((resolve) => {{
                let left = 1500;
                const look = () => ({condition}) ? resolve('yes')
                    : left-- > 0 ? setTimeout(look, 20) : resolve(document.body.innerText);
                look();
            }})"
        );
        let found = self.evaluate(page, &wait).await;
        assert_eq!(found, "yes", "waited for {condition}");
    }

    /// Puts a text into a field as if it had been pasted there.
    async fn fill(&mut self, page: &Page, field: &str, text: &str) {
        let text = json!(text);
        let fill = format!(
            "(() => {{
                const field = document.getElementById('{field}');
                field.focus();
                field.value = {text};
                field.dispatchEvent(new Event('input', {{ bubbles: true }}));
                field.dispatchEvent(new Event('change', {{ bubbles: true }}));
            }})()"
        );
        self.evaluate(page, &fill).await;
    }

    /// Waits until an element's text is this one.
    async fn shows(&mut self, page: &Page, element: &str, text: &str) {
        self.until(page, &format!("document.getElementById('{element}').textContent === {}", json!(text)))
            .await;
    }

    /// Types into the focused element, like a person who has only a keyboard.
    async fn type_line(&mut self, page: &Page, text: &str) {
        self.call(Some(page), "Input.insertText", json!({"text": text})).await;
        self.press(page, "Enter", "\r").await;
    }

    async fn press(&mut self, page: &Page, key: &str, text: &str) {
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" {
                event["text"] = json!(text);
            }
            self.call(Some(page), "Input.dispatchKeyEvent", event).await;
        }
    }

    /// For a person to look at: `SCREENSHOTS=<folder> cargo test --test websocket`.
    async fn screenshot(&mut self, page: &Page, name: &str) {
        let Some(folder) = std::env::var_os("SCREENSHOTS") else { return };
        let shot =
            self.call(Some(page), "Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let png = decode_base64(shot["data"].as_str().unwrap());
        std::fs::write(PathBuf::from(folder).join(format!("{name}.png")), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(pid) = self.child.id() {
            let _ = killpg(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}

fn decode_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for digit in text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)) {
        bits = bits << 6 | digit as u32;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    bytes
}

fn log_has(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#log li')].filter((li) => li.innerText.includes({text:?})).length === 1"
    )
}

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
    shown("joined; here are terminal").await;

    // Both join with the keyboard alone: the name has the focus.
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
        browser.until(page, "document.getElementById('latest').textContent === 'temperature at oslo-1: -1.5 °C, the last of 40'").await;
        let points = "document.querySelector('#chart polyline').getAttribute('points').split(' ').length";
        assert_eq!(browser.evaluate(page, points).await, 40);
        let overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
        assert_eq!(browser.evaluate(page, overflow).await, false, "the page is wider than its screen");
    }
    browser.screenshot(&ana, "desktop").await;
    browser.screenshot(&ben, "phone").await;

    // A connection that fails silently is taken over: nobody sees ben leave.
    browser.evaluate(&ben, "member.connection.disconnected(1006, 'the network failed')").await;
    browser.until(&ben, "document.getElementById('chat-state').dataset.state === 'open'").await;
    browser.type_line(&ben, "back again").await;
    browser.until(&ana, &log_has("ben: back again")).await;
    assert_eq!(browser.evaluate(&ana, &log_has("ben joined")).await, true);
    assert_eq!(browser.evaluate(&ana, &log_has("ben left")).await, false);

    // The server is killed, something is said meanwhile, and another one starts.
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

    // In dark mode. Somebody with the token takes over, and the page gives up the name.
    browser
        .call(
            Some(&ana),
            "Emulation.setEmulatedMedia",
            json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}),
        )
        .await;
    browser.screenshot(&ana, "dark").await;
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

/// Texts that the server would refuse, and texts at the limit that it accepts.
#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn the_page_keeps_a_text_that_is_refused_and_says_why_beside_it() {
    let server = PAIR.serve().await;
    let mut browser = Browser::start().await;
    let ben = browser.open(server.url(), 390, 844).await;
    browser.type_line(&ben, "ben").await;
    browser.until(&ben, "document.activeElement.id === 'text'").await;
    let ana = browser.open(server.url(), 1280, 800).await;

    // Names and rooms: refused by the page, or (the last three) by the server.
    let long = "The name has 33 characters; use at most 32.";
    let room = "The room must be 1 to 32 of the characters a-z, 0-9, and -.";
    for (field, value, reason) in [
        ("name", String::new(), "Type a name."),
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
    // 32 characters are 64 UTF-16 units and 128 bytes here; pasting cuts nothing off.
    let name = "𠮷".repeat(32);
    browser.fill(&ana, "name", &name).await;
    browser.press(&ana, "Enter", "\r").await;
    browser.until(&ana, "document.activeElement.id === 'text'").await;
    browser.until(&ben, &log_has(&format!("{name} joined"))).await;

    // Messages: a refused text stays in its field and is not sent.
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
        (" \n ".to_owned(), "Type a message.".to_owned()),
    ] {
        browser.fill(&ana, "text", &text).await;
        browser.press(&ana, "Enter", "\r").await;
        browser.shows(&ana, "text-problem", &reason).await;
        assert_eq!(browser.evaluate(&ana, "document.getElementById('text').value").await, json!(text));
    }
    // Half of a character cannot be sent at all. (It cannot be written in Rust either.)
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

    // A message whose reply is lost is sent again under its ID, and stored once.
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

    // When the connection is back, somebody else has the name. The unsent message is still there,
    // even after a join under another name, and can be edited and sent.
    let lose = "member.token = 'no longer valid';
        member.connection.disconnected(1006, 'the network failed');
        $('text').value = 'written before';
        $('say').requestSubmit()";
    browser.evaluate(&ana, lose).await;
    browser.until(&ana, "$('name-problem').textContent.includes('somebody else')").await;
    assert_eq!(browser.evaluate(&ana, "document.activeElement.id").await, "name");
    let unsent = format!("written before\nNot sent: it was written in the room lobby as {name}.\n");
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

/// Text from outside is shown as the terminal clients show it.
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
    // Every text goes through `printable`. Only the line breaks and tabs of a message stay.
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

/// The chart and the raw messages.
#[apply(test!)]
#[needs(chromium())]
#[alone]
async fn the_chart_offers_the_known_stations_and_the_raw_messages_are_shown() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let client = Client::new(server.url());
    let mut now = reading("oslo-1", Metric::Temperature, 2.5);
    now.recorded_at = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let mut soon_after = reading("rome-1", Metric::Wind, 8.0);
    soon_after.recorded_at = now.recorded_at + 1;
    let first = reading("oslo-1", Metric::Temperature, -3.5); // As in the tour: January 1, 2026.
    client.record(&[first, now.clone(), reading("bern-2", Metric::Humidity, 40.0)]).await.unwrap();
    client.record(&[soon_after]).await.unwrap();

    // Readings from before the page was opened are shown, and their stations are offered.
    let mut browser = Browser::start().await;
    let page = browser.open(server.url(), 1280, 800).await;
    browser.call(Some(&page), "Emulation.setTimezoneOverride", json!({"timezoneId": "UTC"})).await;
    let offered = "[...$('station').options].map((option) => option.value).join()";
    browser.until(&page, &format!("{offered} === 'bern-2,oslo-1,rome-1'")).await;
    browser.shows(&page, "latest", "humidity at bern-2: 40 %, the last of 1").await;
    let axis = "[...document.querySelectorAll('#chart .date')].map((text) => text.textContent)";
    let day = |ms: u64| format!("new Date({ms}).toLocaleDateString(undefined, {{ dateStyle: 'medium' }})");

    // The axis shows dates if readings are from another day than today, and none otherwise.
    browser.fill(&page, "station", "oslo-1").await;
    browser.shows(&page, "latest", "temperature at oslo-1: 2.5 °C, the last of 2").await;
    let dates = format!("[{}, {}]", day(now.recorded_at), day(1_767_225_600_000));
    browser.until(&page, &format!("{axis}.join('|') === {dates}.join('|')")).await;
    assert!(browser.evaluate(&page, axis).await[1].as_str().is_some_and(|date| date.contains("2026")));
    browser.fill(&page, "station", "rome-1").await;
    browser.shows(&page, "latest", "wind at rome-1: 8 m/s, the last of 1").await;
    assert_eq!(browser.evaluate(&page, axis).await, json!([]));
    browser.fill(&page, "metric", "pressure").await;
    browser.shows(&page, "latest", "No pressure among the newest readings of rome-1.").await;
    browser.fill(&page, "metric", "wind").await;

    // A new station is added to the sorted list and does not replace the one shown.
    client.record(&[reading("lima-1", Metric::Wind, 1.0)]).await.unwrap();
    browser.until(&page, &format!("{offered} === 'bern-2,lima-1,oslo-1,rome-1'")).await;
    browser.shows(&page, "latest", "wind at rome-1: 8 m/s, the last of 1").await;

    // The raw messages: both directions, a bounded number, paused and cleared.
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

    // A restarted server knows no readings. The page forgets them too, but not the chosen station.
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    browser.until(&page, "$('live-state').dataset.state === 'lost'").await;
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    browser.until(&page, "$('live-state').dataset.state === 'open'").await;
    browser.shows(&page, "note", "The server restarted and has forgotten earlier readings.").await;
    browser.until(&page, "$('latest').textContent.startsWith('No reading yet.')").await;
    assert_eq!(browser.evaluate(&page, offered).await, "");
    assert_eq!(browser.evaluate(&page, "document.querySelectorAll('#chart polyline').length").await, 0);
    let client = Client::new(server.url());
    client.record(&[reading("bern-2", Metric::Wind, 3.0)]).await.unwrap();
    browser.shows(&page, "latest", "wind at bern-2: 3 m/s, the last of 1").await;
    client.record(&[reading("rome-1", Metric::Wind, 4.0)]).await.unwrap();
    browser.shows(&page, "latest", "wind at rome-1: 4 m/s, the last of 1").await;
    drop(browser);
    server.stop().await;
}

/// A browser tells a script only that a handshake failed, not why.
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
    // Neither connection waits for another attempt.
    let attempts = "[live, member.connection].map(({ timer, socket, attempts }) => [timer ?? null, socket ?? null, attempts])";
    assert_eq!(browser.evaluate(&page, attempts).await, json!([[null, null, 0], [null, null, 0]]));

    // While no server is running, nothing refuses the page: it keeps trying, more and more slowly.
    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    drop(server);
    browser.evaluate(&page, "$('again').click()").await;
    browser.until(&page, "live.attempts >= 4 && member.connection.attempts >= 4").await;
    browser
        .shows(&page, "live-state", "readings: cannot connect: the server does not respond; reconnecting")
        .await;
    assert_eq!(browser.evaluate(&page, "$('refused').hidden").await, true);

    // A server without the option refuses again, one with it doesn't.
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

//! The page in real browsers: headless Chromium, driven over the Chrome DevTools
//! Protocol, which is JSON over a WebSocket as well.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Stdio;

use futures::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::Server;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use websocket::client::Client;
use websocket::model::Metric;

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
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0); // To end all of its processes.
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line =
                soon("the DevTools address", lines.next_line()).await.unwrap().expect("chromium starts");
            if let Some(url) = line.strip_prefix("DevTools listening on ") {
                break url.to_owned();
            }
        };
        // It goes on complaining; nobody must block on that.
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
        // Only one tab has the focus; each of these is to behave as if it had.
        self.call(Some(&page), "Emulation.setFocusEmulationEnabled", json!({"enabled": true})).await;
        self.call(Some(&page), "Page.navigate", json!({"url": url})).await;
        self.call(Some(&page), "Page.bringToFront", json!({})).await;
        // A field that the page itself puts the focus on, once it is shown.
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

    /// Types into what has the focus, as a person with a keyboard only would.
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

pub async fn two_pages_and_a_terminal_chat_and_survive_a_restart() {
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

    // What somebody says is text, whatever it looks like.
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

    // The chart follows what is recorded.
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
    browser.evaluate(&ben, "member.connection.lost(1006, 'the network failed')").await;
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
    browser.type_line(&ana, "said while there was no server").await;
    browser.screenshot(&ana, "lost").await;
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    for page in [&ana, &ben] {
        browser.until(page, &log_has("ana: said while there was no server")).await;
        browser.until(page, &log_has("the server was restarted")).await;
        browser.until(page, &format!("{present} === 'ana,ben,terminal'")).await;
        browser.until(page, "document.getElementById('live-state').dataset.state === 'open'").await;
    }
    shown("ana: said while there was no server").await;
    let client = Client::new(server.url());
    client.record(&[reading("oslo-1", Metric::Temperature, 1.5)]).await.unwrap();
    browser.until(&ben, "document.getElementById('latest').textContent.includes('1.5 °C')").await;

    // Dark, and taken over by somebody with the token: the page lets go.
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
            "document.getElementById('problem').textContent === 'another connection took over this name'",
        )
        .await;
    drop(keyboard);
    soon("the terminal client", terminal.wait()).await.unwrap();
    drop(browser);
    server.stop().await;
}

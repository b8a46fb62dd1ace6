//! A browser that a test drives over the DevTools protocol, which itself uses a WebSocket.

use std::path::PathBuf;
use std::process::Stdio;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tests::signal::{Pid, Signal, killpg, own_group};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::local::soon;

/// Returns an error with a remedy if Chromium is not installed.
pub fn chromium() -> Result<(), String> {
    let found = std::process::Command::new("chromium").arg("--version").output();
    match found {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no chromium: install it with `apt-get install -y chromium`".to_owned()),
    }
}

pub struct Browser {
    child: Child,
    profile: PathBuf,
    tools: WebSocketStream<MaybeTlsStream<TcpStream>>,
    ids: u64,
}

/// A tab, identified by its DevTools session.
pub struct Page(String);

impl Browser {
    pub async fn start() -> Self {
        let profile =
            PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{}", std::process::id()));
        let mut command = std::process::Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args(["--disable-dev-shm-usage", "--remote-debugging-port=0", "about:blank"])
            // A name for this machine that is not among the server's own origins.
            .arg("--host-resolver-rules=MAP weather.test 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        own_group(&mut command); // So that `drop` can end all of its processes.
        let mut child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let url = loop {
            let line =
                soon("the DevTools address", lines.next_line()).await.unwrap().expect("chromium starts");
            if let Some(url) = line.strip_prefix("DevTools listening on ") {
                break url.to_owned();
            }
        };
        // Chromium keeps writing to stderr, and would block if nobody read it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let (tools, _) = connect_async(url).await.unwrap();
        Self { child, profile, tools, ids: 0 }
    }

    pub async fn call(&mut self, session: Option<&Page>, method: &str, params: Value) -> Value {
        self.ids += 1;
        let mut request = json!({"id": self.ids, "method": method, "params": params});
        if let Some(Page(session)) = session {
            request["sessionId"] = json!(session);
        }
        self.tools.send(Message::text(request.to_string())).await.unwrap();
        loop {
            let message = soon(method, self.tools.next()).await.unwrap().unwrap();
            let Message::Text(text) = message else { continue };
            let response: Value = serde_json::from_str(&text).unwrap();
            if response["id"] == self.ids {
                assert!(response["error"].is_null(), "{method}: {response}");
                return response["result"].clone();
            }
        }
    }

    /// Opens the page in a tab of this size.
    pub async fn open(&mut self, url: &str, width: u32, height: u32) -> Page {
        let target = self.call(None, "Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call(None, "Target.attachToTarget", attach).await;
        let page = Page(session["sessionId"].as_str().unwrap().to_owned());
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call(Some(&page), "Emulation.setDeviceMetricsOverride", size).await;
        // Only one tab has the focus, but each should behave as if it did.
        self.call(Some(&page), "Emulation.setFocusEmulationEnabled", json!({"enabled": true})).await;
        self.call(Some(&page), "Page.navigate", json!({"url": url})).await;
        self.call(Some(&page), "Page.bringToFront", json!({})).await;
        // The page itself focuses this field once it is shown.
        self.until(&page, "document.readyState === 'complete' && document.activeElement.id === 'name'").await;
        page
    }

    pub async fn evaluate(&mut self, page: &Page, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let response = self.call(Some(page), "Runtime.evaluate", params).await;
        assert!(response["exceptionDetails"].is_null(), "{expression}: {response}");
        response["result"]["value"].clone()
    }

    /// Waits inside the page until the condition is true.
    pub async fn until(&mut self, page: &Page, condition: &str) {
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

    /// Puts a text into a field, as if it had been pasted.
    pub async fn fill(&mut self, page: &Page, field: &str, text: &str) {
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

    /// Waits until an element shows exactly this text.
    pub async fn shows(&mut self, page: &Page, element: &str, text: &str) {
        self.until(page, &format!("document.getElementById('{element}').textContent === {}", json!(text)))
            .await;
    }

    /// Types a line into the element that has the focus.
    pub async fn type_line(&mut self, page: &Page, text: &str) {
        self.call(Some(page), "Input.insertText", json!({"text": text})).await;
        self.press(page, "Enter", "\r").await;
    }

    pub async fn press(&mut self, page: &Page, key: &str, text: &str) {
        let code = if key == "Enter" { 13 } else { 9 };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" {
                event["text"] = json!(text);
            }
            self.call(Some(page), "Input.dispatchKeyEvent", event).await;
        }
    }

    /// Saves a screenshot for people to look at, if you run
    /// `SCREENSHOTS=<folder> cargo test --test websocket`.
    pub async fn screenshot(&mut self, page: &Page, name: &str) {
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

/// Returns a condition: exactly one line of the page's log contains the text.
pub fn log_has(text: &str) -> String {
    format!(
        "[...document.querySelectorAll('#log li')].filter((li) => li.innerText.includes({text:?})).length === 1"
    )
}

//! The page that uses the browser's own `fetch` and `WebSocket`.

use tests::{Server, apply, test};

use crate::PAIR;
use crate::browser::{Browser, chromium};

const SERVE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../websocket/browser/serve.js");

fn node() -> Result<(), String> {
    match std::process::Command::new("node").arg("--version").output() {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("no Node.js: install it with `apt-get install nodejs`".to_owned()),
    }
}

#[apply(test!)]
#[needs(chromium())]
#[needs(node())]
#[alone]
async fn a_page_records_readings_with_fetch_and_with_websocket() {
    let http = Server::start(env!("CARGO_BIN_EXE_http_rest-server"), &["--addr", "127.0.0.1:0"]).await;
    let pages = Server::start("node", &[SERVE, "0", http.addr()]).await;
    let allowed = ["--addr", "127.0.0.1:0", "--allow-origin", pages.url()];
    let server = Server::start(PAIR.server, &allowed).await;
    let mut browser = Browser::start().await;
    let url = format!("{}/?live=ws://{}/live", pages.url(), server.addr());
    let page = browser.open(&url, 1280, 800).await;
    browser.evaluate(&page, "document.getElementById('record').click()").await;
    let http_shows = |text: &str| format!("document.getElementById('http').textContent.includes('{text}')");
    for text in [
        "POST /readings: 200 {\"accepted\":1}",
        "POST /readings: 422 ",
        "GET /readings?station=browser-1: 200 ",
    ] {
        browser.until(&page, &http_shows(text)).await;
    }
    browser.until(&page, "document.getElementById('live').textContent.includes('closed with 1000')").await;
    let live = browser.evaluate(&page, "document.getElementById('live').textContent").await;
    let live = live.as_str().unwrap();
    for part in [
        r#"{"type":"subscribed","id":1,"#,
        r#""type":"reading""#,
        r#""station":"browser-1""#,
        r#"{"type":"recorded","id":2,"accepted":1}"#,
        r#"{"type":"error","id":3,"code":"invalid","#,
    ] {
        assert!(live.contains(part), "{part} is not in {live}");
    }
    drop(browser);
    server.stop().await;
    http.stop().await;
}

//! The opening handshake, and the HTTP before it.

use std::time::Duration;

use tcp_socket::base::tls::trust_nobody;
use tests::{apply, test};
use tokio::io::AsyncReadExt;
use websocket::Limits;

use crate::local::{BINARY, KEY, Local, Raw, TEXT, frame, handshake, limits, soon};

#[apply(test!)]
async fn the_handshake_follows_the_rfc() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::tcp(server.addr).await;
    raw.send(handshake("/echo", "Sec-WebSocket-Protocol: other, weather.v1.json\r\n")).await;
    let head = raw.head().await;
    let lines: Vec<&str> = head.lines().filter(|line| !line.starts_with("date: ")).collect();
    let expected = [
        "HTTP/1.1 101 Switching Protocols",
        "upgrade: websocket",
        "connection: upgrade",
        "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        "sec-websocket-protocol: weather.v1.json",
        "",
    ];
    assert_eq!(lines, expected);
    // These are the frames that the README shows.
    raw.send([0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]).await;
    assert_eq!(raw.frame().await.unwrap(), (TEXT, b"Hello".to_vec()));
    raw.send([0x88, 0x82, 0x37, 0xfa, 0x21, 0x3d, 0x34, 0x12]).await;
    assert_eq!(raw.closed().await.0, 1000);
    server.stop().await;
}

#[apply(test!)]
async fn a_frame_sent_together_with_the_handshake_is_not_lost() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::tcp(server.addr).await;
    let whole = [handshake("/echo", "").into_bytes(), frame(TEXT, b"early"), frame(BINARY, &[0, 255])];
    raw.send(whole.concat()).await;
    raw.head().await;
    assert_eq!(raw.frame().await.unwrap(), (TEXT, b"early".to_vec()));
    assert_eq!(raw.frame().await.unwrap(), (BINARY, vec![0, 255]));
    server.stop().await;
}

/// Sends a request, and returns the status and the header of the response.
pub async fn status(server: &Local, request: String) -> (u16, String) {
    let mut raw = Raw::tcp(server.addr).await;
    raw.send(request).await;
    let head = raw.head().await;
    (head[9..12].parse().unwrap(), head)
}

#[apply(test!)]
async fn an_invalid_handshake_gets_the_right_status() {
    let server = Local::start(limits()).await;
    let good = handshake("/chat", "");
    assert_eq!(status(&server, good.clone()).await.0, 101);
    let cases = [
        (good.replace("GET", "POST"), 405, "allow: GET"),
        (good.replace("HTTP/1.1", "HTTP/1.0"), 400, ""),
        (good.replace("Upgrade: websocket", "Upgrade: h2c"), 426, "upgrade: websocket"),
        (good.replace("Connection: Upgrade", "Connection: keep-alive"), 426, "upgrade: websocket"),
        (good.replace("Version: 13", "Version: 8"), 426, "sec-websocket-version: 13"),
        (good.replace("Sec-WebSocket-Version: 13\r\n", ""), 426, "sec-websocket-version: 13"),
        (good.replace(KEY, "c2hvcnQ="), 400, ""),
        (good.replace(KEY, "c2hvcnQ=="), 400, ""),
        (good.replace(KEY, "dGhlIHNhbXBsZSBub25jZXM=="), 400, ""),
        (good.replace(KEY, "dGhlIHNhbXBsZSBub25j!!=="), 400, ""),
        (good.replace("Sec-WebSocket-Key", "X-Key"), 400, ""),
        (handshake("/chat", &format!("Sec-WebSocket-Key: {KEY}\r\n")), 400, ""),
        (handshake("/chat", "Content-Length: 5\r\n"), 400, ""),
        (handshake("/chat", "Transfer-Encoding: chunked\r\n"), 400, ""),
        (handshake("/nowhere", ""), 404, ""),
        ("GET /chat HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), 426, "upgrade: websocket"),
    ];
    for (request, expected, header) in cases {
        let (status, head) = status(&server, request.clone()).await;
        assert_eq!(status, expected, "{request}");
        assert!(head.contains(header), "{request}{head}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn header_names_and_tokens_are_case_insensitive() {
    let server = Local::start(limits()).await;
    let request = handshake("/chat", "")
        .replace("Upgrade: websocket", "UPGRADE: WebSocket")
        .replace("Connection: Upgrade", "connection: keep-alive, UPGRADE");
    assert_eq!(status(&server, request).await.0, 101);
    server.stop().await;
}

#[apply(test!)]
async fn the_server_accepts_only_its_own_subprotocol() {
    let server = Local::start(limits()).await;
    let offer = |lines: &str| handshake("/live", lines);
    let ours = "sec-websocket-protocol: weather.v1.json\r\n";
    let (code, head) = status(&server, offer("")).await;
    assert!(code == 101 && !head.contains("sec-websocket-protocol"), "{head}");
    let (code, head) =
        status(&server, offer("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b,weather.v1.json\r\n"))
            .await;
    assert!(code == 101 && head.contains(ours), "{head}");
    for unknown in ["weather.v2.json", "WEATHER.V1.JSON", ""] {
        let (code, head) = status(&server, offer(&format!("Sec-WebSocket-Protocol: {unknown}\r\n"))).await;
        assert_eq!(code, 400, "{unknown} {head}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn pages_from_other_origins_may_not_connect() {
    let allowed_origins = vec!["https://weather.example".parse().unwrap()];
    let server = Local::allowing(allowed_origins, limits()).await;
    let port = server.addr.port();
    let from = |origin: &str| handshake("/chat", &format!("Origin: {origin}\r\n"));
    for own in [
        format!("http://127.0.0.1:{port}"),
        format!("http://localhost:{port}"),
        "https://weather.example".to_owned(),
    ] {
        assert_eq!(status(&server, from(&own)).await.0, 101, "{own}");
    }
    for foreign in [
        "https://evil.example".to_owned(),
        "null".to_owned(),
        "http://127.0.0.1".to_owned(),
        format!("https://127.0.0.1:{port}"),
        "https://weather.example.evil.example".to_owned(),
    ] {
        assert_eq!(status(&server, from(&foreign)).await.0, 403, "{foreign}");
    }
    // A page is foreign even if its domain name was made to resolve to this machine.
    let rebound = from(&format!("http://evil.example:{port}"))
        .replace("Host: 127.0.0.1", &format!("Host: evil.example:{port}"));
    assert_eq!(status(&server, rebound).await.0, 403);
    let twice = from("https://weather.example").replace("Origin:", "Origin: https://evil.example\r\nOrigin:");
    assert_eq!(status(&server, twice).await.0, 403);
    server.stop().await;
}

#[apply(test!)]
async fn a_connection_is_closed_if_no_handshake_arrives_in_time() {
    let handshake_timeout = Duration::from_millis(100);
    let server = Local::start(Limits { handshake_timeout, ..limits() }).await;
    for start in ["", "GET /chat HTTP/1.1\r\nHo"] {
        let mut raw = Raw::tcp(server.addr).await;
        raw.send(start).await;
        let mut rest = Vec::new();
        soon("the end", raw.stream.read_to_end(&mut rest)).await.unwrap();
    }
    server.stop().await;
}

#[apply(test!)]
async fn the_page_and_the_health_route_are_plain_http() {
    let server = Local::start(limits()).await;
    let http = reqwest::Client::builder().tls_backend_preconfigured(trust_nobody()).build().unwrap();
    let page = http.get(server.url()).send().await.unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    let nonce = policy.split_once("script-src 'nonce-").unwrap().1.split_once('\'').unwrap().0;
    let html = page.text().await.unwrap();
    assert!(html.contains(&format!("<script nonce=\"{nonce}\">")) && !html.contains("NONCE"));
    for loads in ["src=\"http", "href=\"http", "src=\"//", "@import", "url("] {
        assert!(!html.contains(loads), "the page must load nothing from elsewhere: {loads}");
    }
    let health = http.get(format!("{}/healthz", server.url())).send().await.unwrap();
    assert_eq!((health.status().as_u16(), health.text().await.unwrap().as_str()), (200, "ok\n"));
    server.stop().await;
}

//! Which requests the server accepts at all: the checks of `Host` and of a page's origin.

use tests::{Server, apply, run_program, test};
use tokio::io::AsyncReadExt;
use websocket::server::origin::{Origin, own_origins};

use crate::PAIR;
use crate::handshake::status;
use crate::local::{Local, Raw, handshake, limits, soon};

/// RFC 9112, section 3.2.
#[apply(test!)]
async fn a_request_needs_one_valid_host() {
    let server = Local::start(limits()).await;
    let requests = |host: &str| {
        let plain = |path: &str| format!("GET {path} HTTP/1.1\r\n{host}\r\n");
        let upgrade = handshake("/chat", "").replace("Host: 127.0.0.1\r\n", host);
        [(upgrade, 101), (plain("/"), 200), (plain("/healthz"), 200), (plain("/nowhere"), 404)]
    };
    for host in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host:\r\n",
        "Host: a:abc\r\n",
        "Host: a:99999\r\n",
        "Host: a:-1\r\n",
        "Host: a:80:80\r\n",
        "Host: :80\r\n",
        "Host: a b\r\n",
        "Host: a, b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: http://a\r\n",
        "Host: [::g]\r\n",
        "Host: [::1\r\n",
        "Host: ::1\r\n",
        "Host: a\u{e9}\r\n",
    ] {
        for (request, _status) in requests(host) {
            let (code, head) = status(&server, request.clone()).await;
            assert_eq!(code, 400, "{request}{head}");
        }
    }
    for host in ["127.0.0.1", "[::1]:8081", "WEATHER.example:80", "a_b-c.example.", "localhost:"] {
        for (request, expected) in requests(&format!("Host: {host}\r\n")) {
            let (code, head) = status(&server, request.clone()).await;
            assert_eq!(code, expected, "{request}{head}");
        }
    }
    // HTTP/1.0 did not have this header yet.
    let old = "GET /healthz HTTP/1.0\r\n\r\n".to_owned();
    assert_eq!(status(&server, old).await.0, 200);
    let old_and_bad = "GET /healthz HTTP/1.0\r\nHost: a:abc\r\n\r\n".to_owned();
    assert_eq!(status(&server, old_and_bad).await.0, 400);
    server.stop().await;
}

#[apply(test!)]
async fn origins_are_compared_by_their_parts() {
    let origin = |text: &str| -> Origin { text.parse().unwrap() };
    for (text, same) in [
        ("http://host:80", "http://host"),
        ("https://host:443", "https://host"),
        ("http://host/", "http://host"),
        ("https://host:443/", "https://host"),
        ("HTTPS://Host.Example", "https://host.example"),
        ("http://[0:0::1]:8081", "http://[::1]:8081"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("chrome-extension://ABCdef", "chrome-extension://abcdef"),
    ] {
        assert_eq!(origin(text), origin(same));
        assert_eq!(origin(text).to_string(), same);
    }
    for other in ["https://host", "http://host:443", "http://host:8080", "http://host.", "http://a.host"] {
        assert_ne!(origin(other), origin("http://host"), "{other}");
    }
    for wrong in [
        "",
        "*",
        "null",
        "host",
        "host:80",
        "//host",
        "http:host",
        "http://",
        "http://host/path",
        "http://host/?query",
        "http://host#fragment",
        "http://user@host",
        "http://user:password@host",
        "http://@host",
        "http://host:99999",
        "http://host:abc",
        "https://*.example",
        "ws://host",
        "wss://host",
        "file:///tmp/page.html",
        "data:text/html,x",
    ] {
        assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
    }
    // A browser leaves out the default port.
    let own = own_origins(([192, 168, 1, 5], 80).into(), false);
    for page in ["http://127.0.0.1", "http://localhost", "http://[::1]", "http://192.168.1.5"] {
        assert!(own.contains(&origin(page)), "{page}");
    }
    assert!(!own.contains(&origin("https://localhost")) && !own.contains(&origin("http://localhost:8080")));
    let encrypted = own_origins(([192, 168, 1, 5], 443).into(), true);
    for page in ["https://127.0.0.1", "https://localhost", "https://[::1]", "https://192.168.1.5"] {
        assert!(encrypted.contains(&origin(page)), "{page}");
    }
    assert!(!encrypted.contains(&origin("http://localhost:443")));
}

#[apply(test!)]
async fn an_allowed_origin_may_be_written_in_several_ways() {
    let allowed_origins =
        ["https://weather.example:443/", "http://HOST:80"].map(|origin| origin.parse().unwrap());
    let server = Local::allowing(allowed_origins.to_vec(), limits()).await;
    for (origin, expected) in [
        ("https://weather.example", 101),
        ("https://weather.example:443", 101),
        ("HTTPS://Weather.Example", 101),
        ("http://host", 101),
        ("http://weather.example", 403),
        ("https://weather.example:8443", 403),
        ("https://weather.example@evil.example", 403),
        ("https://weather.example https://evil.example", 403),
        ("", 403),
    ] {
        let (code, head) = status(&server, handshake("/chat", &format!("Origin: {origin}\r\n"))).await;
        assert_eq!(code, expected, "{origin} {head}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn an_invalid_allow_origin_option_is_refused_at_startup() {
    for origin in ["weather.example", "https://weather.example/page", "*", "wss://weather.example"] {
        let server = run_program(PAIR.server, &["--allow-origin", origin]).await;
        assert_eq!(server.code, Some(2), "{origin}");
        let reason = format!(
            "error: invalid value '{origin}' for '--allow-origin <ORIGIN>': an origin is \
             scheme://host or scheme://host:port without a path; for example, https://weather.example"
        );
        assert!(server.stderr.starts_with(&reason), "{}", server.stderr);
    }
}

/// A browser doesn't show a script the response to its handshake, so a plain POST gets the same
/// response.
#[apply(test!)]
async fn the_response_and_the_log_say_why_a_page_is_refused() {
    let server = Server::start(PAIR.server, &["--addr", "127.0.0.1:0"]).await;
    let addr = server.addr().parse().unwrap();
    for (origin, what_to_do) in [
        (
            "http://192.168.1.5:8081",
            "to allow it, start the server with --allow-origin http://192.168.1.5:8081",
        ),
        (
            "https://Evil.example:443",
            "to allow it, start the server with --allow-origin https://evil.example",
        ),
        ("null", "this origin cannot be allowed"),
    ] {
        let reason = format!("pages from the origin {origin:?} may not connect; {what_to_do}");
        for method in ["GET", "POST"] {
            let mut raw = Raw::tcp(addr).await;
            raw.send(format!(
                "{method} /live HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nConnection: close\r\n\r\n"
            ))
            .await;
            let mut response = String::new();
            soon("the response", raw.stream.read_to_string(&mut response)).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 403 "), "{response}");
            assert!(response.ends_with(&format!("\r\n\r\n{reason}\n")), "{response}");
        }
        server.has_printed(&format!("WARN {reason}\n")).await;
    }
    // The log escapes control characters, so that an origin can't forge or hide a line.
    let mut raw = Raw::tcp(addr).await;
    raw.send(b"GET /live HTTP/1.1\r\nHost: a\r\nOrigin: \xc2\x9b2J\xe2\x80\xaex\r\n\r\n").await;
    assert!(raw.head().await.starts_with("HTTP/1.1 403 "));
    server.has_printed("this origin cannot be allowed").await;
    let log = server.stop().await;
    assert!(!log.contains(['\u{9b}', '\u{202e}']), "{log}");
}

//! Header fields of requests: conditions, content codings, and fields that may appear only once.

use http_rest::Limits;
use http_rest::Station;
use tests::{apply, test};

use crate::raw::{Headers, JSON, Local, Response, batch, exchange, request};

const PATCH: (&str, &str) = ("content-type", "application/merge-patch+json");
const STATION: &str = r#"{"id":"a","name":"A"}"#;

/// Sends a request to station `a` that is valid, except perhaps for these headers. In them, `TAG`
/// is replaced by the station's ETag.
async fn conditional(server: &Local, method: &str, headers: &[(&str, &str)]) -> Response {
    let station = Station { id: "a".into(), name: "A".into(), latitude: None, longitude: None };
    let _ = server.client().create_station(&station).await; // An earlier request may have deleted it.
    let tag = server.client().station("a").await.unwrap().etag;
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.replace("TAG", &tag))).collect();
    let mut all: Headers<'_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let body = match method {
        "PUT" => (JSON, STATION),
        "PATCH" => (PATCH, "{}"),
        _ => (("x-none", ""), ""),
    };
    all.push(body.0);
    let response = request(server.addr, method, "/stations/a", &all, body.1).await;
    if response.status >= 400 {
        assert_eq!(server.client().station("a").await.unwrap().etag, tag, "nothing was changed");
    }
    response
}

#[apply(test!)]
async fn conditions_are_evaluated_in_the_order_of_rfc_9110() {
    let server = Local::start(Limits::default()).await;
    let (m, n) = ("if-match", "if-none-match");
    let reads: [(Headers<'_>, u16); 12] = [
        (vec![(m, "*")], 200),
        (vec![(m, "TAG")], 200),
        (vec![(m, "\"x\""), (m, "TAG")], 200),
        (vec![(m, "\"x\"")], 412),
        (vec![(m, "W/TAG")], 412),
        (vec![(m, "\"x,*,y\"")], 412),
        (vec![(n, "\"x,*,y\"")], 200),
        (vec![(n, "\"x\""), (n, "W/TAG")], 304),
        (vec![(n, " ,\"x,y\" , TAG,,")], 304),
        (vec![(m, "TAG"), (n, "TAG")], 304),
        (vec![(m, "\"x\""), (n, "TAG")], 412), // If-Match is evaluated first.
        (vec![(m, "*"), (n, "\"\u{e9}\"")], 200),
    ];
    for (headers, status) in &reads {
        for method in ["GET", "HEAD"] {
            let response = conditional(&server, method, headers).await;
            assert_eq!(response.status, *status, "{method} {headers:?}: {response:?}");
        }
    }
    let changes: [(Headers<'_>, u16); 14] = [
        (vec![(m, "*")], 200),
        (vec![(m, "TAG")], 200),
        (vec![(m, "\"x\""), (m, "W/\"y\", TAG")], 200),
        (vec![(m, "*"), (n, "\"x\"")], 200),
        (vec![(m, "\"x,*,y\"")], 412),
        (vec![(m, "W/TAG")], 412),
        (vec![(m, "\"x\""), (n, "\"y\"")], 412),
        (vec![(m, "TAG"), (n, "TAG")], 412),
        (vec![(m, "*"), (n, "W/TAG")], 412),
        (vec![(m, "*"), (n, "*")], 412),
        (vec![(n, "*")], 412),
        (vec![(n, "\"x\", TAG")], 412),
        (vec![(n, "\"x,*,y\"")], 428),
        (vec![], 428),
    ];
    for (headers, status) in &changes {
        for method in ["PUT", "PATCH", "DELETE"] {
            let response = conditional(&server, method, headers).await;
            let status = if method == "DELETE" && *status == 200 { 204 } else { *status };
            assert_eq!(response.status, status, "{method} {headers:?}: {response:?}");
        }
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_malformed_condition_is_refused() {
    let server = Local::start(Limits::default()).await;
    for value in
        ["", ",", "x", "\"x", "x\"", "\"x\"y", "\"x\" \"y\"", "w/\"x\"", "W/", "\"a b\"", "*, \"x\"", "*,*"]
    {
        for name in ["if-match", "if-none-match"] {
            for method in ["GET", "PUT", "PATCH", "DELETE"] {
                let response = conditional(&server, method, &[(name, value)]).await;
                assert_eq!(response.problem()["status"], 400, "{method} {name}: {value}");
            }
        }
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_resource_without_an_etag_matches_only_a_star() {
    let server = Local::start(Limits::default()).await;
    request(server.addr, "POST", "/readings", &[JSON], &batch("a", 1)).await;
    for (method, path, body, done) in [
        ("GET", "/stations", String::new(), 200),
        ("GET", "/readings?station=a", String::new(), 200),
        ("POST", "/readings", batch("a", 1), 200),
        ("POST", "/stations", r#"{"id":"b","name":"B"}"#.to_owned(), 201),
    ] {
        let none_matches = if method == "GET" { 304 } else { 412 };
        for (condition, status) in [
            (("if-match", "\"x\""), 412),
            (("if-none-match", "*"), none_matches),
            (("if-match", "x"), 400),
            (("if-match", "*"), done),
        ] {
            let response = request(server.addr, method, path, &[JSON, condition], &body).await;
            assert_eq!(response.status, status, "{method} {path} {condition:?}");
        }
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_body_with_a_content_coding_is_refused() {
    let server = Local::start(Limits::default()).await;
    request(server.addr, "POST", "/stations", &[JSON], STATION).await;
    let readings = batch("a", 1);
    let any = ("if-match", "*");
    let bodies: [(&str, &str, Headers<'_>, &str); 4] = [
        ("POST", "/stations", vec![JSON], r#"{"id":"b","name":"B"}"#),
        ("POST", "/readings", vec![JSON], &readings),
        ("PUT", "/stations/a", vec![JSON, any], STATION),
        ("PATCH", "/stations/a", vec![PATCH, any], "{}"),
    ];
    let name = "content-encoding";
    for (method, path, headers, body) in &bodies {
        for codings in [
            vec![(name, "gzip")],
            vec![(name, "GZip")],
            vec![(name, "identity, br")],
            vec![(name, "identity"), (name, "deflate")],
            vec![(name, "identity;q=1")],
        ] {
            let response =
                request(server.addr, method, path, &[headers.clone(), codings].concat(), body).await;
            assert_eq!(response.problem()["status"], 415, "{method} {path}");
            assert_eq!(response.header("accept-encoding"), Some("identity"));
        }
        for plain in ["", "identity", "Identity", "identity, IDENTITY,"] {
            let headers = [headers.clone(), vec![(name, plain)]].concat();
            let response = request(server.addr, method, path, &headers, body).await;
            assert!(matches!(response.status, 200 | 201 | 409), "{method} {path} {plain:?}: {response:?}");
        }
        // A 415 for the media type has no Accept-Encoding (RFC 9110, section 12.5.3).
        let text = [headers[1..].to_vec(), vec![("content-type", "text/plain")]].concat();
        let response = request(server.addr, method, path, &text, body).await;
        assert_eq!((response.status, response.header("accept-encoding")), (415, None), "{method} {path}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_media_type_may_have_parameters_and_capitals() {
    let server = Local::start(Limits::default()).await;
    for (value, status) in [
        ("application/json; charset=utf-8", 200),
        ("application/json ;\tcharset=utf-8", 200),
        ("Application/JSON;", 200),
        ("application/jsonx", 415),
        ("application/json, application/json", 415),
        ("application/problem+json", 415),
        ("", 415),
    ] {
        let response =
            request(server.addr, "POST", "/readings", &[("content-type", value)], &batch("a", 1)).await;
        assert_eq!(response.status, status, "{value:?}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_single_value_header_sent_twice_is_refused() {
    let server = Local::start(Limits::default()).await;
    for (name, first, second) in [
        ("host", "test", "test"),
        ("content-type", "application/json", "application/json"),
        ("Content-Type", "application/json", "text/plain"),
        ("idempotency-key", "a", "a"),
        ("last-event-id", "1-1", "1-2"),
        ("x-request-id", "a", "b"),
    ] {
        for target in ["POST /readings", "GET /readings/live", "GET /nowhere"] {
            let host = if name == "host" { "" } else { "host: test\r\n" };
            let bytes = format!(
                "{target} HTTP/1.1\r\nconnection: close\r\n{host}{name}: {first}\r\nx-other: 1\r\n{name}: {second}\r\n\r\n"
            );
            let problem = exchange(server.addr, bytes.as_bytes()).await.problem();
            assert_eq!(problem["status"], 400, "{target} {name}");
            let lower = name.to_lowercase();
            assert_eq!(problem["detail"], format!("send {lower} only once"), "{target}");
        }
    }
    server.stop().await;
}

//! Every error arrives in the right form.

use std::time::Duration;
use tests::{apply, test};

use http_rest::Limits;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{Headers, JSON, Local, Response, batch, exchange, half_sent, request, rest, until};
use tcp_socket::base::limits::ConnectionLimits;

#[apply(test!)]
async fn each_error_is_sent_as_problem_details() {
    let server = Local::start(Limits { max_body: 1000, ..Limits::default() }).await;
    let at = server.addr;
    let broken = "{\n  \"readings\": [,]\n}";
    let long = " ".repeat(1001);
    let longest = &long[..1000];
    let cases: [(&str, &str, Headers<'_>, &str, u16, &str); 11] = [
        ("GET", "/nowhere", vec![], "", 404, "there is no resource at /nowhere"),
        ("GET", "/stations/", vec![], "", 404, "there is no resource at /stations/"),
        ("GET", "/stations/%ff", vec![], "", 404, "a station ID has 1 to 32 characters: a-z, 0-9, and -"),
        (
            "GET",
            "/stations/%1b%5b2J",
            vec![],
            "",
            404,
            "a station ID has 1 to 32 characters: a-z, 0-9, and -",
        ),
        ("POST", "/readings", vec![JSON], broken, 400, "expected value at line 2 column 16"),
        (
            "POST",
            "/stations",
            vec![JSON],
            r#"{"id":"a","name":"A"} x"#,
            400,
            "trailing characters at line 1 column 23",
        ),
        ("POST", "/readings", vec![], "{}", 415, "the Content-Type must be application/json"),
        (
            "POST",
            "/readings",
            vec![("content-type", "text/plain")],
            "{}",
            415,
            "the Content-Type must be application/json",
        ),
        ("POST", "/readings", vec![JSON], longest, 400, "EOF while parsing a value at line 1 column 1000"),
        ("POST", "/readings", vec![JSON], &long, 413, "the body has more than 1000 bytes"),
        ("GET", "/readings", vec![], "", 400, "Failed to deserialize query string: missing field `station`"),
    ];
    for (method, path, headers, body, status, detail) in cases {
        let problem = request(at, method, path, &headers, body).await.problem();
        assert_eq!(
            (&problem["status"], &problem["detail"]),
            (&status.into(), &detail.into()),
            "{method} {path}"
        );
    }

    for (path, allow) in [
        ("/stations", vec!["GET", "HEAD", "POST"]),
        ("/stations/a", vec!["DELETE", "GET", "HEAD", "PATCH", "PUT"]),
        ("/readings", vec!["GET", "HEAD", "POST"]),
        ("/readings/live", vec!["GET", "HEAD"]),
        ("/healthz", vec!["GET", "HEAD"]),
    ] {
        let response = request(at, "TRACE", path, &[], "").await;
        assert_eq!(response.problem()["status"], 405);
        let mut methods: Vec<&str> = response.header("allow").unwrap().split(',').map(str::trim).collect();
        methods.sort_unstable();
        assert_eq!(methods, allow, "{path}");
    }

    // A body that is too long, and whose length the client does not give.
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let chunked = format!(
        "POST /readings HTTP/1.1\r\nhost: test\r\ncontent-type: application/json; charset=utf-8\r\n\
         transfer-encoding: chunked\r\n\r\n{}0\r\n\r\n",
        chunk.repeat(3)
    );
    let response = exchange(at, chunked.as_bytes()).await;
    assert_eq!(response.problem()["status"], 413);
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!(request(at, "GET", "/healthz", &[], "").await.body, "ok\n", "the server still serves others");
    server.stop().await;
}

#[apply(test!)]
async fn an_error_of_the_http_parser_has_no_body() {
    let server = Local::start(Limits::default()).await;
    let long_target = format!("GET /{} HTTP/1.1\r\nhost: test\r\n\r\n", "a".repeat(70_000));
    let long_header = format!("GET / HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "a".repeat(500_000));
    for (bytes, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nhost: test\r\ncontent-length: x\r\n\r\n", 400),
        (&long_target, 414),
        (&long_header, 431),
    ] {
        let response = exchange(server.addr, bytes.as_bytes()).await;
        assert_eq!((response.status, response.body.as_str()), (status, ""), "{}", response.head);
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_missing_or_malformed_host_is_refused() {
    let server = Local::start(Limits::default()).await;
    for (host, status) in [
        ("", 400),
        ("host:\r\n", 400),
        ("host: a\r\nhost: a\r\n", 400),
        ("host: me@a\r\n", 400),
        ("host: a/b\r\n", 400),
        ("host: a b\r\n", 400),
        ("host: x:abc\r\n", 400),
        ("host: x:80:80\r\n", 400),
        ("host: x:65536\r\n", 400),
        ("host: x:+80\r\n", 400),
        ("host: x:-1\r\n", 400),
        ("host: x: 80\r\n", 400),
        ("host: :80\r\n", 400),
        ("host: me:secret@a:80\r\n", 400),
        ("host: [::1\r\n", 400),
        ("host: [zz]\r\n", 400),
        ("host: [::1]x\r\n", 400),
        ("host: [::1]:x\r\n", 400),
        ("host: http://a\r\n", 400),
        ("host: a, b\r\n", 400),
        ("host: x:\r\n", 200), // An empty port is the default one (RFC 3986, section 3.2.3).
        ("host: x:65535\r\n", 200),
        ("host: [::1]:8080\r\n", 200),
        ("host: example.org\r\n", 200),
    ] {
        let bytes = format!("GET /healthz HTTP/1.1\r\nconnection: close\r\n{host}\r\n");
        let response = exchange(server.addr, bytes.as_bytes()).await;
        assert_eq!(response.status, status, "{host:?}");
        if status == 400 {
            response.problem();
        }
    }
    for target in ["http://x:abc/healthz", "http://me@x/healthz", "http://[zz]/healthz"] {
        let bytes = format!("GET {target} HTTP/1.1\r\nconnection: close\r\nhost: x\r\n\r\n");
        assert_eq!(exchange(server.addr, bytes.as_bytes()).await.status, 400, "{target}");
    }
    for host in ["host: a\r\nhost: a\r\n", "host: x:abc\r\n"] {
        let bytes = format!("GET /healthz HTTP/1.0\r\n{host}\r\n");
        assert_eq!(exchange(server.addr, bytes.as_bytes()).await.status, 400, "{host:?}");
    }
    // An HTTP/1.0 request needs no Host.
    assert_eq!(exchange(server.addr, b"GET /healthz HTTP/1.0\r\n\r\n").await.status, 200);
    server.stop().await;
}

#[apply(test!)]
async fn a_body_that_arrives_too_slowly_gets_408() {
    let server =
        Local::start(Limits { request_timeout: Duration::from_millis(50), ..Limits::default() }).await;
    let mut stream = half_sent(server.addr, &[], &batch("a", 1)).await;
    let response = Response::parse(&rest(&mut stream).await);
    assert_eq!(response.problem()["status"], 408);
    assert_eq!(response.header("connection"), Some("close"));
    server.stop().await;
}

#[apply(test!)]
async fn requests_and_connections_beyond_the_limit_get_503_with_retry_after() {
    let server = Local::start(Limits {
        connections: ConnectionLimits { max_connections: 2, ..Default::default() },
        max_in_flight: 1,
        ..Limits::default()
    })
    .await;
    let body = batch("a", 1);
    let mut first = half_sent(server.addr, &[], &body).await;
    let second = request(server.addr, "GET", "/healthz", &[], "").await;
    assert_eq!(
        (&second.problem()["detail"], second.header("retry-after")),
        (&"too many requests in flight".into(), Some("1"))
    );

    // The server counts the second connection until a moment after its response. Then the
    // next one is accepted and stays open, so the one after it is refused.
    let mut silent = None;
    let third = loop {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n").await.unwrap();
        let head = until(&mut stream, "\r\n\r\n").await;
        if !head.contains("connection: close") {
            assert!(silent.replace(stream).is_none(), "a third connection was accepted");
        } else if silent.is_some() {
            break Response::parse(&[head.into_bytes(), rest(&mut stream).await].concat());
        }
    };
    assert_eq!(third.problem()["detail"], "too many connections");
    assert_eq!((third.status, third.header("retry-after")), (503, Some("1")));

    first.write_all(&body.as_bytes()[body.len() / 2..]).await.unwrap();
    assert_eq!(Response::parse(&rest(&mut first).await).status, 200, "an accepted request is finished");
    drop(silent);
    server.stop().await;
}

#[apply(test!)]
async fn a_request_keeps_its_id_or_gets_one() {
    let server = Local::start(Limits::default()).await;
    let own = request(server.addr, "GET", "/nowhere", &[("x-request-id", "my-id_1.2")], "").await;
    assert_eq!(own.header("x-request-id"), Some("my-id_1.2"));
    for strange in ["a b", "\u{1b}[31m", &"x".repeat(65)] {
        let given = request(server.addr, "GET", "/healthz", &[("x-request-id", strange)], "").await;
        // The parser refuses an escape character before the request gets an ID.
        let id = given.header("x-request-id");
        assert!(
            given.status == 400 || id.is_some_and(|id| id.parse::<u64>().is_ok()),
            "{strange:?}: {given:?}"
        );
    }
    server.stop().await;
}

#[apply(test!)]
async fn the_description_matches_the_routes() {
    let server = Local::start(Limits::default()).await;
    let description = request(server.addr, "GET", "/openapi.json", &[], "").await.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1."));
    let mut described = 0;
    for (path, item) in description["paths"].as_object().unwrap() {
        let concrete = path.replace("{id}", "a");
        let allow = request(server.addr, "TRACE", &concrete, &[], "").await;
        let mut allowed: Vec<String> = allow
            .header("allow")
            .unwrap()
            .split(',')
            .map(|m| m.trim().to_lowercase())
            .filter(|m| m != "head")
            .collect();
        allowed.sort_unstable();
        let item = item.as_object().unwrap();
        assert_eq!(allowed, item.keys().cloned().collect::<Vec<_>>(), "{path}");
        for (method, operation) in item {
            for (status, response) in operation["responses"].as_object().unwrap() {
                described += 1;
                let content = &response["content"];
                match status.parse::<u16>().unwrap() {
                    204 | 304 => assert!(content.is_null()),
                    200..400 => assert!(content.is_object(), "{method} {path} {status}"),
                    code => assert_eq!(content["application/problem+json"]["example"]["status"], code),
                }
            }
            for common in ["400", "408", "503"] {
                assert!(operation["responses"][common].is_object(), "{method} {path} {common}");
            }
        }
    }
    assert!(described > 50, "{described}");
    for (path, method, statuses) in [
        ("/stations/{id}", "get", vec!["304", "404", "412"]),
        ("/stations/{id}", "delete", vec!["404", "412", "428"]),
        ("/stations", "post", vec!["409", "412", "413", "415", "422", "507"]),
        ("/stations", "get", vec!["304", "412"]),
        ("/readings", "get", vec!["304", "404", "412"]),
        ("/readings", "post", vec!["409", "412", "413", "415", "422", "507"]),
        ("/readings/live", "get", vec!["304", "412"]),
    ] {
        for status in statuses {
            assert!(
                description["paths"][path][method]["responses"][status].is_object(),
                "{method} {path} {status}"
            );
        }
    }
    for example in ["Station", "StationPatch", "Reading"] {
        assert!(description["components"]["schemas"][example]["example"].is_object(), "{example}");
    }
    server.stop().await;
}

/// For each limit in the description, the server accepts the last value within it and refuses the
/// next one.
#[apply(test!)]
async fn the_server_enforces_the_limits_that_it_describes() {
    let server = Local::start(Limits::default()).await;
    let description = request(server.addr, "GET", "/openapi.json", &[], "").await.json();
    let limit = |pointer: &str| {
        let value = description.pointer(pointer).unwrap_or_else(|| panic!("no {pointer}"));
        // A pattern such as `^[a-z]{1,32}$` limits the length.
        let length =
            value.as_str().map(|pattern| pattern.rsplit([',', '}']).nth(1).unwrap().parse().unwrap());
        length.unwrap_or_else(|| value.as_i64().unwrap())
    };
    let field = |schema: &str, field: &str, key: &str| {
        limit(&format!("/components/schemas/{schema}/properties/{field}/{key}"))
    };
    let parameter = |path: &str, method: &str, name: &str, key: &str| {
        let pointer = format!("/paths/{}/{method}/parameters", path.replace('/', "~1"));
        let all = description.pointer(&pointer).unwrap().as_array().unwrap();
        let index = all.iter().position(|parameter| parameter["name"] == name).unwrap();
        limit(&format!("{pointer}/{index}/schema/{key}"))
    };
    let check = async |method, path: &str, headers: &[(&str, &str)], body: &str, accepted: bool| {
        let response = request(server.addr, method, path, headers, body).await;
        assert_eq!(response.status < 400, accepted, "{method} {path} {headers:?} {body}: {response:?}");
    };
    let text = |length: i64| "x".repeat(usize::try_from(length).unwrap());
    request(server.addr, "POST", "/readings", &[JSON], &batch("a", 1)).await;
    for (over, accepted) in [(0, true), (1, false)] {
        let id = text(field("Station", "id", "pattern") + over);
        check("POST", "/stations", &[JSON], &format!(r#"{{"id":"{id}","name":"A"}}"#), accepted).await;
        let put = async |fields: String| {
            let body = format!(r#"{{"id":"a",{fields}}}"#);
            check("PUT", "/stations/a", &[JSON, ("if-match", "*")], &body, accepted).await;
        };
        put(format!(r#""name":"{}""#, text(field("Station", "name", "maxLength") + over))).await;
        put(format!(r#""name":"{}""#, text(field("Station", "name", "minLength") - over))).await;
        for name in ["latitude", "longitude"] {
            put(format!(r#""name":"A","{name}":{}"#, field("Station", name, "maximum") + over)).await;
            put(format!(r#""name":"A","{name}":{}"#, field("Station", name, "minimum") - over)).await;
        }
        let recorded_at = field("Reading", "recorded_at", "maximum") + over;
        let body = batch("a", 1).replace(r#""recorded_at":0"#, &format!(r#""recorded_at":{recorded_at}"#));
        check("POST", "/readings", &[JSON], &body, accepted).await;
        let count = usize::try_from(field("Batch", "readings", "maxItems") + over).unwrap();
        check("POST", "/readings", &[JSON], &batch("a", count), accepted).await;
        let key = text(parameter("/readings", "post", "Idempotency-Key", "pattern") + over);
        check("POST", "/readings", &[JSON, ("idempotency-key", &key)], &batch("a", 1), accepted).await;
        for (path, query) in [("/stations", "?"), ("/readings", "?station=a&")] {
            let most = parameter(path, "get", "limit", "maximum") + over;
            check("GET", &format!("{path}{query}limit={most}"), &[], "", accepted).await;
            let fewest = parameter(path, "get", "limit", "minimum") - over;
            check("GET", &format!("{path}{query}limit={fewest}"), &[], "", accepted).await;
        }
    }
    server.stop().await;
}

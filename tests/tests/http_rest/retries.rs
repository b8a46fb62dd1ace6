//! Which requests the client repeats, tested with servers that follow a script.

use std::time::{Duration, Instant, SystemTime};
use tests::{apply, test};

use futures::{FutureExt, StreamExt};
use http_rest::client::{LiveEvent, ReadingQuery};
use http_rest::limits::{MAX_EVENT, MAX_RESPONSE, MAX_RETRIES, SILENCE};
use http_rest::protocol::model::StationPatch;
use http_rest::{Client, Error, Metric, Reading};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::raw::until;

/// Returns a response with this status line, these further header lines, and a body of this type.
fn response(status: &str, headers: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: {media_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn recorded() -> String {
    response("200 OK", "", "application/json", r#"{"accepted":1}"#)
}

fn bad_gateway() -> String {
    response("502 Bad Gateway", "", "text/html", "<h1>Not one of ours</h1>")
}

fn no_response() -> String {
    String::new()
}

/// Starts a server that sends the next of these responses on each connection, and then accepts
/// no more. Returns a client of it, and a task that returns the headers of the requests.
async fn scripted(responses: Vec<String>) -> (Client, tokio::task::JoinHandle<(Vec<String>, TcpListener)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let served = tokio::spawn(async move {
        let mut heads = Vec::new();
        for response in responses {
            let (mut stream, _) = listener.accept().await.unwrap();
            heads.push(until(&mut stream, "\r\n\r\n").await);
            let _ = stream.write_all(response.as_bytes()).await; // The client may have disconnected.
        }
        (heads, listener)
    });
    (client, served)
}

fn reading() -> [Reading; 1] {
    [Reading { station: "a".into(), metric: Metric::Wind, value: 1.0, recorded_at: 0 }]
}

#[apply(test!)]
async fn the_client_retries_requests_that_are_safe_to_repeat() {
    let in_use = r#"{"type":"/problems/idempotency-key-in-use","title":"Conflict","status":409}"#;
    let in_use = response("409 Conflict", "", "application/problem+json", in_use);
    let (client, served) = scripted(vec![no_response(), bad_gateway(), in_use, recorded()]).await;
    assert_eq!(client.record(&reading()).await.unwrap(), 1);
    let (heads, _) = served.await.unwrap();
    let keys: Vec<&str> = heads
        .iter()
        .map(|head| head.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap())
        .collect();
    assert_eq!(keys, vec![keys[0]; 4], "every attempt has the same key");

    let list = response("200 OK", "", "application/json", r#"{"readings":[]}"#);
    let (client, served) = scripted(vec![no_response(), list]).await;
    let query = ReadingQuery { station: "a".into(), ..ReadingQuery::default() };
    assert_eq!(client.readings(&query).await.unwrap().items, []);
    served.await.unwrap();

    // It gives up after a limited number of attempts.
    let (client, served) = scripted(vec![bad_gateway(); 1 + MAX_RETRIES]).await;
    assert_eq!(client.readings(&query).await.unwrap_err().status(), Some(502));
    let (_, listener) = served.await.unwrap();
    assert!(listener.accept().now_or_never().is_none(), "no further attempt");
}

#[apply(test!)]
async fn the_client_does_not_repeat_requests_that_may_do_harm() {
    let patch = StationPatch { name: Some("B".into()), ..StationPatch::default() };
    for response in [no_response(), bad_gateway()] {
        let (client, served) = scripted(vec![response]).await;
        let error = client.patch_station("a", &patch, "\"1\"").await.unwrap_err();
        assert!(matches!(error, Error::Broken(_) | Error::Unexpected { status: 502, .. }), "{error:?}");
        let (_, listener) = served.await.unwrap();
        assert!(listener.accept().now_or_never().is_none(), "no second attempt");
    }
    // Repeating an invalid request would not help.
    let (client, served) = scripted(vec![response("422 Unprocessable Entity", "", "text/plain", "")]).await;
    assert_eq!(client.record(&reading()).await.unwrap_err().status(), Some(422));
    let (_, listener) = served.await.unwrap();
    assert!(listener.accept().now_or_never().is_none(), "no second attempt");
}

#[apply(test!)]
async fn a_failed_call_says_whether_it_may_have_been_executed() {
    let problem = |status: &str| response(status, "", PROBLEM, "{}");
    let page = |status: &str| response(status, "location: /x\r\n", "text/html", "");
    let garbled = response("200 OK", "", "application/json", "{");
    let patch = StationPatch::default();
    for (response, expected) in [
        (no_response(), true),
        (garbled, true),
        (page("303 See Other"), true),
        (page("500 Internal Server Error"), true),
        (bad_gateway(), true),
        (problem("504 Gateway Timeout"), true),
        (page("307 Temporary Redirect"), false),
        (problem("412 Precondition Failed"), false),
        (page("413 Content Too Large"), false),
        (page("503 Service Unavailable"), false),
        (problem("507 Insufficient Storage"), false),
    ] {
        let (client, served) = scripted(vec![response.clone()]).await;
        let error = client.patch_station("a", &patch, "\"1\"").await.unwrap_err();
        assert_eq!(error.may_have_been_executed(), expected, "{response}");
        served.await.unwrap();
    }

    // The last attempt certainly was not executed, but an earlier one may have been.
    let busy = || page("503 Service Unavailable");
    for (first, expected) in [(no_response(), true), (bad_gateway(), true), (busy(), false)] {
        let refused = problem("422 Unprocessable Entity");
        let (client, served) = scripted(vec![first.clone(), busy(), refused]).await;
        let error = client.record(&reading()).await.unwrap_err();
        let shown = error.to_string();
        assert_eq!((error.status(), error.may_have_been_executed()), (Some(422), expected), "{first}");
        assert_eq!(shown.ends_with("; an earlier attempt may have been executed"), expected, "{shown}");
        served.await.unwrap();
    }
    let (client, served) = scripted(vec![]).await;
    drop(served.await.unwrap());
    let error = client.record(&reading()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && !error.may_have_been_executed(), "{error}");
}

const PROBLEM: &str = "application/problem+json";

/// Returns the time `seconds` from now, as an HTTP date.
fn in_seconds(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(seconds))
}

#[apply(test!)]
async fn the_client_honors_retry_after() {
    let problem = r#"{"title":"Service Unavailable","status":503}"#;
    let in_use = r#"{"type":"/problems/idempotency-key-in-use"}"#;
    let cases = [
        ("503 Service Unavailable", "1".to_owned(), PROBLEM, problem),
        ("503 Service Unavailable", "1".to_owned(), "text/html", "<h1>Back soon</h1>"),
        ("429 Too Many Requests", "1".to_owned(), "text/html", ""),
        ("429 Too Many Requests", "01".to_owned(), "application/json", "[]"),
        ("502 Bad Gateway", "1".to_owned(), "text/plain", ""),
        ("409 Conflict", "1".to_owned(), "application/problem+json; charset=utf-8", in_use),
        ("403 Forbidden", "1".to_owned(), "text/html", "slow down"),
        // A date has whole seconds, so this one is more than two seconds away.
        ("503 Service Unavailable", in_seconds(3), "text/html", ""),
        ("429 Too Many Requests", in_seconds(3), PROBLEM, "{}"),
    ];
    let waits = cases.iter().map(async |(status, after, media_type, body)| {
        let busy = response(status, &format!("Retry-After: {after}\r\n"), media_type, body);
        let (client, served) = scripted(vec![busy, recorded()]).await;
        let asked = Instant::now();
        client.record(&reading()).await.unwrap_or_else(|error| panic!("{status} {after}: {error}"));
        // The client's own first pause is at most a fifth of this time.
        assert!(asked.elapsed() >= Duration::from_secs(1), "{status} {after} {media_type}");
        served.await.unwrap();
    });
    futures::future::join_all(waits).await;
}

#[apply(test!)]
async fn the_client_does_not_wait_longer_than_a_call_may_take() {
    for after in ["3600", "99999999999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"] {
        let busy = response("503 Service Unavailable", &format!("retry-after: {after}\r\n"), "text/html", "");
        let (client, served) = scripted(vec![busy]).await;
        let error = client.record(&reading()).await.unwrap_err();
        assert_eq!(error.status(), Some(503), "{after}: {error}");
        let (_, listener) = served.await.unwrap();
        assert!(listener.accept().now_or_never().is_none(), "no second attempt");
    }
    // After an invalid time, or one in the past, the client chooses the pause itself.
    for after in ["soon", "-1", "1.5", "", "Sun, 06 Nov 1994 08:49:37 GMT"] {
        let busy = response("503 Service Unavailable", &format!("retry-after: {after}\r\n"), "text/html", "");
        let (client, served) = scripted(vec![busy, recorded()]).await;
        assert_eq!(client.record(&reading()).await.unwrap(), 1, "{after}");
        served.await.unwrap();
    }
}

#[apply(test!)]
async fn the_client_reads_every_form_of_a_problem() {
    let full = r##"{"type":"/problems/x","title":"T","status":500,"detail":"D","errors":[{"pointer":"#/a","detail":"E"}],"instance":"/1","balance":30}"##;
    for (media_type, body, shown) in [
        (PROBLEM, full, "422 T: D; #/a E"),
        ("application/problem+json; charset=utf-8", full, "422 T: D; #/a E"),
        ("Application/Problem+JSON ;charset=UTF-8", full, "422 T: D; #/a E"),
        (PROBLEM, "{}", "422 Unprocessable Entity"),
        (PROBLEM, r#"{"type":"about:blank","detail":"D"}"#, "422 Unprocessable Entity: D"),
        (PROBLEM, r#"{"title":"T"}"#, "422 T"),
        (PROBLEM, r#"{"title":7,"status":"422","detail":["x"],"type":null}"#, "422 Unprocessable Entity"),
        (PROBLEM, r#"{"title":"T","errors":{"a":"b"}}"#, "422 T"),
        (
            PROBLEM,
            r##"{"title":"T","errors":["a",{"pointer":"#/b"},{"pointer":"#/c","detail":"E"}]}"##,
            "422 T; #/c E",
        ),
        (PROBLEM, "[]", "unexpected response 422: []"),
        ("application/json", "{}", "unexpected response 422: {}"),
        ("text/html", "<h1>No</h1>", "unexpected response 422: <h1>No</h1>"),
    ] {
        let (client, served) =
            scripted(vec![response("422 Unprocessable Entity", "", media_type, body)]).await;
        let error = client.record(&reading()).await.unwrap_err();
        assert_eq!((error.status(), error.to_string().as_str()), (Some(422), shown), "{media_type} {body}");
        served.await.unwrap();
    }
}

#[apply(test!)]
async fn the_client_does_not_follow_redirects() {
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let there = format!("http://{}/readings", elsewhere.local_addr().unwrap());
    for status in
        ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"]
    {
        for location in [&there, "/other", "//other/readings"] {
            let redirect = response(status, &format!("location: {location}\r\n"), "text/html", "");
            let (client, served) = scripted(vec![redirect.clone(), redirect]).await;
            let query = ReadingQuery { station: "a".into(), ..ReadingQuery::default() };
            let errors =
                [client.record(&reading()).await.unwrap_err(), client.readings(&query).await.unwrap_err()];
            let (_, listener) = served.await.unwrap();
            let asked = listener.local_addr().unwrap();
            for error in errors {
                let shown = error.to_string();
                assert!(shown.starts_with(&format!("http://{asked}/readings")), "{shown}");
                assert!(shown.contains(&format!("redirects ({}) to {location}", &status[..3])), "{shown}");
            }
        }
    }
    assert!(elsewhere.accept().now_or_never().is_none(), "requests went only to the given address");
    let (client, served) = scripted(vec![response("302 Found", "", "text/html", "")]).await;
    let error = client.watch(None).await.err().unwrap().to_string();
    assert!(error.contains("redirects (302) to an unknown address"), "{error}");
    served.await.unwrap();
}

#[apply(test!)]
async fn the_client_reads_every_valid_form_of_an_event_stream() {
    let event = r#"{"station":"a","metric":"wind","value":1.0,"recorded_at":0}"#;
    let body =
        format!(": hello\r\n\r\nevent: other\ndata: x\n\nid: 1-1\n\nevent:reading\r\ndata: {event}\r\n\r\n");
    for media_type in
        ["text/event-stream", "text/event-stream;charset=utf-8", "Text/Event-Stream ; charset=UTF-8"]
    {
        let (client, served) = scripted(vec![response("200 OK", "", media_type, &body)]).await;
        let mut watch = client.watch(None).await.unwrap();
        assert_eq!(
            watch.next().await.unwrap().unwrap(),
            LiveEvent::Reading(reading()[0].clone()),
            "{media_type}"
        );
        served.await.unwrap();
    }
    let (client, served) = scripted(vec![response("200 OK", "", "text/event-streams", &body)]).await;
    assert!(matches!(client.watch(None).await, Err(Error::Unexpected { status: 200, .. })));
    served.await.unwrap();
}

#[apply(test!)]
async fn a_watch_ends_after_an_error_that_another_attempt_would_get() {
    let stream = || response("200 OK", "", "text/event-stream", "id: 1-1\n\n");
    for (refusal, status) in [
        (response("400 Bad Request", "", PROBLEM, "{}"), 400),
        (response("404 Not Found", "", "text/html", ""), 404),
        (response("307 Temporary Redirect", "location: /x\r\n", "text/html", ""), 307),
    ] {
        let passing = response("503 Service Unavailable", "", "text/html", "");
        let (client, served) = scripted(vec![stream(), no_response(), passing, stream(), refusal]).await;
        let mut watch = client.watch(None).await.unwrap();
        assert!(matches!(watch.next().await, Some(Ok(LiveEvent::Disconnected { .. }))));
        assert_eq!(watch.next().await.unwrap().unwrap(), LiveEvent::NothingMissed);
        assert!(matches!(watch.next().await, Some(Ok(LiveEvent::Disconnected { .. }))));
        assert_eq!(watch.next().await.unwrap().unwrap_err().status(), Some(status));
        assert!(watch.next().await.is_none(), "the stream ends after the error");
        let (heads, _) = served.await.unwrap();
        assert!(heads[1..].iter().all(|head| head.contains("last-event-id: 1-1\r\n")), "{heads:?}");
    }
}

#[apply(test!)]
async fn the_client_limits_the_size_of_responses_and_events() {
    let long = "x".repeat(2 * MAX_RESPONSE);
    let body = format!(r#"{{"accepted":1,"more":"{long}"}}"#);
    let (client, served) = scripted(vec![response("200 OK", "", "application/json", &body)]).await;
    assert!(matches!(client.record(&reading()).await, Err(Error::Unexpected { status: 200, .. })));
    served.abort(); // It may still be writing.

    // An event that is too long, in one line or in many.
    for line in
        [format!("data: {long}"), format!("data: {}\n", "x".repeat(1000)).repeat(MAX_EVENT / 1000 + 1)]
    {
        let stream = response("200 OK", "", "text/event-stream", &format!("id: 1-1\n\n{line}"));
        let (client, served) = scripted(vec![stream]).await;
        let mut watch = client.watch(None).await.unwrap();
        let LiveEvent::Disconnected { reason } = watch.next().await.unwrap().unwrap() else {
            panic!("not disconnected")
        };
        assert_eq!(reason, format!("the server sent an event of more than {MAX_EVENT} bytes"));
        served.abort();
    }
}

/// Waits for the client's real timeouts. The longest one is [`SILENCE`].
#[apply(test!)]
#[long]
async fn the_client_gives_up_on_a_silent_server() {
    let mute = |responses: Vec<String>| async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move {
            let mut responses = responses.into_iter();
            let mut open = Vec::new();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                until(&mut stream, "\r\n\r\n").await;
                stream.write_all(responses.next().unwrap_or_default().as_bytes()).await.unwrap();
                open.push(stream);
            }
        });
        client
    };
    let patch = StationPatch { name: Some("B".into()), ..StationPatch::default() };
    let one_attempt = async {
        let error = mute(vec![]).await.patch_station("a", &patch, "\"1\"").await.unwrap_err();
        assert!(matches!(error, Error::Broken(_)), "{error:?}");
    };
    let all_attempts = async {
        let error = mute(vec![]).await.record(&reading()).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut), "{error:?}");
    };
    let stream = async {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n".to_owned();
        let mut watch = mute(vec![head]).await.watch(None).await.unwrap();
        let reason = format!("nothing arrived for {SILENCE:?}");
        assert_eq!(watch.next().await.unwrap().unwrap(), LiveEvent::Disconnected { reason });
    };
    // The listener's queue is full, so the kernel does not complete the client's connection.
    let no_connection = async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queue = Vec::new();
        while let Ok(queued) = timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
            queue.push(queued.unwrap());
        }
        let client = Client::new(&format!("http://{addr}")).unwrap();
        let error = client.patch_station("a", &patch, "\"1\"").await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
    };
    futures::join!(one_attempt, all_attempts, stream, no_connection);
}

//! `Idempotency-Key`.

use std::time::Duration;
use tests::{apply, test};

use http_rest::Limits;
use http_rest::client::ReadingQuery;
use tokio::io::AsyncWriteExt;

use crate::raw::{JSON, Local, Response, batch, half_sent, request, rest};

const KEY: (&str, &str) = ("idempotency-key", "k-1");

async fn count(server: &Local) -> usize {
    let query = ReadingQuery { station: "a".into(), limit: Some(500), ..ReadingQuery::default() };
    server.client().readings(&query).await.map_or(0, |page| page.items.len())
}

#[apply(test!)]
async fn a_repeated_key_gets_the_first_response_and_no_second_effect() {
    let server = Local::start(Limits::default()).await;
    let first = request(server.addr, "POST", "/readings", &[JSON, KEY], &batch("a", 3)).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (200, None));
    let second = request(server.addr, "POST", "/readings", &[JSON, KEY], &batch("a", 3)).await;
    assert_eq!((second.status, second.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(second.body, first.body);
    assert_eq!(count(&server).await, 3);

    // The key belongs to a path: on another one, it names another request.
    let station = r#"{"id":"b","name":"B"}"#;
    let created = request(server.addr, "POST", "/stations", &[JSON, KEY], station).await;
    assert_eq!(created.status, 201);
    let again = request(server.addr, "POST", "/stations", &[JSON, KEY], station).await;
    assert_eq!(again.status, 201, "not 409: it is the same request");
    assert_eq!(again.header("location"), created.header("location"));
    assert_eq!(again.header("etag"), created.header("etag"));
    server.stop().await;
}

#[apply(test!)]
async fn a_key_with_another_body_is_refused() {
    let server = Local::start(Limits::default()).await;
    request(server.addr, "POST", "/readings", &[JSON, KEY], &batch("a", 1)).await;
    let other = request(server.addr, "POST", "/readings", &[JSON, KEY], &batch("a", 2)).await.problem();
    assert_eq!((&other["status"], &other["type"]), (&422.into(), &"/problems/idempotency-key-reused".into()));
    assert_eq!(count(&server).await, 1);
    for bad in ["", "a b", &"x".repeat(129)] {
        let headers = [JSON, ("idempotency-key", bad)];
        assert_eq!(
            request(server.addr, "POST", "/readings", &headers, &batch("a", 1)).await.problem()["status"],
            400
        );
    }
    let twice = [JSON, KEY, ("idempotency-key", "k-2")];
    assert_eq!(
        request(server.addr, "POST", "/readings", &twice, &batch("a", 1)).await.problem()["status"],
        400
    );
    server.stop().await;
}

#[apply(test!)]
async fn a_key_conflicts_while_its_first_request_is_running() {
    let server = Local::start(Limits::default()).await;
    let body = batch("a", 1);
    let mut first = half_sent(server.addr, &[KEY], &body).await;
    let meanwhile = request(server.addr, "POST", "/readings", &[JSON, KEY], &body).await;
    let problem = meanwhile.problem();
    assert_eq!(
        (&problem["status"], &problem["type"]),
        (&409.into(), &"/problems/idempotency-key-in-use".into())
    );
    assert_eq!(meanwhile.header("retry-after"), Some("1"));
    first.write_all(&body.as_bytes()[body.len() / 2..]).await.unwrap();
    assert_eq!(Response::parse(&rest(&mut first).await).status, 200);
    let after = request(server.addr, "POST", "/readings", &[JSON, KEY], &body).await;
    assert_eq!((after.status, after.header("idempotency-replayed")), (200, Some("true")));
    assert_eq!(count(&server).await, 1);
    server.stop().await;
}

#[apply(test!)]
async fn a_failed_request_frees_its_key() {
    let server = Local::start(Limits::default()).await;
    assert_eq!(request(server.addr, "POST", "/readings", &[JSON, KEY], "{").await.status, 400);
    let corrected = request(server.addr, "POST", "/readings", &[JSON, KEY], &batch("a", 1)).await;
    assert_eq!((corrected.status, corrected.header("idempotency-replayed")), (200, None));
    server.stop().await;
}

#[apply(test!)]
async fn a_client_that_disconnects_frees_its_key() {
    let server = Local::start(Limits::default()).await;
    let body = batch("a", 1);
    drop(half_sent(server.addr, &[KEY], &body).await);
    // The server notices the disconnect only after a while; until then, the key is in use.
    let response = loop {
        let response = request(server.addr, "POST", "/readings", &[JSON, KEY], &body).await;
        if response.status != 409 {
            break response;
        }
    };
    assert_eq!((response.status, response.header("idempotency-replayed")), (200, None));
    assert_eq!(count(&server).await, 1);
    server.stop().await;
}

#[apply(test!)]
async fn keys_are_limited_in_number_and_time() {
    let server = Local::start(Limits { max_keys: 2, ..Limits::default() }).await;
    let send = async |key: &str| {
        let headers = [JSON, ("idempotency-key", key)];
        let response = request(server.addr, "POST", "/readings", &headers, &batch("a", 1)).await;
        assert_eq!(response.status, 200);
        response.header("idempotency-replayed").is_some()
    };
    assert_eq!([send("1").await, send("2").await, send("1").await], [false, false, true]);
    assert!(!send("3").await);
    assert_eq!([send("2").await, send("3").await], [true, true], "the newest two are remembered");
    assert!(!send("1").await, "the oldest was forgotten");
    server.stop().await;

    let server = Local::start(Limits { key_lifetime: Duration::ZERO, ..Limits::default() }).await;
    for _ in 0..2 {
        let response = request(server.addr, "POST", "/readings", &[JSON, KEY], &batch("a", 1)).await;
        assert_eq!(response.header("idempotency-replayed"), None, "the key was forgotten at once");
    }
    server.stop().await;
}

//! What the client sends again, against servers with a script.

use std::time::{Duration, Instant};

use futures::FutureExt;
use http_rest::client::{Client, Error, ReadingQuery};
use http_rest::model::{Metric, Reading};
use http_rest::stations::StationPatch;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::raw::until;

/// An answer with this status line, these further header lines, and a body of this type.
fn answer(status: &str, headers: &str, media_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\n{headers}content-type: {media_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn recorded() -> String {
    answer("200 OK", "", "application/json", r#"{"accepted":1}"#)
}

fn bad_gateway() -> String {
    answer("502 Bad Gateway", "", "text/html", "<h1>Not one of ours</h1>")
}

fn no_answer() -> String {
    String::new()
}

/// A server that answers each connection with the next of these, then no more.
/// Returns a client of it, and what will hold the headers of the requests.
async fn scripted(answers: Vec<String>) -> (Client, tokio::task::JoinHandle<(Vec<String>, TcpListener)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let served = tokio::spawn(async move {
        let mut heads = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            heads.push(until(&mut stream, "\r\n\r\n").await);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        (heads, listener)
    });
    (client, served)
}

fn reading() -> [Reading; 1] {
    [Reading { station: "a".into(), metric: Metric::Wind, value: 1.0, recorded_at: 0 }]
}

pub async fn the_client_retries_what_is_safe() {
    let in_use = r#"{"type":"/problems/idempotency-key-in-use","title":"Conflict","status":409}"#;
    let in_use = answer("409 Conflict", "", "application/problem+json", in_use);
    let (client, served) = scripted(vec![no_answer(), bad_gateway(), in_use, recorded()]).await;
    assert_eq!(client.record(&reading()).await.unwrap(), 1);
    let (heads, _) = served.await.unwrap();
    let keys: Vec<&str> = heads
        .iter()
        .map(|head| head.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap())
        .collect();
    assert_eq!(keys, vec![keys[0]; 4], "always the same key");

    let list = answer("200 OK", "", "application/json", r#"{"readings":[]}"#);
    let (client, served) = scripted(vec![no_answer(), list]).await;
    let query = ReadingQuery { station: "a".into(), ..ReadingQuery::default() };
    assert_eq!(client.readings(&query).await.unwrap().items, []);
    served.await.unwrap();

    // It gives up after a bounded number of times.
    let (client, served) = scripted(vec![bad_gateway(); 1 + http_rest::retry::MAX_RETRIES]).await;
    assert_eq!(client.readings(&query).await.unwrap_err().status(), Some(502));
    let (_, listener) = served.await.unwrap();
    assert!(listener.accept().now_or_never().is_none(), "no further attempt");
}

pub async fn the_client_does_not_repeat_what_may_do_harm() {
    let patch = StationPatch { name: Some("B".into()), ..StationPatch::default() };
    for answer in [no_answer(), bad_gateway()] {
        let (client, served) = scripted(vec![answer]).await;
        let error = client.patch_station("a", &patch, "\"1\"").await.unwrap_err();
        assert!(matches!(error, Error::Broken(_) | Error::Unexpected { status: 502, .. }), "{error:?}");
        let (_, listener) = served.await.unwrap();
        assert!(listener.accept().now_or_never().is_none(), "no second attempt");
    }
    // What is wrong stays wrong.
    let (client, served) = scripted(vec![answer("422 Unprocessable Entity", "", "text/plain", "")]).await;
    assert_eq!(client.record(&reading()).await.unwrap_err().status(), Some(422));
    let (_, listener) = served.await.unwrap();
    assert!(listener.accept().now_or_never().is_none(), "no second attempt");
}

pub async fn the_client_honours_retry_after() {
    let problem = r#"{"title":"Service Unavailable","status":503}"#;
    let busy = answer("503 Service Unavailable", "retry-after: 1\r\n", "application/problem+json", problem);
    let (client, served) = scripted(vec![busy, recorded()]).await;
    let asked = Instant::now();
    client.record(&reading()).await.unwrap();
    assert!(asked.elapsed() >= Duration::from_secs(1), "the first pause of its own is a fifth of that");
    served.await.unwrap();
}

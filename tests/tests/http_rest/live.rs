//! `/readings/live`.

use std::net::SocketAddr;
use std::time::Duration;

use http_rest::limits::Limits;
use http_rest::live::Gap;
use http_rest::model::{Metric, Reading};
use http_rest::watch::LiveEvent;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{JSON, Local, batch, request, until};

fn reading(station: &str, recorded_at: u64) -> Reading {
    Reading { station: station.into(), metric: Metric::Wind, value: 1.0, recorded_at }
}

/// A stream whose header has come: it has its place among the readings.
async fn live(addr: SocketAddr, query: &str, last_event_id: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let resume = last_event_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    let head = format!("GET /readings/live{query} HTTP/1.1\r\nhost: test\r\n{resume}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    stream
}

/// The next event as it stands on the wire, without the size of its chunk.
async fn event(stream: &mut TcpStream) -> String {
    let text = until(stream, "\n\n").await;
    text[text.find("event: ").unwrap()..].trim_end().to_owned()
}

fn id(event: &str) -> &str {
    event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap()
}

pub async fn a_live_stream_resumes_where_it_broke_off() {
    let server = Local::start(Limits::default()).await;
    let mut stream = live(server.addr, "", None).await;
    server.client().record(&[reading("a", 1), reading("b", 2)]).await.unwrap();
    let first = event(&mut stream).await;
    let (kind, data) = (first.lines().next().unwrap(), first.lines().last().unwrap());
    assert_eq!(kind, "event: reading");
    assert_eq!(data, r#"data: {"station":"a","metric":"wind","value":1.0,"recorded_at":1}"#);
    drop(stream);

    server.client().record(&[reading("a", 3)]).await.unwrap();
    let mut stream = live(server.addr, "", Some(id(&first))).await;
    let (second, third) = (event(&mut stream).await, event(&mut stream).await);
    assert!(
        second.contains(r#""recorded_at":2"#) && third.contains(r#""recorded_at":3"#),
        "{second}\n{third}"
    );

    let mut only_b = live(server.addr, "?station=b", Some(id(&first))).await;
    server.client().record(&[reading("a", 4), reading("b", 5)]).await.unwrap();
    let seen = [event(&mut only_b).await, event(&mut only_b).await];
    assert!(seen[0].contains(r#""recorded_at":2"#) && seen[1].contains(r#""recorded_at":5"#), "{seen:?}");

    let nonsense = request(server.addr, "GET", "/readings/live", &[("last-event-id", "x")], "").await;
    assert_eq!(nonsense.problem()["status"], 400);
    server.stop().await;
}

pub async fn a_live_stream_tells_of_a_gap() {
    let server = Local::start(Limits { live_kept: 2, ..Limits::default() }).await;
    let mut stream = live(server.addr, "", None).await;
    server.client().record(&[reading("a", 1)]).await.unwrap();
    let first = event(&mut stream).await;
    drop(stream);
    let five: Vec<Reading> = (2..7).map(|i| reading("a", i)).collect();
    server.client().record(&five).await.unwrap();
    let mut stream = live(server.addr, "", Some(id(&first))).await;
    let gap = event(&mut stream).await;
    assert_eq!(gap, "event: gap\ndata: {\"missed\":3}");
    for recorded_at in [5, 6] {
        let event = event(&mut stream).await;
        assert!(event.contains(&format!(r#""recorded_at":{recorded_at}"#)), "{event}");
    }
    server.stop().await;
}

pub async fn a_quiet_live_stream_has_a_heartbeat() {
    let server = Local::start(Limits { heartbeat: Duration::from_millis(5), ..Limits::default() }).await;
    let mut stream = live(server.addr, "", None).await;
    for _ in 0..3 {
        until(&mut stream, ": heartbeat\n\n").await;
    }
    server.stop().await;
}

pub async fn a_slow_reader_does_not_slow_the_recorder() {
    let server = Local::start(Limits { live_kept: 100, ..Limits::default() }).await;
    let mut slow = live(server.addr, "", None).await;
    // 30 MB of events, more than the sockets between them hold: these answers
    // can only come if none of them waits for the reader.
    for _ in 0..20 {
        let answer = request(server.addr, "POST", "/readings", &[JSON], &batch("a", 10_000)).await;
        assert_eq!(answer.status, 200);
    }
    // And now that it reads, it is told.
    until(&mut slow, "event: gap\ndata: {\"missed\":").await;
    drop(slow);
    server.stop().await;
}

pub async fn a_watch_survives_a_restart_and_tells_of_it() {
    // So long a drain that the stream must end by itself for the server to stop.
    let server = Local::start(Limits { drain_timeout: Duration::from_secs(3600), ..Limits::default() }).await;
    let addr = server.addr;
    let mut watch = server.client().watch(Some("a")).await.unwrap();
    server.client().record(&[reading("a", 1)]).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), LiveEvent::Reading(reading("a", 1)));
    server.stop().await;

    let server = Local::start_at(addr, Limits::default()).await;
    server.client().record(&[reading("a", 2)]).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), LiveEvent::Gap(Gap { missed: None }));
    assert_eq!(watch.next().await.unwrap(), LiveEvent::Reading(reading("a", 2)));
    drop(watch);
    server.stop().await;
}

//! `/readings/live`.

use std::net::SocketAddr;
use std::time::Duration;
use tests::{apply, test};

use futures::StreamExt;
use http_rest::client::LiveEvent;
use http_rest::protocol::model::Gap;
use http_rest::{Limits, Metric, Reading};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::raw::{JSON, Local, batch, request, until};
use tcp_socket::base::limits::ConnectionLimits;

fn reading(station: &str, recorded_at: u64) -> Reading {
    Reading { station: station.into(), metric: Metric::Wind, value: 1.0, recorded_at }
}

/// Opens a stream and waits for its header. From then on, it receives all new readings.
async fn live(addr: SocketAddr, query: &str, last_event_id: Option<&str>) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let resume = last_event_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
    let head = format!("GET /readings/live{query} HTTP/1.1\r\nhost: test\r\n{resume}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let head = until(&mut stream, "\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-type: text/event-stream"), "{head}");
    stream
}

/// Returns the next event as it was sent, without the size of its chunk.
async fn event(stream: &mut TcpStream) -> String {
    loop {
        let text = until(stream, "\n\n").await;
        if let Some(start) = text.find("event: ") {
            return text[start..].trim_end().to_owned();
        }
    }
}

/// Returns the ID of the next block, which must contain nothing else. Such a block says that
/// all events up to this ID were sent.
async fn position(stream: &mut TcpStream) -> String {
    let text = until(stream, "\n\n").await;
    let (_size, block) = text.trim_end().rsplit_once("\r\n").unwrap();
    assert_eq!(block.lines().count(), 1, "{block}");
    id(block).to_owned()
}

fn id(event: &str) -> &str {
    event.lines().find_map(|line| line.strip_prefix("id: ")).unwrap()
}

#[apply(test!)]
async fn a_live_stream_resumes_where_it_broke_off() {
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

#[apply(test!)]
async fn a_live_stream_reports_a_gap() {
    let server = Local::start(Limits { live_kept: 2, ..Limits::default() }).await;
    let mut stream = live(server.addr, "", None).await;
    server.client().record(&[reading("a", 1)]).await.unwrap();
    let first = event(&mut stream).await;
    drop(stream);
    let five: Vec<Reading> = (2..7).map(|i| reading("a", i)).collect();
    server.client().record(&five).await.unwrap();
    let mut stream = live(server.addr, "", Some(id(&first))).await;
    let gap = event(&mut stream).await;
    assert!(gap.starts_with("event: gap\nid: ") && gap.ends_with("\ndata: {\"missed\":3}"), "{gap}");
    // It has an ID, so a client that comes back with it does not get the same gap again.
    let mut again = live(server.addr, "", Some(id(&gap))).await;
    assert!(event(&mut again).await.contains(r#""recorded_at":5"#));
    for recorded_at in [5, 6] {
        let event = event(&mut stream).await;
        assert!(event.contains(&format!(r#""recorded_at":{recorded_at}"#)), "{event}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_filtered_stream_does_not_fall_behind() {
    let server = Local::start(Limits { live_kept: 2, ..Limits::default() }).await;
    let record = async |station: &str, count: u64| {
        let readings: Vec<Reading> = (0..count).map(|i| reading(station, i)).collect();
        server.client().record(&readings).await.unwrap();
    };
    let mut stream = live(server.addr, "?station=a", None).await;
    let first = position(&mut stream).await;
    record("b", 5).await; // More than the server keeps, but this stream must not report a gap.
    let second = position(&mut stream).await;
    assert_ne!(first, second, "the ID advances though the filter matches nothing");
    drop(stream);

    // A client that resumes from either position has missed nothing of this station.
    for seen in [&first, &second] {
        let mut stream = live(server.addr, "?station=a", Some(seen)).await;
        assert_eq!(position(&mut stream).await, second, "no gap");
    }
    // Only the missed readings of this station are counted, and those still kept are sent.
    record("a", 2).await;
    record("b", 1).await;
    record("a", 1).await;
    let mut stream = live(server.addr, "?station=a", Some(&first)).await;
    let gap = event(&mut stream).await;
    assert!(gap.ends_with("data: {\"missed\":2}"), "{gap}");
    let kept = event(&mut stream).await;
    assert!(kept.starts_with("event: reading"), "{kept}");
    drop(stream);
    let mut everything = live(server.addr, "", Some(&second)).await;
    assert!(event(&mut everything).await.ends_with("data: {\"missed\":2}"));

    // An ID of another server leads to a gap of unknown size, whose ID is this server's.
    let mut stream = live(server.addr, "?station=a", Some("1-1")).await;
    let restarted = event(&mut stream).await;
    assert!(restarted.ends_with("data: {\"missed\":null}"), "{restarted}");
    let mut stream = live(server.addr, "?station=a", Some(id(&restarted))).await;
    assert!(event(&mut stream).await.starts_with("event: reading"));

    // An ID that this server has not reached yet is treated as its newest.
    let (instance_id, _) = second.split_once('-').unwrap();
    let mut stream = live(server.addr, "", Some(&format!("{instance_id}-ffffffffffffffff"))).await;
    position(&mut stream).await;
    record("b", 1).await;
    assert!(event(&mut stream).await.starts_with("event: reading"));

    for wrong in ["", "x", "1", "1-", "-1", "1-x", "+1-1", "1-+1", "1-1-1", "1-10000000000000000"] {
        let response = request(server.addr, "GET", "/readings/live", &[("last-event-id", wrong)], "").await;
        assert_eq!(response.problem()["status"], 400, "{wrong}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_quiet_live_stream_has_a_heartbeat() {
    let server = Local::start(Limits { heartbeat: Duration::from_millis(5), ..Limits::default() }).await;
    let mut stream = live(server.addr, "", None).await;
    for _ in 0..3 {
        until(&mut stream, ": heartbeat\n\n").await;
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_slow_reader_does_not_slow_the_recorder() {
    let server = Local::start(Limits { live_kept: 100, ..Limits::default() }).await;
    let mut slow = live(server.addr, "", None).await;
    // 30 MB of events are more than both sockets can hold. So these requests can only
    // succeed if none of them waits for the reader.
    for _ in 0..20 {
        let response = request(server.addr, "POST", "/readings", &[JSON], &batch("a", 10_000)).await;
        assert_eq!(response.status, 200);
    }
    // When the client finally reads, it gets a gap.
    until(&mut slow, "event: gap\nid: ").await;
    drop(slow);
    server.stop().await;
}

#[apply(test!)]
async fn a_watch_survives_a_restart_and_reports_it() {
    // The drain timeout is so long that the server can only stop if it ends the stream itself.
    let server = Local::start(Limits {
        connections: ConnectionLimits { drain_timeout: Duration::from_secs(3600), ..Default::default() },
        ..Limits::default()
    })
    .await;
    let addr = server.addr;
    let mut watch = server.client().watch(Some("a")).await.unwrap();
    server.client().record(&[reading("a", 1)]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), LiveEvent::Reading(reading("a", 1)));
    server.stop().await;

    assert!(matches!(watch.next().await.unwrap().unwrap(), LiveEvent::Disconnected { .. }));
    let server = Local::start_at(addr, Limits::default()).await;
    server.client().record(&[reading("a", 2)]).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), LiveEvent::Gap(Gap { missed: None }));
    assert_eq!(watch.next().await.unwrap().unwrap(), LiveEvent::Reading(reading("a", 2)));
    drop(watch);
    server.stop().await;
}

//! The calls of the client library, also to servers that fall silent or break the rules.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use tests::{apply, test};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use websocket::Metric;
use websocket::client::{Client, Error};
use websocket::limits::Timeouts;

use crate::fake::{Fake, read_head, request, send};
use crate::live::reading;
use crate::local::soon;

#[apply(test!)]
async fn a_call_fails_when_its_connection_breaks_and_the_next_one_reconnects() {
    let (fake, url) = Fake::start().await;
    let client = Client::new(&url);
    let batch = [reading("a", Metric::Wind, 1.0)];
    let serve = async {
        let mut socket = fake.accept().await;
        request(&mut socket).await;
        drop(socket); // The request is in flight.
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        send(&mut socket, json!({"type": "recorded", "id": 999_999, "accepted": 7})).await; // No request has this ID.
        send(&mut socket, json!({"type": "recorded", "id": id, "accepted": 1})).await;
        socket
    };
    let calls = async {
        let broken = soon("a call", client.record(&batch)).await;
        assert!(
            matches!(&broken, Err(error @ Error::Broken(_)) if error.may_have_been_executed()),
            "{broken:?}"
        );
        assert_eq!(soon("a call", client.record(&batch)).await.unwrap(), 1);
    };
    tokio::join!(serve, calls);
}

#[apply(test!)]
async fn the_client_gives_up_on_a_silent_server() {
    let (fake, url) = Fake::start().await;
    let timeouts = Timeouts {
        heartbeat: Duration::from_millis(50),
        dead_after: Duration::from_millis(150),
        ..Timeouts::default()
    };
    let client = Client::with_timeouts(&url, timeouts);
    let batch = [reading("a", Metric::Wind, 1.0)];
    // The server reads nothing, so its library doesn't respond to pings.
    let (_silent, dead) = tokio::join!(fake.accept(), soon("a call", client.record(&batch)));
    assert!(matches!(&dead, Err(error @ Error::Dead) if error.may_have_been_executed()), "{dead:?}");
}

/// The server responds to pings, but never to the request.
#[apply(test!)]
async fn a_request_without_a_response_times_out() {
    let (fake, url) = Fake::start().await;
    let response = Duration::from_millis(50);
    let client = Client::with_timeouts(&url, Timeouts { response, ..Timeouts::default() });
    let batch = [reading("a", Metric::Wind, 1.0)];
    let mute = async {
        let mut connection = fake.accept().await;
        while let Some(Ok(_)) = connection.next().await {}
    };
    let call = async {
        let outcome = soon("a call", client.record(&batch)).await;
        let known = outcome.as_ref().is_err_and(|error| !error.may_have_been_executed());
        assert!(matches!(outcome, Err(Error::TimedOut(_))) && !known, "{outcome:?}");
        client.close().await;
    };
    tokio::join!(mute, call);
}

#[apply(test!)]
async fn a_server_that_does_not_speak_websocket_is_recognized() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()));
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream
    };
    let (_stream, result) = tokio::join!(serve, client.readings("a", 1));
    let executed = result.as_ref().is_err_and(Error::may_have_been_executed);
    assert!(matches!(result, Err(Error::Handshake(_))) && !executed, "{result:?}");
}

#[apply(test!)]
async fn a_handshake_without_a_response_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timeouts = Timeouts { connect: Duration::from_millis(50), ..Timeouts::default() };
    let client = Client::with_timeouts(&format!("http://{}", listener.local_addr().unwrap()), timeouts);
    let (connection, result) = tokio::join!(listener.accept(), soon("a call", client.readings("a", 1)));
    let executed = result.as_ref().is_err_and(Error::may_have_been_executed);
    assert!(matches!(result, Err(Error::Unreachable { .. })) && !executed, "{result:?}");
    drop(connection);
}

#[apply(test!)]
async fn abandoned_calls_make_room_for_others() {
    let (fake, url) = Fake::start().await;
    let patient = Duration::from_millis(300);
    let client = Client::with_timeouts(&url, Timeouts { response: patient, ..Timeouts::default() });
    let serve = async {
        let mut socket = fake.accept().await;
        loop {
            let request = request(&mut socket).await;
            if request["station"] == "answered" {
                send(&mut socket, json!({"type": "readings", "id": request["id"], "readings": []})).await;
                return socket;
            }
        }
    };
    let calls = async {
        let mute = futures::future::join_all((0..1024).map(|_| client.readings("mute", 1))).await;
        assert!(mute.iter().all(|outcome| matches!(outcome, Err(Error::TimedOut(_)))), "{mute:?}");
        assert_eq!(soon("a call", client.readings("answered", 1)).await.unwrap(), []);
    };
    tokio::join!(serve, calls);
}

#[apply(test!)]
async fn a_message_over_the_clients_limit_breaks_the_connection() {
    let (fake, url) = Fake::start().await;
    let client = Client::new(&url);
    let serve = async {
        let mut socket = fake.accept().await;
        request(&mut socket).await;
        let head = [&[0x81, 127][..], &(4 * 1024 * 1024 + 1_u64).to_be_bytes()].concat();
        socket.get_mut().write_all(&head).await.unwrap();
        socket
    };
    let (_socket, result) = tokio::join!(serve, soon("a call", client.readings("a", 1)));
    assert!(matches!(&result, Err(Error::Broken(why)) if why.to_string().contains("too long")), "{result:?}");
}

/// The client limits how many calls and how many chat messages wait for the server.
#[apply(test!)]
async fn requests_in_flight_are_bounded() {
    let (fake, url) = Fake::start().await;
    let client = Client::new(&url);
    let calls: Vec<_> = (0..1030)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.readings("a", 1).await })
        })
        .collect();
    let mut socket = fake.accept().await;
    for _ in 0..1024 {
        request(&mut socket).await;
    }
    let more = timeout(Duration::from_millis(100), request(&mut socket)).await;
    assert!(more.is_err(), "{more:?}");
    calls.iter().for_each(|call| call.abort());

    let (mut socket, joined) = tokio::join!(fake.agree(), client.chat("r", "ana"));
    let (chat, _events) = joined.unwrap();
    let speak = |_| {
        let chat = chat.clone();
        tokio::spawn(async move { chat.say("x").await })
    };
    let said: Vec<_> = (0..260).map(speak).collect();
    for _ in 0..256 {
        request(&mut socket).await;
    }
    let more = timeout(Duration::from_millis(100), request(&mut socket)).await;
    assert!(more.is_err(), "{more:?}");
    said.iter().for_each(|say| say.abort());
}

/// Accepts one connection and sends this as the response to its handshake. Returns whether the
/// client then closed the connection without sending another byte.
async fn respond_to_handshake(listener: &TcpListener, lines: &str) -> bool {
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    let head = read_head(&mut stream).await;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let lines = lines.replace("ACCEPT", &derive_accept_key(key.as_bytes()));
    stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n").as_bytes()).await.unwrap();
    soon("the end", stream.read(&mut [0])).await.is_ok_and(|count| count == 0)
}

/// In these cases, RFC 6455, section 4.1, requires a client to close the connection.
#[apply(test!)]
async fn a_handshake_response_that_breaks_the_rules_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let good = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n\
                Sec-WebSocket-Protocol: weather.v1.json\r\n";
    let more = |line: &str| format!("{good}{line}\r\n");
    for lines in [
        more("Sec-WebSocket-Extensions: permessage-deflate"),
        more("Sec-WebSocket-Extensions: x-webkit-deflate-frame, foo; bar=1"),
        more("sec-websocket-extensions:"),
        more("Sec-WebSocket-Protocol: weather.v1.json"),
        more("Sec-WebSocket-Protocol: weather.v2.json"),
        more("Sec-WebSocket-Accept: ACCEPT"),
        good.replace("weather.v1.json", "weather.v2.json"),
        good.replace("weather.v1.json", "weather.v1.json, weather.v2.json"),
        good.replace("Sec-WebSocket-Protocol: weather.v1.json\r\n", ""),
        good.replace("ACCEPT", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        good.replace("Upgrade: websocket\r\n", ""),
        good.replace("Connection: Upgrade\r\n", ""),
    ] {
        let client = Client::new(&url);
        let (closed, result) = tokio::join!(respond_to_handshake(&listener, &lines), client.readings("a", 1));
        assert!(matches!(result, Err(Error::Handshake(_))), "{lines} {result:?}");
        assert!(closed, "{lines}");
    }
    // The client ignores the case of header names and tokens.
    let client = Client::new(&url);
    let lines = good.replace("Upgrade: websocket", "UPGRADE: WebSocket");
    let (closed, _) = tokio::join!(respond_to_handshake(&listener, &lines), client.readings("a", 1));
    assert!(!closed, "the client must send a request");
}

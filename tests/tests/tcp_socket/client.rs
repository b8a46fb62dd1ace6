//! Calls of the client, against a server that the test plays itself.

use std::time::Duration;

use bytes::BytesMut;
use tcp_socket::client::server_addr;
use tcp_socket::limits::MAX_IN_FLIGHT;
use tcp_socket::protocol::frame::{FLAG_END, kind};
use tcp_socket::protocol::handshake::Welcome;
use tcp_socket::protocol::message::Refusal;
use tcp_socket::{Client, Error};
use tests::{apply, test};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;

use crate::support::{Received, fake_server, flagged_frame, frame, reading, welcome, within};

#[apply(test!)]
async fn responses_are_matched_by_request_id_in_any_order() {
    let (listener, addr) = fake_server().await;
    let server = tokio::spawn(async move {
        let mut raw = welcome(&listener, 60_000).await;
        let mut requests: Vec<Received> = Vec::new();
        while requests.len() < 50 {
            requests.push(raw.receive().await);
        }
        // The last request is answered first. Each response has the batch ID as its count.
        let mut responses = frame(0x01aa, 1, b"of a kind that this client does not know");
        for request in requests.iter().rev() {
            assert_eq!(request.kind, kind::RECORD);
            responses.extend(frame(kind::RECORDED, request.id, &request.payload[4..8]));
        }
        raw.write(&responses).await;
        raw
    });
    let client = Client::connect(&addr).await.unwrap();
    let mut calls = JoinSet::new();
    for value in 1..=50u32 {
        let client = client.clone();
        // Calls get their batch IDs in the order in which they begin.
        let reading = [reading("oslo-1", value.into())];
        let mut call = Box::pin(async move { (value, client.record(&reading).await) });
        assert!(futures::poll!(&mut call).is_pending());
        calls.spawn(call);
    }
    while let Some(call) = within(calls.join_next()).await {
        let (value, count) = call.unwrap();
        assert_eq!(count.unwrap(), value as usize);
    }
    let _still_open = server.await.unwrap();
}

#[apply(test!)]
async fn a_call_without_a_response_says_whether_it_may_have_been_executed() {
    let (listener, addr) = fake_server().await;
    let client = Client::connect(&addr);
    let (client, mut raw) = tokio::join!(client, welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_millis(100));
    let error = within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)) && error.may_have_been_executed(), "{error}");
    assert_eq!(raw.receive().await.kind, kind::RECORD);

    // A batch larger than this server accepts is not sent at all.
    let error = within(client.record(&vec![reading("oslo-1", 1.0); 100])).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)) && !error.may_have_been_executed(), "{error}");

    // Once the client has noticed that the connection is lost, it sends nothing anymore.
    drop(listener);
    drop(raw);
    let client = client.with_timeout(Duration::from_millis(300));
    loop {
        let error = within(client.record(&[reading("oslo-1", 1.0)])).await.unwrap_err();
        if !error.may_have_been_executed() {
            assert!(matches!(error, Error::NotExecuted(_)), "{error}");
            break;
        }
    }
    client.close().await;
}

#[apply(test!)]
async fn abandoned_calls_keep_their_permits_until_a_response_arrives() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_millis(300));
    let mut calls = JoinSet::new();
    for _ in 0..MAX_IN_FLIGHT + 50 {
        let client = client.clone();
        calls.spawn(async move { client.record(&[reading("oslo-1", 1.0)]).await.unwrap_err() });
    }
    let errors = within(calls.join_all()).await;
    let sent = errors.iter().filter(|error| error.may_have_been_executed()).count();
    assert_eq!(sent, MAX_IN_FLIGHT);
    // Their responses make room again, even if they are late.
    let mut first = None;
    for _ in 0..MAX_IN_FLIGHT {
        let request = raw.receive().await;
        raw.send(kind::RECORDED, request.id, &1u32.to_be_bytes()).await;
        first.get_or_insert(request.id);
    }
    let client = client.with_timeout(Duration::from_secs(60));
    let respond = async {
        let request = raw.receive().await;
        raw.send(kind::RECORDED, request.id, &1u32.to_be_bytes()).await;
    };
    let record = [reading("oslo-1", 1.0)];
    let (recorded, ()) = tokio::join!(client.record(&record), respond);
    assert_eq!(recorded.unwrap(), 1);
}

#[apply(test!)]
async fn a_goodbye_guarantees_that_unanswered_requests_were_not_executed() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_secs(2));
    let record = [reading("oslo-1", 1.0)];
    let server = async {
        assert_eq!(raw.receive().await.kind, kind::RECORD);
        raw.send(kind::GOODBYE, 0, b"").await;
        drop(listener); // so that the client can't reconnect
    };
    let (error, ()) = tokio::join!(client.record(&record), server);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::NotExecuted(_)) && !error.may_have_been_executed(), "{error}");
}

#[apply(test!)]
async fn a_goodbye_guarantees_nothing_about_an_earlier_connection() {
    let (listener, addr) = fake_server().await;
    let (client, mut first) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap().with_timeout(Duration::from_secs(2));
    let record = [reading("oslo-1", 1.0)];
    let server = async {
        let sent = first.receive().await;
        drop(first); // The request may have been executed.
        let mut second = welcome(&listener, 60_000).await;
        assert_eq!(second.receive().await.payload, sent.payload);
        second.send(kind::GOODBYE, 0, b"").await;
        drop(listener);
    };
    let (error, ()) = tokio::join!(client.record(&record), server);
    let error = error.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)) && error.may_have_been_executed(), "{error}");
}

#[apply(test!)]
async fn a_closed_client_says_which_calls_may_have_been_executed() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap();
    let record = [reading("oslo-1", 1.0)];
    let close = async {
        assert_eq!(raw.receive().await.kind, kind::RECORD);
        client.clone().close().await; // without a response to the RECORD
    };
    let (error, ()) = within(async { tokio::join!(client.record(&record), close) }).await;
    assert!(matches!(error, Err(Error::OutcomeUnknown(_))), "{error:?}");
    let error = within(client.record(&record)).await.unwrap_err();
    assert!(matches!(error, Error::NotExecuted("the client is closed")), "{error}");
}

#[apply(test!)]
async fn a_client_ignores_frames_that_it_must_not_act_on() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap();
    let record = [reading("oslo-1", 1.0)];
    let server = async {
        let id = raw.receive().await.id;
        let (one, zero) = (1u32.to_be_bytes(), 0u32.to_be_bytes());
        for frame in [
            flagged_frame(kind::RECORDED, 0x8000, id, &zero),
            flagged_frame(kind::RECORDED, FLAG_END, id, &zero), // END belongs to READING
            flagged_frame(kind::ERROR, 0x0200, id, b"\0\x13no"),
            flagged_frame(kind::GOODBYE, 0x8000, 0, b""),
            frame(kind::GOODBYE, 0, b"x"),
            frame(kind::GOODBYE, id, b""),
            frame(kind::RECORDED, id + 1, &zero), // no request has this ID
            frame(0x01aa, id, b"of a kind that this client does not know"),
            flagged_frame(kind::RECORDED, 0x00ff, id, &one),
        ] {
            raw.write(&frame).await;
        }
        raw
    };
    let (recorded, _raw) = tokio::join!(client.record(&record), server);
    assert_eq!(recorded.unwrap(), 1);
}

#[apply(test!)]
async fn addresses_are_understood_in_every_common_form() {
    for (url, expected) in [
        ("tcp://127.0.0.1:7878", "127.0.0.1:7878"),
        ("127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1", "127.0.0.1:7878"),
        ("tcp://localhost", "localhost:7878"),
        ("localhost:80/", "localhost:80"),
        ("tcp://weather.example/", "weather.example:7878"),
        ("[::1]:1", "[::1]:1"),
        ("tcp://[::1]", "[::1]:7878"),
        ("::1", "[::1]:7878"),
        ("fe80::1:2", "[fe80::1:2]:7878"),
    ] {
        assert_eq!(server_addr(url).unwrap(), expected, "{url}");
    }
    for url in [
        "",
        ":",
        ":80",
        "tcp://",
        "http://host:1",
        "host:",
        "host:x",
        "host:+1",
        "host:65536",
        "host:1/path",
        "user@host",
        "[::1",
        "[host]:1",
        "[::1]x:1",
        "a:b:1",
        "two words",
        "host?x",
    ] {
        assert!(matches!(server_addr(url), Err(Error::Address { .. })), "{url:?}: {:?}", server_addr(url));
    }
}

#[apply(test!)]
async fn text_from_a_server_cannot_control_a_terminal() {
    let refusal = Refusal { code: 3, text: "\x1b[2J\rgone\u{202e}\u{3164}\n".into() };
    let shown = "TooManyConnections (3): \\u001b[2J\\rgone\\u202e\\u3164\\n";
    assert_eq!(refusal.to_string(), shown);
    assert_eq!(Error::Refused(refusal.clone()).to_string(), shown);
    let unknown = Refusal { code: 999, ..refusal };
    assert!(!unknown.to_string().contains(char::is_control));
}

#[apply(test!)]
async fn a_refused_client_is_told_why() {
    let (listener, addr) = fake_server().await;
    let refuse = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let welcome = Welcome {
            version: 0,
            remembered: false,
            instance_id: [0; 16],
            max_payload: 0,
            window: 0,
            max_watches: 0,
            idle_timeout: 0,
        };
        let mut why = BytesMut::new();
        Refusal { code: 3, text: "come back tomorrow".into() }.put(&mut why);
        stream.write_all(&[&welcome.encode()[..], &frame(kind::ERROR, 0, &why)].concat()).await.unwrap();
        stream
    };
    let (client, _stream) = tokio::join!(Client::connect(&addr), refuse);
    assert_eq!(client.err().unwrap().to_string(), "TooManyConnections (3): come back tomorrow");
    let not_ours = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"220 mail.example ESMTP ready, and some more text\r\n").await.unwrap();
        stream
    };
    let (client, _stream) = tokio::join!(Client::connect(&addr), not_ours);
    assert!(matches!(client.err().unwrap(), Error::Protocol(_)));
}

#[apply(test!)]
async fn a_dropped_watch_is_canceled_and_a_closed_client_says_goodbye() {
    let (listener, addr) = fake_server().await;
    let client = async {
        let client = Client::connect(&addr).await.unwrap();
        let watch = client.watch("oslo-1").await.unwrap();
        drop(watch);
        client.clone().close().await;
        client.record(&[reading("oslo-1", 1.0)]).await.unwrap_err()
    };
    let server = async {
        let mut raw = welcome(&listener, 60_000).await;
        let request = raw.receive().await;
        assert_eq!((request.kind, request.payload.as_slice()), (kind::WATCH, &b"oslo-1"[..]));
        raw.send(kind::READING, request.id, &[0; 8]).await;
        let cancel = raw.receive().await;
        assert_eq!((cancel.kind, cancel.id), (kind::CANCEL, request.id));
        assert_eq!(raw.receive().await.kind, kind::GOODBYE);
        raw.send(kind::GOODBYE, 0, b"").await;
    };
    let (error, ()) = within(async { tokio::join!(client, server) }).await;
    assert!(matches!(error, Error::NotExecuted("the client is closed")), "{error}");
}

#[apply(test!)]
async fn a_watch_whose_caller_gave_up_is_canceled() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let client = client.unwrap();
    // The caller may give up before the watch is confirmed, or before it has seen that it is.
    for confirmed in [false, true] {
        let mut watch = Box::pin(client.watch("oslo-1"));
        assert!(futures::poll!(&mut watch).is_pending());
        let request = raw.receive().await;
        assert_eq!(request.kind, kind::WATCH);
        let server = async {
            if confirmed {
                raw.send(kind::READING, request.id, &[0; 8]).await;
            }
            let ping = raw.receive().await;
            raw.send(kind::PONG, ping.id, b"").await;
        };
        let (ping, ()) = tokio::join!(client.ping(), server);
        ping.unwrap();
        drop(watch);
        raw.send(kind::READING, request.id, &[0; 8]).await;
        let cancel = within(raw.receive()).await;
        assert_eq!((cancel.kind, cancel.id), (kind::CANCEL, request.id));
    }
}

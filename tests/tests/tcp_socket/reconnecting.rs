//! When the client gives up a connection, and how it reconnects.

use std::time::Duration;

use bytes::BytesMut;
use futures::StreamExt;
use tcp_socket::protocol::frame::kind;
use tcp_socket::protocol::handshake::Welcome;
use tcp_socket::protocol::message::Refusal;
use tcp_socket::{Client, Error};
use tests::{apply, test};
use tokio::io::AsyncWriteExt;

use crate::support::{accept, fake_server, frame, reading, welcome, welcome_as, within};

#[apply(test!)]
async fn a_client_reconnects_when_the_server_falls_silent() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 300));
    let client = client.unwrap();
    // It sends a PING, gets no response, and reconnects, although nothing was closed.
    assert_eq!(raw.receive().await.kind, kind::PING);
    let mut second = welcome(&listener, 60_000).await;
    let respond = async {
        let request = second.receive().await;
        second.send(kind::PONG, request.id, b"").await;
    };
    let (ping, ()) = within(async { tokio::join!(client.ping(), respond) }).await;
    ping.unwrap();
}

#[apply(test!)]
async fn a_client_waits_for_a_slow_frame_but_not_for_a_trickle_of_bytes() {
    let (listener, addr) = fake_server().await;
    let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 400));
    let client = client.unwrap();
    // 20,000 bytes in pieces, which take five times the idle timeout. No PING gets a response.
    let reading = frame(kind::READING, 4_000_000, &[&[0; 8][..], &measurements(1_200)].concat());
    for piece in reading.chunks(reading.len() / 50) {
        raw.write(piece).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    let respond = async {
        loop {
            let request = raw.receive().await;
            raw.send(kind::PONG, request.id, b"").await;
        }
    };
    tokio::select! {
        ping = within(client.ping()) => drop(ping.unwrap()),
        () = respond => unreachable!(),
        _ = listener.accept() => panic!("the client reconnected"),
    }
    // The same frame byte by byte: the client gives up this connection.
    let begun = async {
        let mut request = raw.receive().await;
        while request.kind != kind::WATCH {
            request = raw.receive().await; // a PING
        }
        raw.send(kind::READING, request.id, &[0; 8]).await;
    };
    let (watch, ()) = tokio::join!(client.watch("oslo-1"), begun);
    let trickle = async {
        for byte in &reading {
            let _ = raw.stream.write_all(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = trickle => panic!("the client waited for all of it"),
        again = within(listener.accept()) => drop(again.unwrap()),
    }
    let mut watch = watch.unwrap();
    let lost = watch.next().await.unwrap().unwrap_err();
    assert_eq!(lost.to_string(), "connection lost: the server's frames arrive too slowly");
    assert!(watch.next().await.is_none());
}

fn measurements(count: usize) -> Vec<u8> {
    let one = [&[4][..], &7.0f64.to_be_bytes(), &0u64.to_be_bytes()].concat();
    one.repeat(count)
}

#[apply(test!)]
async fn a_client_waits_longer_for_the_response_to_a_large_frame() {
    let (listener, addr) = fake_server().await;
    let large = accept(&listener, |welcome| Welcome { max_payload: 500_000, idle_timeout: 300, ..welcome });
    let (client, mut raw) = tokio::join!(Client::connect(&addr), large);
    let client = client.unwrap();
    let batch = vec![reading("oslo-1", 1.0); 2_000];
    let server = async {
        // A slow link: the frame takes four times the idle timeout to arrive.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        let request = raw.receive().await;
        raw.send(kind::RECORDED, request.id, &2_000u32.to_be_bytes()).await;
    };
    tokio::select! {
        (recorded, ()) = within(async { tokio::join!(client.record(&batch), server) }) => {
            assert_eq!(recorded.unwrap(), 2_000);
        }
        _ = listener.accept() => panic!("the client reconnected"),
    }
}

#[apply(test!)]
async fn a_client_stops_reconnecting_only_when_no_attempt_can_succeed() {
    for (code, permanent) in [(1, true), (2, true), (3, false), (4, false), (9, false), (15, false)] {
        let (listener, addr) = fake_server().await;
        let (client, raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
        let client = client.unwrap();
        drop(raw);
        let mut why = BytesMut::new();
        Refusal { code, text: "no".into() }.put(&mut why);
        let refuse = async {
            let mut raw = accept(&listener, |welcome| Welcome { version: 0, ..welcome }).await;
            raw.send(kind::ERROR, 0, &why).await;
            drop(raw);
            let mut raw = welcome(&listener, 60_000).await;
            let id = raw.receive().await.id;
            raw.send(kind::PONG, id, b"").await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ping = within(client.ping()) => match ping {
                Ok(_) => assert!(!permanent, "{code}"),
                Err(Error::Refused(refusal)) => assert!(permanent && refusal.code == code, "{refusal}"),
                Err(error) => panic!("{error}"),
            },
            () = refuse => unreachable!(),
        }
    }
}

#[apply(test!)]
async fn a_batch_is_not_resent_to_a_server_that_has_forgotten_the_client() {
    let (listener, addr) = fake_server().await;
    for remembered in [true, false] {
        let server = async {
            let mut first = welcome_as(&listener, 60_000, false).await;
            assert_eq!(first.receive().await.payload[..8], 1u64.to_be_bytes());
            drop(first);
            let mut second = welcome_as(&listener, 60_000, remembered).await;
            let request = second.receive().await;
            second.send(kind::RECORDED, request.id, &1u32.to_be_bytes()).await;
            u64::from_be_bytes(request.payload[..8].try_into().unwrap())
        };
        let client = async {
            let client = Client::connect(&addr).await.unwrap();
            let first = client.record(&[reading("oslo-1", 1.0)]).await;
            if !remembered {
                assert_eq!(client.record(&[reading("oslo-1", 2.0)]).await.unwrap(), 1);
            }
            first
        };
        let (first, batch_id) = within(async { tokio::join!(client, server) }).await;
        match first {
            Ok(accepted) => assert_eq!((accepted, batch_id, remembered), (1, 1, true)),
            Err(error) => {
                assert_eq!(
                    error.to_string(),
                    "outcome unknown: the server was restarted, or has forgotten this client"
                );
                assert_eq!((batch_id, remembered), (2, false));
            }
        }
    }
}

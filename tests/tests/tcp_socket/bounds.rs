//! Limits and checks that no other test covers, of both the server and the client.

use std::time::Duration;

use bytes::BytesMut;
use clap::Parser;
use tcp_socket::limits::{
    MAX_BATCH, MAX_ERROR_TEXT, MAX_IN_FLIGHT, MAX_RECORDED_AT, MAX_STATION_ID, MAX_STATIONS,
};
use tcp_socket::protocol::frame::{HEADER, kind};
use tcp_socket::protocol::handshake::{Hello, Welcome};
use tcp_socket::protocol::message::{ErrorCode, MEASUREMENT, Refusal, Update};
use tcp_socket::{Client, Error, Limits};
use tests::{Server, apply, limit_fields, test};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use crate::PAIR;
use crate::support::{Raw, accept, batch, batch_of, fake_server, frame, reading, start, welcome, within};
use tcp_socket::base::limits::ConnectionLimits;

/// Writes until the other side has closed its socket.
async fn wait_until_closed(raw: &mut Raw, piece: &[u8]) {
    within(async {
        while raw.stream.write_all(piece).await.is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[apply(test!)]
async fn lingering_is_limited_in_time_and_in_bytes() {
    let long = Duration::from_secs(600);
    for (limits, piece) in [
        (
            Limits {
                connections: ConnectionLimits {
                    linger_time: Duration::from_millis(200),
                    ..Default::default()
                },
                ..Limits::default()
            },
            1,
        ),
        (
            Limits {
                connections: ConnectionLimits {
                    linger_time: long,
                    linger_bytes: 300_000,
                    ..Default::default()
                },
                ..Limits::default()
            },
            10_000,
        ),
        (
            Limits {
                connections: ConnectionLimits { linger_time: long, linger_bytes: 0, ..Default::default() },
                ..Limits::default()
            },
            1,
        ),
    ] {
        let server = start(limits).await;
        let mut raw = Raw::open(&server.addr).await;
        raw.send(kind::PING, 0, b"").await;
        assert_eq!(raw.last_error().await, ErrorCode::BadRequestId);
        wait_until_closed(&mut raw, &vec![0; piece]).await;
    }
}

#[apply(test!)]
async fn refused_connections_beyond_a_limit_are_closed_without_lingering() {
    let limits = Limits {
        connections: ConnectionLimits {
            max_connections: 0,
            max_refusals: 1,
            linger_time: Duration::from_secs(600),
            ..Default::default()
        },
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut raws = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::connect(&server.addr).await;
        raw.welcome().await;
        assert_eq!(raw.last_error().await, ErrorCode::TooManyConnections);
        raws.push(raw);
    }
    wait_until_closed(&mut raws[1], &[0]).await;
    assert!(raws[0].stream.write_all(&[0]).await.is_ok(), "the server no longer lingers on the first");
}

#[apply(test!)]
async fn a_connection_that_cannot_be_drained_is_cut() {
    let limits = Limits {
        connections: ConnectionLimits { drain_timeout: Duration::from_millis(300), ..Default::default() },
        write_timeout: Duration::from_secs(600),
        ..Limits::default()
    };
    let server = start(limits).await;
    let mut raw = Raw::open(&server.addr).await;
    let pings = frame(kind::PING, 1, b"").repeat(10_000);
    let full = async { while raw.stream.write_all(&pings).await.is_ok() {} };
    assert!(timeout(Duration::from_secs(1), full).await.is_err(), "the server read everything");
    within(server.ask_to_stop()).await.unwrap().unwrap();
}

#[apply(test!)]
async fn a_client_that_reads_late_is_not_mistaken_for_a_silent_one() {
    let limits = Limits {
        idle_timeout: Duration::from_millis(700),
        write_timeout: Duration::from_secs(60),
        ..Limits::default()
    };
    let server = start(limits).await;
    for _ in 0..4 {
        let (mut reader, mut writer) = Raw::open(&server.addr).await.stream.into_split();
        let ping = frame(kind::PING, 1, b"");
        let pings = ping.repeat(10_000);
        let mut sent = 0;
        let full = async {
            loop {
                sent += writer.write(&pings[sent % ping.len()..]).await.unwrap();
            }
        };
        assert!(timeout(Duration::from_millis(1_500), full).await.is_err(), "the server read everything");
        // The last PING may be sent only in part: send the rest, and read all responses.
        let rest = async { writer.write_all(&ping[sent % ping.len()..]).await.unwrap() };
        let responses = async {
            let expected = sent.next_multiple_of(ping.len());
            let mut responses = vec![0; expected];
            tokio::io::AsyncReadExt::read_exact(&mut reader, &mut responses).await.unwrap();
            let pong = frame(kind::PONG, 1, b"");
            assert!(responses.chunks(HEADER).all(|response| response == pong), "got an ERROR instead");
        };
        within(async { tokio::join!(rest, responses) }).await;
    }
}

#[apply(test!)]
async fn busy_watches_take_turns_in_frames_of_limited_size() {
    let server = start(Limits::default()).await;
    let mut recorder = Raw::open(&server.addr).await;
    recorder.ask(kind::RECORD, 1, &batch_of(1, &[reading("a", 0.0), reading("b", 0.0)])).await;
    let mut watcher = Raw::open(&server.addr).await;
    watcher.ask(kind::WATCH, 1, b"a").await;
    watcher.ask(kind::WATCH, 2, b"b").await;
    let (a, b) = (vec![reading("a", 1.0); 5_000], vec![reading("b", 1.0); 5_000]);
    recorder.ask(kind::RECORD, 2, &batch_of(2, &[a, b].concat())).await;
    let mut counts = [0, 0];
    while counts != [5_000, 5_000] {
        let received = watcher.receive().await;
        assert!(received.payload.len() <= 65_536, "{} bytes", received.payload.len());
        let watch = received.id as usize - 1;
        counts[watch] += received.update().readings.len();
        assert!(
            counts != [5_000, 0] && counts != [0, 5_000],
            "one watch waited until the other had sent everything"
        );
    }
}

#[apply(test!)]
async fn malformed_payloads_are_rejected() {
    let measurement =
        |metric: u8, value: f64, at: u64| [&[metric][..], &value.to_be_bytes(), &at.to_be_bytes()].concat();
    let good = measurement(4, 7.0, 0);
    assert_eq!(good.len(), MEASUREMENT);
    let update = |rest: &[u8]| Update::parse(&[&[0; 8][..], rest].concat());
    assert!(update(&good).is_some() && update(b"").is_some());
    assert!(update(&measurement(4, 7.0, MAX_RECORDED_AT)).is_some());
    for rest in [
        &good[..16],
        &[&good[..], b"x"].concat(),
        &measurement(0, 7.0, 0),
        &measurement(5, 7.0, 0),
        &measurement(4, 121.0, 0),
        &measurement(4, f64::NAN, 0),
        &measurement(4, 7.0, MAX_RECORDED_AT + 1),
        &measurement(4, 7.0, u64::MAX),
    ] {
        assert_eq!(update(rest), None, "{rest:?}");
    }
    assert_eq!(Update::parse(&[0; 7]), None);
    let refusal = |length| Refusal::parse(&[&[0, 3][..], &vec![b'x'; length]].concat());
    assert!(refusal(0).is_some() && refusal(MAX_ERROR_TEXT).is_some());
    assert_eq!((refusal(MAX_ERROR_TEXT + 1), Refusal::parse(&[3])), (None, None));
    let mut payload = BytesMut::new();
    Refusal::new(ErrorCode::BadPayload, "ä".repeat(MAX_ERROR_TEXT)).put(&mut payload);
    assert_eq!(payload.len(), 2 + MAX_ERROR_TEXT);
}

#[apply(test!)]
async fn a_client_does_not_send_requests_with_invalid_arguments() {
    let (listener, addr) = fake_server().await;
    let large = accept(&listener, |welcome| Welcome { max_payload: 524_288, ..welcome });
    let (client, mut raw) = tokio::join!(Client::connect(&addr), large);
    let client = client.unwrap();
    let invalid =
        |result: Result<usize, Error>| assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    invalid(client.record(&vec![reading("oslo-1", 1.0); 10_001]).await);
    invalid(client.record(&[reading(&"a".repeat(33), 1.0)]).await);
    invalid(client.record(&[reading(&"a".repeat(256), 1.0)]).await);
    for station in ["", "Oslo", "a b", "\u{e9}", &"a".repeat(33)] {
        invalid(client.watch(station).await.map(|_watch| 0));
    }
    let respond = async {
        let first = raw.receive().await;
        assert_eq!(first.kind, kind::PING, "something was sent before the PING");
        raw.send(kind::PONG, first.id, b"").await;
    };
    let (ping, ()) = tokio::join!(client.ping(), respond);
    ping.unwrap();
}

#[apply(test!)]
async fn a_batch_may_be_as_large_and_a_station_id_as_long_as_the_limits_say() {
    let server = start(Limits::default()).await;
    let client = Client::connect(&server.addr).await.unwrap();
    let longest = "a".repeat(MAX_STATION_ID);
    assert_eq!(client.record(&vec![reading(&longest, 1.0); MAX_BATCH]).await.unwrap(), MAX_BATCH);
    client.watch(&longest).await.unwrap();
}

/// A batch may name stations that exist already, and name a new one more than once.
#[apply(test!)]
async fn a_store_accepts_new_stations_until_it_is_full() {
    let server = start(Limits::default()).await;
    let client = Client::connect(&server.addr).await.unwrap();
    let names: Vec<_> = (0..MAX_STATIONS - 1).map(|number| reading(&format!("s-{number}"), 1.0)).collect();
    client.record(&names).await.unwrap();
    let last = ["s-0", "last", "s-1", "last"].map(|station| reading(station, 1.0));
    assert_eq!(client.record(&last).await.unwrap(), 4);
    let error = client.record(&[reading("one-more", 1.0)]).await.unwrap_err();
    let full = ErrorCode::StoreFull as u16;
    assert!(matches!(&error, Error::Refused(refusal) if refusal.code == full), "{error}");
    assert_eq!(client.record(&names).await.unwrap(), MAX_STATIONS - 1);
}

#[apply(test!)]
async fn a_client_refuses_a_welcome_that_it_cannot_work_with() {
    type Change = fn(Welcome) -> Welcome;
    let changes: [Change; 3] = [
        |welcome| Welcome { window: 255, ..welcome },
        |welcome| Welcome { version: 2, ..welcome },
        |welcome| Welcome { version: u16::MAX, ..welcome },
    ];
    for change in changes {
        let (listener, addr) = fake_server().await;
        let (client, _raw) = tokio::join!(Client::connect(&addr), accept(&listener, change));
        assert!(matches!(client.err(), Some(Error::Protocol(_))));
    }
    let (listener, addr) = fake_server().await;
    let smallest = accept(&listener, |welcome| Welcome { window: MAX_IN_FLIGHT as u32, ..welcome });
    let (client, _raw) = tokio::join!(Client::connect(&addr), smallest);
    client.unwrap();
}

#[apply(test!)]
async fn a_client_sends_a_batch_that_just_fits_into_a_frame() {
    let length = batch(1, "oslo-1", 1.0).len() as u32;
    let (listener, addr) = fake_server().await;
    let exact = accept(&listener, |welcome| Welcome { max_payload: length, ..welcome });
    let (client, mut raw) = tokio::join!(Client::connect(&addr), exact);
    let client = client.unwrap();
    let one = [reading("oslo-1", 1.0)];
    let respond = async {
        let request = raw.receive().await;
        raw.send(kind::RECORDED, request.id, &1u32.to_be_bytes()).await;
    };
    let (recorded, ()) = tokio::join!(client.record(&one), respond);
    assert_eq!(recorded.unwrap(), 1);
    let error = client.record(&[reading("oslo-10", 1.0)]).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

#[apply(test!)]
async fn a_client_drops_a_connection_after_an_invalid_frame() {
    let mut too_large = frame(kind::READING, 9, &[0; 65_537]);
    too_large.truncate(HEADER);
    let mut flipped = frame(kind::PONG, 9, b"");
    flipped[15] ^= 1;
    let short_error = frame(kind::ERROR, 9, &[1]);
    let long_error = frame(kind::ERROR, 9, &[b'x'; 2 + MAX_ERROR_TEXT + 1]);
    for bytes in [too_large, flipped, short_error, long_error] {
        let (listener, addr) = fake_server().await;
        let (client, mut raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
        let _client = client.unwrap();
        raw.write(&bytes).await;
        within(listener.accept()).await.unwrap();
    }
}

#[apply(test!)]
async fn a_client_does_not_wait_forever_for_a_server_that_sends_nothing() {
    let (listener, addr) = fake_server().await;
    let connect = within(Client::connect(&addr)).await;
    assert!(matches!(connect.err(), Some(Error::Unreachable { .. })));
    drop(listener);
    let (listener, addr) = fake_server().await;
    let (client, _raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    within(client.unwrap().close()).await; // completes although no GOODBYE comes back
}

#[apply(test!)]
async fn a_connection_without_any_frame_does_not_reset_the_pauses() {
    let (listener, addr) = fake_server().await;
    let (client, raw) = tokio::join!(Client::connect(&addr), welcome(&listener, 60_000));
    let _client = client.unwrap();
    drop(raw);
    let started = Instant::now();
    for _ in 0..5 {
        drop(welcome(&listener, 60_000).await);
    }
    // 50, 100, 200, 400, and 800 ms, plus a random part of each.
    assert!(started.elapsed() >= Duration::from_millis(1_500), "{:?}", started.elapsed());
}

#[apply(test!)]
async fn a_refused_batch_can_be_resent_under_the_same_batch_id() {
    let server = start(Limits::default()).await;
    let mut raw = Raw::open(&server.addr).await;
    for (id, value) in [(1, 71.0), (1, -101.0), (1, f64::NAN)] {
        let refused = raw.ask(kind::RECORD, 1, &batch(id, "oslo-1", value)).await;
        assert_eq!(refused.error(), ErrorCode::InvalidReading);
    }
    assert_eq!(raw.ask(kind::RECORD, 1, &batch(1, "oslo-1", 1.0)).await.accepted(), 1);
}

#[apply(test!)]
async fn every_limit_is_a_server_option_with_the_same_name_and_default() {
    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        limits: Limits,
    }
    let parse = |args: &[&str]| {
        let args = [&["server"], args].concat();
        format!("{:?}", Args::try_parse_from(args).unwrap().limits)
    };

    let defaults = format!("{:?}", Limits::default());
    assert_eq!(parse(&[]), defaults);
    for (name, default) in limit_fields(&defaults) {
        let option = format!("--{}", name.replace('_', "-"));
        let seconds = if default.ends_with('s') { "s" } else { "" };
        let expected = defaults.replace(&format!("{name}: {default}"), &format!("{name}: 7{seconds}"));
        assert_eq!(parse(&[&option, "7"]), expected);
    }

    let args = ["--addr", "127.0.0.1:0", "--max-payload", "700", "--max-watches", "3", "--idle-timeout", "7"];
    let server = Server::start(PAIR.server, &args).await;
    let welcome = {
        let mut raw = Raw::connect(server.addr()).await;
        raw.write(&Hello { lowest: 1, highest: 1, client_id: [1; 16] }.encode()).await;
        raw.welcome().await
    };
    assert_eq!((welcome.max_payload, welcome.max_watches, welcome.idle_timeout), (700, 3, 7_000));
    server.stop().await;
}

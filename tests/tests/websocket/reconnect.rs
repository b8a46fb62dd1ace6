//! The client library when its connection is cut, or when its server is killed and restarted.

use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, test};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use websocket::Limits;
use websocket::Metric;
use websocket::client::{ChatEvent, Client, Error, LiveEvent};
use websocket::protocol::message::{Change, ErrorCode};

use crate::PAIR;
use crate::fake::{Fake, Proxy, joined, message, next, request, send, subscribed};
use crate::live::reading;
use crate::local::{Local, Raw, limits, soon};

/// The client tries again while the room is full, and skips events that it has already shown.
#[apply(test!)]
async fn a_member_retries_a_full_room_and_sees_no_event_twice() {
    let (fake, url) = Fake::start().await;
    let serve = async {
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        send(&mut socket, joined(&join, false, 7)).await;
        send(&mut socket, message(5)).await;
        drop(socket);
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        send(&mut socket, json!({"type": "error", "id": id, "code": "full", "reason": "full"})).await;
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        send(&mut socket, joined(&join, true, 7)).await;
        for sequence in [4, 5, 6] {
            send(&mut socket, message(sequence)).await;
        }
        socket
    };
    let events = async {
        let (_chat, mut events) = Client::new(&url).chat("r", "ana").await.unwrap();
        assert!(matches!(next(&mut events).await, ChatEvent::Joined { resumed: false, .. }));
        assert!(matches!(next(&mut events).await, ChatEvent::Message { sequence: 5, .. }));
        assert!(matches!(next(&mut events).await, ChatEvent::Disconnected { .. }));
        assert!(matches!(next(&mut events).await, ChatEvent::Joined { resumed: true, .. }));
        assert!(matches!(next(&mut events).await, ChatEvent::Message { sequence: 6, .. }));
    };
    tokio::join!(serve, events);
}

/// An accepted connection does not count as progress if it breaks at once.
#[apply(test!)]
async fn pauses_grow_while_a_server_closes_every_new_connection() {
    let reconnects = async |is_chat: bool| {
        let (fake, url) = Fake::start().await;
        let client = Client::new(&url);
        let (mut chat, mut live) = (None, None);
        match is_chat {
            true => chat = Some(tokio::join!(fake.agree(), client.chat("r", "ana")).1.unwrap()),
            false => live = Some(tokio::join!(fake.agree(), client.live(&[], &[])).1.unwrap()),
        }
        let started = Instant::now();
        for _ in 0..4 {
            fake.agree().await;
        }
        // The pauses are 100, 200, 400, and 800 ms, plus a random part.
        assert!(started.elapsed() >= Duration::from_millis(1500), "after {:?}", started.elapsed());
        drop((chat, live));
    };
    tokio::join!(reconnects(true), reconnects(false));
}

/// A reading that arrives while the client reads back may also be among those read back.
#[apply(test!)]
async fn a_reading_that_was_read_back_is_not_shown_twice() {
    let (fake, url) = Fake::start().await;
    let numbered = |sequence: u64| json!({"sequence": sequence, "station": "a", "metric": "wind", "value": 1.0, "recorded_at": 0});
    let live_reading = |sequence: u64| {
        let mut message = numbered(sequence);
        message["type"] = json!("reading");
        message
    };
    let serve = async {
        let mut first = fake.agree().await;
        send(&mut first, live_reading(1)).await;
        drop(first);
        let mut second = fake.accept().await;
        let again = request(&mut second).await;
        send(&mut second, subscribed(&again, &["a"], 2)).await;
        send(&mut second, live_reading(3)).await;
        let mut read_back = fake.accept().await;
        let id = request(&mut read_back).await["id"].clone();
        let readings = json!([numbered(1), numbered(2), numbered(3)]);
        send(&mut read_back, json!({"type": "readings", "id": id, "readings": readings})).await;
        send(&mut second, live_reading(4)).await;
        let _ = read_back.next().await; // The client closes it.
        second
    };
    let events = async {
        let mut live = Client::new(&url).live(&[], &[]).await.unwrap();
        let mut numbers = Vec::new();
        while numbers.last() != Some(&4) {
            if let LiveEvent::Reading { sequence, .. } = soon("an event", live.next()).await.unwrap().unwrap()
            {
                numbers.push(sequence);
            }
        }
        assert_eq!(numbers, [1, 2, 3, 4]);
    };
    tokio::join!(serve, events);
}

#[apply(test!)]
async fn clients_reconnect_to_a_server_that_was_killed_and_restarted() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let client = Client::new(server.url());
    let (chat, mut events) = client.chat("r", "ana").await.unwrap();
    let mut live = client.live(&[], &[]).await.unwrap();
    assert!(matches!(next(&mut events).await, ChatEvent::Joined { resumed: false, sequence: 1, .. }));
    assert_eq!(chat.say("before").await.unwrap(), 2);
    assert!(matches!(next(&mut events).await, ChatEvent::Message { sequence: 2, .. }));

    kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
    assert!(matches!(next(&mut events).await, ChatEvent::Disconnected { .. }));
    assert!(matches!(soon("an event", live.next()).await, Some(Ok(LiveEvent::Disconnected { .. }))));
    // This message is said while no server is running.
    let speaker = chat.clone();
    let said = tokio::spawn(async move { speaker.say("meanwhile").await });
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    // The new run starts counting from 1.
    let ChatEvent::Joined { resumed: false, sequence: 1, .. } = next(&mut events).await else {
        panic!("expected a new start");
    };
    assert_eq!(soon("a response", said).await.unwrap().unwrap(), 2);
    let ChatEvent::Message { sequence: 2, text, .. } = next(&mut events).await else { panic!("a message") };
    assert_eq!(text, "meanwhile");
    let again = soon("an event", live.next()).await.unwrap().unwrap();
    assert_eq!(again, LiveEvent::Resubscribed { same_server: false, recovered: 0, lost: 0 });
    assert_eq!(client.record(&[reading("a", Metric::Wind, 1.0)]).await.unwrap(), 1);
    assert!(matches!(soon("an event", live.next()).await, Some(Ok(LiveEvent::Reading { sequence: 1, .. }))));
    chat.leave().await;
    live.close().await;
    client.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn a_subscription_continues_after_a_cut_and_shows_what_it_missed() {
    let server = Local::start(limits()).await;
    let proxy = Proxy::start(server.addr.to_string()).await;
    let direct = Client::new(&server.url());
    let mut live = Client::new(&proxy.url).live(&["a"], &[]).await.unwrap();
    let record = async |value| direct.record(&[reading("a", Metric::Wind, value)]).await.unwrap();
    record(1.0).await;
    assert!(matches!(soon("a reading", live.next()).await, Some(Ok(LiveEvent::Reading { sequence: 1, .. }))));
    proxy.cut();
    assert!(matches!(soon("the cut", live.next()).await, Some(Ok(LiveEvent::Disconnected { .. }))));
    for value in 2..=6 {
        record(f64::from(value)).await;
    }
    proxy.mend();
    let again = soon("the return", live.next()).await.unwrap().unwrap();
    assert_eq!(again, LiveEvent::Resubscribed { same_server: true, recovered: 5, lost: 0 });
    record(7.0).await;
    for number in 2..=7 {
        let event = soon("a reading", live.next()).await.unwrap().unwrap();
        let expected = reading("a", Metric::Wind, number as f64);
        assert_eq!(event, LiveEvent::Reading { sequence: number, reading: expected });
    }
    live.close().await;
    direct.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn a_message_whose_response_was_lost_is_resent_and_stored_once() {
    let (fake, url) = Fake::start().await;
    let client = Client::new(&url);
    let serve = async {
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        assert_eq!((&join["token"], &join["after"]), (&Value::Null, &json!(0)));
        send(&mut socket, joined(&join, false, 1)).await;
        let first = request(&mut socket).await;
        send(&mut socket, message(5)).await;
        drop(socket); // The response is never sent.
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        assert_eq!((&join["token"], &join["after"]), (&json!("t"), &json!(5)));
        send(&mut socket, joined(&join, true, 1)).await;
        let again = request(&mut socket).await;
        assert_eq!(first, again, "the client must resend the same message under its message_id");
        send(&mut socket, json!({"type": "said", "id": again["id"], "sequence": 4, "duplicate": true})).await;
        // Then another connection takes over for good.
        let close = CloseFrame { code: 4001.into(), reason: "over".into() };
        socket.send(Message::Close(Some(close))).await.unwrap();
    };
    let calls = async {
        let (chat, mut events) = client.chat("r", "ana").await.unwrap();
        assert_eq!(soon("a response", chat.say("once")).await.unwrap(), 4);
        let mut seen = Vec::new();
        let end = loop {
            match soon("an event", events.next()).await.unwrap() {
                Ok(event) => seen.push(event),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, Error::Closed { code: 4001, .. }), "{end}");
        assert!(events.next().await.is_none(), "the client must not fight for the name");
        assert!(matches!(chat.say("too late").await, Err(Error::Gone)));
        let kinds: Vec<bool> = seen.iter().map(|event| matches!(event, ChatEvent::Joined { .. })).collect();
        assert_eq!(kinds, [true, false, false, true], "{seen:?}");
    };
    tokio::join!(serve, calls);
}

#[apply(test!)]
async fn a_member_whose_name_was_taken_meanwhile_gets_an_error() {
    let server = Local::start(Limits { away: Duration::from_millis(50), ..limits() }).await;
    let proxy = Proxy::start(server.addr.to_string()).await;
    let (_chat, mut events) = Client::new(&proxy.url).chat("r", "ana").await.unwrap();
    assert!(matches!(next(&mut events).await, ChatEvent::Joined { .. }));
    proxy.cut();
    assert!(matches!(next(&mut events).await, ChatEvent::Disconnected { .. }));
    // Somebody else takes the name as soon as it is free.
    let mut other = Raw::open(server.addr, "/chat").await;
    let join = json!({"type": "join", "id": 1, "room": "r", "name": "ana"});
    while other.ask(join.clone()).await["type"] == "error" {
        tokio::task::yield_now().await;
    }
    proxy.mend();
    let end = soon("the end", events.next()).await.unwrap();
    assert!(matches!(end, Err(Error::Refused { code: ErrorCode::NameTaken, .. })), "{end:?}");
    assert!(events.next().await.is_none());
    server.stop().await;
}

/// A member that leaves doesn't wait for a server that is gone.
#[apply(test!)]
async fn leaving_works_without_a_server() {
    let server = Local::start(limits()).await;
    let proxy = Proxy::start(server.addr.to_string()).await;
    let client = Client::new(&proxy.url);
    let (chat, mut events) = client.chat("r", "ana").await.unwrap();
    let mut live = client.live(&[], &[]).await.unwrap();
    assert!(matches!(next(&mut events).await, ChatEvent::Joined { .. }));
    proxy.cut();
    assert!(matches!(next(&mut events).await, ChatEvent::Disconnected { .. }));
    assert!(matches!(soon("the cut", live.next()).await, Some(Ok(LiveEvent::Disconnected { .. }))));
    let speaker = chat.clone();
    let said = tokio::spawn(async move { speaker.say("to nobody").await });
    soon("to leave", chat.leave()).await;
    assert!(matches!(soon("a response", said).await.unwrap(), Err(Error::Gone)));
    assert!(soon("the end", events.next()).await.is_none());
    soon("to end", live.close()).await;
    server.stop().await;
}

/// This holds even if the member was away for so long that the server removed it from the room.
#[apply(test!)]
async fn a_member_that_was_away_for_a_long_time_is_shown_everything_it_missed() {
    let server = Local::start(Limits { away: Duration::from_millis(50), ..limits() }).await;
    let proxy = Proxy::start(server.addr.to_string()).await;
    let (chat, mut at_ana) = Client::new(&proxy.url).chat("r", "ana").await.unwrap();
    assert!(matches!(next(&mut at_ana).await, ChatEvent::Joined { .. }));
    let (ben, mut at_ben) = Client::new(&server.url()).chat("r", "ben").await.unwrap();
    assert!(matches!(next(&mut at_ana).await, ChatEvent::Presence { sequence: 2, .. }));
    proxy.cut();
    assert!(matches!(next(&mut at_ana).await, ChatEvent::Disconnected { .. }));
    assert!(matches!(next(&mut at_ben).await, ChatEvent::Joined { .. }));
    assert!(matches!(next(&mut at_ben).await, ChatEvent::Presence { sequence: 3, change: Change::Left, .. }));
    for number in 0..150 {
        ben.say(&number.to_string()).await.unwrap();
    }
    proxy.mend();
    assert!(matches!(next(&mut at_ana).await, ChatEvent::Joined { resumed: true, .. }));
    assert!(matches!(next(&mut at_ana).await, ChatEvent::Presence { sequence: 3, change: Change::Left, .. }));
    for number in 0..150 {
        let ChatEvent::Message { sequence, text, .. } = next(&mut at_ana).await else { panic!("a message") };
        assert_eq!((sequence, text), (4 + number, number.to_string()));
    }
    assert_eq!(soon("a response", chat.say("back")).await.unwrap(), 155);
    chat.leave().await;
    ben.leave().await;
    server.stop().await;
}

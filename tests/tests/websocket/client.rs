//! The typed client when things fail: servers that die, fall silent, come back.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, test};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Lines, copy_bidirectional,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use websocket::Limits;
use websocket::Metric;
use websocket::client::{ChatEvent, ChatEvents, Client, Error, LiveEvent};
use websocket::limits::Timeouts;
use websocket::protocol::message::{Change, ErrorCode};

use crate::PAIR;
use crate::live::reading;
use crate::local::{Local, Raw, limits, soon};

/// Stands between a client and a server, and can be cut.
pub struct Proxy {
    pub url: String,
    up: Arc<AtomicBool>,
    cuts: watch::Sender<u64>,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (up, cuts) = (Arc::new(AtomicBool::new(true)), watch::Sender::new(0));
        let (is_up, subscribe) = (up.clone(), cuts.clone());
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                if !is_up.load(Ordering::SeqCst) {
                    continue; // Closed at once.
                }
                let (target, mut cut) = (target.clone(), subscribe.subscribe());
                tokio::spawn(async move {
                    let Ok(mut server) = TcpStream::connect(target).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { url, up, cuts }
    }

    /// Breaks all connections; those to come are broken as well until [`Proxy::mend`].
    pub fn cut(&self) {
        self.up.store(false, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    pub fn mend(&self) {
        self.up.store(true, Ordering::SeqCst);
    }
}

/// A server that does what the test tells it.
pub struct Fake(TcpListener);

impl Fake {
    pub async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    pub async fn accept(&self) -> WebSocketStream<TcpStream> {
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let agree = |_request: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", "weather.v1.json".parse().unwrap());
            Ok(response)
        };
        let (stream, _) = soon("a connection", self.0.accept()).await.unwrap();
        tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap()
    }
}

pub async fn request(socket: &mut WebSocketStream<TcpStream>) -> Value {
    let message = soon("a request", socket.next()).await.unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

async fn answer(socket: &mut WebSocketStream<TcpStream>, answer: Value) {
    socket.send(Message::text(answer.to_string())).await.unwrap();
}

async fn next(events: &mut ChatEvents) -> ChatEvent {
    soon("an event", events.next()).await.expect("an event, not the end").unwrap()
}

#[apply(test!)]
async fn a_call_whose_connection_breaks_fails_and_the_next_connects_again() {
    let (fake, url) = Fake::start().await;
    let client = Client::new(&url);
    let batch = [reading("a", Metric::Wind, 1.0)];
    let serve = async {
        let mut socket = fake.accept().await;
        request(&mut socket).await;
        drop(socket); // The request is in flight.
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        answer(&mut socket, json!({"type": "recorded", "id": 999_999, "accepted": 7})).await; // Nobody's.
        answer(&mut socket, json!({"type": "recorded", "id": id, "accepted": 1})).await;
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
async fn a_server_that_falls_silent_is_given_up() {
    let (fake, url) = Fake::start().await;
    let timeouts = Timeouts {
        heartbeat: Duration::from_millis(50),
        dead_after: Duration::from_millis(150),
        ..Timeouts::default()
    };
    let client = Client::with_timeouts(&url, timeouts);
    let batch = [reading("a", Metric::Wind, 1.0)];
    // It reads nothing, so that its library answers no ping.
    let (_silent, dead) = tokio::join!(fake.accept(), soon("a call", client.record(&batch)));
    assert!(matches!(&dead, Err(error @ Error::Dead) if error.may_have_been_executed()), "{dead:?}");
}

/// It answers each ping, and never the request.
#[apply(test!)]
async fn a_request_without_an_answer_times_out() {
    let (fake, url) = Fake::start().await;
    let answer = Duration::from_millis(50);
    let client = Client::with_timeouts(&url, Timeouts { answer, ..Timeouts::default() });
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
async fn a_handshake_without_an_answer_times_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timeouts = Timeouts { connect: Duration::from_millis(50), ..Timeouts::default() };
    let client = Client::with_timeouts(&format!("http://{}", listener.local_addr().unwrap()), timeouts);
    let (connection, result) = tokio::join!(listener.accept(), soon("a call", client.readings("a", 1)));
    let executed = result.as_ref().is_err_and(Error::may_have_been_executed);
    assert!(matches!(result, Err(Error::Unreachable { .. })) && !executed, "{result:?}");
    drop(connection);
}

/// Calls whose callers have given up make room for others.
#[apply(test!)]
async fn abandoned_calls_make_room_for_others() {
    let (fake, url) = Fake::start().await;
    let patient = Duration::from_millis(300);
    let client = Client::with_timeouts(&url, Timeouts { answer: patient, ..Timeouts::default() });
    let serve = async {
        let mut socket = fake.accept().await;
        loop {
            let request = request(&mut socket).await;
            if request["station"] == "answered" {
                answer(&mut socket, json!({"type": "readings", "id": request["id"], "readings": []})).await;
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

/// A full server is asked again, and events that were shown are not shown twice.
#[apply(test!)]
async fn a_member_waits_for_a_place_and_sees_nothing_twice() {
    let (fake, url) = Fake::start().await;
    let joined = |request: &Value, resumed: bool| {
        json!({"type": "joined", "id": request["id"], "room": "r", "name": "ana", "boot_id": "b", "token": "t",
            "resumed": resumed, "sequence": 7, "present": ["ana"]})
    };
    let message = |sequence: u64| {
        json!({"type": "message", "room": "r", "sequence": sequence, "name": "ben", "message_id": "x",
            "text": "hi", "sent_at": 0})
    };
    let serve = async {
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        answer(&mut socket, joined(&join, false)).await;
        answer(&mut socket, message(5)).await;
        drop(socket);
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        answer(&mut socket, json!({"type": "error", "id": id, "code": "full", "reason": "full"})).await;
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        answer(&mut socket, joined(&join, true)).await;
        for sequence in [4, 5, 6] {
            answer(&mut socket, message(sequence)).await;
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

/// The client bounds how much waits for the server: calls, and messages in a room.
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

    let serve = async {
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        let joined = json!({"type": "joined", "id": id, "room": "r", "name": "ana", "boot_id": "b", "token": "t",
            "resumed": false, "sequence": 1, "present": ["ana"]});
        answer(&mut socket, joined).await;
        socket
    };
    let (mut socket, joined) = tokio::join!(serve, client.chat("r", "ana"));
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

/// An accepted connection alone is not progress, so the pauses grow.
#[apply(test!)]
async fn a_server_that_closes_at_once_is_asked_less_and_less_often() {
    let reconnects = async |is_chat: bool| {
        let (fake, url) = Fake::start().await;
        let agree = async || {
            let mut socket = fake.accept().await;
            let id = request(&mut socket).await["id"].clone();
            let agreed = match is_chat {
                true => json!({"type": "joined", "id": id, "room": "r", "name": "ana", "boot_id": "b",
                    "token": "t", "resumed": true, "sequence": 1, "present": ["ana"]}),
                false => {
                    json!({"type": "subscribed", "id": id, "boot_id": "b", "stations": [], "recorded": 0})
                }
            };
            answer(&mut socket, agreed).await;
        };
        let client = Client::new(&url);
        let (mut chat, mut live) = (None, None);
        match is_chat {
            true => chat = Some(tokio::join!(agree(), client.chat("r", "ana")).1.unwrap()),
            false => live = Some(tokio::join!(agree(), client.live(&[], &[])).1.unwrap()),
        }
        let started = Instant::now();
        for _ in 0..4 {
            agree().await;
        }
        // 100, 200, 400, and 800 ms, and a random part.
        assert!(started.elapsed() >= Duration::from_millis(1500), "after {:?}", started.elapsed());
        drop((chat, live));
    };
    tokio::join!(reconnects(true), reconnects(false));
}

/// Readings that arrive while the client reads back may also be among those read back.
#[apply(test!)]
async fn a_reading_that_was_read_back_is_not_shown_twice() {
    let (fake, url) = Fake::start().await;
    let numbered = |sequence: u64| json!({"sequence": sequence, "station": "a", "metric": "wind", "value": 1.0, "recorded_at": 0});
    let live_reading = |sequence: u64| {
        let mut message = numbered(sequence);
        message["type"] = json!("reading");
        message
    };
    let subscribed = async |recorded: u64, stations: Value| {
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        let agreed = json!({"type": "subscribed", "id": id, "boot_id": "b", "stations": stations, "recorded": recorded});
        answer(&mut socket, agreed).await;
        socket
    };
    let serve = async {
        let mut first = subscribed(0, json!([])).await;
        answer(&mut first, live_reading(1)).await;
        drop(first);
        let mut second = subscribed(2, json!(["a"])).await;
        answer(&mut second, live_reading(3)).await;
        let mut read_back = fake.accept().await;
        let id = request(&mut read_back).await["id"].clone();
        let readings = json!([numbered(1), numbered(2), numbered(3)]);
        answer(&mut read_back, json!({"type": "readings", "id": id, "readings": readings})).await;
        answer(&mut second, live_reading(4)).await;
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
async fn clients_come_back_to_a_server_that_was_killed_and_restarted() {
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
    // Said while there is no server.
    let speaker = chat.clone();
    let said = tokio::spawn(async move { speaker.say("meanwhile").await });
    drop(server);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    // A new run counts from 1 again.
    let ChatEvent::Joined { resumed: false, sequence: 1, .. } = next(&mut events).await else {
        panic!("joined anew");
    };
    assert_eq!(soon("an answer", said).await.unwrap().unwrap(), 2);
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
async fn a_subscription_that_was_cut_goes_on_and_shows_what_it_missed() {
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
async fn a_message_whose_answer_was_lost_is_sent_again_and_stored_once() {
    let (fake, url) = Fake::start().await;
    let client = Client::new(&url);
    let joined = |request: &Value, resumed: bool| {
        json!({"type": "joined", "id": request["id"], "room": "r", "name": "ana", "boot_id": "b", "token": "t",
            "resumed": resumed, "sequence": 1, "present": ["ana"]})
    };
    let serve = async {
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        assert_eq!((&join["token"], &join["after"]), (&Value::Null, &json!(0)));
        answer(&mut socket, joined(&join, false)).await;
        let first = request(&mut socket).await;
        answer(
            &mut socket,
            json!({"type": "message", "room": "r", "sequence": 5, "name": "ben",
            "message_id": "x", "text": "hi", "sent_at": 0}),
        )
        .await;
        drop(socket); // Before the answer.
        let mut socket = fake.accept().await;
        let join = request(&mut socket).await;
        assert_eq!((&join["token"], &join["after"]), (&json!("t"), &json!(5)));
        answer(&mut socket, joined(&join, true)).await;
        let again = request(&mut socket).await;
        assert_eq!(first, again, "the same message under the same message_id");
        answer(&mut socket, json!({"type": "said", "id": again["id"], "sequence": 4, "duplicate": true}))
            .await;
        // And then somebody takes over for good.
        let close = CloseFrame { code: 4001.into(), reason: "over".into() };
        socket.send(Message::Close(Some(close))).await.unwrap();
    };
    let calls = async {
        let (chat, mut events) = client.chat("r", "ana").await.unwrap();
        assert_eq!(soon("an answer", chat.say("once")).await.unwrap(), 4);
        let mut seen = Vec::new();
        let end = loop {
            match soon("an event", events.next()).await.unwrap() {
                Ok(event) => seen.push(event),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, Error::Closed { code: 4001, .. }), "{end}");
        assert!(events.next().await.is_none(), "it does not fight for the name");
        assert!(matches!(chat.say("too late").await, Err(Error::Gone)));
        let kinds: Vec<bool> = seen.iter().map(|event| matches!(event, ChatEvent::Joined { .. })).collect();
        assert_eq!(kinds, [true, false, false, true], "{seen:?}");
    };
    tokio::join!(serve, calls);
}

#[apply(test!)]
async fn who_lost_the_name_meanwhile_is_told() {
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

/// A member can leave without waiting for a server that is gone.
#[apply(test!)]
async fn leaving_works_without_a_server_too() {
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
    assert!(matches!(soon("an answer", said).await.unwrap(), Err(Error::Gone)));
    assert!(soon("the end", events.next()).await.is_none());
    soon("to end", live.close()).await;
    server.stop().await;
}

/// Even a member that was away for so long that it has left is shown what it missed.
#[apply(test!)]
async fn who_was_away_for_long_is_shown_everything_as_well() {
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
    assert_eq!(soon("an answer", chat.say("back")).await.unwrap(), 155);
    chat.leave().await;
    ben.leave().await;
    server.stop().await;
}

#[apply(test!)]
async fn in_the_terminal_lines_are_messages_and_the_end_of_input_leaves() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let (ben, mut at_ben) = client.chat("lobby", "ben").await.unwrap();
    next(&mut at_ben).await;
    let mut terminal = Command::new(PAIR.client)
        .args(["chat", "--name", "ana", "--url", server.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut keyboard = terminal.stdin.take().unwrap();
    let mut screen = BufReader::new(terminal.stdout.take().unwrap()).lines();
    let mut shown = async || soon("a line", screen.next_line()).await.unwrap().unwrap();

    assert_eq!(shown().await, "* joined; here are ana, ben");
    let joined = ChatEvent::Presence { sequence: 2, name: "ana".to_owned(), change: Change::Joined };
    assert_eq!(next(&mut at_ben).await, joined);
    ben.say("hello ana").await.unwrap();
    next(&mut at_ben).await;
    assert_eq!(shown().await, "3  ben: hello ana");
    keyboard.write_all("hello ben\n\n/who\n".as_bytes()).await.unwrap();
    let mut lines = [shown().await, shown().await];
    lines.sort();
    assert_eq!(lines, ["* here are ana, ben", "4  ana: hello ben"]);
    let ChatEvent::Message { text, .. } = next(&mut at_ben).await else { panic!("a message") };
    assert_eq!(text, "hello ben");
    // The last line is sent, although the input ends at once.
    keyboard.write_all("goodbye\n".as_bytes()).await.unwrap();
    drop(keyboard);
    let ChatEvent::Message { text, .. } = next(&mut at_ben).await else { panic!("a message") };
    assert_eq!(text, "goodbye");
    let left = ChatEvent::Presence { sequence: 6, name: "ana".to_owned(), change: Change::Left };
    assert_eq!(next(&mut at_ben).await, left);
    assert!(soon("the end", terminal.wait()).await.unwrap().success());
    ben.leave().await;
    client.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn the_live_client_shows_readings_until_it_is_interrupted() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let mut terminal = Command::new(PAIR.client)
        .args(["live", "--station", "a", "--metric", "wind", "--url", server.url()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut screen = BufReader::new(terminal.stdout.take().unwrap()).lines();
    // Once the first reading is shown, the client has subscribed.
    let shown = tokio::spawn(async move { (screen.next_line().await.unwrap().unwrap(), screen) });
    while !shown.is_finished() {
        client
            .record(&[reading("a", Metric::Temperature, 1.0), reading("a", Metric::Wind, 7.2)])
            .await
            .unwrap();
    }
    let (line, mut screen) = shown.await.unwrap();
    assert_eq!(line, r#"{"station":"a","metric":"wind","value":7.2,"recorded_at":1767225600000}"#);
    // While readings still come.
    let recording =
        tokio::spawn(async move { while client.record(&[reading("a", Metric::Wind, 7.2)]).await.is_ok() {} });
    kill(Pid::from_raw(terminal.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    while soon("the rest", screen.next_line()).await.unwrap().is_some() {}
    assert!(soon("the end", terminal.wait()).await.unwrap().success());
    recording.abort();
    server.stop().await;
}

/// Text from the server cannot control the screen.
#[apply(test!)]
async fn the_terminal_client_shows_no_control_characters() {
    let (fake, url) = Fake::start().await;
    let mut terminal = Command::new(PAIR.client)
        .args(["chat", "--name", "ana", "--url", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut socket = fake.accept().await;
    let id = request(&mut socket).await["id"].clone();
    answer(
        &mut socket,
        json!({"type": "joined", "id": id, "room": "r", "name": "ana", "boot_id": "b",
        "token": "t", "resumed": false, "sequence": 1, "present": ["a\u{1b}[2J"]}),
    )
    .await;
    answer(
        &mut socket,
        json!({"type": "message", "room": "r", "sequence": 2, "name": "b\u{7}",
        "message_id": "x", "text": "\u{1b}[2Jgone\u{9b}", "sent_at": 0}),
    )
    .await;
    let mut screen = BufReader::new(terminal.stdout.take().unwrap()).lines();
    for expected in [r"* joined; here are a\u001b[2J", r"2  b\u0007: \u001b[2Jgone\u009b"] {
        assert_eq!(soon("a line", screen.next_line()).await.unwrap().unwrap(), expected);
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap().into());
    }
    head
}

/// Accepts one connection and sends this as the response to its handshake. Returns whether the
/// client then closed the connection without sending another byte.
async fn answer_handshake(listener: &TcpListener, lines: &str) -> bool {
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    let head = read_head(&mut stream).await;
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let lines = lines.replace("ACCEPT", &derive_accept_key(key.as_bytes()));
    stream.write_all(format!("HTTP/1.1 101 Switching Protocols\r\n{lines}\r\n").as_bytes()).await.unwrap();
    soon("the end", stream.read(&mut [0])).await.is_ok_and(|count| count == 0)
}

/// RFC 6455, section 4.1: a client fails the connection.
#[apply(test!)]
async fn a_server_that_selects_what_was_not_offered_is_refused() {
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
        let (closed, result) = tokio::join!(answer_handshake(&listener, &lines), client.readings("a", 1));
        assert!(matches!(result, Err(Error::Handshake(_))), "{lines} {result:?}");
        assert!(closed, "{lines}");
    }
    // A correct response, and with other upper and lower case, is accepted.
    let client = Client::new(&url);
    let lines = good.replace("Upgrade: websocket", "UPGRADE: WebSocket");
    let (closed, _) = tokio::join!(answer_handshake(&listener, &lines), client.readings("a", 1));
    assert!(!closed, "it sends a request");
}

/// Runs a command against a fake server that answers `record` and `readings` with text
/// that a terminal would obey. Returns what it printed.
async fn printed_from_a_hostile_server(args: &[&str]) -> String {
    const HOSTILE: &str = "a\u{1b}[2J\u{7}\r\u{9b}2J\u{202e}b";
    let (fake, url) = Fake::start().await;
    let serve = tokio::spawn(async move {
        let mut socket = fake.accept().await;
        let mut recorded = 0;
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let request: Value = serde_json::from_str(&text).unwrap();
            let id = &request["id"];
            let reading =
                json!({"sequence": 1, "station": HOSTILE, "metric": "wind", "value": 1, "recorded_at": 0});
            let message = match request["type"].as_str().unwrap() {
                "record" if recorded == 0 => json!({"type": "recorded", "id": id, "accepted": 2}),
                "readings" if request["station"] != "refused" => {
                    json!({"type": "readings", "id": id, "readings": [reading]})
                }
                _ => json!({"type": "error", "id": id, "code": "invalid", "reason": HOSTILE}),
            };
            recorded += 1;
            answer(&mut socket, message).await;
        }
    });
    let output = tests::run_program(PAIR.client, &[args, &["--url", &url]].concat()).await;
    serve.abort();
    let printed = output.stdout + &output.stderr;
    let hostile = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!printed.contains(hostile), "{args:?} {printed:?}");
    printed
}

#[apply(test!)]
async fn nothing_that_a_server_sends_reaches_the_terminal_raw() {
    let escaped = r"a\u001b[2J\u0007\r\u009b2J\u202eb";
    let tour = printed_from_a_hostile_server(&[]).await;
    assert!(tour.contains(&format!(r#"   {{"station":"{escaped}","#)), "{tour}");
    assert!(tour.contains(&format!("   error: {escaped}\n")), "{tour}");
    let readings = printed_from_a_hostile_server(&["readings", "a"]).await;
    assert!(readings.starts_with(&format!(r#"{{"station":"{escaped}","#)), "{readings}");
    let refused = printed_from_a_hostile_server(&["readings", "refused"]).await;
    assert_eq!(refused, format!("error: {escaped}\n"));
}

/// The lines of a program's stdout or stderr.
fn lines<T: AsyncRead + Unpin>(from: &mut Option<T>) -> Lines<BufReader<T>> {
    BufReader::new(from.take().unwrap()).lines()
}

async fn line<T: AsyncRead + Unpin>(lines: &mut Lines<BufReader<T>>) -> String {
    soon("a line", lines.next_line()).await.unwrap().expect("a line, not the end")
}

fn terminal(args: &[&str], url: &str) -> Child {
    Command::new(PAIR.client)
        .args(args)
        .args(["--url", url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[apply(test!)]
async fn live_in_the_terminal_reconnects_and_says_what_was_missed() {
    let server = Local::start(limits()).await;
    let proxy = Proxy::start(server.addr.to_string()).await;
    let direct = Client::new(&server.url());
    let record = async |station: &str, count: usize, value: f64| {
        direct.record(&vec![reading(station, Metric::Wind, value); count]).await.unwrap();
    };
    record("old", 3, 1.0).await;
    let mut live = terminal(&["live", "--metric", "wind"], &proxy.url);
    let (mut screen, mut notes) = (lines(&mut live.stdout), lines(&mut live.stderr));
    let shown = |station: &str, value: &str| {
        format!(r#"{{"station":"{station}","metric":"wind","value":{value},"recorded_at":1767225600000}}"#)
    };
    // Once the first reading is shown, the client has subscribed.
    let first = tokio::spawn(async move { (line(&mut screen).await, screen) });
    while !first.is_finished() {
        record("a", 1, 2.0).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (first, mut screen) = first.await.unwrap();
    assert_eq!(first, shown("a", "2.0"));
    record("a", 1, 3.0).await;
    while line(&mut screen).await != shown("a", "3.0") {}

    let mut again = async || line(&mut notes).await;
    proxy.cut();
    let lost = again().await;
    assert!(lost.starts_with("connection lost: ") && lost.ends_with("; reconnecting"), "{lost}");
    proxy.mend();
    assert_eq!(again().await, "connected again; nothing was missed");

    // A known station and a new one.
    proxy.cut();
    assert!(again().await.starts_with("connection lost: "));
    record("a", 2, 4.0).await;
    direct.record(&[reading("new", Metric::Humidity, 50.0)]).await.unwrap(); // Not asked for.
    record("new", 1, 5.0).await;
    proxy.mend();
    assert_eq!(again().await, "connected again; here is what was missed");
    for (station, value) in [("a", "4.0"), ("a", "4.0"), ("new", "5.0")] {
        assert_eq!(line(&mut screen).await, shown(station, value));
    }

    // The client can't tell which readings of this station are older than its subscription.
    proxy.cut();
    assert!(again().await.starts_with("connection lost: "));
    record("old", 2, 6.0).await;
    proxy.mend();
    assert_eq!(again().await, "connected again; 2 readings were missed");

    // More than can be read back.
    proxy.cut();
    assert!(again().await.starts_with("connection lost: "));
    record("a", 600, 7.0).await;
    proxy.mend();
    assert_eq!(again().await, "connected again; here is what was missed, except for 100 readings");
    for _ in 0..500 {
        assert_eq!(line(&mut screen).await, shown("a", "7.0"));
    }
    record("a", 1, 8.0).await;
    assert_eq!(line(&mut screen).await, shown("a", "8.0"));

    kill(Pid::from_raw(live.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
    assert!(soon("the end", live.wait()).await.unwrap().success());
    direct.close().await;
    server.stop().await;
}

#[apply(test!)]
async fn a_restarted_server_is_noticed_in_the_terminal() {
    let server = PAIR.serve().await;
    let addr = server.addr().to_owned();
    let mut live = terminal(&["live"], server.url());
    let mut chat = terminal(&["chat", "--name", "ana"], server.url());
    let (mut live_notes, mut chat_notes) = (lines(&mut live.stderr), lines(&mut chat.stderr));
    let mut screen = lines(&mut chat.stdout);
    assert_eq!(line(&mut screen).await, "* joined; here are ana");
    server.has_printed("GET /live 101").await;
    server.stop().await;
    let lost =
        "connection lost: the server closed the connection with 1001: the server is stopping; reconnecting";
    assert_eq!(line(&mut live_notes).await, lost);
    assert_eq!(line(&mut chat_notes).await, lost);
    let server = Server::start(PAIR.server, &["--addr", &addr]).await;
    assert_eq!(
        line(&mut live_notes).await,
        "connected again; the server restarted and has forgotten earlier readings"
    );
    assert_eq!(
        line(&mut chat_notes).await,
        "connected again; the server restarted and has forgotten earlier messages"
    );
    assert_eq!(line(&mut screen).await, "* here are ana");
    for program in [&mut live, &mut chat] {
        kill(Pid::from_raw(program.id().unwrap().cast_signed()), Signal::SIGINT).unwrap();
        assert!(soon("the end", program.wait()).await.unwrap().success());
    }
    server.stop().await;
}

/// An error that a new connection can't fix ends the program.
#[apply(test!)]
async fn live_ends_when_reconnecting_cannot_help() {
    let rejections = [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        "220 mail.example ESMTP\r\n",
    ];
    for (index, rejection) in rejections.into_iter().enumerate() {
        let (fake, url) = Fake::start().await;
        let command: &[&str] = if index == 1 { &["chat", "--name", "ana"] } else { &["live"] };
        let mut program = terminal(command, &url);
        let mut notes = lines(&mut program.stderr);
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        let agreed = match index {
            1 => {
                json!({"type": "joined", "id": id, "room": "lobby", "name": "ana", "boot_id": "b", "token": "t",
                "resumed": false, "sequence": 1, "present": ["ana"]})
            }
            _ => json!({"type": "subscribed", "id": id, "boot_id": "b", "stations": [], "recorded": 0}),
        };
        answer(&mut socket, agreed).await;
        drop(socket);
        // A server that is only busy is asked again.
        for response in ["HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n", "", rejection] {
            let (mut stream, _) = soon("a connection", fake.0.accept()).await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(response.as_bytes()).await.unwrap();
        }
        assert!(line(&mut notes).await.starts_with("connection lost: "));
        let end = line(&mut notes).await;
        assert!(end.starts_with("error: the handshake failed: "), "{end}");
        assert_eq!(soon("the end", program.wait()).await.unwrap().code(), Some(1));
    }
}

/// `client … | head -1`.
#[apply(test!)]
async fn a_reader_that_has_seen_enough_ends_the_program_silently() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let batch = vec![reading("a", Metric::Wind, 1.0); 500];
    client.record(&batch).await.unwrap();
    for command in [&[][..], &["readings", "a", "--limit", "500"], &["live"], &["chat", "--name", "ana"]] {
        let mut program = terminal(command, server.url());
        let stdout = program.stdout.take();
        // `live` shows nothing until something is recorded, and `chat` until somebody speaks.
        let busy = tokio::spawn({
            let (client, batch) = (client.clone(), batch[..1].to_vec());
            async move {
                let (chat, mut events) = client.chat("lobby", "ben").await.unwrap();
                tokio::spawn(async move { while events.next().await.is_some() {} });
                loop {
                    client.record(&batch).await.unwrap();
                    chat.say("hello").await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
        let mut stdout = lines(&mut { stdout });
        line(&mut stdout).await;
        drop(stdout);
        let ended = soon("the end", program.wait_with_output()).await.unwrap();
        busy.abort();
        assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), &b""[..]), "{command:?}");
    }
    client.close().await;
    server.stop().await;
}

/// The first Ctrl-C starts a close handshake, which this server never completes.
#[apply(test!)]
async fn a_second_ctrl_c_ends_the_programs_at_once() {
    for command in [&["live"][..], &["chat", "--name", "ana"]] {
        let (fake, url) = Fake::start().await;
        let mut program = terminal(command, &url);
        let mut socket = fake.accept().await;
        let id = request(&mut socket).await["id"].clone();
        let agreed = match command[0] {
            "live" => json!({"type": "subscribed", "id": id, "boot_id": "b", "stations": [], "recorded": 0}),
            _ => {
                json!({"type": "joined", "id": id, "room": "lobby", "name": "ana", "boot_id": "b", "token": "t",
                "resumed": false, "sequence": 1, "present": ["ana"]})
            }
        };
        answer(&mut socket, agreed).await;
        let reading = json!({"type": "reading", "sequence": 1, "station": "a", "metric": "wind", "value": 1, "recorded_at": 0});
        answer(&mut socket, reading).await;
        let message = json!({"type": "message", "room": "lobby", "sequence": 2, "name": "b", "message_id": "x", "text": "x", "sent_at": 0});
        answer(&mut socket, message).await;
        let mut screen = lines(&mut program.stdout);
        line(&mut screen).await; // By now the signal handlers are installed.
        interrupt_twice(&mut program).await;
    }
    let server = PAIR.serve().await;
    let _holds_on = Raw::open(server.addr().parse().unwrap(), "/chat").await;
    let pid = Pid::from_raw(server.pid().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    server.has_printed("stopping").await;
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(server.exit_code().await, Some(130));
}

async fn interrupt_twice(program: &mut Child) {
    let pid = Pid::from_raw(program.id().unwrap().cast_signed());
    kill(pid, Signal::SIGINT).unwrap();
    // Two signals in a row may be merged into one by the kernel.
    let again = async {
        loop {
            if let Ok(ended) = timeout(Duration::from_millis(20), program.wait()).await {
                return ended.unwrap();
            }
            let _ = kill(pid, Signal::SIGINT);
        }
    };
    assert_eq!(soon("the end", again).await.code(), Some(130));
}

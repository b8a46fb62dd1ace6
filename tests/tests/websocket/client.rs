//! The typed client when things fail: servers that die, fall silent, come back.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::Server;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use websocket::client::{ChatEvent, ChatEvents, Client, Error, LiveEvent, Timeouts};
use websocket::limits::Limits;
use websocket::message::{Change, ErrorCode};
use websocket::model::Metric;

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
struct Fake(TcpListener);

impl Fake {
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        (Self(listener), url)
    }

    async fn accept(&self) -> WebSocketStream<TcpStream> {
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let agree = |_request: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", "weather.v1.json".parse().unwrap());
            Ok(response)
        };
        let (stream, _) = soon("a connection", self.0.accept()).await.unwrap();
        tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap()
    }
}

async fn request(socket: &mut WebSocketStream<TcpStream>) -> Value {
    let message = soon("a request", socket.next()).await.unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

async fn answer(socket: &mut WebSocketStream<TcpStream>, answer: Value) {
    socket.send(Message::text(answer.to_string())).await.unwrap();
}

async fn next(events: &mut ChatEvents) -> ChatEvent {
    soon("an event", events.next()).await.expect("an event, not the end").unwrap()
}

pub async fn a_call_whose_connection_breaks_fails_and_the_next_connects_again() {
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
        assert!(matches!(broken, Err(Error::Broken(_))), "{broken:?}");
        assert_eq!(soon("a call", client.record(&batch)).await.unwrap(), 1);
    };
    tokio::join!(serve, calls);
}

pub async fn a_server_that_falls_silent_is_given_up() {
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
    assert!(matches!(dead, Err(Error::Dead)), "{dead:?}");
}

/// It answers each ping, and never the request.
pub async fn a_request_without_an_answer_times_out() {
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
        assert!(matches!(outcome, Err(Error::TimedOut(_))), "{outcome:?}");
        client.close().await;
    };
    tokio::join!(mute, call);
}

pub async fn a_server_that_does_not_speak_websocket_is_recognised() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&format!("http://{}", listener.local_addr().unwrap()));
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        stream
    };
    let (_stream, result) = tokio::join!(serve, client.readings("a", 1));
    assert!(matches!(result, Err(Error::Handshake(_))), "{result:?}");
}

pub async fn clients_come_back_to_a_server_that_was_killed_and_restarted() {
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

pub async fn a_subscription_that_was_cut_goes_on_and_shows_what_it_missed() {
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

pub async fn a_message_whose_answer_was_lost_is_sent_again_and_stored_once() {
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

pub async fn who_lost_the_name_meanwhile_is_told() {
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

/// Who wants to go does not have to wait for a server that is gone.
pub async fn leaving_works_without_a_server_too() {
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

/// Even one that was away for so long that it has left is shown what it missed.
pub async fn who_was_away_for_long_is_shown_everything_as_well() {
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

pub async fn in_the_terminal_lines_are_messages_and_the_end_of_input_leaves() {
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
    // What was typed last is said, although the input ends at once.
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

pub async fn the_live_client_shows_readings_until_it_is_interrupted() {
    let server = PAIR.serve().await;
    let client = Client::new(server.url());
    let mut terminal = Command::new(PAIR.client)
        .args(["live", "--station", "a", "--metric", "wind", "--url", server.url()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut screen = BufReader::new(terminal.stdout.take().unwrap()).lines();
    // It has subscribed when the first one is shown.
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

/// The server is not trusted with the screen.
pub async fn the_terminal_client_shows_no_control_characters() {
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

//! Rooms: the order of events, takeover and resume, and the limits.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{apply, test};
use websocket::Limits;

use crate::local::{Local, Raw, TEXT, frame, limits};

/// Joins a room and returns the response.
pub async fn join(raw: &mut Raw, room: &str, name: &str) -> Value {
    raw.ask(json!({"type": "join", "id": 1, "room": room, "name": name})).await
}

pub async fn say(raw: &mut Raw, id: u64, text: &str) -> Value {
    raw.ask(json!({"type": "say", "id": id, "room": "r", "message_id": format!("m{id}"), "text": text})).await
}

/// Opens a connection and joins room `r`. Returns the response, too.
pub async fn member(server: &Local, name: &str) -> (Raw, Value) {
    let mut raw = Raw::open(server.addr, "/chat").await;
    let joined = join(&mut raw, "r", name).await;
    assert_eq!(joined["type"], "joined", "{joined}");
    (raw, joined)
}

/// `after` says what the client has seen, but a client may claim anything.
#[apply(test!)]
async fn a_client_that_claims_a_future_number_still_gets_the_next_event() {
    let server = Local::start(limits()).await;
    let (mut ana, joined) = member(&server, "ana").await;
    let (mut ben, _) = member(&server, "ben").await;
    assert_eq!(ana.json().await["sequence"], 2);
    let mut after = vec![3, 1000, u64::MAX - 1, u64::MAX];
    after.reverse();
    while let Some(after) = after.pop() {
        let mut again = Raw::open(server.addr, "/chat").await;
        let join = json!({"type": "join", "id": 1, "room": "r", "name": "ana", "token": joined["token"], "after": after});
        assert_eq!(again.ask(join).await["resumed"], true);
        let sequence = say(&mut ben, after % 1000, &after.to_string()).await["sequence"].clone();
        let message = again.json().await;
        assert_eq!((&message["type"], &message["sequence"]), (&json!("message"), &sequence), "{after}");
        // The same holds without a token, for a client that has not been in the room.
        let mut carl = Raw::open(server.addr, "/chat").await;
        let join = json!({"type": "join", "id": 1, "room": "r", "name": "carl", "boot_id": joined["boot_id"], "after": after});
        assert_eq!(carl.ask(join).await["resumed"], true);
        assert_eq!(carl.json().await["name"], "carl");
        assert_eq!(carl.ask(json!({"type": "leave", "id": 2, "room": "r"})).await["type"], "left");
    }
    server.stop().await;
}

/// A member that has seen nothing yet, but whose first event is still in the room, missed nothing.
#[apply(test!)]
async fn a_member_that_needs_the_oldest_event_is_not_told_of_a_gap() {
    let server = Local::start(limits()).await;
    let (_ana, joined) = member(&server, "ana").await;
    let mut again = Raw::open(server.addr, "/chat").await;
    let join =
        json!({"type": "join", "id": 1, "room": "r", "name": "ana", "token": joined["token"], "after": 0});
    assert_eq!(again.ask(join).await["resumed"], true);
    let first = again.json().await;
    assert_eq!((&first["type"], &first["sequence"]), (&json!("presence"), &json!(1)), "{first}");
    server.stop().await;
}

#[apply(test!)]
async fn the_limits_on_rooms_are_enforced() {
    let server = Local::start(limits()).await;
    let mut first = Raw::open(server.addr, "/chat").await;
    for room in 0..8 {
        assert_eq!(join(&mut first, &format!("room-{room}"), "ana").await["type"], "joined");
    }
    assert_eq!(join(&mut first, "room-8", "ana").await["code"], "full");
    // Somebody is in each of the hundred rooms.
    let mut others = Vec::new();
    for start in (8..100).step_by(8) {
        let mut raw = Raw::open(server.addr, "/chat").await;
        for room in start..(start + 8).min(100) {
            assert_eq!(join(&mut raw, &format!("room-{room}"), "ana").await["type"], "joined");
        }
        others.push(raw);
    }
    let mut last = Raw::open(server.addr, "/chat").await;
    assert_eq!(join(&mut last, "one-more", "ana").await["code"], "full");
    // A new room replaces an empty one.
    assert_eq!(first.ask(json!({"type": "leave", "id": 2, "room": "room-3"})).await["type"], "left");
    assert_eq!(join(&mut last, "one-more", "ana").await["type"], "joined");
    server.stop().await;
}

#[apply(test!)]
async fn a_room_holds_a_thousand_members_including_absent_ones() {
    let server = Local::start(Limits { away: Duration::from_secs(600), ..limits() }).await;
    for number in 0..1000 {
        let mut raw = Raw::open(server.addr, "/chat").await;
        let joined = join(&mut raw, "r", &format!("member-{number}-")).await;
        assert_eq!(joined["type"], "joined", "{number} {joined}");
    }
    let mut raw = Raw::open(server.addr, "/chat").await;
    let refused = join(&mut raw, "r", "one-more").await;
    assert_eq!(
        (&refused["code"], &refused["reason"]),
        (&json!("full"), &json!("a room holds at most 1000 members"))
    );
    server.stop().await;
}

#[apply(test!)]
async fn a_newcomer_is_shown_the_last_hundred_messages() {
    let server = Local::start(limits()).await;
    let (mut ana, _) = member(&server, "ana").await;
    for number in 0..120 {
        say(&mut ana, 100 + number, &number.to_string()).await;
    }
    let (mut ben, joined) = member(&server, "ben").await;
    assert_eq!(joined["sequence"], 122); // Two joined, and 120 messages were said.
    for number in 20..120 {
        let message = ben.json().await;
        assert_eq!((&message["type"], &message["text"]), (&json!("message"), &json!(number.to_string())));
        assert_eq!(message["sequence"], number + 2);
    }
    say(&mut ana, 999, "now").await;
    let now = ben.json().await;
    assert_eq!((&now["text"], &now["sequence"], &now["name"]), (&json!("now"), &json!(123), &json!("ana")));
    server.stop().await;
}

#[apply(test!)]
async fn a_resent_message_is_stored_once() {
    let server = Local::start(limits()).await;
    let (mut ana, _) = member(&server, "ana").await;
    let (mut ben, _) = member(&server, "ben").await;
    let first = say(&mut ana, 7, "once").await;
    assert_eq!(first, json!({"type": "said", "id": 7, "sequence": 3, "duplicate": false}));
    let again = say(&mut ana, 7, "once").await;
    assert_eq!(again, json!({"type": "said", "id": 7, "sequence": 3, "duplicate": true}));
    // Another member's message may have the same ID.
    assert_eq!(say(&mut ben, 7, "mine").await["sequence"], 4);
    let (mut carl, _) = member(&server, "carl").await;
    let history = [carl.json().await, carl.json().await].map(|message| message["text"].clone());
    assert_eq!(history, [json!("once"), json!("mine")]);
    server.stop().await;
}

#[apply(test!)]
async fn a_token_takes_over_the_name_and_brings_the_missed_events() {
    let server = Local::start(limits()).await;
    let (mut ana, joined) = member(&server, "ana").await;
    let (mut ben, _) = member(&server, "ben").await;
    assert_eq!(ana.json().await["sequence"], 2); // ben joined.
    say(&mut ben, 1, "one").await;
    // Her network fails, and nobody notices. Meanwhile, ben says something.
    say(&mut ben, 2, "two").await;
    let token = joined["token"].as_str().unwrap();
    let rejoin = |token: &str, after: u64| json!({"type": "join", "id": 1, "room": "r", "name": "ana", "token": token, "after": after});
    let mut again = Raw::open(server.addr, "/chat").await;
    assert_eq!(again.ask(rejoin("guess", 0)).await["code"], "name_taken");
    let back = again.ask(rejoin(token, 3)).await;
    assert_eq!((&back["resumed"], &back["sequence"]), (&json!(true), &json!(4)));
    assert_eq!(back["boot_id"], joined["boot_id"]);
    assert_eq!(again.json().await["text"], "two");
    // The old connection learns why it is closed.
    let (code, reason) = ana.closed().await;
    assert_eq!((code, reason.as_str()), (4001, "another connection took over this name"));
    // Nobody saw her leave or join: the number of the next event shows it.
    let said = say(&mut again, 5, "I am back").await;
    assert_eq!(said["sequence"], 5);
    server.stop().await;
}

#[apply(test!)]
async fn a_member_that_is_cut_off_keeps_its_name_for_a_while_and_then_leaves() {
    let server = Local::start(Limits { away: Duration::from_millis(300), ..limits() }).await;
    let (mut ana, _) = member(&server, "ana").await;
    let (ben, joined) = member(&server, "ben").await;
    assert_eq!(ana.json().await["name"], "ben");
    drop(ben.stream); // Without a close frame.
    let left = ana.json().await;
    assert_eq!((&left["name"], &left["change"]), (&json!("ben"), &json!("left")));
    // The old token no longer has any effect.
    let mut again = Raw::open(server.addr, "/chat").await;
    let token = &joined["token"];
    let mut join = json!({"type": "join", "id": 1, "room": "r", "name": "ben", "token": token, "after": 2});
    let back = again.ask(join.clone()).await;
    assert_eq!((&back["type"], &back["resumed"]), (&json!("joined"), &json!(false)));
    assert_ne!(back["token"], *token);
    // The missed events are still there for a client that gives the instance ID and `after`.
    join["room"] = json!("r2");
    join["boot_id"] = json!("another run");
    assert_eq!(again.ask(join.clone()).await["resumed"], false);
    (join["room"], join["name"], join["boot_id"]) = (json!("r"), json!("ben2"), joined["boot_id"].clone());
    let mut other = Raw::open(server.addr, "/chat").await;
    assert_eq!(other.ask(join).await["resumed"], true);
    for (sequence, name, change) in [(3, "ben", "left"), (4, "ben", "joined"), (5, "ben2", "joined")] {
        let event = other.json().await;
        assert_eq!(
            event,
            json!({"type": "presence", "room": "r", "sequence": sequence, "name": name, "change": change})
        );
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_member_that_comes_back_in_time_has_not_left() {
    // The server looks once a second for members that have been away for too long.
    let server = Local::start(Limits { away: Duration::from_secs(60), ..limits() }).await;
    let (ana, joined) = member(&server, "ana").await;
    let (mut ben, _) = member(&server, "ben").await;
    drop(ana);
    tokio::time::sleep(Duration::from_millis(1300)).await;
    let mut again = Raw::open(server.addr, "/chat").await;
    let back = again
        .ask(json!({"type": "join", "id": 1, "room": "r", "name": "ana", "token": joined["token"], "after": 2}))
        .await;
    assert_eq!((&back["token"], &back["sequence"]), (&joined["token"], &json!(2)), "{back}");
    say(&mut again, 1, "back").await;
    assert_eq!(ben.json().await["text"], "back", "nobody may see her leave");
    server.stop().await;
}

/// Such messages may still have been on their way when the takeover happened.
#[apply(test!)]
async fn messages_on_a_connection_that_was_taken_over_are_dropped() {
    let server = Local::start(limits()).await;
    let (ana, joined) = member(&server, "ana").await;
    let says: Vec<u8> = (0..5000)
        .flat_map(|number: u64| {
            let message_id = format!("old-{number}");
            let say =
                json!({"type": "say", "id": number, "room": "r", "message_id": message_id, "text": "old"});
            frame(TEXT, say.to_string().as_bytes())
        })
        .collect();
    let (mut reading, mut writing) = ana.stream.into_split();
    let speak = tokio::spawn(async move { tokio::io::AsyncWriteExt::write_all(&mut writing, &says).await });
    let mut first = [0; 1];
    // Once a byte comes back, the server is reading these messages.
    tokio::io::AsyncReadExt::read_exact(&mut reading, &mut first).await.unwrap();
    let listen = tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
    let mut again = Raw::open(server.addr, "/chat").await;
    let back = again
        .ask(json!({"type": "join", "id": 1, "room": "r", "name": "ana", "token": joined["token"], "after": u64::MAX}))
        .await;
    let _ = (speak.await, listen.await); // The server has closed this connection.
    let said = say(&mut again, 1, "new").await;
    assert_eq!(said["sequence"].as_u64(), back["sequence"].as_u64().map(|sequence| sequence + 1));
    server.stop().await;
}

/// If a room that was replaced counted from 1 again, a member who comes back would mistake new
/// events for old ones.
#[apply(test!)]
async fn a_room_that_is_created_again_continues_its_numbers() {
    let server = Local::start(limits()).await;
    let (mut ana, _) = member(&server, "ana").await;
    assert_eq!(say(&mut ana, 1, "hello").await["sequence"], 2);
    ana.ask(json!({"type": "leave", "id": 2, "room": "r"})).await; // This is event 3.
    // A hundred other rooms replace it.
    let mut others = Vec::new();
    for start in (0..99).step_by(8) {
        let mut raw = Raw::open(server.addr, "/chat").await;
        for room in start..(start + 8).min(99) {
            assert_eq!(join(&mut raw, &format!("room-{room}"), "ana").await["sequence"], 1);
        }
        others.push(raw);
    }
    let mut raw = Raw::open(server.addr, "/chat").await;
    assert_eq!(join(&mut raw, "room-99", "ana").await["sequence"], 4);
    raw.ask(json!({"type": "leave", "id": 3, "room": "room-99"})).await;
    assert_eq!(join(&mut raw, "r", "ana").await["sequence"], 6);
    server.stop().await;
}

#[apply(test!)]
async fn a_member_is_told_how_many_events_it_missed_beyond_the_buffer() {
    let server = Local::start(limits()).await;
    let (ben, joined) = member(&server, "ben").await;
    drop(ben.stream);
    let (ana, _) = member(&server, "ana").await;
    // While ben is away, ana sends 10,005 messages without waiting for responses. Meanwhile, the
    // test reads the responses; otherwise, neither side could continue.
    let mut bytes = Vec::new();
    for number in 0..10_005 {
        let say =
            json!({"type": "say", "id": number, "room": "r", "message_id": number.to_string(), "text": "x"});
        bytes.extend(frame(TEXT, say.to_string().as_bytes()));
    }
    let (reading, mut writing) = ana.stream.into_split();
    let write = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &bytes).await.unwrap();
        writing
    });
    let mut reading = tokio::io::BufReader::new(reading);
    let mut answered = 0;
    while answered < 10_005 {
        let mut head = [0; 2];
        tokio::io::AsyncReadExt::read_exact(&mut reading, &mut head).await.unwrap();
        let mut length = u64::from(head[1]);
        if length == 126 {
            length = u64::from(tokio::io::AsyncReadExt::read_u16(&mut reading).await.unwrap());
        }
        let mut payload = vec![0; length as usize];
        tokio::io::AsyncReadExt::read_exact(&mut reading, &mut payload).await.unwrap();
        answered += usize::from(payload.starts_with(br#"{"type":"said""#));
    }
    let mut writing = write.await.unwrap();
    // The room forgets the ID of a message together with its event. A resend is then a new message.
    let forgotten = json!({"type": "say", "id": 0, "room": "r", "message_id": "0", "text": "x"}).to_string();
    let remembered = json!({"type": "say", "id": 0, "room": "r", "message_id": "9", "text": "x"}).to_string();
    for (say, expected) in [(remembered, "true"), (forgotten, "false")] {
        tokio::io::AsyncWriteExt::write_all(&mut writing, &frame(TEXT, say.as_bytes())).await.unwrap();
        let mut response = String::new();
        while !response.contains(r#""type":"said""#) {
            let mut head = [0; 2];
            tokio::io::AsyncReadExt::read_exact(&mut reading, &mut head).await.unwrap();
            assert!(head[1] < 126, "the message must be short");
            let mut payload = vec![0; head[1].into()];
            tokio::io::AsyncReadExt::read_exact(&mut reading, &mut payload).await.unwrap();
            response = String::from_utf8(payload).unwrap();
        }
        assert!(response.contains(&format!(r#""duplicate":{expected}"#)), "{response}");
    }
    let mut ben = Raw::open(server.addr, "/chat").await;
    let token = &joined["token"];
    let back = ben
        .ask(json!({"type": "join", "id": 1, "room": "r", "name": "ben", "token": token, "after": 1}))
        .await;
    assert_eq!((&back["resumed"], &back["sequence"]), (&json!(true), &json!(10_008)));
    // There are 10,007 events after the first, and the room keeps 10,000.
    assert_eq!(ben.json().await, json!({"type": "gap", "room": "r", "missed": 7}));
    for sequence in 9..=10_008 {
        assert_eq!(ben.json().await["sequence"], sequence);
    }
    server.stop().await;
}

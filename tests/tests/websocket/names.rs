//! Which names of members and rooms, and which texts of messages, the server accepts.

use serde_json::json;
use tests::{apply, test};

use crate::chat::{join, member, say};
use crate::local::{CLOSE, Local, Raw, frame, limits};

#[apply(test!)]
async fn names_are_unique_in_a_room_and_changes_are_announced() {
    let server = Local::start(limits()).await;
    let (mut ana, joined) = member(&server, "ana").await;
    assert_eq!(joined["present"], json!(["ana"]));
    assert_eq!(joined["resumed"], false);
    let mut ben = Raw::open(server.addr, "/chat").await;
    let refused = join(&mut ben, "r", "ana").await;
    assert_eq!((&refused["type"], &refused["code"]), (&json!("error"), &json!("name_taken")));
    // In another room the name is free. A connection may be in several rooms.
    assert_eq!(join(&mut ben, "other", "ana").await["present"], json!(["ana"]));
    assert_eq!(join(&mut ben, "r", "ben").await["present"], json!(["ana", "ben"]));
    assert_eq!(join(&mut ben, "r", "ben2").await["code"], "wrong_room");
    let event = ana.json().await;
    assert_eq!(
        event,
        json!({"type": "presence", "room": "r", "sequence": 2, "name": "ben", "change": "joined"})
    );

    assert_eq!(
        ben.ask(json!({"type": "leave", "id": 9, "room": "r"})).await,
        json!({"type": "left", "id": 9})
    );
    assert_eq!(ana.json().await["change"], "left");
    assert_eq!(say(&mut ben, 10, "still here?").await["code"], "wrong_room");
    assert_eq!(ben.ask(json!({"type": "leave", "id": 11, "room": "r"})).await["code"], "wrong_room");
    // The name is free again at once.
    let (mut ben, _joined) = member(&server, "ben").await;
    assert_eq!(ana.json().await["change"], "joined");
    // A member also leaves when it sends a close frame.
    ben.send(frame(CLOSE, &1001_u16.to_be_bytes())).await;
    let event = ana.json().await;
    assert_eq!((&event["name"], &event["change"]), (&json!("ben"), &json!("left")));
    server.stop().await;
}

#[apply(test!)]
async fn names_rooms_and_texts_are_checked() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/chat").await;
    let long = "x".repeat(33);
    for (room, name) in [
        ("Room", "ana"),
        ("", "ana"),
        (&long, "ana"),
        ("r", ""),
        ("r", &long),
        ("r", "a b"),
        ("r", "a\u{202e}b"),
        ("r", "<b>"),
    ] {
        let response = join(&mut raw, room, name).await;
        assert_eq!(response["code"], "invalid", "{room:?} {name:?} {response}");
    }
    assert_eq!(join(&mut raw, "r", "Zoë-1._").await["type"], "joined");
    for text in ["", &"x".repeat(1001), &"é".repeat(501), "\u{1b}[2J", "a\0b", "\u{9b}2J"] {
        let response = say(&mut raw, 5, text).await;
        assert_eq!(response["code"], "invalid", "{text:?} {response}");
    }
    for message_id in [String::new(), "x".repeat(65)] {
        let response = raw
            .ask(json!({"type": "say", "id": 6, "room": "r", "message_id": message_id, "text": "x"}))
            .await;
        assert_eq!(response["code"], "invalid", "{response}");
    }
    assert_eq!(say(&mut raw, 7, &"x".repeat(1000)).await["type"], "said");
    assert_eq!(say(&mut raw, 8, "two\nlines\tand <b>&amp;").await["type"], "said");
    server.stop().await;
}

/// The server accepts the letters of all scripts, with their marks. It refuses invisible characters
/// and lookalikes.
#[apply(test!)]
async fn names_follow_the_unicode_standards() {
    let server = Local::start(limits()).await;
    let mut raw = Raw::open(server.addr, "/chat").await;
    for name in [
        "हिन्दी",
        "ภาษาไทย",
        "สมชาย",
        "مريم",
        "Nguyễn",
        "דוד",
        "山田太郎",
        "Zoë",
        "Zoe\u{308}",
        "Дмитрий",
        "x-1_y.z",
    ] {
        let joined = join(&mut raw, "r", name).await;
        assert_eq!(joined["type"], "joined", "{name} {joined}");
        assert_eq!(raw.ask(json!({"type": "leave", "id": 2, "room": "r"})).await["type"], "left");
    }
    for name in [
        "\u{3164}", // A filler: a letter that looks blank.
        "\u{2800}", // The blank pattern of Braille.
        "ana\u{3164}",
        "an\u{430}",   // Cyrillic а.
        "\u{41e}slo",  // Cyrillic О.
        "\u{1d5ee}na", // A mathematical a.
        "\u{ff41}na",  // A full-width a.
        "a\u{200b}b",
        "a\u{202e}b",
        "a\u{ad}b",
        "\u{301}",
        "\u{301}ana",
        "ana\u{a0}b",
        "ana:",
        "ana\n",
        "a\u{e000}",
    ] {
        let response = join(&mut raw, "r", name).await;
        assert_eq!(response["code"], "invalid", "{name:?} {response}");
        assert!(response["reason"].as_str().unwrap().starts_with("name: "), "{response}");
    }
    server.stop().await;
}

#[apply(test!)]
async fn a_room_refuses_names_that_look_alike() {
    let server = Local::start(limits()).await;
    for (name, lookalikes) in [
        ("paypal", &["PAYPAL", "paypa1", "\u{440}\u{430}\u{443}\u{440}\u{430}\u{4cf}"][..]),
        ("Zoë", &["Zoe\u{308}", "zoë"]),
        ("scope", &["\u{455}\u{441}\u{43e}\u{440}\u{435}", "Scope", "sc0pe"]),
    ] {
        let mut first = Raw::open(server.addr, "/chat").await;
        let joined = join(&mut first, "r", name).await;
        assert_eq!(joined["type"], "joined", "{joined}");
        let mut other = Raw::open(server.addr, "/chat").await;
        for lookalike in lookalikes {
            let response = join(&mut other, "r", lookalike).await;
            assert_eq!(response["code"], "name_taken", "{name} {lookalike} {response}");
        }
        // The owner of the name can come back under it. In another room, a lookalike is accepted.
        let back = json!({"type": "join", "id": 2, "room": "r", "name": name, "token": joined["token"]});
        assert_eq!(other.ask(back).await["type"], "joined");
        assert_eq!(join(&mut other, "other", lookalikes[0]).await["type"], "joined");
        assert_eq!(other.ask(json!({"type": "leave", "id": 3, "room": "r"})).await["type"], "left");
        assert_eq!(join(&mut other, "r", lookalikes[0]).await["type"], "joined");
    }
    server.stop().await;
}

//! Tests of the module that all chapters share.

use std::time::Duration;
use tests::{apply, test};

use serde::Deserialize;
use tcp_socket::base::json::{Object, whole_number};
use tcp_socket::base::retry::Pauses;
use tcp_socket::base::text::{check_name, lookalike_key, printable};

#[apply(test!)]
async fn text_from_outside_cannot_control_a_terminal() {
    let cases = [
        ("Oslo, Blindern", "Oslo, Blindern"),
        ("São Paulo – दिल्ली – ไทย", "São Paulo – दिल्ली – ไทย"),
        ("👩\u{200d}🔬", "👩\u{200d}🔬"),
        ("\x1b[2Jgone", "\\u001b[2Jgone"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\x07\x7f\0", "\\u0007\\u007f\\u0000"),
        ("\u{9b}31m", "\\u009b31m"),
        ("\u{202e}olso\u{2066}", "\\u202eolso\\u2066"),
        ("\u{200b}\u{feff}\u{2028}", "\\u200b\\ufeff\\u2028"),
        ("\u{3164}\u{2800}", "\\u3164\\u2800"),
        ("\u{e0041}", "\\udb40\\udc41"),
    ];
    for (text, shown) in cases {
        assert_eq!(printable(text), shown);
    }
    let json = format!("{:?}", "\u{202e}").replace("\\u{202e}", "\u{202e}");
    assert_eq!(serde_json::from_str::<String>(&printable(&json)).unwrap(), "\u{202e}", "no longer JSON");
}

#[apply(test!)]
async fn names_follow_the_unicode_standards() {
    let accepted = [
        "Oslo, Blindern",
        "São Paulo/Congonhas",
        "दिल्ली",
        "กรุงเทพ น้ำ",
        "می\u{200c}خواهم",
        "Москва",
        "大阪 Osaka",
        "東京タワー",
        "ירושלים",
        "CO² № 5 ☀",
    ];
    for name in accepted {
        assert_eq!(check_name(name), Ok(()), "{name}");
    }
    let refused = [
        "",
        "\u{3164}",
        "Oslo\u{202e}",
        "Oslo\u{200b}",
        "Oslo\u{1b}[2J",
        "Oslo\n",
        "\u{e0041}",
        "\u{feff}Oslo",
        "a\u{200d}b",
        "\u{41e}slo",   // Cyrillic О
        "Osl\u{3bf}",   // Greek omicron
        "\u{1d40e}slo", // mathematical bold O
        "\u{ff2f}slo",  // full-width O
        "\u{13a2}slo",  // Cherokee letter
        " Oslo",
        "Oslo ",
        "Oslo  Blindern",
        "Oslo\u{a0}Blindern",
        "Oslo\u{3000}Blindern",
    ];
    for name in refused {
        assert!(check_name(name).is_err(), "{name:?}");
    }
}

#[apply(test!)]
async fn names_that_look_alike_have_the_same_key() {
    for (name, other) in [
        ("anna", "Anna"),
        ("0slo", "Oslo"),
        ("Iris", "lris"),
        ("рое", "poe"),
        ("modern", "modem"),
        ("a\u{301}", "á"),
    ] {
        assert_eq!(lookalike_key(name), lookalike_key(other), "{name} {other}");
    }
    assert_ne!(lookalike_key("anna"), lookalike_key("hanna"));
}

#[apply(test!)]
async fn pauses_grow_to_their_maximum_and_start_again_when_reset() {
    let (shortest, longest) = (Duration::from_millis(50), Duration::from_secs(2));
    let mut pauses = Pauses::new(shortest, longest);
    let first: Vec<Duration> = (0..20).map(|_| pauses.next_pause()).collect();
    assert!((shortest..=2 * shortest).contains(&first[0]), "{first:?}");
    assert!(first[6..].iter().all(|pause| (longest / 2..=longest).contains(pause)), "{first:?}");
    assert!(first[6..].iter().any(|pause| *pause != first[6]), "not random: {first:?}");
    assert!(first.iter().all(|pause| pause.subsec_nanos() % 1_000_000 == 0), "{first:?}");
    pauses.reset();
    assert!(pauses.next_pause() <= 2 * shortest);
}

#[apply(test!)]
async fn an_object_is_not_read_from_an_array() {
    #[derive(Debug, PartialEq, Deserialize)]
    struct Batch {
        points: Vec<Object<Point>>,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Point {
        #[serde(deserialize_with = "whole_number")]
        x: i64,
    }
    let read = |text: &str| serde_json::from_str::<Object<Batch>>(text).map(|batch| batch.0.points);
    assert_eq!(
        read(r#"{"points":[{"x":1},{"x":-2.0},{"x":1e3}]}"#).unwrap(),
        [1, -2, 1000].map(|x| Object(Point { x }))
    );
    for wrong in [r#"[[[1]]]"#, r#"[[{"x":1}]]"#, r#"{"points":[[1]]}"#, r#"{"points":[{"x":1,"y":2}]}"#] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    for wrong in ["1.5", "1e400", "1e17", "18446744073709551615", "\"1\"", "null", "[1]", "true"] {
        let json = format!("{{\"points\":[{{\"x\":{wrong}}}]}}");
        assert!(read(&json).is_err(), "{wrong}");
    }
}

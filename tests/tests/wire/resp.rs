//! Tests of the decoder for RESP2 and RESP3.

use futures::StreamExt;
use lab::wire::decode::resp::decoder;
use lab::wire::message::{Message, Purpose, Role, Side};
use message_queue::brokers::{Broker, Kind, Options};
use message_queue::client::Client;
use message_queue::job::Job;
use message_queue::model::{Metric, Reading};
use message_queue::redis::names::KeyNames;
use message_queue::redis::producer::Producer;
use message_queue::redis::publish_subscribe::{Publisher, subscribe};
use message_queue::redis::server;
use tests::{apply, test};
use tokio_util::sync::CancellationToken;

use crate::amqp::{answered, survives};
use crate::streams::{Conversation, check, check_detail, record_before, summaries};

const CLIENT: Side = Side::Client;
const SERVER: Side = Side::Server;

/// Returns a command as an array of strings.
fn command(words: &[&str]) -> (Side, Vec<u8>) {
    let strings = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect::<String>();
    (CLIENT, format!("*{}\r\n{strings}", words.len()).into_bytes())
}

fn reply(text: &str) -> (Side, Vec<u8>) {
    (SERVER, text.replace('|', "\r\n").into_bytes())
}

fn read(parts: impl IntoIterator<Item = (Side, Vec<u8>)>) -> Vec<Message> {
    check(&decoder, &parts.into_iter().collect::<Conversation>())
}

fn inline(line: &str) -> (Side, Vec<u8>) {
    (CLIENT, line.as_bytes().to_vec())
}

/// Bytes that often occur in RESP.
const BYTES: &[u8] = b"$*+-:%>|~=_#,(!0123\r\n\r\n\r\n\"{[aAUTH ";

/// Producer, publisher, subscriber, and request/reply use a real Redis, with a password.
#[apply(test!)]
#[needs(message_queue::brokers::available())]
async fn a_real_redis_is_read_completely() {
    let broker = tokio::task::spawn_blocking(|| Broker::start(Kind::Redis, Options::default()));
    let broker = broker.await.unwrap().unwrap();
    let address = broker.url().replace("redis://", "");
    let mut admin = redis::Client::open(broker.url()).unwrap().get_connection().unwrap();
    let rules = ["SETUSER", "me", "on", ">hush-hush", "~*", "&*", "+@all"];
    redis::cmd("ACL").arg(&rules).exec(&mut admin).unwrap();
    let recorded = record_before(&address, async |address| {
        let url = format!("redis://me:hush-hush@{address}");
        let (keys, shutdown) = (KeyNames::default(), CancellationToken::new());
        let mut producer = Producer::connect(&url, keys.clone(), 10).await.unwrap();
        producer.publish(&Job::example("job-1".into(), 1)).await.unwrap();
        producer.flush().await.unwrap();
        let mut readings = subscribe(&url, &keys, &["oslo-1:*".to_owned()]).await.unwrap();
        let mut publisher = Publisher::connect(&url, keys.clone()).await.unwrap();
        assert_eq!(publisher.publish(&[reading(3.0)]).await.unwrap(), [1]);
        readings.next().await.unwrap().unwrap();
        let (listening, ready) = tokio::sync::oneshot::channel();
        let serve = async { server::serve(&url, &keys, &shutdown, || listening.send(()).unwrap()).await };
        let ask = async {
            ready.await.unwrap();
            let client = Client::connect(&url, keys.clone()).await.unwrap();
            assert_eq!(client.record(&[reading(3.0)]).await.unwrap(), 1);
            client.record(&[reading(3_000.0)]).await.unwrap_err();
            shutdown.cancel();
        };
        tokio::join!(serve, ask).0.unwrap();
    })
    .await;
    let connections: Vec<Vec<Message>> = recorded.iter().map(|one| check(&decoder, one)).collect();
    let all: Vec<Message> = connections.concat();
    let lines = summaries(&all);
    for line in [
        "> AUTH",
        "> HELLO 3",
        "> XGROUP CREATE weather:jobs:v1",
        "> EVAL weather:jobs:v1",
        "> PSUBSCRIBE weather:readings:oslo-1:*",
        "< psubscribe weather:readings:oslo-1:*",
        "> PUBLISH weather:readings:oslo-1:wind",
        "< pmessage weather:readings:oslo-1:wind",
        "< message weather:record:v1",
        "< integer 1",
        "< OK",
    ] {
        assert!(lines.iter().any(|it| it == line), "no {line:?} in {lines:#?}");
    }
    assert!(!lines.iter().any(|line| line.contains("cannot read")), "{lines:#?}");
    for messages in &connections {
        check_detail(messages);
        let requests = messages.iter().filter(|message| message.role == Role::Request).count();
        // The program may end before the last reply.
        assert!(requests - answered(messages)[0] <= 1, "{:#?}", summaries(messages));
    }
    assert!(!format!("{all:?}").contains("hush-hush"));
    let hidden = all.iter().flat_map(|it| &it.fields).filter(|field| field.filler == Some(b'*')).count();
    assert!(hidden >= 2 * connections.len(), "user and password of each connection: {hidden}");
    let shortest = recorded.iter().min_by_key(|conversation| conversation.len()).unwrap();
    survives(&decoder, shortest, BYTES);
}

fn reading(value: f64) -> Reading {
    Reading { station: "oslo-1".into(), metric: Metric::Wind, value, recorded_at: 1 }
}

#[apply(test!)]
async fn every_type_has_its_name_and_its_value() {
    let cases = [
        ("+OK|", "OK"),
        ("-ERR unknown command|", "ERR unknown command"),
        (":-5|", "integer -5"),
        ("$5|hello|", "bulk string hello"),
        ("$0||", "bulk string"),
        ("$-1|", "null"),
        ("*-1|", "null"),
        ("_|", "null"),
        ("#t|", "boolean t"),
        (",3.25|", "double 3.25"),
        ("(12345678901234567890|", "big number 12345678901234567890"),
        ("!9|SYNTAX no|", "SYNTAX no"),
        ("=8|txt:text|", "verbatim string txt:text"),
        ("*2|:1|*1|:2|", "array of 2"),
        ("%1|+a|:1|", "map of 1"),
        ("~2|:1|:2|", "set of 2"),
        ("|1|+ttl|:9|*1|:1|", "array of 1"),
    ];
    for (bytes, summary) in cases {
        // A `|` stands for the end of a line, except at the beginning, where it is the type.
        let bytes = format!("{}{}", &bytes[..1], bytes[1..].replace('|', "\r\n"));
        let messages = read([command(&["PING"]), (SERVER, bytes.clone().into_bytes())]);
        assert_eq!(messages.len(), 2, "{bytes:?}: {messages:#?}");
        assert_eq!(messages[1].summary, summary, "{bytes:?}");
        assert_eq!((messages[1].role, messages[1].calls.as_slice()), (Role::Response, &[1][..]));
        assert_eq!(messages[1].refused, matches!(bytes.as_bytes()[0], b'-' | b'!'));
        assert!(!messages[1].fields.iter().any(|field| field.name == "not decoded"), "{messages:?}");
        check_detail(&messages);
    }
}

#[apply(test!)]
async fn replies_come_in_order_and_pushes_between_them() {
    let messages = read([
        command(&["HELLO", "3"]),
        command(&["SUBSCRIBE", "a", "b"]),
        command(&["GET", "key"]),
        reply("%1|+proto|:3|"),
        reply(">3|$9|subscribe|$1|a|:1|"),
        reply(">3|$7|message|$1|a|$2|hi|"),
        reply(">3|$9|subscribe|$1|b|:2|"),
        reply(">2|$10|invalidate|*1|$3|key|"),
        reply("*2|$7|message|$1|x|"),
        reply("+more than was asked for|"),
    ]);
    use Role::{Other, Request, Response};
    let roles: Vec<_> = messages.iter().map(|message| (message.role, message.calls.clone())).collect();
    let expected = [
        (Request, vec![1]),
        (Request, vec![2]),
        (Request, vec![3]),
        (Response, vec![1]),
        (Other, vec![]),
        (Other, vec![]),
        (Response, vec![2]),
        (Other, vec![]),
        (Response, vec![3]), // With RESP3, an array is never a message.
        (Other, vec![]),
    ];
    assert_eq!(roles, expected);
    assert_eq!(summaries(&messages)[4..8], ["< subscribe a", "< message a", "< subscribe b", "< invalidate"]);
}

#[apply(test!)]
async fn a_subscriber_with_resp2_gets_messages_as_arrays() {
    let messages = read([
        command(&["LRANGE", "l", "0", "1"]),
        reply("*2|$7|message|$1|x|"),
        command(&["SUBSCRIBE"]),
        reply("-ERR wrong number of arguments|"),
        command(&["PSUBSCRIBE", "a*"]),
        reply("*3|$10|psubscribe|$2|a*|:1|"),
        reply("*4|$8|pmessage|$2|a*|$2|ab|$2|hi|"),
        command(&["PING"]),
        reply("*2|$4|pong|$0||"),
    ]);
    let roles: Vec<_> = messages.iter().map(|it| (it.role, it.calls.first().copied())).collect();
    use Role::{Other, Request, Response};
    let pair = |call| [(Request, Some(call)), (Response, Some(call))];
    assert_eq!(roles, [&pair(1)[..], &pair(2), &pair(3), &[(Other, None)], &pair(4)].concat());
    assert!(messages[3].refused);
    assert_eq!(messages[6].summary, "pmessage ab");
}

#[apply(test!)]
async fn a_command_shows_its_key_and_its_arguments() {
    let json = "{\"station\":\"oslo-1\",\"value\":3}";
    let cases: [(&[&str], &str); 7] = [
        (&["XADD", "weather:jobs", "*", "job", json], "XADD weather:jobs"),
        (&["EVALSHA", "abc", "1", "weather:jobs", json], "EVALSHA weather:jobs"),
        (&["XREADGROUP", "GROUP", "g", "me", "STREAMS", "weather:jobs", ">"], "XREADGROUP weather:jobs"),
        (&["XGROUP", "CREATE", "weather:jobs", "g"], "XGROUP CREATE weather:jobs"),
        (&["CONFIG", "GET", "maxmemory"], "CONFIG GET"),
        (&["PING"], "PING"),
        (&["XREAD"], "XREAD"),
    ];
    for (words, summary) in cases {
        let messages = read([command(words)]);
        assert_eq!(messages[0].summary, summary);
        check_detail(&messages);
    }
    let messages = read([command(&["XADD", "weather:jobs", "*", "job", json])]);
    let information = messages[0].leaves().filter(|leaf| leaf.purpose == Purpose::Information);
    let information: Vec<_> = information.map(|leaf| (leaf.name.as_ref(), leaf.value.as_str())).collect();
    let expected = [
        ("argument", "\"weather:jobs\""),
        ("argument", "\"*\""),
        ("argument", "\"job\""),
        ("station", "\"oslo-1\""),
        ("value", "3"),
    ];
    assert_eq!(information, expected);
    let inline = read([inline("\r\n SET key  value\r\nPING\n"), command(&[])]);
    assert_eq!(summaries(&inline), ["> empty command", "> SET key", "> PING", "> empty command"]);
    assert_eq!(inline[2].calls, [2], "Redis does not reply to an empty command");
}

#[apply(test!)]
async fn credentials_in_commands_are_hidden() {
    let hidden = |parts: (Side, Vec<u8>)| -> Vec<String> {
        let messages = read([parts.clone()]);
        let shown = format!("{messages:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let secret = messages[0].fields.iter().filter(|field| field.filler == Some(b'*'));
        let bytes = secret.map(|field| &parts.1[field.span.start as usize..field.span.end as usize]);
        bytes.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).collect()
    };
    assert_eq!(hidden(command(&["AUTH", "secret"])), ["secret"]);
    assert_eq!(hidden(command(&["auth", "me", "secret"])), ["me", "secret"]);
    let hello = ["HELLO", "3", "AUTH", "me", "secret", "SETNAME", "x"];
    assert_eq!(hidden(command(&hello)), ["me", "secret"]);
    assert_eq!(hidden(command(&["CONFIG", "SET", "a", "1", "requirepass", "secret"])), ["secret"]);
    assert_eq!(hidden(command(&["CONFIG", "SET", "MasterAuth", "secret"])), ["secret"]);
    assert_eq!(hidden(command(&["ACL", "SETUSER", "me", "on", ">secret", "~*"])), [">secret"]);
    assert_eq!(hidden(inline("AUTH me \"secret secret\"\r\n")), ["me \"secret secret\""]);
    assert_eq!(hidden(inline("CONFIG SET requirepass secret\n")), ["secret"]);
    assert!(hidden(command(&["SET", "AUTH", "value"])).is_empty());
}

#[apply(test!)]
async fn nesting_and_numbers_of_elements_have_a_bound() {
    let nested = read([command(&["PING"]), reply(&format!("{}:1|", "*1|".repeat(5_000)))]);
    assert_eq!(nested[1].summary, "array of 1");
    let many = [reply(&format!("*200000|{}", ":1|".repeat(200_000)))];
    let mut decoder = decoder();
    let messages: Vec<Message> = many.iter().flat_map(|(side, bytes)| decoder.push(*side, bytes)).collect();
    assert!(messages[0].fields.len() < 100_000, "{}", messages[0].fields.len());
    assert_eq!(messages[0].span.end, many[0].1.len() as u64);
    let attributes = read([(SERVER, [&b"|0\r\n".repeat(60_000)[..], b"+OK\r\n"].concat())]);
    assert_eq!(attributes.len(), 1, "attributes in front of a value belong to it");
    // An announced length allocates nothing.
    let huge = read([reply("*9223372036854775807|:1|"), reply("%9223372036854775807|")]);
    assert_eq!(huge[0].summary, "the connection ended after 48 bytes of a message");
}

#[apply(test!)]
async fn damaged_commands_and_replies_do_no_harm() {
    survives(&decoder, &[command(&["HELLO", "3"]), reply("%1|+a|*2|:1|$3|abc|")], BYTES);
}

#[apply(test!)]
async fn bytes_that_are_not_resp_end_in_one_line() {
    let line = |from, bytes: &[u8]| {
        let messages = check(&decoder, &[(from, bytes.to_vec())]);
        messages[0].summary.clone()
    };
    let cannot = |why: &str| format!("cannot read this: {why}; it is still forwarded");
    for foreign in
        [&b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..], b"AMQP\0\0\x09\x01", b"WSTN\0\x01", b"{\"a\":1}"]
    {
        assert_eq!(line(CLIENT, foreign), cannot("not RESP"));
    }
    assert_eq!(line(CLIENT, b"\x16\x03\x01\x02\0"), cannot("encrypted with TLS"));
    for foreign in [&b"HTTP/1.1 400 Bad Request\r\n"[..], b"+OK\n", b"*1\r\nx"] {
        assert_eq!(line(SERVER, foreign), cannot("not RESP"));
    }
    assert_eq!(line(SERVER, b"$2\r\nabcd"), cannot("not RESP: a string without its end"));
    assert_eq!(line(SERVER, b"*x\r\n"), cannot("not RESP: a length that is not a number"));
    assert_eq!(line(SERVER, b"$999999999\r\n"), cannot("a message is too long to decode"));
    let long_line = [b"+".to_vec(), vec![b'a'; 70_000]].concat();
    let mut decoder = decoder();
    assert_eq!(decoder.push(SERVER, &long_line)[0].summary, cannot("a line of more than 64 KiB"));
    for streamed in ["$?|;4|", "*?|", "%?|"] {
        let why = "a streamed RESP3 type (its length is \"?\"), which this decoder does not know";
        assert_eq!(line(SERVER, &reply(streamed).1), cannot(why));
    }
}

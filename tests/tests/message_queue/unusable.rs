//! Brokers that a program can't use, and the errors that say why.

use std::time::Duration;

use message_queue::brokers::Kind;
use tests::{apply, run_program};
use tokio::io::AsyncWriteExt;

use crate::PAIR;
use crate::errors::{assert_error, redis_cli};
use crate::fakes::{close, fake, fake_redis, rewritten};
use crate::support::{CONSUMER, Folder, PRODUCER, Program, broker_test, name, prefix, shared, url as broker};

#[apply(broker_test!)]
async fn an_unusable_broker_is_explained() {
    let port = |kind| broker(kind).rsplit(':').next().unwrap().to_owned();
    let (rabbitmq, redis_port) = (port(Kind::RabbitMq), port(Kind::Redis));
    let user = prefix();
    redis_cli(&["ACL", "SETUSER", &user, "on", ">sekret", "~*", "&*", "+@all"]).await;
    let rabbitmqctl = |args: &[&str]| shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(args).unwrap();
    rabbitmqctl(&["add_user", &user, "sekret"]); // Without any permission.
    let web = fake(|mut stream: tokio::net::TcpStream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        Ok(())
    })
    .await;
    let locked =
        fake_redis(|name| (name == "HELLO").then(|| "-NOAUTH HELLO must be called\r\n".into())).await;
    let wrong = fake_redis(|name| {
        matches!(name, "AUTH" | "HELLO").then(|| "-WRONGPASS invalid username-password pair\r\n".into())
    })
    .await;
    let old = fake_redis(|name| {
        (name == "HELLO").then(|| "*4\r\n+server\r\n+redis\r\n+version\r\n+6.0.16\r\n".into())
    })
    .await;
    let [web, locked, old, wrong] = [&web, &locked, &old, &wrong].map(|fake| fake.addr);
    let cases = [
        (
            Kind::RabbitMq,
            format!("amqp://guest:sekret@127.0.0.1:{rabbitmq}"),
            "RabbitMQ refused the login for user guest",
        ),
        (
            Kind::RabbitMq,
            format!("amqp://nobody:sekret@127.0.0.1:{rabbitmq}"),
            "RabbitMQ refused the login for user nobody",
        ),
        (Kind::RabbitMq, format!("amqp://127.0.0.1:{rabbitmq}/nope"), "there is no vhost nope on RabbitMQ"),
        (Kind::RabbitMq, format!("amqp://{user}:sekret@127.0.0.1:{rabbitmq}"), "RabbitMQ does not let user "),
        (
            Kind::RabbitMq,
            format!("amqp://u:sekret@127.0.0.1:{rabbitmq}/"),
            "cannot use the URL amqp://127.0.0.1:",
        ),
        (
            Kind::RabbitMq,
            format!("amqps://u:sekret@127.0.0.1:{rabbitmq}"),
            "there is no file certificates/ca.pem",
        ),
        (Kind::RabbitMq, format!("redis://127.0.0.1:{rabbitmq}"), "cannot use the URL redis://127.0.0.1:"),
        (Kind::RabbitMq, format!("u:sekret@127.0.0.1:{rabbitmq}"), "cannot use the URL 127.0.0.1:"),
        (
            Kind::RabbitMq,
            "amqp:u:sekret@127.0.0.1".to_owned(),
            "cannot use the URL 127.0.0.1: it must begin with amqp://",
        ),
        (Kind::RabbitMq, format!("amqp://{web}"), "the server at amqp://127.0.0.1:"),
        (Kind::RabbitMq, format!("amqp://[::2]:{rabbitmq}"), "no broker at amqp://[::2]:"),
        (
            Kind::RabbitMq,
            format!("amqp://127.0.0.1:{rabbitmq}?heartbeat=x&password=sekret"),
            "cannot use the URL amqp://127.0.0.1:",
        ),
        (Kind::Redis, "unix:///nobody?user=u&pass=sekret".to_owned(), "no broker at unix:///nobody ("),
        (Kind::Redis, format!("redis://:sekret@{wrong}"), "Redis refused the login for user default"),
        (
            Kind::Redis,
            format!("redis://nobody:sekret@127.0.0.1:{redis_port}"),
            "Redis refused the login for user nobody",
        ),
        (
            Kind::Redis,
            format!("redis://{user}:sekret1@127.0.0.1:{redis_port}"),
            "Redis refused the login for user ",
        ),
        (Kind::Redis, format!("redis://{locked}"), "Redis at redis://127.0.0.1:"),
        (Kind::Redis, format!("redis://127.0.0.1:{redis_port}/99"), "there is no database 99 on Redis"),
        (Kind::Redis, format!("redis://127.0.0.1:{redis_port}/abc"), "cannot use the URL redis://127.0.0.1:"),
        (
            Kind::Redis,
            format!("rediss://u:sekret@127.0.0.1:{redis_port}"),
            "there is no file certificates/ca.pem",
        ),
        (Kind::Redis, format!("amqp://127.0.0.1:{redis_port}"), "cannot use the URL amqp://127.0.0.1:"),
        (Kind::Redis, format!("u:sekret@127.0.0.1:{redis_port}"), "cannot use the URL 127.0.0.1:"),
        (Kind::Redis, format!("redis://127.0.0.1:{rabbitmq}"), "the server at redis://127.0.0.1:"),
        (Kind::Redis, format!("redis://{web}"), "the server at redis://127.0.0.1:"),
        (
            Kind::Redis,
            format!("redis://{old}"),
            "this is Redis 6.0.16; this program needs Redis 6.2 or newer",
        ),
    ];
    for (kind, url, text) in &cases {
        for (program, args) in [(PRODUCER, &["--count", "1"][..]), (PAIR.client, &[])] {
            let all = [&["--broker", name(*kind), "--url", url, "--prefix", &user][..], args].concat();
            assert_error(&run_program(program, &all).await, text);
        }
    }
    // Each of these errors says what to do.
    let error = async |url: &str| {
        let kind = if url.starts_with("amqp") { "rabbitmq" } else { "redis" };
        run_program(PRODUCER, &["--broker", kind, "--url", url, "--count", "1"]).await.stderr
    };
    for (url, text) in [
        (
            format!("amqp://127.0.0.1:{rabbitmq}/"),
            "remove the slash at the end, or write /%2f for the vhost /",
        ),
        (format!("amqp://127.0.0.1:{rabbitmq}/nope"), "rabbitmqctl add_vhost nope"),
        (format!("amqps://127.0.0.1:{rabbitmq}"), "to create it, run: cargo run -- certificates"),
        (format!("rediss://127.0.0.1:{redis_port}"), "to create it, run: cargo run -- certificates"),
        (format!("redis://{locked}"), "requires a login"),
    ] {
        let error = error(&url).await;
        assert!(error.contains(text), "{error}");
    }
}

/// A broker that lacks a command or an argument is reported as too old. A missing permission for
/// HELLO is not an error.
#[apply(broker_test!)]
async fn brokers_that_are_too_old_are_reported() {
    let no_hello = fake_redis(|name| match name {
        "HELLO" => Some("-NOPERM this user has no permissions to run the 'hello' command\r\n".into()),
        "EVAL" => Some(":1\r\n".into()),
        _ => None,
    })
    .await;
    let url = format!("redis://{}", no_hello.addr);
    Program::producer(Kind::Redis, &url, "fake", &["--count", "1"]).success().await;

    let oldest = fake_redis(|name| match name {
        "HELLO" => Some("*4\r\n+server\r\n+redis\r\n+version\r\n+6.2.0\r\n".into()),
        "EVAL" => Some(":1\r\n".into()),
        _ => None,
    })
    .await;
    let url = format!("redis://{}", oldest.addr);
    Program::producer(Kind::Redis, &url, "fake", &["--count", "1"]).success().await;

    let folder = Folder::new();
    let old = fake_redis(|name| match name {
        "HELLO" => Some("-ERR unknown command `HELLO`, with args beginning with: \r\n".into()),
        "XAUTOCLAIM" => Some("-ERR unknown command `XAUTOCLAIM`, with args beginning with: \r\n".into()),
        "EVAL" => Some(":0\r\n".into()),
        _ => None,
    })
    .await;
    let url = format!("redis://{}", old.addr);
    let args = ["--broker", "redis", "--url", &url, "--results", folder.path()];
    let printed = Program::start(CONSUMER, &args).ends(1).await;
    assert!(printed.contains("\nerror: Redis: ERR unknown command `XAUTOCLAIM`"), "{printed}");
    assert!(printed.ends_with("; this program needs Redis 6.2 or newer\n"), "{printed}");

    // RabbitMQ 3.9 responds like this: its quorum queues have no time to live for messages.
    for argument in ["x-message-ttl", "x-dead-letter-strategy", "x-queue-type"] {
        let text = format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue 'q' in vhost '/'");
        let declare_ok = (50, 11);
        let old = rewritten(&broker(Kind::RabbitMq), declare_ok, vec![close(20, 406, &text)]).await;
        let url = format!("amqp://{}", old.addr);
        let output = run_program(PRODUCER, &["--url", &url, "--prefix", &prefix(), "--count", "1"]).await;
        assert_error(&output, "RabbitMQ can't create test-");
        assert!(output.stderr.ends_with("This program needs RabbitMQ 3.10 or newer\n"), "{output:?}");
    }
}

/// Text from a broker or its other clients is escaped before a person sees it.
#[apply(broker_test!)]
async fn text_from_outside_is_printable() {
    // An error and a log line show RabbitMQ's reason for closing a connection.
    let nasty = "NOT_ALLOWED - \u{1b}[2J\u{7}\u{202e}\u{9b}";
    let shown = r"NOT_ALLOWED - \u001b[2J\u0007\u202e\u009b";
    let open_ok = (10, 41);
    let rude = rewritten(&broker(Kind::RabbitMq), open_ok, vec![close(10, 530, nasty)]).await;
    let args = ["--url", &format!("amqp://{}", rude.addr), "--count", "1"];
    assert_error(&run_program(PRODUCER, &args).await, &format!("RabbitMQ: {shown}"));
    let forced = nasty.replace("NOT_ALLOWED", "CONNECTION_FORCED");
    let rude = rewritten(&broker(Kind::RabbitMq), open_ok, vec![close(10, 320, &forced)]).await;
    let url = format!("amqp://{}", rude.addr);
    let printed = Program::producer(Kind::RabbitMq, &url, &prefix(), &["--count", "1"]).success().await;
    assert!(printed.contains(&shown.replace("NOT_ALLOWED", "CONNECTION_FORCED")), "{printed}");

    // The subscriber shows names of channels, and anyone can publish on any channel.
    let (url, prefix) = (broker(Kind::Redis), prefix());
    let mut subscriber =
        Program::start(CONSUMER, &["--broker", "redis", "--url", &url, "--prefix", &prefix, "subscribe"]);
    subscriber.shows("subscribed to", 1).await;
    let channel = format!("{prefix}:readings:\u{1b}]0;x\u{7}\n\u{202e}");
    let reading = r#"{"station":"oslo-1","metric":"wind","value":3,"recorded_at":1.0}"#;
    redis_cli(&["PUBLISH", &channel, reading]).await;
    redis_cli(&["PUBLISH", &channel, "\u{1b}"]).await;
    subscriber.shows(r"readings:\u001b]0;x\u0007\n\u202e 3", 1).await;
    subscriber.shows(r"readings:\u001b]0;x\u0007\n\u202e: not a reading", 1).await;
    let printed = subscriber.stop().await;
    assert!(!printed.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{printed:?}");

    // The client shows a server's reason for refusing a request, and any program can be a server.
    let listener = redis::Client::open(url.as_str()).unwrap();
    let mut requests = listener.get_async_pubsub().await.unwrap();
    requests.subscribe(format!("{prefix}:record:v1")).await.unwrap();
    let server = tokio::spawn(async move {
        use futures::StreamExt;
        let request: String = requests.on_message().next().await.unwrap().get_payload().unwrap();
        let request: serde_json::Value = serde_json::from_str(&request).unwrap();
        let refused = serde_json::json!({ "reason": "invalid", "detail": "\u{1b}[2J\r\u{85}" });
        let reply = serde_json::json!({ "id": request["id"], "answer": { "refused": refused } });
        redis_cli(&["PUBLISH", request["reply_to"].as_str().unwrap(), &reply.to_string()]).await;
    });
    let args = ["--broker", "redis", "--url", &url, "--prefix", &prefix, "record", "oslo-1", "wind", "3"];
    let output = run_program(PAIR.client, &args).await;
    assert_error(&output, "refused: \\u001b[2J\\r\\u0085");
    server.await.unwrap();
}

//! Temporary and permanent errors, and the messages that explain them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use lapin::protocol::AMQPError;
use message_queue::brokers::Kind;
use message_queue::error::Error;
use message_queue::record::Reason;
use tests::{Output, apply, run_program, test};
use tokio::io::AsyncWriteExt;

use crate::PAIR;
use crate::fakes::{close, fake, fake_redis, rewritten};
use crate::request_reply::{Client, readings};
use crate::support::{
    CONSUMER, Folder, LONG, PRODUCER, Program, broker_test, name, prefix, shared, url as broker,
};

/// Codes and texts as Redis 7 sends them and, for scripts, Redis 6.
const REDIS_TRANSIENT: [&str; 11] = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "LOADING Redis is loading the dataset in memory",
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "MISCONF Errors writing to the AOF file: No space left on device",
    "NOREPLICAS Not enough good replicas to write.",
    "ERR max number of clients reached",
    "ERR Error running script (call to f_0): @user_script:5: @user_script: 5: -OOM command not allowed when \
     used memory > 'maxmemory'. ",
];

const REDIS_LASTING: [&str; 8] = [
    "NOPERM this user has no permissions to run the 'eval' command",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "ERR unknown command 'EVAL', with args beginning with: ",
    "ERR The user executing the script can't run this command or subcommand script: 0, on @user_script:3.",
    "ERR Error running script (call to f_0): @user_script:3: -NOPERM User doesn't have permissions",
    "MOVED 3999 127.0.0.1:6381",
];

/// Errors as RabbitMQ sends them, and whether another attempt may succeed.
const RABBITMQ: [(u16, &str, bool); 14] = [
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", true),
    (404, "NOT_FOUND - no queue 'weather.jobs.v1' in vhost '/'", true),
    (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x' in vhost '/'", true),
    (406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out", true),
    (506, "RESOURCE_ERROR - memory", true),
    (
        530,
        "NOT_ALLOWED - access to vhost '/' refused for user 'u': user connection limit (1) is reached",
        true,
    ),
    (541, "INTERNAL_ERROR - access to vhost '/' refused for user 'guest': vhost '/' is down", true),
    (311, "CONTENT_TOO_LARGE - message size 9 is larger than configured max size 8", false),
    (403, "ACCESS_REFUSED - configure access to queue 'x' in vhost '/' refused for user 'u'", false),
    (406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'x' in vhost '/'", false),
    (406, "PRECONDITION_FAILED - unknown delivery tag 7", false),
    (530, "NOT_ALLOWED - vhost nope not found", false),
    (502, "SYNTAX_ERROR - illegal prefix", false),
    (540, "NOT_IMPLEMENTED - immediate=true", false),
];

#[apply(test!)]
async fn errors_are_told_apart() {
    let redis = |text: &str| -> Error {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        let redis::Value::ServerError(error) = value else { panic!("{value:?}") };
        redis::RedisError::from(error).into()
    };
    for (texts, transient) in [(&REDIS_TRANSIENT[..], true), (&REDIS_LASTING, false)] {
        for text in texts {
            let error = redis(text);
            assert_eq!(error.is_transient(), transient, "{error}");
            assert!(error.to_string().starts_with(&format!("Redis: {}", text.trim_end())), "{error}");
        }
    }
    for (code, text, transient) in RABBITMQ {
        let reason = AMQPError::from_id(code, text.into()).unwrap();
        let error: Error = lapin::Error::from(lapin::ErrorKind::ProtocolError(reason)).into();
        assert_eq!((error.is_transient(), error.to_string()), (transient, format!("RabbitMQ: {text}")));
    }
    let io = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    assert!(Error::from(redis::RedisError::from(io())).is_transient());
    assert!(Error::from(lapin::Error::from(io())).is_transient());
}

/// Only what certainly was not executed may be sent again without a thought.
#[apply(test!)]
async fn an_error_says_whether_the_request_may_have_been_executed() {
    let io = || std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    let refused = AMQPError::from_id(403, "ACCESS_REFUSED".into()).unwrap();
    let refused = lapin::Error::from(lapin::ErrorKind::ProtocolError(refused));
    for (error, may) in [
        (Error::TimedOut, true),
        (Error::OutcomeUnknown, true),
        (Error::Disconnected, true),
        (Error::from(lapin::Error::from(io())), true),
        (Error::from(redis::RedisError::from(io())), true),
        (Error::from(refused), false),
        (Error::NoServer("weather".into()), false),
        (Error::Refused { reason: Reason::Full, detail: String::new() }, false),
        (Error::NoBroker { url: String::new(), detail: String::new() }, false),
    ] {
        assert_eq!(error.may_have_been_executed(), may, "{error}");
    }
}

/// Checks for exit code 1 and a single error line on stderr.
fn assert_error(output: &Output, text: &str) {
    let lines: Vec<&str> = output.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
    assert_eq!((output.code, lines.len()), (Some(1), 1), "{output:?}");
    assert!(lines[0].starts_with(&format!("error: {text}")), "{output:?}, expected {text}");
    assert!(!output.stderr.contains("sekret"), "{output:?}");
}

/// Returns the pauses that a program logged, in milliseconds.
fn pauses(printed: &str) -> Vec<u64> {
    let pause = regex::Regex::new(r"; connecting again in ([0-9.]+)(ms|s)$").unwrap();
    let lines = printed.lines().filter_map(|line| pause.captures(line));
    lines.map(|found| if &found[2] == "ms" { found[1].parse().unwrap() } else { 1_000 }).collect()
}

/// Redis accepts each connection and then refuses the work, for a time.
#[apply(test!)]
async fn a_producer_tries_again_with_growing_pauses_until_redis_recovers() {
    let cases = REDIS_TRANSIENT.map(|text| async move {
        let count = Arc::new(AtomicUsize::new(0));
        let fake = fake_redis(move |name| {
            // Two batches; an error before the second one comes after progress.
            let answer = match (name, count.load(Ordering::Relaxed)) {
                ("EVAL", 4 | 6) => ":100\r\n".to_owned(),
                ("EVAL", _) => format!("-{text}\r\n"),
                _ => return None,
            };
            count.fetch_add(1, Ordering::Relaxed);
            Some(answer)
        })
        .await;
        let url = format!("redis://{}", fake.addr);
        let mut producer = Program::producer(Kind::Redis, &url, "fake", &["--count", "200"]);
        let printed = producer.success().await;
        assert!(printed.contains("all confirmed: 200"), "{printed}");
        let pauses = pauses(&printed);
        assert_eq!(pauses.len(), 5, "{printed}");
        assert!(pauses[..4].is_sorted_by(|a, b| a < b), "they don't grow: {printed}");
        assert!(pauses[3] >= 400 && pauses[4] < 200, "they start again only after progress: {printed}");
        assert_eq!(printed.matches(text.trim_end()).count(), 5, "each cause is said once: {printed}");
    });
    join_all(cases).await;
}

#[apply(test!)]
async fn a_lasting_error_of_redis_ends_a_producer() {
    let cases = REDIS_LASTING.map(|text| async move {
        let fake = fake_redis(move |name| (name == "EVAL").then(|| format!("-{text}\r\n"))).await;
        let url = format!("redis://{}", fake.addr);
        let output = run_program(PRODUCER, &["--broker", "redis", "--url", &url, "--count", "1"]).await;
        assert_error(&output, &format!("Redis: {}", text.trim_end()));
        assert_eq!(output.stderr.matches(text.trim_end()).count(), 1, "{output:?}");
    });
    join_all(cases).await;
}

/// A program starts while its broker accepts connections but does not work yet.
#[apply(broker_test!)]
async fn a_broker_that_is_starting_is_waited_for() {
    let count = AtomicUsize::new(0);
    let loading = fake_redis(move |name| match name {
        "XGROUP" if count.fetch_add(1, Ordering::Relaxed) < 3 => Some("-LOADING Redis is loading\r\n".into()),
        "EVAL" => Some(":1\r\n".into()),
        _ => None,
    })
    .await;
    let url = format!("redis://{}", loading.addr);
    let printed = Program::producer(Kind::Redis, &url, "fake", &["--count", "1"]).success().await;
    assert_eq!(pauses(&printed).len(), 3, "{printed}");

    let text =
        "NOT_ALLOWED - access to vhost '/' refused for user 'guest': user connection limit (1) is reached";
    let open_ok = (10, 41);
    let full = rewritten(&broker(Kind::RabbitMq), open_ok, vec![close(10, 530, text); 3]).await;
    let url = format!("amqp://{}", full.addr);
    let printed = Program::producer(Kind::RabbitMq, &url, &prefix(), &["--count", "1"]).success().await;
    assert_eq!(pauses(&printed).len(), 3, "{printed}");
}

async fn redis_cli(words: &[&str]) {
    let client = redis::Client::open(broker(Kind::Redis)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut connection).await.unwrap();
}

/// The shared broker's URL for a user with this name and the password `sekret`.
fn url_for(kind: Kind, user: &str) -> String {
    broker(kind).replace("://", &format!("://{user}:sekret@"))
}

/// Each program runs as a user who lacks one permission that the program needs.
#[apply(broker_test!)]
async fn a_missing_permission_ends_every_program() {
    let reading = ["publish", "oslo-1", "wind", "7"];
    let cases: [(&str, &str, &[&str]); 11] = [
        (PRODUCER, "-eval", &["--count", "1"]),
        (PRODUCER, "-xgroup", &["--count", "1"]),
        (CONSUMER, "-xautoclaim", &[]),
        (CONSUMER, "-xreadgroup", &[]),
        (PAIR.server, "-subscribe", &[]),
        (PAIR.client, "-publish", &["record", "oslo-1", "wind", "7"]),
        (PAIR.client, "-subscribe", &[]),
        (PRODUCER, "-publish", &reading),
        (CONSUMER, "-psubscribe", &["subscribe"]),
        (CONSUMER, "-xrange", &["dead-letters"]),
        (CONSUMER, "-xgroup", &["dead-letters", "--redrive"]),
    ];
    for (program, missing, args) in cases {
        let (prefix, folder) = (prefix(), Folder::new());
        let rules = ["ACL", "SETUSER", &prefix, "on", ">sekret", "~*", "&*", "+@all", missing];
        redis_cli(&rules).await;
        let url = url_for(Kind::Redis, &prefix);
        let mut all = vec!["--broker", "redis", "--url", &url, "--prefix", &prefix];
        if program == CONSUMER {
            all.extend(["--results", folder.path()]);
        }
        let output = run_program(program, &[&all, args].concat()).await;
        assert_error(&output, "Redis: NOPERM");
        assert!(output.stderr.contains(&missing[1..]), "{output:?}");
    }

    // RabbitMQ has three permissions: configure, write, and read.
    let cases: [(&str, &str, [&str; 3], &[&str]); 6] = [
        (PRODUCER, "configure", ["nothing", ".*", ".*"], &["--count", "1"]),
        (PRODUCER, "write", [".*", "nothing", ".*"], &["--count", "1"]),
        (PRODUCER, "write", [".*", "nothing", ".*"], &reading),
        (CONSUMER, "read", [".*", ".*", "nothing"], &[]),
        (CONSUMER, "read", [".*", ".*", "nothing"], &["dead-letters"]),
        (PAIR.server, "read", [".*", ".*", "nothing"], &[]),
    ];
    let user = prefix();
    let rabbitmqctl = |args: &[&str]| shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(args).unwrap();
    let url = url_for(Kind::RabbitMq, &user);
    rabbitmqctl(&["add_user", &user, "sekret"]);
    for (program, missing, [configure, write, read], args) in cases {
        // Its own names, declared by a user with all permissions.
        let (prefix, folder) = (prefix(), Folder::new());
        let all = ["--url", &broker(Kind::RabbitMq), "--prefix", &prefix, "--count", "0"];
        assert_eq!(run_program(PRODUCER, &all).await.code, Some(0));
        rabbitmqctl(&["set_permissions", &user, configure, write, read]);
        let mut all = vec!["--url", &url, "--prefix", &prefix];
        if program == CONSUMER {
            all.extend(["--results", folder.path()]);
        }
        let output = run_program(program, &[&all, args].concat()).await;
        // Newer versions say which permission is missing, too.
        assert_error(&output, "RabbitMQ: ACCESS_REFUSED - ");
        assert!(output.stderr.contains(&format!("refused for user '{user}'")), "no {missing}: {output:?}");
    }
}

/// The permission is taken away while the programs run.
#[apply(broker_test!)]
async fn a_permission_taken_away_ends_the_programs_that_need_it() {
    let (user, folder) = (prefix(), Folder::new());
    let prefix = user.as_str();
    redis_cli(&["ACL", "SETUSER", prefix, "on", ">sekret", "~*", "&*", "+@all"]).await;
    let url = url_for(Kind::Redis, prefix);
    let ours = ["--broker", "redis", "--url", &url, "--prefix", prefix];

    // A producer that waits for space in a full queue without consumers.
    let jobs = ["--count", "300", "--max-length", "100"];
    let mut producer = Program::producer(Kind::Redis, &url, prefix, &jobs);
    producer.shows("is full: waiting for consumers", 1).await;
    redis_cli(&["ACL", "SETUSER", prefix, "-eval"]).await;
    let printed = producer.ends(1).await;
    assert_eq!(printed.matches("error: Redis: NOPERM").count(), 1, "{printed}");

    redis_cli(&["ACL", "SETUSER", prefix, "+eval"]).await;
    let mut worker = Program::worker(Kind::Redis, &url, prefix, &folder, &[]);
    worker.shows(" done: station-", 100).await;
    redis_cli(&["ACL", "SETUSER", prefix, "-xautoclaim"]).await;
    let printed = worker.ends(1).await;
    assert_eq!(printed.matches("error: Redis: NOPERM").count(), 1, "{printed}");

    // The server can't publish its reply, and a restarted one could not either.
    let mut server = Program::start(PAIR.server, &ours);
    server.shows("connected to", 1).await;
    redis_cli(&["ACL", "SETUSER", prefix, "-publish"]).await;
    let client = Client::connect(Kind::Redis, &broker(Kind::Redis), prefix, LONG).await;
    let call = tokio::spawn(async move { client.record(&readings("oslo-1", 1)).await });
    let printed = server.ends(1).await;
    assert_eq!(printed.matches("error: Redis: NOPERM").count(), 1, "{printed}");
    call.abort();

    // Redis closes the connection of a subscriber that loses the permission for its channel.
    let mut subscriber = Program::start(CONSUMER, &[&ours[..], &["subscribe"]].concat());
    subscriber.shows("subscribed to", 1).await;
    redis_cli(&["ACL", "SETUSER", prefix, "resetchannels"]).await;
    let printed = subscriber.ends(1).await;
    assert_eq!(printed.matches("connection lost: ").count(), 1, "{printed}");
    assert_eq!(printed.matches("error: Redis: NOPERM").count(), 1, "{printed}");

    // RabbitMQ caches the permissions of a connection, so the connections are closed as well.
    let rabbitmqctl = |args: &[&str]| shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(args).unwrap();
    let url = url_for(Kind::RabbitMq, prefix);
    rabbitmqctl(&["add_user", prefix, "sekret"]);
    rabbitmqctl(&["set_permissions", prefix, ".*", ".*", ".*"]);
    let ours = ["--url", &url, "--prefix", prefix];
    let mut programs = [
        Program::start(PAIR.server, &ours),
        Program::start(CONSUMER, &[&ours[..], &["subscribe"]].concat()),
        Program::worker(Kind::RabbitMq, &url, prefix, &folder, &["--work-time", "1"]),
    ];
    for (program, ready) in programs.iter_mut().zip(["connected to", "subscribed to", "jobs come from"]) {
        program.shows(ready, 1).await;
    }
    let jobs = ["--count", "1000000"];
    let mut producer = Program::producer(Kind::RabbitMq, &url, prefix, &jobs);
    producer.shows("confirmed 1000 of", 1).await;
    rabbitmqctl(&["set_permissions", prefix, "nothing", "nothing", "nothing"]);
    rabbitmqctl(&["close_all_user_connections", prefix, "the operator's reason"]);
    for program in programs.iter_mut().chain([&mut producer]) {
        let printed = program.ends(1).await;
        assert_eq!(printed.matches("error: RabbitMQ: ACCESS_REFUSED").count(), 1, "{printed}");
    }
}

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
            "cannot use the URL amqps://127.0.0.1:",
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
            "cannot use the URL rediss://127.0.0.1:",
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
    // Each says what to do.
    let hint = async |url: &str| {
        let kind = if url.starts_with("amqp") { "rabbitmq" } else { "redis" };
        run_program(PRODUCER, &["--broker", kind, "--url", url, "--count", "1"]).await.stderr
    };
    for (url, text) in [
        (
            format!("amqp://127.0.0.1:{rabbitmq}/"),
            "remove the slash at the end, or write /%2f for the vhost /",
        ),
        (format!("amqp://127.0.0.1:{rabbitmq}/nope"), "rabbitmqctl add_vhost nope"),
        (format!("amqps://127.0.0.1:{rabbitmq}"), "it asks for TLS"),
        (format!("rediss://127.0.0.1:{redis_port}"), "it asks for TLS"),
        (format!("redis://{locked}"), "requires a login"),
    ] {
        let said = hint(&url).await;
        assert!(said.contains(text), "{said}");
    }
}

/// A user without the permission for HELLO can work all the same. A broker that lacks a
/// command or an argument is reported as too old.
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

    // What RabbitMQ 3.9 answers: its quorum queues have no time to live for messages.
    for argument in ["x-message-ttl", "x-dead-letter-strategy", "x-queue-type"] {
        let text = format!("PRECONDITION_FAILED - invalid arg '{argument}' for queue 'q' in vhost '/'");
        let declare_ok = (50, 11);
        let old = rewritten(&broker(Kind::RabbitMq), declare_ok, vec![close(20, 406, &text)]).await;
        let url = format!("amqp://{}", old.addr);
        let output = run_program(PRODUCER, &["--url", &url, "--prefix", &prefix(), "--count", "1"]).await;
        assert_error(&output, "RabbitMQ can't make test-");
        assert!(output.stderr.ends_with("This program needs RabbitMQ 3.10 or newer\n"), "{output:?}");
    }
}

/// Text from a broker or its other clients is escaped before a person sees it.
#[apply(broker_test!)]
async fn text_from_outside_is_printable() {
    // The reason why RabbitMQ closes a connection appears in an error and in a log line.
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

    // The name of a channel: anyone can publish on any channel.
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

    // A refusal by another kind of server.
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

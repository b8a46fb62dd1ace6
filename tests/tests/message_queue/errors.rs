//! Temporary and permanent errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use lapin::protocol::AMQPError;
use message_queue::brokers::Kind;
use message_queue::error::Error;
use message_queue::record::Reason;
use tests::{Output, apply, run_program, test};

use crate::fakes::{close, fake_redis, rewritten};
use crate::support::{PRODUCER, Program, broker_test, prefix, url as broker};

/// Errors as Redis 7 sends them, and one from a script as Redis 6 sends it.
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

const REDIS_PERMANENT: [&str; 8] = [
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
const RABBITMQ: [(u16, &str, bool); 15] = [
    (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", true),
    (404, "NOT_FOUND - no queue 'weather.jobs.v1' in vhost '/'", true),
    (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x' in vhost '/'", true),
    (406, "PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out", true),
    (406, "invalid ack received for inexistant delivery_tag 2 on channel 1", true),
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
async fn temporary_and_permanent_errors_are_distinguished() {
    let redis = |text: &str| -> Error {
        let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        let redis::Value::ServerError(error) = value else { panic!("{value:?}") };
        redis::RedisError::from(error).into()
    };
    for (texts, transient) in [(&REDIS_TRANSIENT[..], true), (&REDIS_PERMANENT, false)] {
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

/// A request is safe to send again only if it certainly was not executed.
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

/// JSON that can't be written is not reported as failed input or output.
#[apply(test!)]
async fn a_json_error_has_its_own_variant() {
    let error = Error::from(serde_json::from_str::<u8>("x").unwrap_err());
    assert!(matches!(error, Error::Json(_)), "{error:?}");
}

/// Checks for exit code 1 and a single error line on stderr.
pub fn assert_error(output: &Output, text: &str) {
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

/// For a time, Redis accepts each connection and then refuses the work.
#[apply(test!)]
async fn a_producer_tries_again_with_growing_pauses_until_redis_recovers() {
    let cases = REDIS_TRANSIENT.map(|text| async move {
        let count = Arc::new(AtomicUsize::new(0));
        let fake = fake_redis(move |name| {
            // Redis accepts two batches. The last error, between them, comes after progress.
            let response = match (name, count.load(Ordering::Relaxed)) {
                ("EVAL", 4 | 6) => ":100\r\n".to_owned(),
                ("EVAL", _) => format!("-{text}\r\n"),
                _ => return None,
            };
            count.fetch_add(1, Ordering::Relaxed);
            Some(response)
        })
        .await;
        let url = format!("redis://{}", fake.addr);
        let mut producer = Program::producer(Kind::Redis, &url, "fake", &["--count", "200"]);
        let printed = producer.success().await;
        assert!(printed.contains("all confirmed: 200"), "{printed}");
        let pauses = pauses(&printed);
        assert_eq!(pauses.len(), 5, "{printed}");
        assert!(pauses[..4].is_sorted_by(|a, b| a < b), "the pauses don't grow: {printed}");
        assert!(
            pauses[3] >= 400 && pauses[4] < 200,
            "the pauses must become short again only after progress: {printed}"
        );
        assert_eq!(printed.matches(text.trim_end()).count(), 5, "each error must be logged once: {printed}");
    });
    join_all(cases).await;
}

#[apply(test!)]
async fn a_permanent_error_of_redis_ends_a_producer() {
    let cases = REDIS_PERMANENT.map(|text| async move {
        let fake = fake_redis(move |name| (name == "EVAL").then(|| format!("-{text}\r\n"))).await;
        let url = format!("redis://{}", fake.addr);
        let output = run_program(PRODUCER, &["--broker", "redis", "--url", &url, "--count", "1"]).await;
        assert_error(&output, &format!("Redis: {}", text.trim_end()));
        assert_eq!(output.stderr.matches(text.trim_end()).count(), 1, "{output:?}");
    });
    join_all(cases).await;
}

/// A producer starts while its broker accepts connections but does no work yet.
#[apply(broker_test!)]
async fn a_producer_waits_for_a_broker_that_is_starting() {
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

pub async fn redis_cli(words: &[&str]) {
    let client = redis::Client::open(broker(Kind::Redis)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(words[0]).arg(&words[1..]).exec_async(&mut connection).await.unwrap();
}

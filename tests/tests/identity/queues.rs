//! The same table for the brokers, and what clients of other makes see.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::sync::OnceLock;

use message_queue::brokers::{Broker, Kind, Options, available};
use message_queue::client::Client;
use message_queue::error::Error;
use message_queue::job::Job;
use message_queue::model::{Metric, Reading};
use message_queue::rabbitmq::topology::Topology;
use message_queue::redis::names::KeyNames;
use message_queue::worker::{Jobs, Queue};
use message_queue::{address::BrokerUrl, limits, rabbitmq, redis};
use tcp_socket::base::principals;
use tcp_socket::base::principals::Operation::{self, Manage, RecordOther, RecordOwn, Subscribe};
use tcp_socket::base::token::Token;
use tests::practice::environment;
use tests::{apply, test};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::attempts::{Outcome, expected};
use crate::chapters::{CALLERS, file, token, with_token};

const BOTH: [Kind; 2] = [Kind::RabbitMq, Kind::Redis];

/// Returns the URL of a broker of this test run, for this user.
async fn url(kind: Kind, user: &str) -> String {
    static RABBITMQ: OnceLock<Broker> = OnceLock::new();
    static REDIS: OnceLock<Broker> = OnceLock::new();
    let broker = if kind == Kind::Redis { &REDIS } else { &RABBITMQ };
    let principals = principals::Options { principals: Some(file("principals.toml").into()) };
    let start = move || Broker::start(kind, Options { principals, ..Options::default() }).unwrap();
    let url = spawn_blocking(move || broker.get_or_init(start).url()).await.unwrap();
    url.replace("://", &format!("://{user}"))
}

/// What a program does with a broker, and what the table calls it. A broker doesn't see whose readings
/// a request or a job holds.
const USES: [(&str, Operation); 8] = [
    ("request", RecordOwn),
    ("job", RecordOwn),
    ("publish oslo-1", RecordOwn),
    ("publish rome-7", RecordOther),
    ("subscribe", Subscribe),
    ("work", Manage),
    ("dead letters", Manage),
    ("serve", Manage),
];

fn reading(station: &str) -> Reading {
    Reading { station: station.into(), metric: Metric::Wind, value: 7.0, recorded_at: 0 }
}

/// Takes a job, and gives it back by closing the connection.
async fn take_one(queue: impl Queue) -> Result<(), Error> {
    queue.open().await?.wait(&CancellationToken::new()).await.map(drop)
}

async fn use_rabbitmq(url: BrokerUrl, what: &str) -> Result<(), Error> {
    use rabbitmq::{producer::Publisher, publish_subscribe, server, worker};
    let topology = Topology::default();
    let publish = async |message| {
        let mut publisher = Publisher::connect(url.clone(), topology.clone(), 1).await?;
        publisher.publish(message).await?;
        publisher.flush().await
    };
    match what {
        "request" => Client::connect(url, topology).await?.record(&[reading("rome-7")]).await.map(drop),
        "job" => publish(worker::message(&topology, &Job::example("a-1".into(), 1))?).await,
        "subscribe" => publish_subscribe::subscribe(url, topology, &["#".into()]).await.map(drop),
        "work" => {
            let (prefetch, max_wait) = (1, limits::rabbitmq::MAX_WAIT);
            take_one(worker::WorkQueue { url, topology, prefetch, max_wait }).await
        }
        "dead letters" => worker::dead_letters(url, &topology, false, |_| Ok(())).await.map(drop),
        "serve" => {
            let stop = CancellationToken::new();
            server::serve(url, &topology, &stop, || stop.cancel()).await
        }
        reading_of => publish(publish_subscribe::message(&topology, &reading(&reading_of[8..]))?).await,
    }
}

async fn use_redis(url: BrokerUrl, what: &str) -> Result<(), Error> {
    use redis::{producer::Producer, publish_subscribe, server, worker};
    let keys = KeyNames::default();
    match what {
        "request" => Client::connect(url, keys).await?.record(&[reading("rome-7")]).await.map(drop),
        "job" => {
            let mut producer = Producer::connect(url, keys, 1_000).await?;
            producer.publish(&Job::example("a-1".into(), 1)).await?;
            producer.flush().await
        }
        "subscribe" => {
            for pattern in ["*", "*:wind", "oslo-1:wind"] {
                drop(publish_subscribe::subscribe(url.clone(), &keys, &[pattern.into()]).await?);
            }
            Ok(())
        }
        "work" => {
            let (claim_after, remove_idle_after) =
                (limits::redis::CLAIM_AFTER, limits::redis::REMOVE_IDLE_AFTER);
            let name = "worker-1".into();
            take_one(worker::WorkQueue { url, keys, name, claim_after, remove_idle_after }).await
        }
        "dead letters" => worker::dead_letters(url, &keys, false, |_| Ok(())).await.map(drop),
        "serve" => {
            let stop = CancellationToken::new();
            server::serve(url, &keys, &stop, || stop.cancel()).await
        }
        reading_of => {
            let mut publisher = publish_subscribe::Publisher::connect(url, keys).await?;
            publisher.publish(&[reading(&reading_of[8..])]).await.map(drop)
        }
    }
}

async fn attempt(kind: Kind, url: BrokerUrl, what: &str) -> Outcome {
    let result = if kind == Kind::Redis { use_redis(url, what).await } else { use_rabbitmq(url, what).await };
    let Err(error) = result else { return Outcome::Allowed };
    let (says, transient) = (error.to_string(), error.is_transient());
    assert!(!transient && !error.may_have_been_executed() && !says.contains('\n'), "{what}: {says}");
    if says.contains("refused the login") || says.contains("requires a login") {
        Outcome::Unauthenticated
    } else {
        assert!(says.contains("NOPERM") || says.contains("ACCESS_REFUSED"), "{kind} {what}: {says}");
        Outcome::Forbidden
    }
}

#[apply(test!)]
#[needs(available())]
async fn the_table_holds_over_both_brokers() {
    for kind in BOTH {
        let of = async |name: &str| {
            BrokerUrl::with_tls(&url(kind, &format!("{name}@")).await, &with_token(name)).unwrap()
        };
        let (stop, operator) = (CancellationToken::new(), of("operator").await);
        let (stopped, (listening, ready)) = (stop.clone(), oneshot::channel());
        let server = tokio::spawn(async move {
            let listening = || listening.send(()).unwrap();
            match kind {
                Kind::Redis => {
                    redis::server::serve(operator, &KeyNames::default(), &stopped, listening).await
                }
                Kind::RabbitMq => {
                    rabbitmq::server::serve(operator, &Topology::default(), &stopped, listening).await
                }
            }
        });
        ready.await.unwrap();
        for (role, name) in CALLERS {
            for (what, operation) in USES {
                let outcome = attempt(kind, of(name).await, what).await;
                assert_eq!(outcome, expected(operation, role), "{kind}, {name}: {what}");
            }
        }
        for login in ["", "oslo-1:wrong@", "guest:guest@", "default:@"] {
            let outcome = attempt(kind, url(kind, login).await.into(), "job").await;
            assert_eq!(outcome, Outcome::Unauthenticated, "{kind}, {login}");
        }
        stop.cancel();
        server.await.unwrap().unwrap();
    }
}

/// Runs a program that gets its login from the environment.
async fn run(program: &str, args: &[&str], login: &[(&str, String)]) -> (bool, String) {
    let output: Output = Command::new(program).args(args).envs(login.iter().cloned()).output().await.unwrap();
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

#[apply(test!)]
#[needs(available())]
async fn redis_cli_is_refused_what_its_user_may_not_do() {
    let url = url(Kind::Redis, "").await;
    for (user, command, says) in [
        (None, "GET x", "NOAUTH"),
        (None, "AUTH default x", "WRONGPASS"),
        (Some("nobody"), "PING", "WRONGPASS"),
        (Some("oslo-1"), "PUBLISH weather:readings:oslo-1:wind 7", "0\n"),
        (Some("oslo-1"), "PUBLISH weather:readings:rome-7:wind 7", "NOPERM"),
        (Some("oslo-1"), "SUBSCRIBE weather:record:v1", "NOPERM"),
        (Some("oslo-1"), "PUBLISH weather:reply:1 7", "NOPERM"),
        (Some("oslo-1"), "XRANGE weather:jobs:v1 - +", "NOPERM"),
        (Some("oslo-1"), "XADD other * job 1", "NOPERM"),
        (Some("reader"), "PSUBSCRIBE weather:*", "NOPERM"),
        (Some("reader"), "KEYS *", "NOPERM"),
        (Some("operator"), "XLEN weather:jobs:v1", ""),
        (Some("operator"), "ACL LIST", "NOPERM"),
    ] {
        let mut args = vec!["-u", &url];
        args.extend(user.iter().flat_map(|user| ["--user", user]));
        args.extend(command.split(' '));
        let login: Vec<_> = user.map(|user| ("REDISCLI_AUTH", token(user))).into_iter().collect();
        let (_, printed) = run("redis-cli", &args, &login).await;
        assert!(printed.contains(says), "{user:?} {command}: {printed}");
        assert!(!says.is_empty() || !printed.contains("NOPERM"), "{printed}");
    }
}

#[apply(test!)]
#[needs(available())]
#[needs(environment("message_queue"))]
async fn pika_and_redis_py_are_refused_what_their_user_may_not_do() {
    const RUN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../message_queue/python/run");
    for (kind, name, variable, refused, stranger) in [
        (Kind::RabbitMq, "rabbitmq", "RABBITMQ_URL", "ACCESS_REFUSED", "ACCESS_REFUSED"),
        (Kind::Redis, "redis", "REDIS_URL", "no permissions", "AuthenticationError"),
    ] {
        for (user, what, says) in [
            (Some("oslo-1"), "produce", "all confirmed: 1\n"),
            (Some("oslo-1"), "consume", refused),
            (Some("reader"), "produce", refused),
            (None, "produce", stranger),
        ] {
            let login = user.map(|user| format!("{user}:{}@", token(user))).unwrap_or_default();
            let login = [(variable, url(kind, &login).await)];
            let results = file("results");
            let (done, printed) =
                run(RUN, &[what, name, "--count", "1", "--results", &results], &login).await;
            assert!(printed.contains(says), "{name} {user:?} {what}: {printed}");
            assert_eq!(done, says.starts_with("all"), "{printed}");
        }
    }
}

#[apply(test!)]
#[needs(available())]
async fn brokers_do_not_start_with_unusable_principals() {
    let folder = Path::new(&file("tokens")).to_owned();
    let _ = fs::remove_dir_all(&folder); // A failed run may have left it.
    fs::create_dir_all(&folder).unwrap();
    let principals = folder.join("principals.toml");
    let entry = |role: &str| {
        let hash = Token::generate().unwrap().sha256();
        format!("[[principal]]\nname = \"a\"\nrole = \"{role}\"\ntoken_sha256 = \"{hash}\"\n")
    };
    let start = |kind| {
        let principals = principals::Options { principals: Some(principals.clone()) };
        Broker::start(kind, Options { principals, ..Options::default() }).unwrap_err().to_string()
    };
    fs::write(&principals, entry("boss")).unwrap();
    for kind in BOTH {
        assert!(start(kind).contains("principals.toml, line 3: unknown variant `boss`"), "{kind}");
    }
    // RabbitMQ needs the token, and the right one.
    fs::write(&principals, entry("reader")).unwrap();
    let missing = start(Kind::RabbitMq);
    assert!(missing.starts_with("cannot read ") && missing.contains("a.token: "), "{missing}");
    fs::write(folder.join("a.token"), token("reader")).unwrap();
    let wrong = start(Kind::RabbitMq);
    assert!(wrong.ends_with("a.token is not that of a"), "{wrong}");
    fs::remove_dir_all(&folder).unwrap();
}

//! Users who lack a permission that a program needs.

use message_queue::brokers::Kind;
use tests::{apply, run_program};

use crate::PAIR;
use crate::errors::{assert_error, redis_cli};
use crate::request_reply::{connect, readings};
use crate::support::{
    CONSUMER, Folder, LONG, PRODUCER, Program, broker_test, prefix, shared, url as broker, url,
};
use crate::workers::{connect_redis, produce};

/// Returns the shared broker's URL for a user with this name and the password `sekret`.
pub fn url_for(kind: Kind, user: &str) -> String {
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
        (PRODUCER, "write", [".*", "nothing", ".*"], &["--count", "1"]),
        (PRODUCER, "write", [".*", "nothing", ".*"], &reading),
        (PAIR.client, "write", [".*", "nothing", ".*"], &["record", "oslo-1", "wind", "7"]),
        (CONSUMER, "read", [".*", ".*", "nothing"], &[]),
        (CONSUMER, "read", [".*", ".*", "nothing"], &["dead-letters"]),
        (PAIR.server, "read", [".*", ".*", "nothing"], &[]),
    ];
    let user = prefix();
    let rabbitmqctl = |args: &[&str]| shared(Kind::RabbitMq).lock().unwrap().rabbitmqctl(args).unwrap();
    let url = url_for(Kind::RabbitMq, &user);
    rabbitmqctl(&["add_user", &user, "sekret"]);
    for (program, missing, [configure, write, read], args) in cases {
        // A user with all permissions declares the queues first.
        let (prefix, folder) = (prefix(), Folder::new());
        let all = ["--url", &broker(Kind::RabbitMq), "--prefix", &prefix, "--count", "0"];
        assert_eq!(run_program(PRODUCER, &all).await.code, Some(0));
        rabbitmqctl(&["set_permissions", &user, configure, write, read]);
        let mut all = vec!["--url", &url, "--prefix", &prefix];
        if program == CONSUMER {
            all.extend(["--results", folder.path()]);
        }
        let output = run_program(program, &[&all, args].concat()).await;
        // Newer versions also say which permission is missing.
        assert_error(&output, "RabbitMQ: ACCESS_REFUSED - ");
        assert!(
            output.stderr.contains(&format!("refused for user '{user}'")),
            "without {missing}: {output:?}"
        );
    }

    // A user who may not declare queues uses those that exist.
    let prefix = prefix();
    let all = ["--url", &broker(Kind::RabbitMq), "--prefix", &prefix, "--count", "0"];
    assert_eq!(run_program(PRODUCER, &all).await.code, Some(0));
    rabbitmqctl(&["set_permissions", &user, "nothing", ".*", ".*"]);
    let ours = ["--url", &url, "--prefix", &prefix, "--count", "1"];
    assert_eq!(run_program(PRODUCER, &ours).await.code, Some(0));
    let output = run_program(PRODUCER, &["--url", &url, "--prefix", "none", "--count", "1"]).await;
    assert!(output.stderr.ends_with(&format!("refused for user '{user}'\n")), "{output:?}");
}

/// The permission is revoked while the programs run.
#[apply(broker_test!)]
async fn a_revoked_permission_ends_the_programs_that_need_it() {
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

    // The server can't publish its reply, and a new connection would not help.
    let mut server = Program::start(PAIR.server, &ours);
    server.shows("connected to", 1).await;
    redis_cli(&["ACL", "SETUSER", prefix, "-publish"]).await;
    let client = connect(Kind::Redis, &broker(Kind::Redis), prefix, LONG).await;
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

/// Three workers each lack one permission from the start. A fourth one loses a permission later.
#[apply(broker_test!)]
async fn a_worker_without_a_permission_ends_with_one_error_line() {
    let mut redis = connect_redis().await;
    let url = url(Kind::Redis).replace("redis://", "redis://app:pw@");
    for missing in ["xautoclaim", "xreadgroup", "eval"] {
        let (prefix, folder) = (prefix(), Folder::new());
        let all = ["reset", "on", ">pw", "~*", "&*", "+@all"];
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER")
            .arg("app")
            .arg(&all)
            .arg(format!("-{missing}"))
            .exec_async(&mut redis)
            .await
            .unwrap();
        let args = ["--broker", "redis", "--url", &url, "--prefix", &prefix, "--results", folder.path()];
        let output = run_program(CONSUMER, &args).await;
        assert_eq!(output.code, Some(1), "{missing}: {}", output.stderr);
        let errors: Vec<&str> = output.stderr.lines().filter(|line| !line.contains(" INFO ")).collect();
        assert_eq!(errors.len(), 1, "{missing}: {errors:?}");
        assert!(errors[0].starts_with("error: ") && errors[0].contains(missing), "{errors:?}");
    }
    let (prefix, folder) = (prefix(), Folder::new());
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("app").arg("+@all").exec_async(&mut redis).await.unwrap();
    let mut worker = Program::worker(Kind::Redis, &url, &prefix, &folder, &[]);
    produce(Kind::Redis, &prefix, "before", 1).await;
    worker.shows("before-1 done", 1).await;
    redis::cmd("ACL").arg("SETUSER").arg("app").arg("-xack").exec_async(&mut redis).await.unwrap();
    produce(Kind::Redis, &prefix, "after", 1).await;
    worker.shows("error: ", 1).await;
}

//! What the clients of all chapters offer for trying things out.

use message_queue::brokers::{Broker, Kind, Options};
use tests::{Output, Server, apply, run_program, test};

use crate::contracts::PAIRS;

const QUEUES: tests::Pair = tests::pair!("message_queue");

fn assert_steps_and_simulates(steps: &Output, simulated: &Output, chapter: &str) {
    // The input has ended, so the tour goes on at once, but it asks before each step.
    assert_eq!(steps.code, Some(0), "{chapter}: {}", steps.stderr);
    let asked = steps.stderr.matches("(Enter shows the next step").count();
    let begun = steps.stdout.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_digit()));
    assert_eq!(asked, begun.count() - 1, "{chapter}: {}", steps.stdout);
    let expected = "simulated temperature 10.0\nsimulated temperature 10.5\n";
    assert_eq!((simulated.code, simulated.stdout.as_str()), (Some(0), expected), "{chapter}");
}

#[apply(test!)]
async fn each_client_shows_its_tour_step_by_step_and_simulates_a_station() {
    for pair in PAIRS {
        let server = pair.serve().await;
        let steps = pair.client(&server, &["--step"]).await;
        let simulated = pair.client(&server, &["simulate", "--count", "2"]).await;
        assert_steps_and_simulates(&steps, &simulated, pair.chapter);
        server.stop().await;
    }
}

#[apply(test!)]
#[needs(message_queue::brokers::available())]
async fn the_client_of_the_queue_chapter_does_so_too() {
    let redis = Broker::start(Kind::Redis, Options::default()).unwrap();
    let url = redis.url();
    let on_redis = ["--broker", "redis", "--url", &url];
    let server = Server::start(QUEUES.server, &on_redis).await;
    let steps = run_program(QUEUES.client, &[&on_redis[..], &["--step"]].concat()).await;
    let simulate = [&on_redis[..], &["simulate", "--count", "2"]].concat();
    let simulated = run_program(QUEUES.client, &simulate).await;
    assert_steps_and_simulates(&steps, &simulated, QUEUES.chapter);
    server.stop().await;
}

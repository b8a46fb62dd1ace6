//! Tests of the journal that experiments read: it says what a server has executed.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use message_queue::brokers::{Broker, Kind, Options, available};
use message_queue::client::Client as QueueClient;
use message_queue::model::{Metric as QueueMetric, Reading as QueueReading};
use message_queue::redis::names::KeyNames;
use tests::signal::{Pid, Signal, kill};
use tests::{Server, apply, run_program, test};

const STATION: &str = "oslo-1";
const VALUE: f64 = -3.5;
const IMPOSSIBLE: f64 = 1_000.0;
const RECORDED_AT: u64 = 1_767_225_600_000;

/// A journal that is removed at the end.
pub struct Journal(PathBuf);

impl Journal {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Relaxed);
        Self(std::env::temp_dir().join(format!("weather-journal-{name}-{}-{count}", std::process::id())))
    }

    /// Starts a server that writes this journal.
    pub async fn server(&self, program: &str, args: &[&str]) -> Server {
        Server::start(program, &[args, &["--journal", self.0.to_str().unwrap()]].concat()).await
    }

    /// Kills the server, and returns what it had written.
    pub fn after_the_death_of(&self, server: &Server) -> String {
        kill(Pid::from_raw(server.pid().cast_signed()), Signal::SIGKILL).unwrap();
        fs::read_to_string(&self.0).unwrap()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Records a batch, is refused another, and returns what the killed server's journal says.
macro_rules! journal_of {
    ($chapter:ident, $client:expr, $($reading:ident)::+ { $metric:expr }) => {{
        let journal = Journal::new(stringify!($chapter));
        let program = env!(concat!("CARGO_BIN_EXE_", stringify!($chapter), "-server"));
        let server = journal.server(program, &["--addr", "127.0.0.1:0"]).await;
        let client = $client(server.url().to_owned()).await.unwrap();
        let reading = |value| $($reading)::+ {
            station: STATION.into(),
            metric: $metric,
            value,
            recorded_at: RECORDED_AT,
        };
        client.record(&[reading(VALUE), reading(VALUE)]).await.unwrap();
        client.record(&[reading(IMPOSSIBLE)]).await.unwrap_err();
        journal.after_the_death_of(&server)
    }};
}

#[apply(test!)]
async fn the_journal_of_a_killed_server_has_a_line_for_each_accepted_batch() {
    let http = async |url: String| http_rest::Client::new(&url);
    let rpc = async |url: String| grpc::Client::new(&url, &grpc::Options::default());
    let web = async |url: String| Ok::<_, ()>(websocket::Client::new(&url));
    let tcp = async |url: String| tcp_socket::Client::connect(&url).await;
    let journals = [
        journal_of!(http_rest, http, http_rest::Reading { http_rest::Metric::Temperature }),
        journal_of!(grpc, rpc, grpc::proto::Reading { grpc::proto::Metric::Temperature.into() }),
        journal_of!(websocket, web, websocket::Reading { websocket::Metric::Temperature }),
        journal_of!(tcp_socket, tcp, tcp_socket::Reading { tcp_socket::Metric::Temperature }),
    ];
    for journal in journals {
        let reading = format!("{STATION} temperature {VALUE} {RECORDED_AT}");
        assert_eq!(journal, format!("{reading}; {reading}\n"));
    }
}

#[apply(test!)]
async fn the_journal_has_each_chat_message_once() {
    let journal = Journal::new("chat");
    let server = journal.server(env!("CARGO_BIN_EXE_websocket-server"), &["--addr", "127.0.0.1:0"]).await;
    let client = websocket::Client::new(server.url());
    let (chat, _events) = client.chat("lobby", "ada").await.unwrap();
    chat.say("one\ntwo").await.unwrap();
    let text = journal.after_the_death_of(&server);
    let (who, what) = text.split_once(" \"").unwrap();
    assert!(who.starts_with("lobby ada "), "{text}");
    assert_eq!(what, "one\\ntwo\"\n", "a message takes one line");
}

#[apply(test!)]
#[needs(available())]
async fn the_journal_behind_a_broker_names_accepted_batches() {
    let broker = Broker::start(Kind::Redis, Options::default()).unwrap();
    let to_broker = ["--broker", "redis", "--url", &broker.url()];
    let journal = Journal::new("message_queue");
    let server = journal.server(env!("CARGO_BIN_EXE_message_queue-server"), &to_broker).await;
    let client = QueueClient::connect(&broker.url(), KeyNames::default()).await.unwrap();
    let reading = |value| QueueReading {
        station: STATION.into(),
        metric: QueueMetric::Temperature,
        value,
        recorded_at: RECORDED_AT,
    };
    client.record(&[reading(VALUE)]).await.unwrap();
    client.record(&[reading(IMPOSSIBLE)]).await.unwrap_err();
    let text = journal.after_the_death_of(&server);
    assert_eq!(text, format!("{STATION} temperature {VALUE} {RECORDED_AT}\n"));
}

#[apply(test!)]
async fn a_journal_that_cannot_be_opened_stops_the_server_at_once() {
    let program = env!("CARGO_BIN_EXE_tcp_socket-server");
    let output = run_program(program, &["--addr", "127.0.0.1:0", "--journal", "/nowhere/at/all"]).await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.starts_with("error: cannot open /nowhere/at/all: "), "{}", output.stderr);
}

//! The contracts of the chapters, as checks that a program in any language must pass. The chapters' own
//! programs pass them in `cargo test`; `cargo run --bin check` checks yours.

use std::fmt::Display;
use std::time::Duration;

use futures::future::{FutureExt, LocalBoxFuture};
use lab::wire::decode::Format;
use tokio::time::timeout;

use crate::recorder::Recorder;

mod grpc;
mod http_rest;
mod message_queue;
mod messages;
mod program;
mod script;
mod tcp_socket;
mod websocket;

pub use program::Program;

/// Time after which a case counts as failed. No case needs half of that, even on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// What a case wanted, and what it got instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What the contract says.
    pub wanted: String,
    /// What the program did.
    pub got: String,
}

/// The outcome of a case, or of a step of one.
pub type Checked<T = ()> = Result<T, Wrong>;

/// The program that a case checks.
#[derive(Debug, Clone)]
pub struct Tested {
    /// The `host:port` of the server. In the contracts of the queues, it is that of Redis.
    pub addr: String,
    /// In the contracts of the queues, the command that starts the program.
    pub command: String,
}

/// One thing that a program must do.
pub struct Case {
    /// A sentence about the program, with the section that says so.
    pub name: &'static str,
    run: Box<dyn Fn(Tested) -> LocalBoxFuture<'static, Checked> + Send + Sync>,
}

impl Case {
    /// Returns a case about the server at an address.
    fn new<F: Future<Output = Checked> + 'static>(
        name: &'static str,
        run: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self {
        Self::of(name, move |tested| run(tested.addr).boxed_local())
    }

    fn of(
        name: &'static str,
        run: impl Fn(Tested) -> LocalBoxFuture<'static, Checked> + Send + Sync + 'static,
    ) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Cases that belong together. A new program passes them stage by stage.
pub struct Stage {
    /// One or two words.
    pub name: &'static str,
    /// The cases. Each has its own connections, so the order doesn't matter.
    pub cases: Vec<Case>,
}

/// The contract of a kind of program.
pub struct Contract {
    /// The chapter's crate; in the chapter about queues, followed by what the program does.
    pub name: &'static str,
    /// What travels.
    pub format: Format,
    /// The document with the sections that the cases name.
    pub document: &'static str,
    /// The stages, the easiest first.
    pub stages: Vec<Stage>,
}

/// Returns the contracts of all chapters that have one here.
pub fn all() -> Vec<Contract> {
    vec![
        tcp_socket::contract(),
        http_rest::contract(),
        grpc::contract(),
        websocket::contract(),
        message_queue::workers(),
        message_queue::clients(),
    ]
}

/// A case that failed.
#[derive(Debug)]
pub struct Failure {
    /// The case's name.
    pub case: &'static str,
    /// What was wrong.
    pub wrong: Wrong,
    /// The last messages.
    pub traveled: String,
}

/// Runs the cases of a stage, one after another.
pub async fn failures(format: Format, stage: &Stage, tested: &Tested) -> Vec<Failure> {
    let mut failures = Vec::new();
    for case in &stage.cases {
        let recorder = Recorder::start(format, &tested.addr);
        let recorded = match format {
            // The program's messages pass the recorder, but not the case's own.
            Format::Redis => {
                let command = tested.command.replace("{url}", &format!("redis://{}", recorder.addr()));
                Tested { command, ..tested.clone() }
            }
            _ => Tested { addr: recorder.addr(), ..tested.clone() },
        };
        let checked = timeout(BOUND, (case.run)(recorded)).await;
        if let Err(wrong) =
            checked.unwrap_or_else(|_| wrong("the end of this case", format!("none within {BOUND:?}")))
        {
            failures.push(Failure { case: case.name, wrong, traveled: recorder.last_messages() });
        }
    }
    failures
}

fn wrong<T>(wanted: impl Display, got: impl Display) -> Checked<T> {
    Err(Wrong { wanted: wanted.to_string(), got: got.to_string() })
}

/// Checks that two values are the same. `what` begins the description of both.
#[allow(clippy::needless_pass_by_value, reason = "most values are numbers")]
fn same<T: PartialEq + Display>(what: &str, got: T, wanted: T) -> Checked {
    if got == wanted { Ok(()) } else { wrong(format!("{what} {wanted}"), format!("{what} {got}")) }
}

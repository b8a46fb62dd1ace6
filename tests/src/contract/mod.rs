//! The contracts of the chapters, as checks that a server in any language must pass. The chapters' own
//! servers pass them in `cargo test`; `cargo run --bin check` checks yours.

use std::fmt::Display;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use lab::wire::decode::Format;
use tokio::time::timeout;

use crate::recorder::Recorder;

mod script;
mod tcp_socket;

/// Time after which a case counts as failed. No case needs half of that, even on a busy machine.
const BOUND: Duration = Duration::from_secs(60);

/// What a case wanted, and what it got instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What the contract says.
    pub wanted: String,
    /// What the server did.
    pub got: String,
}

/// The outcome of a case, or of a step of one.
pub type Checked<T = ()> = Result<T, Wrong>;

/// One thing that a server must do.
pub struct Case {
    /// A sentence about the server, with the section that says so.
    pub name: &'static str,
    run: Box<dyn Fn(String) -> BoxFuture<'static, Checked> + Send + Sync>,
}

impl Case {
    fn new<F: Future<Output = Checked> + Send + 'static>(
        name: &'static str,
        run: impl Fn(String) -> F + Send + Sync + 'static,
    ) -> Self {
        Self { name, run: Box::new(move |addr| run(addr).boxed()) }
    }
}

/// Cases that belong together. A new server passes them stage by stage.
pub struct Stage {
    /// One or two words.
    pub name: &'static str,
    /// The cases. Each has its own connections, so the order doesn't matter.
    pub cases: Vec<Case>,
}

/// A chapter's contract.
pub struct Contract {
    /// The chapter's crate.
    pub chapter: &'static str,
    /// What travels.
    pub format: Format,
    /// The document with the sections that the cases name.
    pub document: &'static str,
    /// The stages, the easiest first.
    pub stages: Vec<Stage>,
}

/// Returns the contracts of all chapters that have one here.
pub fn all() -> Vec<Contract> {
    vec![tcp_socket::contract(), script::http_rest(), script::websocket()]
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

/// Runs the cases of a stage, one after another, against the server at this `host:port`.
pub async fn failures(format: Format, stage: &Stage, server: &str) -> Vec<Failure> {
    let mut failures = Vec::new();
    for case in &stage.cases {
        let recorder = Recorder::start(format, server);
        let checked = timeout(BOUND, (case.run)(recorder.addr())).await;
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

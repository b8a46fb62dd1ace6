#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

//! The test harness. It runs a chapter's real binaries and checks what they print.
//!
//! A test is an `async fn` that panics when it fails, marked with [`test!`]:
//!
//! ```
//! use tests::{apply, test};
//!
//! #[apply(test!)]
//! async fn one_is_one() {
//!     assert_eq!(1, 1);
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     tests::run()
//! }
//! ```

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::time::timeout;

pub mod contract;
pub mod exercises;
mod first_hour;
pub mod practice;
mod process;
mod readme;
pub mod recorder;
pub mod signal;

pub use first_hour::limit_fields;
pub use inventory;
pub use macro_rules_attribute::apply;
use process::unused_address;
pub use process::{Output, Pair, Server, run_program};
pub use readme::{assert_same, expected_output};

/// Time after which a test counts as hanging, and fails. It is far longer than the slowest test
/// takes on a busy machine.
const BOUND: Duration = Duration::from_secs(300);

/// Time after which a [slow](Test::slow) test fails.
const SLOW_BOUND: Duration = Duration::from_secs(15 * 60);

/// Number of tests that run at the same time, unless the machine has more cores or the command line
/// says otherwise.
const THREADS: usize = 6;

type BoxedTest = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A test, with what it needs. [`test!`] creates it.
pub struct Test {
    name: &'static str,
    body: BoxedTest,
    alone: bool,
    long: bool,
    exercise: bool,
    slow: bool,
    lacking: Option<String>,
}

impl Test {
    /// Returns a test with this name. [`test!`] generates the call.
    pub fn new<F, Fut>(name: &'static str, body: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let lacking = (!cfg!(unix)).then(|| signal::NEEDS_UNIX.to_owned());
        let body: BoxedTest = Box::new(|| Box::pin(body()));
        Self { name, body, alone: false, long: false, exercise: false, slow: false, lacking }
    }

    /// Marks a test that runs while no other does. It loads the machine, so it would slow down
    /// other tests or be disturbed by them.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Marks a test that waits for ten seconds or more. It starts before the others, which then run
    /// while it waits.
    pub fn long(mut self) -> Self {
        self.long = true;
        self
    }

    /// Marks the test of an exercise in a chapter's README, which passes once the reader has solved
    /// it. It is ignored unless you run `cargo test --test <chapter> -- --ignored`.
    pub fn exercise(mut self) -> Self {
        self.exercise = true;
        self
    }

    /// Marks a test that takes minutes. It is ignored unless the environment has
    /// `SLOW=1`. Begin its name with `slow_test`, so that
    /// `SLOW=1 cargo test -- slow_test` runs it.
    pub fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// Says whether the machine has what the test needs. `Err` holds what is missing and a command
    /// that fixes it. The test is then reported as ignored with that reason, or fails if the
    /// environment has `REQUIRE=all`.
    pub fn needs(mut self, need: Result<(), String>) -> Self {
        self.lacking = self.lacking.or(need.err());
        self
    }

    fn into_trial(self) -> Trial {
        /// Tests hold this lock for reading, but a test that runs alone holds it for writing.
        static MACHINE: RwLock<()> = RwLock::new(());

        let trial = Trial::ignorable_test(self.name, move || {
            if let Some(reason) = self.lacking {
                return match std::env::var("REQUIRE").as_deref() {
                    Ok("all") => Err(Failed::from(format!("REQUIRE=all, but {reason}"))),
                    _ => Ok(Completion::ignored_with(reason)),
                };
            }
            if self.slow && std::env::var("SLOW").as_deref() != Ok("1") {
                return Ok(Completion::ignored_with(
                    "it takes minutes; to run it, use SLOW=1 cargo test -- slow_test",
                ));
            }
            let _shared;
            let _exclusive;
            if self.alone {
                _exclusive = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
            } else {
                _shared = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
            }
            let runtime = tokio::runtime::Runtime::new()?;
            let bound = if self.slow { SLOW_BOUND } else { BOUND };
            let bounded = async { timeout(bound, (self.body)()).await.expect("the test should end in time") };
            let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(bounded)));
            // Tasks that a failed test left on its runtime must not delay the other tests.
            runtime.shutdown_background();
            match outcome {
                Ok(()) => Ok(Completion::Completed),
                Err(panic) => resume_unwind(panic),
            }
        });
        trial.with_ignored_flag(self.exercise)
    }
}

/// A test's position in the source, and how to create it. [`test!`] generates it.
pub struct Listed {
    /// Module and line, which decide the order in which tests run.
    pub place: (&'static str, u32),
    /// Creates the test with its marks.
    pub test: fn() -> Test,
}

inventory::collect!(Listed);

/// Turns a function into a test with the function's name: `#[apply(test!)]`.
///
/// The attributes below it, such as `#[alone]` or `#[needs(chromium())]`, call the methods of
/// [`Test`].
#[macro_export]
macro_rules! test {
    ($(#[$($mark:tt)*])* async fn $name:ident() $body:block) => {
        async fn $name() $body

        $crate::inventory::submit! {
            $crate::Listed {
                place: (module_path!(), line!()),
                test: || {
                    let test = $crate::Test::new(stringify!($name), $name);
                    $(let test = $crate::mark!(test, $($mark)*);)*
                    test
                },
            }
        }
    };
}

/// Applies one attribute of a [`test!`].
#[doc(hidden)]
#[macro_export]
macro_rules! mark {
    ($test:ident, doc = $doc:expr) => {
        $test
    };
    ($test:ident, $method:ident $(($need:expr))?) => {
        $test.$method($($need)?)
    };
}

/// Runs the tests of a test file with the arguments of `cargo test`. Call this from its `main`.
pub fn run() -> ExitCode {
    let mut listed: Vec<_> = inventory::iter::<Listed>().collect();
    listed.sort_unstable_by_key(|listed| listed.place);
    let mut tests: Vec<_> = listed.iter().map(|listed| (listed.test)()).collect();
    // While a test runs alone, all others wait. So these come last.
    tests.sort_by_key(|test| (test.alone, !test.long));
    run_these(tests)
}

/// Runs tests that are not marked with [`test!`].
pub fn run_these(tests: impl IntoIterator<Item = Test>) -> ExitCode {
    // Some tests open a thousand connections, and others run at the same time, so the usual limit
    // of 1,024 descriptors is too low.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("could not raise the limit on open files: {error}");
    }
    let trials = tests.into_iter().map(Test::into_trial).collect();
    let mut arguments = Arguments::from_args();
    // Most tests wait for most of their time, so a machine with two cores can run several.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(cores.max(THREADS));
    libtest_mimic::run(&arguments, trials).exit_code()
}

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

//! The harness: runs a chapter's real binaries and looks at what they print.
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

mod first_hour;
mod process;
mod readme;
pub mod signal;

pub use first_hour::limit_fields;
pub use inventory;
pub use macro_rules_attribute::apply;
use process::nobody;
pub use process::{Output, Pair, Server, run_program};
pub use readme::{assert_same, expected_output};

/// A test that runs for longer hangs. No test measures time, so this is far above
/// what the slowest takes on a busy machine.
const BOUND: Duration = Duration::from_secs(300);

/// The same bound for a [slow](Test::slow) test.
const SLOW_BOUND: Duration = Duration::from_secs(15 * 60);

type BoxedTest = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// A test with what it needs. Made by [`test!`].
pub struct Test {
    name: &'static str,
    body: BoxedTest,
    alone: bool,
    exercise: bool,
    slow: bool,
    lacking: Option<String>,
}

impl Test {
    /// A test of that name; [`test!`] writes this call.
    pub fn new<F, Fut>(name: &'static str, body: F) -> Self
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static,
    {
        let lacking = (!cfg!(unix)).then(|| signal::NEEDS_UNIX.to_owned());
        let body: BoxedTest = Box::new(|| Box::pin(body()));
        Self { name, body, alone: false, exercise: false, slow: false, lacking }
    }

    /// No other test runs beside this one: it loads the machine, and would make
    /// others slow or be disturbed by them.
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Passes once the reader has solved the exercise of a chapter's README, and is
    /// ignored until then: `cargo test --test <chapter> -- --ignored` runs it.
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

    /// What the test needs of the machine. `Err` holds what is lacking and the
    /// command that would change it: the test is then reported as ignored with
    /// that reason, or fails if the environment has `REQUIRE=all`.
    pub fn needs(mut self, need: Result<(), String>) -> Self {
        self.lacking = self.lacking.or(need.err());
        self
    }

    fn into_trial(self) -> Trial {
        /// Held for reading by every test, for writing by one that runs alone.
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
                    "it takes minutes; to run it: SLOW=1 cargo test -- slow_test",
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
            let bounded = async { timeout(bound, (self.body)()).await.expect("the test ends in time") };
            let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(bounded)));
            // What a failed test left running on its runtime must not hold up the others.
            runtime.shutdown_background();
            match outcome {
                Ok(()) => Ok(Completion::Completed),
                Err(panic) => resume_unwind(panic),
            }
        });
        trial.with_ignored_flag(self.exercise)
    }
}

/// Where a test is, and how to make it. Written by [`test!`].
pub struct Listed {
    /// Module and line: the order in which the tests run.
    pub place: (&'static str, u32),
    /// Makes the test with its marks.
    pub test: fn() -> Test,
}

inventory::collect!(Listed);

/// Makes a test of a function, under the function's name: `#[apply(test!)]`.
///
/// Attributes below it call the methods of [`Test`], such as `#[alone]` or
/// `#[needs(chromium())]`.
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

/// The `main` of a test file: runs its tests with the arguments of `cargo test`.
pub fn run() -> ExitCode {
    let mut listed: Vec<_> = inventory::iter::<Listed>().collect();
    listed.sort_unstable_by_key(|listed| listed.place);
    run_these(listed.iter().map(|listed| (listed.test)()))
}

/// Runs tests that are not marked with [`test!`].
pub fn run_these(tests: impl IntoIterator<Item = Test>) -> ExitCode {
    // A thousand connections and their other ends need more than the usual 1024.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        eprintln!("the descriptor limit stays as it is: {error}");
    }
    let trials = tests.into_iter().map(Test::into_trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

//! What the clients share for trying things out: a pause before each step of a tour, and a simulated
//! station.

use std::io::{self, BufRead, Write, stderr, stdin};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;

/// Passes on what is written. If the reader wants to see one step at a time, it first waits for Enter
/// when a line begins with a digit, as the steps of a tour do. Meanwhile, the program does nothing
/// else, so a server that gets no answers closes the connection after some time.
pub struct StepByStep<W> {
    out: W,
    /// Whether to wait.
    waits: bool,
    /// Whether the next byte begins a line.
    at_start: bool,
    steps: u32,
}

impl<W: Write> StepByStep<W> {
    /// Returns a writer that `waits` before each step, or only passes on what is written.
    pub fn new(out: W, waits: bool) -> Self {
        Self { out, waits, at_start: true, steps: 0 }
    }
}

impl<W: Write> Write for StepByStep<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waits && self.at_start && bytes.first().is_some_and(u8::is_ascii_digit) {
            self.steps += 1;
            if self.steps > 1 {
                write!(
                    stderr(),
                    "(Enter shows the next step; after half a minute, the server may give up) "
                )?;
                stdin().lock().read_line(&mut String::new())?;
            }
        }
        self.at_start = bytes.last().is_none_or(|byte| *byte == b'\n');
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Records a temperature every second. It rises and falls within about a minute. `record` gets the
/// value and the time, in milliseconds since the Unix epoch.
///
/// # Errors
/// If the clock shows a time before 1970, or if `record` or the output fails.
pub async fn simulate<T, E: Into<anyhow::Error>>(
    count: Option<u64>,
    out: &mut impl Write,
    record: impl AsyncFn(f64, u64) -> Result<T, E>,
) -> anyhow::Result<()> {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    for second in 0..count.unwrap_or(u64::MAX) {
        every.tick().await;
        let value = 10.0 + 5.0 * (second as f64 / 10.0).sin();
        let now = UNIX_EPOCH.elapsed().context("the system clock is set to a time before 1970")?;
        record(value, u64::try_from(now.as_millis())?).await.map_err(Into::into)?;
        writeln!(out, "simulated temperature {value:.1}")?;
    }
    Ok(())
}

//! A pause before each step of the tour.

use std::io::{self, BufRead, Write, stderr, stdin};

/// Passes on what is written, but first waits for Enter if a line begins with a digit, as the steps of
/// the tour do. The server closes a connection on which it reads nothing for a minute.
pub struct StepByStep<W> {
    out: W,
    /// Whether the next byte begins a line.
    at_start: bool,
    steps: u32,
}

impl<W: Write> StepByStep<W> {
    pub fn new(out: W) -> Self {
        Self { out, at_start: true, steps: 0 }
    }
}

impl<W: Write> Write for StepByStep<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.at_start && bytes.first().is_some_and(u8::is_ascii_digit) {
            self.steps += 1;
            if self.steps > 1 {
                write!(stderr(), "(Enter shows the next step; after a minute, the server gives up) ")?;
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

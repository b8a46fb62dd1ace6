//! Prints lines in a thread of its own, so that a slow terminal does not slow down the proxy.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use tokio_util::sync::CancellationToken;

/// Maximum number of texts that wait for the terminal.
const MAX_WAITING: usize = 10_000;

/// A queue of lines for the terminal.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<(Mutex<Queue>, Condvar)>);

#[derive(Default)]
struct Queue {
    waiting: VecDeque<String>,
    /// Number of lines dropped after those that wait.
    dropped: usize,
    has_ended: bool,
}

impl Lines {
    /// Starts the thread that prints. If nobody reads the output anymore, it cancels the token.
    ///
    /// # Errors
    /// If the thread does not start.
    pub(super) fn print_to(
        &self,
        mut out: impl Write + Send + 'static,
        unread: CancellationToken,
    ) -> io::Result<JoinHandle<io::Result<()>>> {
        let lines = self.clone();
        thread::Builder::new().name("lines".to_owned()).spawn(move || {
            let printed = lines.print(&mut out);
            unread.cancel();
            printed.or_else(|error| if error.kind() == ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
        })
    }

    /// Prints a text, unless too many others wait.
    pub(super) fn offer(&self, text: String) {
        let mut queue = self.queue();
        if queue.dropped > 0 || queue.waiting.len() >= MAX_WAITING {
            queue.dropped += text.lines().count();
        } else {
            queue.waiting.push_back(text);
        }
        self.0.1.notify_one();
    }

    /// Prints what waits and then a last text, and ends the thread.
    pub(super) fn end(&self, last: Option<String>) {
        let mut queue = self.queue();
        queue.waiting.extend(last);
        queue.has_ended = true;
        self.0.1.notify_one();
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        loop {
            let is_idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.has_ended;
            let queue = self.0.1.wait_while(self.queue(), is_idle);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            let (texts, dropped) = (std::mem::take(&mut queue.waiting), std::mem::take(&mut queue.dropped));
            let has_ended = queue.has_ended;
            drop(queue); // The proxy must not wait for the terminal.
            for text in texts {
                writeln!(out, "{text}")?;
            }
            if dropped > 0 {
                writeln!(out, "{dropped} lines left out because the terminal is too slow")?;
            }
            out.flush()?;
            if has_ended {
                return Ok(());
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Keys that break what passes while tap runs.

use std::io::{Read, stdin};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::lines::Lines;
use crate::wire::fault::Kind;
use crate::wire::gate::{Faults, Network};

/// What the keys do.
pub(super) const HELP: &str = "keys: c cut, s silence, d delay, f flip a bit, r resume";

/// The delay of the key d, in each direction.
const DELAY: Duration = Duration::from_millis(200);

/// Reads keys in a thread of its own until stdin ends. Returns what resets the terminal when it is
/// dropped, or `None` if this program may not read from it.
pub(super) fn read(faults: Arc<Faults>, lines: Lines) -> Option<Terminal> {
    let terminal = Terminal::without_enter()?;
    thread::spawn(move || {
        for key in stdin().lock().bytes().map_while(Result::ok) {
            if !key.is_ascii_whitespace() {
                lines.offer(press(key, &faults));
            }
        }
    });
    Some(terminal)
}

/// Does what a key stands for. Returns what to say about it.
fn press(key: u8, faults: &Faults) -> String {
    match key {
        b'c' => {
            faults.cut();
            "== all connections are cut".into()
        }
        b's' => {
            faults.set_network(Network::Silent);
            "== silence: nothing passes until you press r".into()
        }
        b'd' => {
            faults.set_network(Network::Slow(DELAY));
            format!("== delay: everything arrives {DELAY:?} later until you press r")
        }
        b'f' => {
            faults.arm_next(Kind::Flip);
            "== one bit of the next request will be inverted".into()
        }
        b'r' => {
            faults.set_network(Network::Open);
            "== everything passes again".into()
        }
        _ => HELP.into(),
    }
}

/// The terminal that the keys come from. Dropping it resets its mode.
pub(super) struct Terminal {
    #[cfg(unix)]
    before: Option<nix::sys::termios::Termios>,
}

impl Terminal {
    /// Makes the terminal pass each key at once and not show it. If stdin is not a terminal, nothing
    /// changes. Returns `None` in the background, where a program that reads is stopped.
    #[cfg(unix)]
    fn without_enter() -> Option<Self> {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        use nix::unistd::{getpgrp, tcgetpgrp};
        let Ok(before) = tcgetattr(stdin()) else { return Some(Self { before: None }) };
        if tcgetpgrp(stdin()) != Ok(getpgrp()) {
            return None;
        }
        let mut mode = before.clone();
        // Ctrl-C still sends its signal.
        mode.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &mode);
        Some(Self { before: Some(before) })
    }

    /// On this system, Enter has to follow the key.
    #[cfg(not(unix))]
    fn without_enter() -> Option<Self> {
        Some(Self {})
    }
}

#[cfg(unix)]
impl Drop for Terminal {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        if let Some(before) = &self.before {
            let _ = tcsetattr(stdin(), SetArg::TCSANOW, before);
        }
    }
}

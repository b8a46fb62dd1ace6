//! A child process that never outlives this process.
//!
//! The child is a shell that runs the program. Its stdin is a pipe from this process, and when
//! the pipe closes, the shell kills its whole process group. On every Unix, the kernel closes
//! the pipe however this process ends, even after kill -9. (`PR_SET_PDEATHSIG` exists only on
//! Linux, needs `unsafe`, and depends on the thread that started the program.)

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(super) use group::{KILL, Signal, TERMINATE, private_folder, signal_process, write_secret};

/// Time after which a program that was asked to stop is killed. RabbitMQ needs 2 to 3 s.
const STOP: Duration = Duration::from_secs(15);

/// Script of the shell that runs the program. `$1` is a folder to delete if this process ends
/// suddenly, or empty. File descriptor 3 is the pipe, which the program must not hold. SIGTERM goes
/// to the whole group; the shell ignores it and waits for the program. When the program has ended,
/// for whatever reason, the shell kills the rest of the group.
const SUPERVISOR: &str = r#"
    exec 3<&0 </dev/null
    folder=$1; shift
    trap : TERM
    "$@" 3<&- &
    broker=$!
    (trap '' TERM; cat <&3 >/dev/null; [ -z "$folder" ] || rm -rf "$folder"; kill -KILL 0) &
    exec 3<&-
    while kill -0 $broker 2>/dev/null; do wait $broker; done
    kill -KILL 0
"#;

/// A program that runs until this value is dropped or this process ends.
#[derive(Debug)]
pub(super) struct Supervised(Child);

impl Supervised {
    /// Returns the command that runs `program`. Add its arguments and environment, then call
    /// [`Supervised::spawn`]. `folder` is deleted if this process ends suddenly, unless it is empty.
    pub(super) fn command(folder: &Path, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", SUPERVISOR, "supervisor"]).arg(folder).arg(program).stdin(Stdio::piped());
        group::set_own(&mut command); // So that Ctrl-C does not reach the program.
        command
    }

    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(Self)
    }

    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Sends a signal, and waits until all processes have ended.
    pub(super) fn end(mut self, signal: Signal) {
        let group = self.0.id();
        group::send(group, signal);
        let deadline = Instant::now() + STOP;
        while Instant::now() < deadline && self.is_running() {
            sleep(Duration::from_millis(10));
        }
        group::send(group, KILL);
        let _ = self.0.wait();
        // The shell is gone, but other processes of its group may still be ending and hold the port.
        while Instant::now() < deadline && group::is_alive(group) {
            sleep(Duration::from_millis(5));
        }
    }
}

/// A process group for each program, so that one signal reaches all of its processes.
#[cfg(unix)]
mod group {
    use std::fs::{DirBuilder, File};
    use std::io::{self, Write};
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    use std::os::unix::process::CommandExt;
    use std::path::Path;
    use std::process::Command;

    use nix::errno::Errno;
    pub use nix::sys::signal::Signal;
    use nix::sys::signal::{kill, killpg};
    use nix::unistd::Pid;

    pub const TERMINATE: Signal = Signal::SIGTERM;
    pub const KILL: Signal = Signal::SIGKILL;

    pub fn private_folder() -> DirBuilder {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
    }

    /// Writes a file that only this user can read, and nobody can change.
    pub fn write_secret(path: &Path, secret: &str) -> io::Result<()> {
        File::options().write(true).create_new(true).mode(0o400).open(path)?.write_all(secret.as_bytes())
    }

    pub(super) fn set_own(command: &mut Command) {
        command.process_group(0);
    }

    pub(super) fn send(group: u32, signal: Signal) {
        let _ = killpg(Pid::from_raw(group.cast_signed()), signal);
    }

    pub(super) fn is_alive(group: u32) -> bool {
        killpg(Pid::from_raw(group.cast_signed()), None) != Err(Errno::ESRCH)
    }

    /// Stops one process for a while (`true`), or lets it continue.
    pub fn signal_process(pid: u32, stopped: bool) {
        let signal = if stopped { Signal::SIGSTOP } else { Signal::SIGCONT };
        let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
    }
}

/// On other systems, the start of a broker fails before it uses any of this.
#[cfg(not(unix))]
mod group {
    use std::fs::DirBuilder;
    use std::io;
    use std::path::Path;
    use std::process::Command;

    pub type Signal = ();
    pub const TERMINATE: Signal = ();
    pub const KILL: Signal = ();

    pub fn private_folder() -> DirBuilder {
        DirBuilder::new()
    }

    pub fn write_secret(_path: &Path, _secret: &str) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn set_own(_command: &mut Command) {}

    pub(super) fn send(_group: u32, _signal: Signal) {}

    pub(super) fn is_alive(_group: u32) -> bool {
        false
    }

    pub fn signal_process(_pid: u32, _stopped: bool) {}
}

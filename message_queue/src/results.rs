//! The results of jobs: how the effect of a job happens once, however often the job is
//! delivered, and how it survives a power cut.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tcp_socket::base::journal;
use tokio::sync::oneshot;

use crate::job::{Failed, Job, Outcome, Summary};
use crate::limits::LARGEST_RESULT;

/// A fault of this machine: a full disk, a folder that can't be written to, or no thread left.
///
/// Another worker can still do the job, so a fault is not a [`Failed`] attempt: it does not count
/// as a try and never makes the job a dead letter. The worker stops instead, since it would fail
/// every other job in the same way.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep results in {}: {cause}", folder.display())]
pub struct Fault {
    folder: PathBuf,
    cause: io::Error,
}

/// The folder with the results, shared by all workers.
///
/// A queue delivers at least once: a worker may die after its work and before its
/// acknowledgement. So the effect and the mark that it has happened must be one step,
/// which no crash can split and no second worker can enter. Here that step is
/// [`fs::rename`] under a [lock](File::lock): the result under the job's name *is* the
/// mark. The system releases the lock when the worker dies, so a crash leaves either
/// the whole result or none. (With a database, the step would be a transaction.)
///
/// [`fs::hard_link`], which fails if the name exists, would need no lock. But the file systems
/// of memory cards and some network drives have no hard links. Nor can a link replace what a
/// power cut may leave behind: a name whose content was not stored yet. Here, the next attempt
/// replaces such a file, since it is not a whole result.
///
/// [`Results::sync`] makes results survive a power cut. Workers call it before they
/// acknowledge, once for all jobs that they acknowledge together.
#[derive(Debug, Clone)]
pub struct Results {
    folder: PathBuf,
    /// Results that may not be on the disk yet.
    unsynced: Arc<Mutex<Vec<PathBuf>>>,
}

impl Results {
    /// Opens the folder for the results, and creates it if necessary. Writes a test file and
    /// removes it, so that a worker that can't write takes no job.
    ///
    /// # Errors
    /// If the folder can't be created or written to.
    pub fn open(folder: &Path) -> Result<Self, Fault> {
        let results = Self { folder: folder.to_owned(), unsynced: Arc::default() };
        let try_it = || {
            fs::create_dir_all(folder)?;
            // A folder is an entry in its parent folder, and that entry must reach the disk too.
            for made in folder.canonicalize()?.ancestors() {
                if sync_folder(made).is_err() {
                    break; // This user can't open it, so it was there before.
                }
            }
            let temporary = results.temporary(&[b' '; LARGEST_RESULT])?;
            fs::remove_file(&temporary)?;
            results.lock()
        };
        try_it().map_err(|cause| results.fault(cause))?;
        Ok(results)
    }

    /// Makes one attempt at the job in a message.
    ///
    /// # Errors
    /// The outer error is a fault of this machine, the inner one a fault of the job. In
    /// both cases, the job has had no effect.
    pub fn attempt(&self, message: &[u8]) -> Result<Result<Outcome, Failed>, Fault> {
        match Job::parse(message) {
            Ok(job) => self.outcome(&job).map_err(|cause| self.fault(cause)),
            Err(failed) => Ok(Err(failed)),
        }
    }

    fn outcome(&self, job: &Job) -> io::Result<Result<Outcome, Failed>> {
        let path = self.folder.join(format!("{}.json", job.id));
        let outcome = if is_whole(&path)? {
            Outcome::AlreadyDone(job.id.clone()) // This check only saves work: `keep` decides.
        } else {
            match job.summary() {
                Ok(summary) => self.keep(summary, &path)?,
                Err(failed) => return Ok(Err(failed)),
            }
        };
        // This also syncs the result of another worker, which may not have done so yet.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner).push(path);
        Ok(Ok(outcome))
    }

    /// Keeps a result unless the job already has one.
    fn keep(&self, summary: Summary, path: &Path) -> io::Result<Outcome> {
        let content = serde_json::to_string(&summary)?;
        let temporary = self.temporary(content.as_bytes())?;
        let renamed = self.rename_once(&temporary, path);
        if !matches!(renamed, Ok(true)) {
            fs::remove_file(&temporary)?;
        }
        if matches!(renamed, Ok(true)) {
            journal::append([content]);
        }
        Ok(if renamed? { Outcome::Done(summary) } else { Outcome::AlreadyDone(summary.job) })
    }

    /// Gives the file its final name unless a whole result already has it. Returns whether
    /// it did.
    fn rename_once(&self, temporary: &Path, path: &Path) -> io::Result<bool> {
        let _lock = self.lock()?; // Closing the file releases it.
        if is_whole(path)? {
            return Ok(false);
        }
        fs::rename(temporary, path)?;
        Ok(true)
    }

    /// Takes the lock, so that no other worker can come between the check of a name and its use.
    fn lock(&self) -> io::Result<File> {
        let path = self.folder.join(".lock");
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        lock.lock()?;
        Ok(lock)
    }

    /// Writes a file under a name that no other attempt uses, on this machine or another.
    fn temporary(&self, content: &[u8]) -> io::Result<PathBuf> {
        let path = self.folder.join(format!(".{:016x}.tmp", getrandom::u64()?));
        let mut file = File::create_new(&path)?;
        if let Err(error) = file.write_all(content) {
            drop(file);
            let _ = fs::remove_file(&path); // The first error is the one that matters.
            return Err(error);
        }
        Ok(path)
    }

    /// Waits until the results of all attempts so far, and their names, are on the disk.
    ///
    /// Call it before you acknowledge their jobs. It syncs all files at the same time, with a
    /// thread for each: the file system then writes its journal once for all of them, so sixteen
    /// files cost little more than one.
    ///
    /// # Errors
    /// If a result can't be written. Then don't acknowledge any of the jobs.
    pub fn sync(&self) -> Result<(), Fault> {
        // Held until the end: a second call must not return before the results are on the disk.
        let mut unsynced = self.unsynced.lock().unwrap_or_else(PoisonError::into_inner);
        if unsynced.is_empty() {
            return Ok(());
        }
        let sync_file = |path: &PathBuf| {
            // Windows syncs a file only if it is open for writing.
            OpenOptions::new().read(true).write(cfg!(windows)).open(path)?.sync_all()
        };
        let synced = thread::scope(|scope| {
            let start = |path| thread::Builder::new().spawn_scoped(scope, move || sync_file(path));
            let threads: Vec<_> = unsynced.iter().map(start).collect();
            for thread in threads {
                thread?.join().unwrap_or_else(|_panic| Err(ErrorKind::Other.into()))?;
            }
            sync_folder(&self.folder)
        });
        synced.map_err(|cause| self.fault(cause))?;
        unsynced.clear();
        Ok(())
    }

    /// Runs [`Results::attempt`] on a thread that may wait for the disk.
    pub(crate) async fn attempt_in_background(
        &self,
        message: Vec<u8>,
    ) -> Result<Result<Outcome, Failed>, Fault> {
        let attempt = self.in_background(move |results| results.attempt(&message)).await;
        attempt.unwrap_or(Ok(Err(Failed::Panicked)))
    }

    /// Runs [`Results::sync`] on a thread that may wait for the disk.
    pub(crate) async fn sync_in_background(&self) -> Result<(), Fault> {
        let synced = self.in_background(Self::sync).await;
        synced.unwrap_or_else(|| Err(self.fault(io::Error::other("the sync panicked"))))
    }

    /// Runs `work` on a thread of its own. Returns `None` if it panics.
    async fn in_background<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Fault> + Send + 'static,
    ) -> Option<Result<T, Fault>> {
        let (sender, receiver) = oneshot::channel();
        let results = self.clone();
        // Not `spawn_blocking`, which panics when the system has no thread left.
        let thread = thread::Builder::new().spawn(move || sender.send(work(&results)));
        match thread {
            Ok(_) => receiver.await.ok(),
            Err(cause) => Some(Err(self.fault(cause))),
        }
    }

    fn fault(&self, cause: io::Error) -> Fault {
        Fault { folder: self.folder.clone(), cause }
    }
}

/// Returns whether there is a file with all of its content. After a power cut, it may be empty,
/// cut short, or full of zeros.
fn is_whole(path: &Path) -> io::Result<bool> {
    match fs::read(path) {
        Ok(content) => Ok(serde_json::from_slice::<Summary>(&content).is_ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until the names in a folder are on the disk. Windows has no such call, but its file
/// systems keep names in their journal.
fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(windows) { Ok(()) } else { File::open(folder)?.sync_all() }
}

//! The results of jobs, and how the effect of a job happens once, however often the
//! job is delivered.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::job::{Failed, Job, Summary};

/// What became of an attempt that did not fail.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The work was done, now.
    Done(Summary),
    /// The job of this id had been done before; this delivery was a duplicate.
    AlreadyDone(String),
}

/// The folder with the results, shared by all workers.
///
/// A queue delivers at least once: a worker may die after its work and before its
/// acknowledgement. So the effect and the mark that it has happened must be one
/// step, which no crash can split and no second worker can enter. Here it is
/// [`fs::hard_link`], which fails if the name exists: the result under the job's
/// name *is* the mark. (With a database it would be a transaction; a check before
/// the write, or a lock beside it, would leave a gap.)
#[derive(Debug, Clone)]
pub struct Results {
    folder: PathBuf,
}

impl Results {
    /// The results in that folder, which is made if it is not there.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// One attempt at the job in a message.
    ///
    /// # Errors
    /// Any [`Failed`]; nothing has happened then.
    pub fn attempt(&self, message: &[u8]) -> Result<Outcome, Failed> {
        let job = Job::parse(message)?;
        let path = self.folder.join(format!("{}.json", job.id));
        if path.exists() {
            return Ok(Outcome::AlreadyDone(job.id)); // Only saves work; `hard_link` decides.
        }
        let summary = job.summary()?;
        let text = serde_json::to_vec(&summary).map_err(io::Error::from)?;
        let temporary = self.folder.join(temporary_name());
        fs::write(&temporary, text)?;
        let linked = fs::hard_link(&temporary, &path);
        fs::remove_file(&temporary)?;
        match linked {
            Ok(()) => Ok(Outcome::Done(summary)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Outcome::AlreadyDone(job.id)),
            Err(error) => Err(error.into()),
        }
    }

    /// [`Results::attempt`] on a thread that may wait for the disk.
    pub(crate) async fn attempt_in_background(self, message: Arc<Vec<u8>>) -> Result<Outcome, Failed> {
        let attempt = tokio::task::spawn_blocking(move || self.attempt(&message));
        attempt.await.map_err(io::Error::other)?
    }
}

/// A name that no other attempt uses, in this process or another.
fn temporary_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!(".{}-{count}-{:08x}.tmp", std::process::id(), fastrand::u32(..))
}

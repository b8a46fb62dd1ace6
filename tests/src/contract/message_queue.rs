//! The contracts of the chapter about queues, for programs that use Redis: how their scripts are run.

use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use futures::{FutureExt, StreamExt};
use lab::wire::decode::Format;
use redis::Value as Reply;
use redis::aio::MultiplexedConnection;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::script::{Lines, Names, stages};
use super::{Checked, Contract, Program, Stage, Tested, wrong};

/// Time within which something has to happen. The third try of a job is 6 seconds after the first.
const SOON: Duration = Duration::from_secs(20);

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

pub(super) fn workers() -> Contract {
    let text = include_str!("../../exercises/contracts/message_queue-worker.txt");
    let document = "message_queue/README.md and tests/exercises/contracts/message_queue-worker.txt";
    Contract { name: "message_queue-worker", format: Format::Redis, document, stages: scripted(text) }
}

pub(super) fn clients() -> Contract {
    let text = include_str!("../../exercises/contracts/message_queue-client.txt");
    let document = "message_queue/README.md and tests/exercises/contracts/message_queue-client.txt";
    Contract { name: "message_queue-client", format: Format::Redis, document, stages: scripted(text) }
}

fn scripted(text: &'static str) -> Vec<Stage> {
    stages(text, |lines, tested| {
        async move {
            let folder = Folder::new().or_else(|error| wrong("a folder for the results", error))?;
            Run::new(tested, folder).await?.lines(lines).await
        }
        .boxed_local()
    })
}

/// Looks again and again until it finds what is wanted, but not for too long.
async fn soon(mut look: impl AsyncFnMut() -> Checked) -> Checked {
    let begun = Instant::now();
    loop {
        let checked = look().await;
        if checked.is_ok() || begun.elapsed() > SOON {
            return checked;
        }
        sleep(PAUSE).await;
    }
}

/// A folder for results, which is deleted at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let folder = env::temp_dir().join(format!("check-{:08x}", fastrand::u32(..)));
        fs::create_dir(&folder).map(|()| Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The run of a case.
struct Run {
    tested: Tested,
    names: Names,
    folder: Folder,
    client: redis::Client,
    connection: MultiplexedConnection,
    program: Option<Program>,
}

impl Run {
    async fn new(tested: Tested, folder: Folder) -> Checked<Self> {
        let client = redis::Client::open(format!("redis://{}", tested.addr)).expect("a valid URL");
        match client.get_multiplexed_async_connection().await {
            Ok(connection) => {
                Ok(Self { tested, names: Names::new(), folder, client, connection, program: None })
            }
            Err(error) => wrong("Redis", error),
        }
    }

    async fn lines(mut self, lines: Lines) -> Checked {
        let mut pubsub = self.client.get_async_pubsub().await.or_else(|error| wrong("Redis", error))?;
        for line in lines {
            let text = self.names.fill(line);
            let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
            let wanted = line.split_once(' ').map_or("", |(_, wanted)| wanted);
            match word {
                "start" => self.start(rest)?,
                "redis" => drop(self.redis(rest).await?),
                "until" => self.until(rest).await?,
                "file" => self.file(rest).await?,
                "write" => {
                    let (name, content) = rest.split_once(' ').expect("a name and the content");
                    fs::write(self.folder.0.join(name), content).or_else(|error| wrong(rest, error))?;
                }
                "exit" => self.exit(rest).await?,
                "listen" => pubsub.subscribe(rest).await.or_else(|error| wrong("Redis", error))?,
                "receive" => {
                    let message = timeout(SOON, pubsub.on_message().next()).await;
                    let Ok(Some(message)) = message else { return wrong(wanted, "no message") };
                    let got = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
                    self.compare(wanted, &serde_json::from_str(&got).unwrap_or(Value::String(got)))?;
                }
                _ => unreachable!("the script has no {word:?}"),
            }
        }
        Ok(())
    }

    /// Starts the program, with these arguments after its own.
    fn start(&mut self, args: &str) -> Checked {
        let Self { tested, names, folder, .. } = self;
        let command = tested.command.replace("{prefix}", &names.fill("{id}"));
        let command = command.replace("{results}", &folder.0.to_string_lossy());
        let program =
            Program::start(&format!("{command} {args}")).or_else(|error| wrong("a program", error))?;
        self.program = Some(program);
        Ok(())
    }

    /// Sends a command to Redis. None of its words may contain a space.
    async fn redis(&mut self, command: &str) -> Checked<Value> {
        let mut words = command.split(' ');
        let mut sent = redis::cmd(words.next().unwrap_or_default());
        sent.arg(words.collect::<Vec<_>>());
        match sent.query_async(&mut self.connection).await {
            Ok(reply) => Ok(value(reply)),
            Err(error) => wrong(command, error),
        }
    }

    /// Repeats a command until its reply is the wanted one.
    async fn until(&mut self, text: &str) -> Checked {
        let (wanted, command) = text.split_once(' ').expect("a reply and a command");
        soon(async || {
            let got = self.redis(command).await?;
            self.compare(wanted, &got).or_else(|_| wrong(text, got))
        })
        .await
    }

    /// Waits until a file has the wanted content.
    async fn file(&mut self, text: &str) -> Checked {
        let (name, wanted) = text.split_once(' ').expect("a name and the content");
        soon(async || {
            let got = fs::read_to_string(self.folder.0.join(name)).unwrap_or("no file".to_owned());
            let value = serde_json::from_str(&got).unwrap_or_default();
            self.compare(wanted, &value).or_else(|_| wrong(text, got))
        })
        .await
    }

    /// Waits until the program has ended, with exit code 0 or another one.
    async fn exit(&mut self, wanted: &str) -> Checked {
        let wanted = format!("exit code {wanted}");
        match timeout(SOON, self.program.as_mut().expect("the script starts it").wait()).await {
            Ok(Ok(status)) if status.success() == (wanted == "exit code 0") => Ok(()),
            Ok(Ok(status)) => wrong(wanted, status),
            Ok(Err(error)) => wrong(wanted, error),
            Err(_) => wrong(wanted, format!("it is still running after {SOON:?}")),
        }
    }

    fn compare(&mut self, wanted: &str, got: &Value) -> Checked {
        let filled = self.names.fill(wanted);
        let value = serde_json::from_str(&filled).unwrap_or(Value::String(filled));
        if self.names.contains(&value, got) { Ok(()) } else { wrong(value, got) }
    }
}

/// Returns a reply as JSON.
fn value(reply: Reply) -> Value {
    match reply {
        Reply::Int(number) => number.into(),
        Reply::Array(replies) => replies.into_iter().map(value).collect(),
        Reply::BulkString(bytes) => String::from_utf8_lossy(&bytes).into(),
        Reply::SimpleString(text) => text.into(),
        Reply::Okay => "OK".into(),
        _ => Value::Null,
    }
}

//! Contracts about messages that either side sends at any time: how their scripts are run.

use std::collections::HashMap;

use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};
use futures::future::LocalBoxFuture;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::script::{Lines, Names, SOON, json};
use super::{Checked, wrong};

/// One connection or call. What arrives is JSON, or words about its end.
pub(super) struct Channel {
    /// Messages to the server; `None` after the end of this side.
    pub(super) send: Option<UnboundedSender<String>>,
    /// Messages from the server.
    pub(super) receive: UnboundedReceiver<String>,
    /// Passes them on.
    pub(super) _task: AbortOnDropHandle<()>,
}

/// Opens a channel with this name, or returns the status of the response that refuses it.
pub(super) type Open = fn(String, String) -> LocalBoxFuture<'static, Checked<Result<Channel, u16>>>;

/// Sends and receives messages on one or several channels.
pub(super) async fn messages(lines: Lines, addr: String, open: Open) -> Checked {
    let mut names = Names::new();
    let mut channels: HashMap<&str, Channel> = HashMap::new();
    for line in lines {
        let (word, line) = line.split_once(' ').unwrap_or((line, ""));
        let (channel, text) = (word.trim_end_matches(['>', '<', '=']), names.fill(line));
        if let Some(name) = text.strip_prefix("open ") {
            let opened = open(addr.clone(), name.to_owned()).await?;
            channels.insert(channel, opened.or_else(|status| wrong("status 101", status))?);
            continue;
        }
        if let Some((status, name)) = text.strip_prefix("refused ").and_then(|rest| rest.split_once(' ')) {
            let got = open(addr.clone(), name.to_owned()).await?.err().unwrap_or(101).to_string();
            if got != status {
                return wrong(format!("status {status}"), format!("status {got}"));
            }
            continue;
        }
        let channel = channels.get_mut(channel).expect("the script opens it");
        if text == "end" {
            channel.send = None;
        } else if !word.ends_with('>') {
            receive(channel, &mut names, line, word.ends_with('=')).await?;
        } else if let Some(send) = &channel.send {
            let _ = send.unbounded_send(text); // The next line notices a broken connection.
        }
    }
    Ok(())
}

/// Waits for a message. Unless it has to be the next one, others are skipped.
async fn receive(channel: &mut Channel, names: &mut Names, line: &str, next: bool) -> Checked {
    let (wanted, mut skipped) = (names.fill(line), String::new());
    loop {
        let got = match timeout(SOON, channel.receive.next()).await {
            Err(_) => return wrong(wanted, format!("nothing more within {SOON:?}; before: {skipped}")),
            Ok(Some(got)) => got,
            Ok(None) => return wrong(wanted, format!("the end of the stream; before: {skipped}")),
        };
        let message = json(&got);
        let is_wanted = match (json(&wanted), &message) {
            (Some(wanted), Some(got)) => names.contains(&wanted, got),
            _ => wanted == got,
        };
        if is_wanted {
            return Ok(());
        }
        if next && message.as_ref().is_none_or(|message| message["type"] != "heartbeat") {
            return wrong(wanted, got);
        }
        skipped += &format!("{got} ");
    }
}

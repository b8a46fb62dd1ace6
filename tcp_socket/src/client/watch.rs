//! A subscription: the readings of one station as they are recorded.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc;

use crate::client::connection::Command;
use crate::client::error::Error;
use crate::protocol::message::Update;

/// The readings of one station as they are recorded. Dropping it cancels the watch.
///
/// It ends with its connection: [`Error::Disconnected`] is the last item. To continue, call
/// [`Client::watch`](crate::Client::watch) again. The new watch does not return readings that
/// were recorded in between.
pub struct Watch {
    pub(super) request_id: u32,
    pub(super) updates: mpsc::Receiver<Result<Update, Error>>,
    /// Keeps the client open as long as the watch exists.
    pub(super) commands: mpsc::UnboundedSender<Command>,
}

impl Stream for Watch {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.updates.poll_recv(cx)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Cancel(self.request_id));
    }
}

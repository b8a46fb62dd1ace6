//! A subscription: the readings of one station as they are recorded.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use crate::client::calls::Calls;
use crate::client::error::Error;
use crate::protocol::message::Update;

/// The readings of one station as they are recorded. Dropped, it is cancelled.
///
/// It ends with its connection: [`Error::Disconnected`] is the last item. What is
/// recorded until another [`Client::watch`](crate::Client::watch) is not seen.
pub struct Watch {
    pub(super) request_id: u32,
    pub(super) updates: mpsc::Receiver<Update>,
    pub(super) calls: Arc<Calls>,
    /// Waits for the end of the connection; `None` after it.
    pub(super) disconnected: Option<BoxFuture<'static, String>>,
    /// Keeps the connection open.
    pub(super) _open: Arc<DropGuard>,
}

impl Stream for Watch {
    type Item = Result<Update, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(update) = ready!(self.updates.poll_recv(cx)) {
            return Poll::Ready(Some(Ok(update)));
        }
        // The server says that a watch ends before it says why the connection does.
        let Some(disconnected) = &mut self.disconnected else { return Poll::Ready(None) };
        let reason = ready!(disconnected.as_mut().poll(cx));
        self.disconnected = None;
        Poll::Ready(Some(Err(Error::Disconnected(reason))))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.calls.cancel(self.request_id);
    }
}

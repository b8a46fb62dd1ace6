//! `Upload`, client streaming: requests until the client has no more, then one
//! response.
//!
//! Backpressure needs no code: the loop reads a message from the connection only when it
//! is ready for the next one. If the client sends faster than that, it fills HTTP/2's
//! window for the stream, and then has to wait.

use std::sync::Arc;
use std::time::Duration;

use tcp_socket::base::principals::Caller;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::debug;

use super::store::{Station, Store, write_journal};
use crate::limits::{MAX_STATIONS, MAX_VIOLATIONS};
use crate::protocol::model::check;
use crate::protocol::proto::{Rejection, UploadRequest, UploadResponse};
use crate::protocol::status::{refused, too_slow};

/// Records each valid reading as it arrives, and counts the others. The first one that the caller
/// may not record ends the call.
pub(super) async fn upload(
    store: &Store,
    caller: &Caller,
    requests: &mut Streaming<UploadRequest>,
    idle: Duration,
) -> Result<UploadResponse, Status> {
    let mut upload = Upload { store, station: None, index: 0, summary: UploadResponse::default() };
    while let Some(request) = timeout(idle, requests.message()).await.map_err(|_| too_slow())?? {
        let station = request.reading.as_ref().map(|reading| &*reading.station);
        caller.may_record(station).map_err(|denied| refused(&denied))?;
        upload.record(request);
    }
    Ok(std::mem::take(&mut upload.summary))
}

struct Upload<'a> {
    store: &'a Store,
    /// The previous reading's station, which is usually the next one's, too.
    station: Option<Arc<Station>>,
    index: u64,
    summary: UploadResponse,
}

impl Upload<'_> {
    fn record(&mut self, request: UploadRequest) {
        match self.keep(request) {
            Ok(()) => self.summary.accepted += 1,
            Err((field, description)) => self.reject(field, description),
        }
        self.index += 1;
    }

    fn keep(&mut self, request: UploadRequest) -> Result<(), (String, String)> {
        let reading = request.reading.ok_or_else(|| ("reading".to_owned(), "is missing".to_owned()))?;
        let mut wrong = None;
        check(&reading, |field, text| {
            wrong.get_or_insert((format!("reading.{field}"), text));
        });
        wrong.map_or(Ok(()), Err)?;
        let station = self.station(&reading.station).ok_or_else(|| {
            let full = format!("is new, but this server keeps at most {MAX_STATIONS} stations");
            ("reading.station".to_owned(), full)
        })?;
        station.push(std::slice::from_ref(&reading));
        write_journal(std::slice::from_ref(&reading));
        Ok(())
    }

    fn station(&mut self, id: &str) -> Option<&Station> {
        if self.station.as_ref().is_none_or(|station| station.id() != id) {
            self.station = Some(self.store.station_or_new(id).ok()?);
        }
        self.station.as_deref()
    }

    fn reject(&mut self, field: String, description: String) {
        self.summary.rejected += 1;
        if self.summary.rejections.len() < MAX_VIOLATIONS {
            self.summary.rejections.push(Rejection { index: self.index, field, description });
        }
    }
}

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        debug!("no longer uploading; readings received: {}", self.index);
    }
}

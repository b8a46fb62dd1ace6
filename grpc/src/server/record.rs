//! `Record`, a unary call: one request, one response, like a function call.

use tcp_socket::base::principals::Caller;
use tonic::Status;
use tonic_types::FieldViolation;

use super::store::Store;
use crate::limits::MAX_BATCH;
use crate::protocol::model::check_batch;
use crate::protocol::proto::{RecordRequest, RecordResponse};
use crate::protocol::status::{invalid, refused, store_full};

/// Records the whole batch or, on any error, none of it.
pub(super) fn record(
    store: &Store,
    caller: &Caller,
    request: &RecordRequest,
) -> Result<RecordResponse, Status> {
    let count = request.readings.len();
    if !(1..=MAX_BATCH).contains(&count) {
        let wrong = format!("has {count} entries; a batch holds 1 to {MAX_BATCH}");
        return Err(invalid(vec![FieldViolation::new("readings", wrong)], 1));
    }
    let (violations, total) = check_batch(&request.readings);
    if total > 0 {
        return Err(invalid(violations, total));
    }
    caller
        .may_record(request.readings.iter().map(|reading| &*reading.station))
        .map_err(|denied| refused(&denied))?;
    store.record(&request.readings).map_err(|_full| store_full())?;
    Ok(RecordResponse { accepted: count as u64 })
}

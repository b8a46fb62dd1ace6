//! `Record`, a unary call: one request, one response, like a function.

use crate::model::{MAX_BATCH, check_batch};
use crate::proto::{RecordRequest, RecordResponse};
use crate::status::{invalid, store_full};
use crate::store::Store;
use tonic::Status;
use tonic_types::FieldViolation;

/// All of the batch or, on any error, nothing of it.
pub(crate) fn record(store: &Store, request: &RecordRequest) -> Result<RecordResponse, Status> {
    let count = request.readings.len();
    if !(1..=MAX_BATCH).contains(&count) {
        let wrong = format!("a batch holds 1 to {MAX_BATCH} readings, not {count}");
        return Err(invalid(vec![FieldViolation::new("readings", wrong)], 1));
    }
    let (violations, total) = check_batch(&request.readings);
    if total > 0 {
        return Err(invalid(violations, total));
    }
    store.record(&request.readings).map_err(store_full)?;
    Ok(RecordResponse { accepted: count as u64 })
}

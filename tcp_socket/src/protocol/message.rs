//! The payload of each kind of frame. `PING`, `PONG`, `CANCEL`, and `GOODBYE` have none.
//! That of `TOKEN` is the token, and that of `CALLER` a name.

use std::fmt;

use bytes::{Buf, BufMut, BytesMut};
use thiserror::Error;

use crate::base::principals::Denied;
use crate::base::text::printable;
use crate::limits::{MAX_BATCH, MAX_ERROR_TEXT, MAX_RECORDED_AT, MAX_STATION_ID};
use crate::protocol::frame::{kind, put_frame};
use crate::protocol::model::{Measurement, Metric, Reading, is_station_id};

/// Bytes of one measurement: metric 1, value 8, time 8.
pub const MEASUREMENT: usize = 17;

/// Why a request or a connection failed: `PROTOCOL.md`, section 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// The connection did not begin with a `HELLO`.
    BadMagic = 1,
    /// There is no common version.
    UnsupportedVersion = 2,
    /// The server has no room for another connection.
    TooManyConnections = 3,
    /// The `HELLO` took too long.
    HandshakeTimeout = 4,
    /// No byte arrived for too long.
    IdleTimeout = 5,
    /// The checksum does not match the frame.
    BadChecksum = 6,
    /// The payload is over the limit.
    FrameTooLarge = 7,
    /// A request ID is 0 or in use.
    BadRequestId = 8,
    /// The server is stopping.
    ShuttingDown = 9,
    /// A `GOODBYE` has a request ID, a critical flag, or a payload.
    BadGoodbye = 10,
    /// A frame has begun and arrives too slowly.
    FrameTooSlow = 11,
    /// The server does not know the token.
    BadToken = 12,
    /// A kind that the server does not know, or that only a server sends.
    UnknownKind = 16,
    /// A critical flag that the server does not know.
    UnknownFlag = 17,
    /// The payload does not have the form of its kind.
    BadPayload = 18,
    /// A reading is out of range, or the batch has no readings or too many.
    InvalidReading = 19,
    /// No room for another station.
    StoreFull = 20,
    /// Nobody has recorded anything for this station.
    UnknownStation = 21,
    /// The batch is too old to say whether it was recorded before. It was not recorded now.
    UnknownOutcome = 22,
    /// The connection already has as many watches as it may have.
    TooManyWatches = 23,
    /// The batch ID is 0 or too far ahead.
    BadBatchId = 24,
    /// The server must know who is calling, and does not.
    Unauthenticated = 25,
    /// The caller's role does not allow this request.
    Forbidden = 26,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthenticated(text) => Self::new(ErrorCode::Unauthenticated, text),
            Denied::Forbidden(text) => Self::new(ErrorCode::Forbidden, text),
        }
    }
}

impl ErrorCode {
    const ALL: [Self; 23] = [
        Self::BadMagic,
        Self::UnsupportedVersion,
        Self::TooManyConnections,
        Self::HandshakeTimeout,
        Self::IdleTimeout,
        Self::BadChecksum,
        Self::FrameTooLarge,
        Self::BadRequestId,
        Self::ShuttingDown,
        Self::BadGoodbye,
        Self::FrameTooSlow,
        Self::BadToken,
        Self::UnknownKind,
        Self::UnknownFlag,
        Self::BadPayload,
        Self::InvalidReading,
        Self::StoreFull,
        Self::UnknownStation,
        Self::UnknownOutcome,
        Self::TooManyWatches,
        Self::BadBatchId,
        Self::Unauthenticated,
        Self::Forbidden,
    ];

    /// Returns the code with this number, if there is one.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|code| *code as u16 == number)
    }
}

/// The content of an `ERROR`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct Refusal {
    /// The number, for programs. Not [`ErrorCode`]: a newer server may have more.
    pub code: u16,
    /// The reason, for people.
    pub text: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = printable(&self.text); // It came from the other side.
        match ErrorCode::from_number(self.code) {
            Some(code) => write!(f, "{code:?} ({}): {text}", self.code),
            None => write!(f, "error {}: {text}", self.code),
        }
    }
}

impl Refusal {
    /// Creates a refusal with this code.
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code: code as u16, text: text.into() }
    }

    fn bad_payload(text: &str) -> Self {
        Self::new(ErrorCode::BadPayload, text)
    }

    /// Appends the payload of an `ERROR`.
    pub fn put(&self, into: &mut BytesMut) {
        into.put_u16(self.code);
        let mut end = self.text.len().min(MAX_ERROR_TEXT);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        into.put_slice(&self.text.as_bytes()[..end]);
    }

    /// Appends an `ERROR`.
    pub(crate) fn put_frame(&self, into: &mut BytesMut, request_id: u32) {
        put_frame(into, kind::ERROR, 0, request_id, |payload| self.put(payload));
    }

    /// Reads the payload of an `ERROR`. Returns `None` if it is malformed.
    pub fn parse(mut payload: &[u8]) -> Option<Self> {
        let code = payload.try_get_u16().ok()?;
        (payload.len() <= MAX_ERROR_TEXT)
            .then(|| Self { code, text: String::from_utf8_lossy(payload).into_owned() })
    }
}

/// Appends the payload of a `RECORD`: the batch ID, then *runs*. A run holds consecutive
/// readings of one station, so the station's ID is sent only once.
pub fn put_batch(into: &mut BytesMut, batch_id: u64, readings: &[Reading]) {
    into.put_u64(batch_id);
    for run in readings.chunk_by(|a, b| a.station == b.station) {
        // A length that does not fit does no harm here: the server refuses an ID or a run that
        // is too long, and `Client` checks both before it sends them.
        into.put_u8(run[0].station.len() as u8);
        into.put_slice(run[0].station.as_bytes());
        into.put_u16(run.len() as u16);
        into.reserve(run.len() * MEASUREMENT);
        for reading in run {
            let Reading { metric, value, recorded_at, .. } = *reading;
            put_measurement(into, &Measurement { metric, value, recorded_at });
        }
    }
}

/// Appends one measurement.
pub fn put_measurement(into: &mut BytesMut, measurement: &Measurement) {
    // One `put` per measurement, because a batch has up to 10,000 of them.
    let mut bytes = [0; MEASUREMENT];
    bytes[0] = measurement.metric as u8;
    bytes[1..9].copy_from_slice(&measurement.value.to_be_bytes());
    bytes[9..].copy_from_slice(&measurement.recorded_at.to_be_bytes());
    into.put_slice(&bytes);
}

/// Reads one measurement. Returns `None` if there is no such metric.
fn get_measurement(bytes: &[u8; MEASUREMENT]) -> Option<Measurement> {
    let mut rest = bytes.as_slice();
    let metric = Metric::from_number(rest.get_u8())?;
    Some(Measurement { metric, value: rest.get_f64(), recorded_at: rest.get_u64() })
}

/// Reads one measurement and checks that it is in range. The error says what is wrong.
fn check_measurement(bytes: &[u8; MEASUREMENT]) -> Result<Measurement, String> {
    let Some(measurement) = get_measurement(bytes) else {
        return Err(format!("{} is not a metric", bytes[0]));
    };
    let Measurement { metric, value, recorded_at } = measurement;
    let (low, high) = metric.range();
    if !(low..=high).contains(&value) {
        return Err(format!("{} {value} is outside {low} to {high}", metric.name()));
    }
    if recorded_at > MAX_RECORDED_AT {
        return Err(format!("time {recorded_at} is outside 0 to {MAX_RECORDED_AT} ms"));
    }
    Ok(measurement)
}

/// The payload of a `RECORD`, checked as a whole. It borrows from the receive buffer.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    id: u64,
    count: u32,
    run_count: u32,
    /// The first run, which is usually the only one, and the bytes of the others.
    first: Run<'a>,
    others: &'a [u8],
}

/// Consecutive readings of one station.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The station's ID.
    pub station: &'a str,
    measurements: &'a [[u8; MEASUREMENT]],
}

impl<'a> Batch<'a> {
    /// Checks everything, so that recording cannot fail halfway.
    ///
    /// # Errors
    /// `BAD_PAYLOAD` or `INVALID_READING`, for the first fault.
    pub fn parse(mut payload: &'a [u8]) -> Result<Self, Refusal> {
        let id = payload.try_get_u64().map_err(|_| Refusal::bad_payload("a batch begins with its ID"))?;
        let invalid = |text| Refusal::new(ErrorCode::InvalidReading, text);
        let (mut count, mut run_count) = (0, 0);
        let mut first = None;
        let mut rest = payload;
        while !rest.is_empty() {
            let run = Run::parse(&mut rest)?;
            for measurement in run.measurements {
                check_measurement(measurement)
                    .map_err(|wrong| invalid(format!("reading {count}: {wrong}")))?;
                count += 1;
            }
            run_count += 1;
            first.get_or_insert((run, rest));
        }
        match first {
            Some((first, others)) if count <= MAX_BATCH => {
                Ok(Self { id, count: count as u32, run_count, first, others })
            }
            _ => Err(invalid(format!("a batch holds 1 to {MAX_BATCH} readings, not {count}"))),
        }
    }

    /// Returns the batch ID.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns the number of its readings, 1 to [`MAX_BATCH`].
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns the number of its runs: at least one for each of its stations.
    pub(crate) fn run_count(&self) -> u32 {
        self.run_count
    }

    /// Returns its runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = Run<'a>> + use<'a> {
        let mut rest = self.others;
        let others =
            std::iter::from_fn(move || if rest.is_empty() { None } else { Run::parse(&mut rest).ok() });
        std::iter::once(self.first).chain(others)
    }
}

impl<'a> Run<'a> {
    fn parse(rest: &mut &'a [u8]) -> Result<Self, Refusal> {
        let short = || Refusal::bad_payload("a run ends before its readings");
        let (&length, after) = rest.split_first().ok_or_else(short)?;
        let (station, after) = after.split_at_checked(length.into()).ok_or_else(short)?;
        let (count, after) = after.split_first_chunk().ok_or_else(short)?;
        let count = usize::from(u16::from_be_bytes(*count));
        if count == 0 {
            return Err(Refusal::bad_payload("a run has at least one reading"));
        }
        let (measurements, after) = after.split_at_checked(count * MEASUREMENT).ok_or_else(short)?;
        let (measurements, _) = measurements.as_chunks();
        *rest = after;
        Ok(Self { station: parse_station(station)?, measurements })
    }

    /// Returns its readings. In a [`Batch`], all of them are valid.
    pub fn readings(&self) -> impl Iterator<Item = Measurement> + use<'a> {
        self.measurements.iter().map_while(get_measurement)
    }
}

/// Reads the payload of a `WATCH`: only the station's ID.
///
/// # Errors
/// `BAD_PAYLOAD` if it is not a station ID.
pub fn parse_station(payload: &[u8]) -> Result<&str, Refusal> {
    match str::from_utf8(payload) {
        Ok(id) if is_station_id(payload) => Ok(id),
        _ => {
            let start = String::from_utf8_lossy(&payload[..payload.len().min(40)]).into_owned();
            Err(Refusal::bad_payload(&format!(
                "the station ID {start:?} must have 1 to {MAX_STATION_ID} characters: a-z, 0-9, and -"
            )))
        }
    }
}

/// The payload of a `READING`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Update {
    /// Number of readings that were left out before the first of these because the watcher
    /// was too slow.
    pub skipped: u64,
    /// In the order in which they were recorded.
    pub readings: Vec<Measurement>,
}

impl Update {
    /// Reads the payload of a `READING`. Returns `None` if it is malformed.
    pub fn parse(mut payload: &[u8]) -> Option<Self> {
        let skipped = payload.try_get_u64().ok()?;
        let (readings, rest) = payload.as_chunks();
        let readings = readings.iter().map(check_measurement).collect::<Result<_, _>>().ok()?;
        rest.is_empty().then_some(Self { skipped, readings })
    }
}

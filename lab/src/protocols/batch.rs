//! The batch that every protocol records.

/// The station that sends all readings.
pub const STATION: &str = "oslo-1";

/// Bytes of information in a reading of [`STATION`]: the station's ID, one byte for the metric,
/// and eight bytes each for value and time. Everything else that a protocol sends is overhead.
pub const INFORMATION: usize = STATION.len() + 1 + 8 + 8;

/// A reading before a protocol turns it into its own type.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    /// Air temperature in °C.
    pub temperature: f64,
    /// Time in ms since the Unix epoch.
    pub recorded_at: u64,
}

/// Returns `count` samples, one second apart.
pub(super) fn samples(count: usize) -> impl Iterator<Item = Sample> {
    (0..count as u64).map(sample)
}

/// Returns the sample with this number.
pub(crate) fn sample(number: u64) -> Sample {
    Sample {
        temperature: ((number % 100) as f64 - 35.0) / 10.0,
        recorded_at: 1_767_225_600_000 + 1000 * number,
    }
}

/// Checks that the server accepted all readings of the batch.
pub(super) fn verify_count(accepted: usize, sent: usize) -> anyhow::Result<()> {
    anyhow::ensure!(accepted == sent, "the server accepted {accepted} of {sent} readings");
    Ok(())
}

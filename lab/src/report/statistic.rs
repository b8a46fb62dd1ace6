//! Turns samples into percentiles, and the figures of several rounds into one figure.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Width of a range, as a share of the median, above which it is marked as noisy.
pub const NOISY: f64 = 0.25;

/// Minimum number of samples beyond a percentile. With fewer, chance decides it.
const SAMPLES_BEYOND: f64 = 10.0;

/// Returns an empty histogram for times from 1 ns to a minute, with a precision of three digits.
#[expect(clippy::missing_panics_doc, reason = "the bounds are valid")]
pub fn histogram() -> Histogram<u64> {
    #[expect(clippy::expect_used, reason = "the bounds are valid")]
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

/// Returns the time, in nanoseconds, that this share of the samples did not exceed. Returns `None`
/// if fewer than ten samples are beyond it, because chance would then decide the figure.
pub fn percentile(histogram: &Histogram<u64>, share: f64) -> Option<f64> {
    // Rounded, because 1 - 0.9 is slightly less than 0.1.
    let beyond = (histogram.len() as f64 * (1.0 - share) * 1e6).round() / 1e6;
    (beyond >= SAMPLES_BEYOND).then(|| histogram.value_at_quantile(share) as f64)
}

/// A figure over several rounds: their median, the lowest, and the highest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median. For an even number of values, it is the mean of the two in the middle.
    pub median: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
}

impl Spread {
    /// Returns the spread of these values, none of which may be NaN. Without any values, all three
    /// figures are NaN.
    pub fn of(values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.as_slice() {
            [] => Self { median: f64::NAN, low: f64::NAN, high: f64::NAN },
            all @ [low, .., high] if all.len() % 2 == 0 => {
                Self { median: f64::midpoint(all[middle - 1], all[middle]), low: *low, high: *high }
            }
            all => Self { median: all[middle], low: all[0], high: all[all.len() - 1] },
        }
    }

    /// Returns the spread of the values of all rounds, or `None` if there are no rounds or one has
    /// no value.
    pub fn of_all(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
        (!values.is_empty()).then(|| Self::of(&values))
    }

    /// Converts all three figures to another unit.
    pub fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, low: self.low * factor, high: self.high * factor }
    }

    /// Returns whether the rounds differ by more than [`NOISY`].
    pub fn is_noisy(&self) -> bool {
        self.high - self.low > NOISY * self.median
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ({:.digits$} to {:.digits$})", self.median, self.low, self.high)
    }
}

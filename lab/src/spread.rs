//! A figure over several rounds.

use serde::{Deserialize, Serialize};

/// A range wider than this share of the median is marked as noisy.
pub const NOISY: f64 = 0.25;

/// The middle value, and the lowest and highest beside it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median; of an even number of values the mean of the middle two.
    pub median: f64,
    /// The lowest value.
    pub low: f64,
    /// The highest value.
    pub high: f64,
}

impl Spread {
    /// Of at least one value, none of them NaN; otherwise all three are NaN.
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

    /// Of values that every round must have: `None` if one lacks it, or there is none.
    pub fn of_all(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect::<Option<_>>()?;
        (!values.is_empty()).then(|| Self::of(&values))
    }

    /// The same in another unit.
    pub fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, low: self.low * factor, high: self.high * factor }
    }

    /// Whether the rounds disagree by more than [`NOISY`].
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

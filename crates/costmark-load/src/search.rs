//! The highest rate that a backend still serves as wanted.

/// A rate that was tried, and whether the backend served it as wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Probe {
    /// Requests per second.
    pub per_s: f64,
    /// Limits were met and requests did not pile up.
    pub held: bool,
}

/// What a search does next, or what it found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SearchStep {
    /// Try this rate.
    Try(f64),
    /// It held at `held` and no more at `missed`, which are as close as was wanted.
    Found {
        /// Highest rate that held below the lowest that did not.
        held: f64,
        /// Lowest rate that did not hold.
        missed: f64,
    },
    /// Not even this rate held.
    NoneHeld(f64),
    /// Even this rate held, far above the first.
    AllHeld(f64),
}

/// A search over rates on a logarithmic scale: doubling or halving until the answer lies
/// between two rates, then the geometric mean of the two until they are close.
///
/// A pure function of what was tried so far, so that a search that ended early goes on where
/// it stopped. Probes that contradict each other (one rate missed below one that held) are
/// settled by the lower one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateSearch {
    /// The rate it begins with, above 0.
    pub first: f64,
    /// The search ends when `missed / held` is at most this, above 1.
    pub bracket: f64,
    /// Times the first rate is doubled at most.
    pub max_doublings: u32,
    /// Times it is halved at most: what does not hold at so little load never does.
    pub max_halvings: u32,
}

impl RateSearch {
    /// A search that begins with this rate and ends within 5 %.
    #[must_use]
    pub fn from_rate(first: f64) -> Self {
        Self {
            first: rounded(first),
            bracket: 1.05,
            max_doublings: 12,
            max_halvings: 8,
        }
    }

    /// The next step, given all probes so far.
    #[must_use]
    pub fn next(&self, probes: &[Probe]) -> SearchStep {
        let missed = probes
            .iter()
            .filter(|p| !p.held)
            .map(|p| p.per_s)
            .reduce(f64::min);
        let held = probes
            .iter()
            .filter(|p| p.held && missed.is_none_or(|missed| p.per_s < missed))
            .map(|p| p.per_s)
            .reduce(f64::max);
        let power = |n: u32| f64::from(2u32.saturating_pow(n));
        let highest = self.first * power(self.max_doublings);
        let lowest = self.first / power(self.max_halvings);
        match (held, missed) {
            (None, None) => SearchStep::Try(self.first),
            (Some(held), None) if held >= highest => SearchStep::AllHeld(held),
            (Some(held), None) => SearchStep::Try(rounded(2.0 * held)),
            (None, Some(missed)) if missed <= lowest * 1.01 => SearchStep::NoneHeld(missed),
            (None, Some(missed)) => SearchStep::Try(rounded(missed / 2.0)),
            (Some(held), Some(missed)) => {
                let between = rounded((held * missed).sqrt());
                // Rounded, it may be one of the two: then they are close enough.
                let is_between = held < between && between < missed;
                match missed / held > self.bracket && is_between {
                    true => SearchStep::Try(between),
                    false => SearchStep::Found { held, missed },
                }
            }
        }
    }
}

/// To four significant digits, so that a rate can be read and asked for again.
fn rounded(rate: f64) -> f64 {
    if !(rate.is_finite() && rate > 0.0) {
        return rate;
    }
    format!("{rate:.3e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(search: RateSearch, holds: impl Fn(f64) -> bool) -> (SearchStep, Vec<Probe>) {
        let mut probes = Vec::new();
        loop {
            match search.next(&probes) {
                SearchStep::Try(per_s) => {
                    assert!(
                        probes.iter().all(|p: &Probe| p.per_s != per_s),
                        "{probes:?}"
                    );
                    let held = holds(per_s);
                    probes.push(Probe { per_s, held });
                }
                end => return (end, probes),
            }
            assert!(probes.len() < 40, "{probes:?}");
        }
    }

    proptest! {
        /// Any capacity is found from any first rate within reach, in few probes.
        #[test]
        fn capacity_is_bracketed(capacity in -3.0..3.0f64, off in -3.0..2.3f64) {
            let capacity = 10f64.powf(capacity);
            let search = RateSearch::from_rate(capacity * 10f64.powf(off));
            let (end, probes) = run(search, |rate| rate <= capacity);
            let SearchStep::Found { held, missed } = end else {
                return Err(TestCaseError::fail(format!("{end:?}")));
            };
            prop_assert!(held <= capacity && capacity < missed);
            prop_assert!(missed / held <= 1.05);
            prop_assert!(probes.len() <= 12 + 6, "{}", probes.len());
        }

        /// Answers that contradict each other end too, and never above a rate that missed.
        #[test]
        fn noise_ends(seed in any::<u64>()) {
            let holds = |rate: f64| (rate.to_bits() ^ seed).count_ones().is_multiple_of(2);
            let (end, probes) = run(RateSearch::from_rate(3.0), holds);
            if let SearchStep::Found { held, missed } = end {
                prop_assert!(held < missed);
                prop_assert!(probes.iter().all(|p| p.held || p.per_s >= missed));
            }
        }
    }

    #[test]
    fn what_has_no_end_is_given_up() {
        let search = RateSearch::from_rate(2.0);
        assert_eq!(run(search, |_| true).0, SearchStep::AllHeld(8192.0));
        let (end, probes) = run(search, |_| false);
        assert!(
            matches!(end, SearchStep::NoneHeld(lowest) if lowest < 0.008),
            "{end:?}"
        );
        assert_eq!(probes.len(), 9);
    }

    #[test]
    fn rates_can_be_read() {
        assert_eq!(rounded(1.234_56), 1.235);
        assert_eq!(rounded(98_765.4), 98_770.0);
        assert_eq!(rounded(0.000_123_456), 0.000_123_5);
    }
}

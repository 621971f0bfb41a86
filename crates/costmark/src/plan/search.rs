//! `--find-goodput`: from flags to a search.

use std::num::NonZeroU32;
use std::time::Duration;

use costmark_load::{ArrivalShape, RateSearch};
use costmark_metrics::{DEFAULT_SLO_SHARE, samples_for_share};
use costmark_report::document;

use crate::args::LoadArgs;
use crate::failure::{Failure, Result};

/// Requests of a probe where nothing was said: enough for the test of saturation to see a
/// queue that grows slowly.
const DEFAULT_REQUESTS: u64 = 200;
/// Fewer are not tested for saturation.
const FEWEST_REQUESTS: u64 = 50;
/// Shortest measurement of a rate where nothing was said. Some hundred requests of a fast backend
/// are over before a queue, a hiccup of the machine or its clocks could show.
const LEAST_TIME: Duration = Duration::from_secs(10);
/// Where no time was said, so many requests make up for a shorter one: no server that is measured
/// takes ten thousand a second, and a mock that takes any number would be asked for millions.
const ENOUGH_REQUESTS: u64 = 100_000;

/// A search for the highest rate within the SLO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SearchPlan {
    /// The rate to begin with, where it was said.
    pub(crate) first: Option<f64>,
    pub(crate) shape: ArrivalShape,
    pub(crate) max_in_flight: Option<NonZeroU32>,
    /// Measured requests per probe and repeat, at least.
    pub(crate) requests: u64,
    /// Time measured per probe and repeat, at least, unless it takes more requests than `enough`.
    pub(crate) least_time: Duration,
    /// Measured requests that are enough, however short they are.
    enough: u64,
    /// Share of requests that must keep the limits.
    pub(crate) share: f64,
}

impl SearchPlan {
    /// `None` where none was asked for.
    pub(super) fn resolve(args: &LoadArgs) -> Result<Option<Self>> {
        if !args.find_goodput {
            return Ok(None);
        }
        let first = match args.rate.as_deref() {
            None => None,
            Some([first]) => Some(*first),
            Some(_) => {
                return Err(Failure::input(
                    "--rate: with --find-goodput it is the one rate to begin with; leave the \
                     others out",
                ));
            }
        };
        let share = args
            .slo
            .and_then(|slo| slo.share)
            .unwrap_or(DEFAULT_SLO_SHARE);
        let repeats = u64::from(args.repeats.unwrap_or(Self::DEFAULT_REPEATS));
        let needed = samples_for_share(share)
            .div_ceil(repeats)
            .max(FEWEST_REQUESTS);
        let requests = args.requests.unwrap_or(DEFAULT_REQUESTS.max(needed));
        if requests < needed {
            return Err(Failure::input(format!(
                "--requests {requests}: whether {} % of requests keep the limits cannot be told \
                 from so few; {needed} per repeat are needed",
                100.0 * share
            )));
        }
        Ok(Some(Self {
            first,
            shape: args.arrivals.unwrap_or_default(),
            max_in_flight: args.max_concurrency,
            requests,
            least_time: args.duration.unwrap_or(LEAST_TIME),
            enough: args.duration.map_or(ENOUGH_REQUESTS, |_| u64::MAX),
            share,
        }))
    }

    /// Requests to be measured at this rate: as many as were asked for, and as many as are due in
    /// the least time or are enough.
    pub(crate) fn requests_at(&self, per_s: f64) -> u64 {
        // Saturating.
        let due = (per_s * self.least_time.as_secs_f64()).ceil() as u64;
        self.requests.max(due.min(self.enough))
    }

    /// Times each rate is tried where nothing was said.
    pub(super) const DEFAULT_REPEATS: u32 = 1;

    /// As it goes into the result.
    pub(super) fn document(self) -> document::SearchPlan {
        document::SearchPlan {
            first_requests_per_s: self.first,
            arrivals: self.shape.to_string(),
            max_concurrency: self.max_in_flight.map(NonZeroU32::get),
            requests: self.requests,
            min_duration_s: self.least_time.as_secs_f64(),
            share: self.share,
            bracket: RateSearch::from_rate(1.0).bracket,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(duration: Option<Duration>) -> SearchPlan {
        let args = LoadArgs {
            find_goodput: true,
            duration,
            ..LoadArgs::default()
        };
        SearchPlan::resolve(&args).unwrap().unwrap()
    }

    #[test]
    fn fast_backends_are_not_asked_for_millions() {
        let requests = [1.0, 300.0, 1e4, 1e7, f64::MAX].map(|rate| plan(None).requests_at(rate));
        assert_eq!(requests, [200, 3000, 100_000, 100_000, 100_000]);
        let asked = plan(Some(Duration::from_secs(60)));
        assert_eq!(asked.requests_at(1e4), 600_000);
    }
}

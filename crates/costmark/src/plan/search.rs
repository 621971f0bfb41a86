//! `--find-goodput`: from flags to a search.

use std::num::NonZeroU32;

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

/// A search for the highest rate within the SLO.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SearchPlan {
    /// The rate to begin with, where it was said.
    pub(crate) first: Option<f64>,
    pub(crate) shape: ArrivalShape,
    pub(crate) max_in_flight: Option<NonZeroU32>,
    /// Measured requests per probe and repeat.
    pub(crate) requests: u64,
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
            share,
        }))
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
            share: self.share,
            bracket: RateSearch::from_rate(1.0).bracket,
        }
    }
}

//! What only an open loop can tell: whether the load that was wanted was put on, and whether
//! the backend kept up with it.

use costmark_core::RequestRecord;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::trend::Trend;
use crate::unit::{UnitInput, UnitSummary, summarise};
use crate::window::Window;

/// Delivered under this share of offered: the load generator was the limit.
pub(crate) const DELIVERED_SHARE: f64 = 0.99;
/// Requests from which a trend is sought in 10 blocks, and from which in 20.
const MIN_REQUESTS: usize = 50;
const REQUESTS_FOR_MORE_BLOCKS: usize = 100;

/// How the requests of a unit came, beside what [`UnitInput`] says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenLoad {
    /// Requests that were allowed in flight at once, if bounded.
    pub max_in_flight: Option<u32>,
    /// Measured requests that had to wait for that bound.
    pub delayed_by_cap: u64,
}

/// Offered against delivered load, and whether the backend kept up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenLoopSummary {
    /// Requests due in the window, per second.
    pub offered_requests_per_s: f64,
    /// Requests sent in the window, per second. Those completed are in
    /// [`Throughput`](crate::Throughput).
    pub delivered_requests_per_s: f64,
    /// Requests that were allowed in flight at once, if bounded.
    pub max_in_flight: Option<u32>,
    /// Measured requests that had to wait for that bound.
    pub delayed_by_cap: u64,
    /// Delivered under 99 % of offered without the bound as a reason: the load generator,
    /// not the backend, was the limit.
    pub client_limited: bool,
    /// Whether the backend kept up; `None` for fewer than 50 measured requests that brought
    /// a token.
    pub saturation: Option<Saturation>,
}

/// Whether requests came faster than they were served.
///
/// The statistic, and why it is not a fitted line's, is in [`Trend`]. In flight are requests
/// from when they were due to their end, in blocks of equal time; times to first token are
/// on the user clock, in blocks of equal numbers of requests in the order they were due.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Saturation {
    /// Blocks the window was cut into.
    pub blocks: u32,
    /// Requests in flight.
    pub in_flight: Trend,
    /// Time to first token, user clock, ms.
    pub user_ttft_ms: Trend,
    /// Both rise: latencies of this unit depend on how long it was, and describe nothing.
    pub is_saturated: bool,
}

/// Takes all statistics of a unit of an open loop: those of [`summarise`] and
/// [`open_loop`](UnitSummary::open_loop).
#[must_use]
pub fn summarise_open(input: &UnitInput<'_>, load: OpenLoad) -> UnitSummary {
    let mut summary = summarise(input);
    let all = || input.requests.iter().chain(input.background);
    let window = &summary.window;
    let per_s = |instant: &dyn Fn(&RequestRecord) -> u64| {
        let count = all().filter(|r| window.contains(instant(r))).count();
        if window.seconds > 0.0 {
            count as f64 / window.seconds
        } else {
            0.0
        }
    };
    let offered = per_s(&|r| r.scheduled_ns);
    let delivered = per_s(&|r| r.sent_ns);
    summary.open_loop = Some(OpenLoopSummary {
        offered_requests_per_s: offered,
        delivered_requests_per_s: delivered,
        max_in_flight: load.max_in_flight,
        delayed_by_cap: load.delayed_by_cap,
        client_limited: load.delayed_by_cap == 0 && delivered < DELIVERED_SHARE * offered,
        saturation: Saturation::of(window, input.requests, input.background),
    });
    summary
}

impl Saturation {
    /// Tests the measured requests of a window; `None` if there are too few.
    fn of(
        window: &Window,
        requests: &[RequestRecord],
        background: &[RequestRecord],
    ) -> Option<Self> {
        let mut ttfts: Vec<(u64, f64)> = requests
            .iter()
            .filter_map(|r| {
                let ttft_ns = r.token_ns.first()?.saturating_sub(r.scheduled_ns);
                Some((r.scheduled_ns, ttft_ns as f64 / 1e6))
            })
            .collect();
        if ttfts.len() < MIN_REQUESTS {
            return None;
        }
        let blocks = if ttfts.len() < REQUESTS_FOR_MORE_BLOCKS {
            10
        } else {
            20
        };
        ttfts.sort_unstable_by_key(|&(due_ns, _)| due_ns);
        let ttft_means: Vec<f64> = (0..blocks)
            .map(|i| {
                let block = &ttfts[i * ttfts.len() / blocks..(i + 1) * ttfts.len() / blocks];
                block.iter().map(|&(_, ms)| ms).sum::<f64>() / block.len() as f64
            })
            .collect();
        let in_flight = in_flight_means(window, blocks, requests.iter().chain(background));
        let in_flight = Trend::of_blocks(&in_flight, window.seconds)?;
        let user_ttft_ms = Trend::of_blocks(&ttft_means, window.seconds)?;
        Some(Self {
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            in_flight,
            user_ttft_ms,
            // Less than one request more is no queue.
            is_saturated: in_flight.is_rising && in_flight.rise >= 1.0 && user_ttft_ms.is_rising,
        })
    }
}

/// Time-weighted requests in flight in each of `blocks` equal parts of the window.
fn in_flight_means<'a>(
    window: &Window,
    blocks: usize,
    records: impl Iterator<Item = &'a RequestRecord>,
) -> Vec<f64> {
    let length_ns = window.end_ns - window.start_ns;
    let edge_ns = |i: usize| {
        let share = u128::from(length_ns) * i as u128 / blocks as u128;
        window.start_ns + share as u64
    };
    let block_of = |at_ns: u64| {
        let share = u128::from(at_ns - window.start_ns) * blocks as u128;
        ((share / u128::from(length_ns.max(1))) as usize).min(blocks - 1)
    };
    let mut sums_ns = vec![0u64; blocks];
    // Whole blocks covered, as changes at their begins: a request may last very long.
    let mut covered = vec![0i64; blocks + 1];
    for record in records {
        let from_ns = record.scheduled_ns.clamp(window.start_ns, window.end_ns);
        let to_ns = record.finished_ns.clamp(window.start_ns, window.end_ns);
        if to_ns <= from_ns {
            continue;
        }
        let (first, last) = (block_of(from_ns), block_of(to_ns));
        if first == last {
            sums_ns[first] += to_ns - from_ns;
            continue;
        }
        sums_ns[first] += edge_ns(first + 1).saturating_sub(from_ns);
        sums_ns[last] += to_ns.saturating_sub(edge_ns(last));
        covered[first + 1] += 1;
        covered[last] -= 1;
    }
    let mut whole = 0;
    (0..blocks)
        .map(|i| {
            whole += covered[i];
            let block_ns = (edge_ns(i + 1) - edge_ns(i)).max(1) as f64;
            whole as f64 + sums_ns[i] as f64 / block_ns
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_core::{FinishReason, Outcome, TokenTimes};
    use proptest::prelude::*;

    fn record(scheduled_ns: u64, length_ns: u64) -> RequestRecord {
        RequestRecord {
            id: 0,
            turn: None,
            scheduled_ns,
            sent_ns: scheduled_ns,
            token_ns: TokenTimes::new(),
            event_tokens: Vec::new(),
            finished_ns: scheduled_ns + length_ns,
            input_tokens: 1,
            cached_tokens: 0,
            output_tokens: 0,
            output_hash: None,
            outcome: Outcome::Finished(FinishReason::Length),
        }
    }

    proptest! {
        /// Against the overlap of every request with every block.
        #[test]
        fn block_means_are_overlaps(
            spans in prop::collection::vec((0..3_000u64, 0..2_000u64), 0..40),
            (start_ns, block_ns, blocks) in (0..500u64, 1..150u64, 1..12usize),
        ) {
            let records: Vec<_> = spans.iter().map(|&(at, length)| record(at, length)).collect();
            let end_ns = start_ns + block_ns * blocks as u64;
            let window = Window::find(&records, None, start_ns, end_ns);
            let found = in_flight_means(&window, blocks, records.iter());
            for (i, found) in found.into_iter().enumerate() {
                let from_ns = start_ns + i as u64 * block_ns;
                let to_ns = from_ns + block_ns;
                let overlap: u64 = records
                    .iter()
                    .map(|r| {
                        r.finished_ns.min(to_ns).saturating_sub(r.scheduled_ns.max(from_ns))
                    })
                    .sum();
                let expected = overlap as f64 / block_ns as f64;
                prop_assert!((found - expected).abs() < 1e-9, "{} {}", found, expected);
            }
        }
    }
}

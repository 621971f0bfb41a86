//! Latency quantities of finished requests.
//!
//! | quantity | definition |
//! |---|---|
//! | TTFT | first token instant − start |
//! | ITL | gap between successive token events of a request, pooled over requests |
//! | TPOT | (last − first token instant) / (n − 1) per request of n > 1 tokens |
//! | E2E | last token instant − start |
//! | NTPOT | E2E / n |
//! | dispatch delay | sent − scheduled |
//!
//! Start is `sent` on the *service* clock and `scheduled` on the *user* clock. ITL and
//! TPOT are differences between token instants and the same on both.

use costmark_core::{FinishReason, Outcome, RequestRecord};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::histogram::{LatencyHistogram, LatencySummary};

/// A quantity per row, as distributions that can be merged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencyHistograms {
    /// Time to first token, service clock.
    pub ttft: LatencyHistogram,
    /// Gaps between token events.
    pub itl: LatencyHistogram,
    /// Time per output token after the first.
    pub tpot: LatencyHistogram,
    /// End to end, service clock.
    pub e2e: LatencyHistogram,
    /// End to end per token, service clock.
    pub ntpot: LatencyHistogram,
    /// Time to first token, user clock.
    pub user_ttft: LatencyHistogram,
    /// End to end, user clock.
    pub user_e2e: LatencyHistogram,
    /// End to end per token, user clock.
    pub user_ntpot: LatencyHistogram,
    /// From scheduled to sent: the load generator's own delay.
    pub dispatch_delay: LatencyHistogram,
    /// Some event brought more than one token: `itl` holds gaps between chunks.
    pub itl_is_inter_chunk: bool,
}

/// The same in figures, milliseconds; `None` where nothing was recorded.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatencySummaries {
    /// Time to first token, service clock.
    pub ttft_ms: Option<LatencySummary>,
    /// Gaps between token events.
    pub itl_ms: Option<LatencySummary>,
    /// Time per output token after the first.
    pub tpot_ms: Option<LatencySummary>,
    /// End to end, service clock.
    pub e2e_ms: Option<LatencySummary>,
    /// End to end per token, service clock.
    pub ntpot_ms: Option<LatencySummary>,
    /// Time to first token, user clock.
    pub user_ttft_ms: Option<LatencySummary>,
    /// End to end, user clock.
    pub user_e2e_ms: Option<LatencySummary>,
    /// End to end per token, user clock.
    pub user_ntpot_ms: Option<LatencySummary>,
    /// From scheduled to sent: the load generator's own delay.
    pub dispatch_delay_ms: Option<LatencySummary>,
    /// Some event brought more than one token: `itl_ms` holds gaps between chunks.
    pub itl_is_inter_chunk: bool,
}

/// Whether a request ran to an end of its own.
pub(crate) fn is_finished(record: &RequestRecord) -> bool {
    matches!(
        record.outcome,
        Outcome::Finished(FinishReason::Length | FinishReason::Stop)
    )
}

impl LatencyHistograms {
    /// Takes in the finished requests among `records`. Failed and cancelled ones have no
    /// latency; they are counted elsewhere.
    pub fn record_all<'a>(&mut self, records: impl IntoIterator<Item = &'a RequestRecord>) {
        for record in records.into_iter().filter(|r| is_finished(r)) {
            self.record(record);
        }
    }

    fn record(&mut self, record: &RequestRecord) {
        self.dispatch_delay
            .record(record.sent_ns.saturating_sub(record.scheduled_ns));
        let (Some(first_ns), Some(last_ns)) = (record.token_ns.first(), record.token_ns.last())
        else {
            return;
        };
        let n = u64::from(record.output_tokens);
        for (start_ns, ttft, e2e, ntpot) in [
            (
                record.sent_ns,
                &mut self.ttft,
                &mut self.e2e,
                &mut self.ntpot,
            ),
            (
                record.scheduled_ns,
                &mut self.user_ttft,
                &mut self.user_e2e,
                &mut self.user_ntpot,
            ),
        ] {
            let whole_ns = last_ns.saturating_sub(start_ns);
            ttft.record(first_ns.saturating_sub(start_ns));
            e2e.record(whole_ns);
            ntpot.record(whole_ns / n.max(1));
        }
        if n > 1 {
            self.tpot.record((last_ns - first_ns) / (n - 1));
        }
        for (gap_ns, times) in record.token_ns.gaps() {
            self.itl.record_n(gap_ns, u64::from(times));
        }
        self.itl_is_inter_chunk |= record.has_chunks();
    }

    /// Adds all samples of another.
    pub fn merge(&mut self, other: &Self) {
        self.ttft.merge(&other.ttft);
        self.itl.merge(&other.itl);
        self.tpot.merge(&other.tpot);
        self.e2e.merge(&other.e2e);
        self.ntpot.merge(&other.ntpot);
        self.user_ttft.merge(&other.user_ttft);
        self.user_e2e.merge(&other.user_e2e);
        self.user_ntpot.merge(&other.user_ntpot);
        self.dispatch_delay.merge(&other.dispatch_delay);
        self.itl_is_inter_chunk |= other.itl_is_inter_chunk;
    }

    /// All quantities in figures.
    #[must_use]
    pub fn summaries(&self) -> LatencySummaries {
        LatencySummaries {
            ttft_ms: self.ttft.summary(),
            itl_ms: self.itl.summary(),
            tpot_ms: self.tpot.summary(),
            e2e_ms: self.e2e.summary(),
            ntpot_ms: self.ntpot.summary(),
            user_ttft_ms: self.user_ttft.summary(),
            user_e2e_ms: self.user_e2e.summary(),
            user_ntpot_ms: self.user_ntpot.summary(),
            dispatch_delay_ms: self.dispatch_delay.summary(),
            itl_is_inter_chunk: self.itl_is_inter_chunk,
        }
    }
}

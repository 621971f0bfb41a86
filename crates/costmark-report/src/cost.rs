//! From measured windows to dollars: the cost of a unit, and of a level over its repeats.

use costmark_core::{Interval, ModelWork, Roofline, StepRecord};
use costmark_econ::{
    CostModel, TOKENS_PER_MTOK, Undefined, WindowCost, WindowSplit, WindowTokens, phase_times,
};
use costmark_metrics::{LevelSummary, UnitSummary, interval_over_repeats};

use crate::document::{Attribution, LevelDocument, LevelPlan, UnitCost, UnitDocument};

impl UnitCost {
    /// Prices the window of `summary`. The second part says why there is no cost, or why it
    /// could not be split by phase.
    #[must_use]
    pub fn of(
        summary: &UnitSummary,
        steps: &[StepRecord],
        work: Option<&ModelWork>,
        roofline: Option<&Roofline>,
        model: &CostModel,
    ) -> (Option<Self>, Option<String>) {
        let window = &summary.window;
        let times = match (work.zip(roofline), steps) {
            (_, []) => Err(Undefined::NoStepLog),
            (None, _) => Err(Undefined::NoModelWork),
            (Some((work, roofline)), _) => {
                let replicas = summary.steps.map_or(1, |s| s.replicas);
                let (start_ns, end_ns) = (window.start_ns, window.end_ns);
                phase_times(steps, start_ns, end_ns, replicas, work, roofline)
            }
        };
        let tokens = WindowTokens {
            input: summary.throughput.input_tokens,
            cached: summary.throughput.cached_tokens,
            output: summary.throughput.output_tokens,
        };
        let cost = match WindowCost::new(model, window.seconds, tokens, times) {
            Ok(cost) => cost,
            Err(reason) => return (None, Some(reason.to_string())),
        };
        let part = |figure: fn(&WindowSplit) -> f64| cost.split.as_ref().ok().map(figure);
        let document = Self {
            window_s: window.seconds,
            usd: cost.cost_usd,
            usd_input: part(|s| s.input_usd),
            usd_cached: part(|s| s.cached_usd),
            usd_output: part(|s| s.output_usd),
            usd_idle: part(|s| s.idle_usd),
            prefill_s: part(|s| s.times.prefill_s),
            decode_s: part(|s| s.times.decode_s),
            idle_s: part(|s| s.times.idle_s),
            mixed_s: part(|s| s.times.mixed_s),
            input_tokens: tokens.input,
            cached_tokens: tokens.cached,
            output_tokens: tokens.output,
            usd_per_mtok_input: cost.usd_per_mtok_input.ok(),
            usd_per_mtok_cached: cost.usd_per_mtok_cached.ok(),
            usd_per_mtok_output: cost.usd_per_mtok_output.ok(),
            usd_per_mtok_blended: cost.usd_per_mtok_blended.ok(),
        };
        (Some(document), cost.split.err().map(|r| r.to_string()))
    }
}

impl LevelDocument {
    /// Puts the repeats of one level together; `None` without any.
    ///
    /// Prices per million tokens come from throughput: each repeat's tokens of a class per
    /// second of the time charged to that class, as median and t-interval over repeats,
    /// turned into money by its ends ([`CostModel::usd_per_mtok`]). With an odd number of
    /// repeats that is the median of the repeats' prices.
    #[must_use]
    pub fn from_units(
        level: &LevelPlan,
        units: &[&UnitDocument],
        model: &CostModel,
    ) -> Option<Self> {
        let summaries: Vec<UnitSummary> = units.iter().map(|u| u.summary.clone()).collect();
        let costs: Vec<&UnitCost> = units.iter().filter_map(|u| u.cost.as_ref()).collect();
        // A repeat without a cost would bias the others.
        let complete = costs.len() == units.len();
        let price = |usd_per_mtok: fn(&UnitCost) -> Option<f64>| -> Option<Interval> {
            let usd_per_second = model.cost_usd(1.0);
            let rates: Option<Vec<f64>> = costs
                .iter()
                .map(|cost| Some(usd_per_second / usd_per_mtok(cost)? * TOKENS_PER_MTOK))
                .collect();
            let rate = interval_over_repeats(&rates.filter(|_| complete)?)?;
            model.usd_per_mtok(1.0, rate).ok()
        };
        Some(Self {
            id: level.id.clone(),
            model: level.model.clone(),
            workload: level.workload.clone(),
            load: level.load.clone(),
            repeats: u32::try_from(units.len()).unwrap_or(u32::MAX),
            usd_per_mtok_input: price(|c| c.usd_per_mtok_input),
            usd_per_mtok_cached: price(|c| c.usd_per_mtok_cached),
            usd_per_mtok_output: price(|c| c.usd_per_mtok_output),
            usd_per_mtok_blended: price(|c| c.usd_per_mtok_blended),
            attribution: Attribution::over(&costs).filter(|_| complete),
            summary: LevelSummary::from_units(&summaries)?,
        })
    }
}

impl Attribution {
    /// Shares of the summed cost and time; `None` where some unit could not be split.
    fn over(costs: &[&UnitCost]) -> Option<Self> {
        let sum = |figure: fn(&UnitCost) -> Option<f64>| -> Option<f64> {
            costs.iter().map(|cost| figure(cost)).sum()
        };
        let usd = sum(|c| Some(c.usd)).filter(|&usd| usd > 0.0)?;
        let busy_s = sum(|c| Some(c.prefill_s? + c.decode_s?)).filter(|&s| s > 0.0)?;
        let window_s = sum(|c| Some(c.window_s)).filter(|&s| s > 0.0)?;
        Some(Self {
            input_share: sum(|c| c.usd_input)? / usd,
            cached_share: sum(|c| c.usd_cached)? / usd,
            output_share: sum(|c| c.usd_output)? / usd,
            idle_share: sum(|c| c.idle_s)? / window_s,
            mixed_step_share: sum(|c| c.mixed_s)? / busy_s,
        })
    }
}

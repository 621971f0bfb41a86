//! How the margin follows its inputs: one at a time (tornado), and all at once (Monte-Carlo).

use costmark_core::Interval;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::Serialize;

use crate::cost::CostModel;
use crate::error::MarginError;
use crate::margin::{MarginCase, Speed};

/// An input of the margin that can be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lever {
    /// Factor on the hourly price.
    HourlyPrice,
    /// Factor on throughput.
    Throughput,
    /// Utilization itself.
    Utilization,
    /// Factor on input tokens per output token.
    InputOutputRatio,
    /// Share of input from the cache.
    CacheHitRate,
    /// Factor on the list price.
    ListPrice,
    /// Factor on what inference costs.
    Overrun,
    /// Factor on the hourly price through dearer memory; see [`memory_factor`].
    MemoryPrice,
}

impl Lever {
    /// For a table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HourlyPrice => "hourly price",
            Self::Throughput => "throughput",
            Self::Utilization => "utilization",
            Self::InputOutputRatio => "input per output",
            Self::CacheHitRate => "cache hit rate",
            Self::ListPrice => "list price",
            Self::Overrun => "inference cost overrun",
            Self::MemoryPrice => "memory price",
        }
    }
}

/// What an hour costs when memory costs `price_factor` times as much:
/// `1 + capex share × memory share × (price factor − 1)`, where the shares are those of capex in
/// the hourly price and of memory in the capex.
#[must_use]
pub fn memory_factor(capex_share: f64, memory_share: f64, price_factor: f64) -> f64 {
    1.0 + capex_share * memory_share * (price_factor - 1.0)
}

/// Between which values a lever moves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Range {
    /// Which.
    pub lever: Lever,
    /// From.
    pub low: f64,
    /// To.
    pub high: f64,
}

/// The margin at both ends of a range; absent with a reason.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bar {
    /// What was moved.
    pub range: Range,
    /// Margin at its lower end.
    pub at_low: Option<f64>,
    /// Margin at its upper end.
    pub at_high: Option<f64>,
    /// Why a margin is absent.
    pub reason: Option<String>,
}

impl Bar {
    /// How far the margin moves; 0 where it is not known.
    #[must_use]
    pub fn swing(&self) -> f64 {
        match (self.at_low, self.at_high) {
            (Some(a), Some(b)) => (a - b).abs(),
            _ => 0.0,
        }
    }
}

/// The case with one lever moved.
///
/// # Errors
/// A value the lever can not take, or one that needs what the run did not measure.
pub fn moved(case: &MarginCase, lever: Lever, value: f64) -> Result<MarginCase, MarginError> {
    let mut case = case.clone();
    let cost = |usd_per_hour: f64, utilization: f64, share: f64| {
        CostModel::new(usd_per_hour, utilization, share).map_err(MarginError::from)
    };
    match lever {
        Lever::HourlyPrice | Lever::MemoryPrice => {
            let c = case.cost;
            case.cost = cost(c.usd_per_hour() * value, c.utilization(), c.share())?;
        }
        Lever::Utilization => case.cost = cost(case.cost.usd_per_hour(), value, case.cost.share())?,
        Lever::Throughput => case.speed_factor *= value,
        Lever::ListPrice => case.list_factor *= value,
        Lever::Overrun => case.overrun *= value,
        Lever::InputOutputRatio => {
            split(&case)?;
            case.mix.input *= value;
            case.mix.cached_read = case.mix.cached_read.map(|x| x * value);
            case.mix.cache_write = case.mix.cache_write.map(|x| x * value);
            case.mix.input_per_request = case.mix.input_per_request.map(|x| x * value);
        }
        Lever::CacheHitRate => {
            split(&case)?;
            if !(0.0..=1.0).contains(&value) {
                return Err(MarginError::Value {
                    name: "cache hit rate",
                    value,
                    wanted: "from 0 to 1",
                });
            }
            case.mix.cached_read = Some(case.mix.input * value);
            case.mix.cache_write = Some(
                case.mix
                    .cache_write
                    .unwrap_or(0.0)
                    .min(case.mix.input * (1.0 - value)),
            );
        }
    }
    Ok(case)
}

fn split(case: &MarginCase) -> Result<(), MarginError> {
    match case.speed {
        Speed::Blended { .. } => Err(MarginError::NotSplit),
        Speed::Classes { .. } => Ok(()),
    }
}

/// Moves each lever to both of its ends, the others held, the widest swing first.
#[must_use]
pub fn tornado(case: &MarginCase, ranges: &[Range]) -> Vec<Bar> {
    let at = |lever, value| -> Result<f64, MarginError> {
        Ok(moved(case, lever, value)?.margin()?.gross_margin)
    };
    let mut bars: Vec<Bar> = ranges
        .iter()
        .map(|range| {
            let (low, high) = (at(range.lever, range.low), at(range.lever, range.high));
            let reason = [&low, &high]
                .into_iter()
                .find_map(|r| r.as_ref().err())
                .map(ToString::to_string);
            Bar {
                range: *range,
                at_low: low.ok(),
                at_high: high.ok(),
                reason,
            }
        })
        .collect();
    bars.sort_by(|a, b| b.swing().total_cmp(&a.swing()));
    bars
}

/// Margins of many draws.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// Draws.
    pub draws: u32,
    /// Seed of the draws.
    pub seed: u64,
    /// 5 % of draws have a lower margin.
    pub p5: f64,
    /// Half of them.
    pub p50: f64,
    /// 95 % of them.
    pub p95: f64,
    /// Share of draws with a margin below 0.
    pub loss_share: f64,
}

/// Draws every range uniformly and independently, and the throughput from its interval: normal
/// around the value, whose interval is taken as ±1.96 standard deviations, cut off at 0. The same
/// seed gives the same figures.
///
/// # Errors
/// The first draw that has no margin: a range reaches where none is defined. No draws at all.
pub fn monte_carlo(
    case: &MarginCase,
    ranges: &[Range],
    throughput: Interval,
    draws: u32,
    seed: u64,
) -> Result<Spread, MarginError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let sd = match (throughput.low, throughput.high) {
        (Some(low), Some(high)) if throughput.value > 0.0 => {
            (high - low) / throughput.value / (2.0 * 1.96)
        }
        _ => 0.0,
    };
    let mut margins = Vec::with_capacity(draws as usize);
    for _ in 0..draws {
        let mut drawn = case.at_speed(positive_normal(sd, &mut rng));
        for range in ranges {
            let u: f64 = rng.random();
            let value = range.low + (range.high - range.low) * u;
            drawn = moved(&drawn, range.lever, value)?;
        }
        margins.push(drawn.margin()?.gross_margin);
    }
    margins.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| -> Option<f64> {
        let last = margins.len().checked_sub(1)?;
        margins.get((share * last as f64).round() as usize).copied()
    };
    let none = MarginError::Value {
        name: "number of draws",
        value: 0.0,
        wanted: "at least 1",
    };
    let (Some(p5), Some(p50), Some(p95)) = (at(0.05), at(0.5), at(0.95)) else {
        return Err(none);
    };
    let losses = margins.iter().filter(|&&m| m < 0.0).count();
    Ok(Spread {
        draws,
        seed,
        p5,
        p50,
        p95,
        loss_share: losses as f64 / margins.len() as f64,
    })
}

/// A normal around 1, drawn again until it is positive. With a deviation so large that this is
/// rare, the value itself.
fn positive_normal(sd: f64, rng: &mut ChaCha8Rng) -> f64 {
    for _ in 0..64 {
        let z: f64 = StandardNormal.sample(rng);
        let factor = 1.0 + sd * z;
        if factor > 0.0 {
            return factor;
        }
    }
    1.0
}

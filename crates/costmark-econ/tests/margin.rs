//! Margins: the published day, properties, and refusals.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

use costmark_core::Interval;
use costmark_econ::margin::{needed, needed_hit_rate};
use costmark_econ::sensitivity::moved;
use costmark_econ::{
    CostModel, Lever, ListPrice, MarginCase, MarginError, Range, Speed, TokenMix, monte_carlo,
    revenue, tornado,
};
use jiff::civil::date;
use proptest::prelude::*;

fn list(input: f64, cached: Option<f64>, output: f64) -> ListPrice {
    ListPrice::stated(input, cached, output, date(2026, 1, 31)).unwrap()
}

fn mix(input: f64, cached: f64, output: f64) -> TokenMix {
    TokenMix {
        input,
        cached_read: Some(cached),
        cache_write: None,
        output,
        batch_share: 0.0,
        input_per_request: None,
    }
}

/// $3.60 an hour: a tenth of a cent a second. 1 ms per input, 0.1 ms per cached, 10 ms per output
/// token.
fn case() -> MarginCase {
    MarginCase {
        cost: CostModel::whole(3.6).unwrap(),
        speed: Speed::Classes {
            input_s: 1e-3,
            cached_s: Some(1e-4),
            output_s: 1e-2,
        },
        speed_factor: 1.0,
        mix: mix(600.0, 0.0, 400.0),
        list: list(1.0, Some(0.1), 20.0),
        list_factor: 1.0,
        free_share: 0.0,
        revenue_share: 0.0,
        other_usd_per_mtok: 0.0,
        overrun: 1.0,
    }
}

fn margin(case: &MarginCase) -> f64 {
    case.margin().unwrap().gross_margin
}

/// deepseek-ai/open-infra-index, day 6: $87,072 for 608 G input (342 G cached), 168 G output.
#[test]
fn the_published_day() {
    let tokens = mix(608e9, 342e9, 168e9);
    let prices = list(0.55, Some(0.14), 2.19);
    let income = revenue(&tokens, &prices).unwrap().total_usd;
    assert!((income / 562_027.0 - 1.0).abs() < 2e-4, "{income}");
    let day = MarginCase {
        cost: CostModel::whole(226.75 * 8.0 * 2.0).unwrap(),
        speed: Speed::Blended {
            token_s: 86_400.0 / 776e9,
        },
        mix: tokens,
        list: prices,
        ..case()
    };
    let m = day.margin().unwrap();
    let cost = m.inference_usd_per_mtok * 776e3;
    assert!((cost - 87_072.0).abs() < 1e-6, "{cost}");
    assert!((m.markup - 5.455).abs() < 1e-3 && (m.gross_margin - 0.845).abs() < 1e-3);
    assert!((m.inference_usd_per_mtok - 0.1122).abs() < 5e-5);
}

/// Revenue 0.6 × 1 + 0.4 × 20 = $8.60/M. Time 0.6 + 4 = 4.6 s per 1000 tokens: $4.60/M.
#[test]
fn a_margin_by_hand() {
    let m = case().margin().unwrap();
    assert!((m.revenue_usd_per_mtok - 8.6).abs() < 1e-12);
    assert!((m.inference_usd_per_mtok - 4.6).abs() < 1e-12);
    assert!((m.gross_margin - 4.0 / 8.6).abs() < 1e-12);
    assert!((m.markup - 4.0 / 4.6).abs() < 1e-12);
    let full = MarginCase {
        free_share: 0.1,
        revenue_share: 0.2,
        other_usd_per_mtok: 0.5,
        overrun: 1.23,
        ..case()
    };
    // COGS 4.6 × 1.23 × 1.1 + 0.5 + 1.72.
    let cogs = 4.6 * 1.23 * 1.1 + 0.5 + 0.2 * 8.6;
    let m = full.margin().unwrap();
    assert!((m.cogs_usd_per_mtok - cogs).abs() < 1e-12);
    assert!((m.gross_margin - (1.0 - cogs / 8.6)).abs() < 1e-12);
    // Half of the input from the cache: revenue 0.3 + 0.03 + 8, time 0.3 + 0.03 + 4.
    let hits = MarginCase {
        mix: mix(600.0, 300.0, 400.0),
        ..case()
    };
    let m = hits.margin().unwrap();
    assert!((m.revenue_usd_per_mtok - 8.33).abs() < 1e-12);
    assert!((m.inference_usd_per_mtok - 4.33).abs() < 1e-12);
}

#[test]
fn classes_of_revenue_by_hand() {
    let mut prices = list(2.0, Some(0.5), 10.0);
    prices.cache_write = Some(2.5);
    (prices.batch_input, prices.batch_output) = (Some(1.0), Some(5.0));
    let mut tokens = mix(1e6, 4e5, 1e5);
    tokens.cache_write = Some(1e5);
    let r = revenue(&tokens, &prices).unwrap();
    // 0.5 M × 2 + 0.4 M × 0.5 + 0.1 M × 2.5 + 0.1 M × 10.
    assert!((r.total_usd - (1.0 + 0.2 + 0.25 + 1.0)).abs() < 1e-12);
    tokens.batch_share = 0.5;
    let r = revenue(&tokens, &prices).unwrap();
    assert!((r.total_usd - (0.75 + 0.2 + 0.25 + 0.75)).abs() < 1e-12);
    prices.long_context = Some(costmark_econ::api::LongContext {
        over_tokens: 200_000,
        input: 4.0,
        cached_read: Some(1.0),
        cache_write: Some(5.0),
        output: 15.0,
    });
    tokens.batch_share = 0.0;
    tokens.input_per_request = Some(200_001.0);
    let r = revenue(&tokens, &prices).unwrap();
    assert!((r.total_usd - (2.0 + 0.4 + 0.5 + 1.5)).abs() < 1e-12);
    assert!(r.assumptions[0].contains("long-context"));
    tokens.input_per_request = Some(200_000.0);
    assert!((revenue(&tokens, &prices).unwrap().total_usd - 2.45).abs() < 1e-12);
}

/// What was not counted is never taken as 0.
#[test]
fn missing_cache_counts_are_refused_where_they_matter() {
    let mut tokens = mix(1e6, 0.0, 1e5);
    tokens.cached_read = None;
    let priced = list(2.0, Some(0.5), 10.0);
    let error = revenue(&tokens, &priced).unwrap_err();
    assert!(matches!(error, MarginError::NoCacheCounts { .. }));
    assert!(error.to_string().contains("--cached-share"), "{error}");
    // No cached price, or the same: it does not matter.
    assert!(revenue(&tokens, &list(2.0, None, 10.0)).is_ok());
    assert!(revenue(&tokens, &list(2.0, Some(2.0), 10.0)).is_ok());
    // Hits were counted, writes were not, and they cost something else.
    let mut writes = priced;
    writes.cache_write = Some(2.5);
    tokens.cached_read = Some(5e5);
    assert!(revenue(&tokens, &writes).is_err());
    tokens.cache_write = Some(0.0);
    assert!(revenue(&tokens, &writes).is_ok());
    tokens.batch_share = 0.5;
    assert_eq!(
        revenue(&tokens, &writes),
        Err(MarginError::NoBatchPrice("user/stated".into()))
    );
    tokens.cached_read = Some(2e6);
    assert!(matches!(
        revenue(&tokens, &writes),
        Err(MarginError::Mix(_))
    ));
}

#[test]
fn what_can_not_be_reached_says_why() {
    let other = MarginCase {
        other_usd_per_mtok: 5.0,
        ..case()
    };
    assert!(matches!(
        needed(&other, 0.7),
        Err(MarginError::Unreachable { .. })
    ));
    let given = MarginCase {
        revenue_share: 0.4,
        ..case()
    };
    assert!(matches!(
        needed(&given, 0.7),
        Err(MarginError::Unreachable { .. })
    ));
    let blended = MarginCase {
        speed: Speed::Blended { token_s: 1e-3 },
        ..case()
    };
    assert_eq!(
        needed_hit_rate(&blended, 0.5),
        Err(MarginError::CachedNotMeasured)
    );
    assert_eq!(
        moved(&blended, Lever::InputOutputRatio, 2.0),
        Err(MarginError::NotSplit)
    );
    let negative = MarginCase {
        free_share: -0.1,
        ..case()
    };
    assert!(
        negative
            .margin()
            .unwrap_err()
            .to_string()
            .contains("free share")
    );
}

#[test]
fn the_spread_follows_its_seed_and_its_ranges() {
    let ranges = [Range {
        lever: Lever::HourlyPrice,
        low: 0.8,
        high: 1.2,
    }];
    let draw = |seed| monte_carlo(&case(), &ranges, Interval::point(1.0), 4000, seed).unwrap();
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1).p5, draw(2).p5);
    // Inference uniform on 4.6 × [0.8, 1.2]: the margin's 5 % point is at 1.18.
    let p5 = 1.0 - 4.6 * 1.18 / 8.6;
    assert!((draw(1).p5 - p5).abs() < 0.01, "{} {p5}", draw(1).p5);
    assert!((draw(1).p50 - 4.0 / 8.6).abs() < 0.01);
    // Throughput alone, ±10 % at 95 %: P5 of a normal is 1.645 deviations down.
    let rate = Interval::new(100.0, 90.0, 110.0);
    let only = monte_carlo(&case(), &[], rate, 4000, 1).unwrap();
    let p5 = 1.0 - 4.6 / (1.0 - 0.1 / 1.96 * 1.645) / 8.6;
    assert!((only.p5 - p5).abs() < 0.01, "{} {p5}", only.p5);
    assert_eq!(only.loss_share, 0.0);
    assert!(monte_carlo(&case(), &[], rate, 0, 1).is_err());
}

#[test]
fn the_tornado_puts_the_widest_swing_first() {
    let range = |lever, low, high| Range { lever, low, high };
    let bars = tornado(
        &case(),
        &[
            range(Lever::Overrun, 1.0, 1.01),
            range(Lever::ListPrice, 0.5, 2.0),
            range(Lever::CacheHitRate, 0.0, 2.0),
        ],
    );
    assert_eq!(bars[0].range.lever, Lever::ListPrice);
    assert_eq!(
        bars[2].range.lever,
        Lever::CacheHitRate,
        "an impossible range has no swing"
    );
    assert!(bars[2].reason.as_ref().unwrap().contains("cache hit rate"));
}

/// The interval of money three ways: through the ends, by the delta method (slope times interval),
/// and by bootstrap over repeats.
#[test]
fn delta_method_and_bootstrap_agree_with_the_ends() {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    // 30 repeats with a coefficient of variation of about 3 %.
    let rates: Vec<f64> = (0..30)
        .map(|_| 1000.0 * (1.0 + 0.03 * 3f64.sqrt() * (2.0 * rng.random::<f64>() - 1.0)))
        .collect();
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let m = mean(&rates);
    let sd = (rates.iter().map(|r| (r - m).powi(2)).sum::<f64>() / 29.0).sqrt();
    let half = 2.045 * sd / 30f64.sqrt(); // t(29) at 97.5 %
    let model = CostModel::whole(3.6).unwrap();
    let cost = |rate: f64| {
        model
            .usd_per_mtok_blended(Interval::point(rate))
            .unwrap()
            .value
    };
    let ends = model
        .usd_per_mtok_blended(Interval::new(m, m - half, m + half))
        .unwrap();
    let by_ends = (ends.high.unwrap() - ends.low.unwrap()) / 2.0;
    let by_delta = cost(m) / m * half; // |d cost / d rate| = cost / rate
    let mut costs: Vec<f64> = (0..4000)
        .map(|_| {
            let draw: Vec<f64> = (0..30).map(|_| rates[rng.random_range(0..30)]).collect();
            cost(mean(&draw))
        })
        .collect();
    costs.sort_unstable_by(f64::total_cmp);
    let by_bootstrap = (costs[3900] - costs[100]) / 2.0;
    assert!(
        (by_delta / by_ends - 1.0).abs() < 0.001,
        "{by_delta} {by_ends}"
    );
    // The bootstrap lacks the t factor (2.045 over 1.96) and the n − 1: 6 % narrower.
    assert!(
        (by_bootstrap / by_ends - 0.94).abs() < 0.06,
        "{by_bootstrap} {by_ends}"
    );
}

fn any_case() -> impl Strategy<Value = MarginCase> {
    let money = (0.05f64..100.0, 0.1f64..=1.0, 0.1f64..=1.0);
    let times = (1e-6f64..1e-2, 1e-7f64..1e-3, 1e-5f64..1e-1);
    let tokens = (1.0f64..1e6, 0.0f64..=1.0, 1.0f64..1e6);
    let prices = (0.01f64..10.0, 0.01f64..10.0, 0.01f64..50.0);
    let sales = (0.0f64..0.5, 0.0f64..0.5, 0.0f64..0.5, 0.5f64..2.0);
    (money, times, tokens, prices, sales).prop_map(|(m, t, k, p, s)| MarginCase {
        cost: CostModel::new(m.0, m.1, m.2).unwrap(),
        speed: Speed::Classes {
            input_s: t.0,
            cached_s: Some(t.1),
            output_s: t.2,
        },
        mix: mix(k.0, k.0 * k.1, k.2),
        list: list(p.0, Some(p.1), p.2),
        free_share: s.0,
        revenue_share: s.1,
        other_usd_per_mtok: s.2,
        overrun: s.3,
        ..case()
    })
}

proptest! {
    /// The margin falls with the hourly price and rises with throughput and list price.
    #[test]
    fn it_is_monotone(case in any_case(), factor in 1.001f64..10.0) {
        let m = margin(&case);
        let at = |lever| margin(&moved(&case, lever, factor).unwrap());
        prop_assert!(at(Lever::HourlyPrice) < m);
        prop_assert!(at(Lever::Overrun) < m);
        prop_assert!(at(Lever::Throughput) > m);
        prop_assert!(at(Lever::ListPrice) > m);
    }

    /// Price and throughput times the same factor leave the margin as it is.
    #[test]
    fn scaling_price_and_throughput_changes_nothing(case in any_case(), k in 0.01f64..100.0) {
        let scaled = moved(&moved(&case, Lever::HourlyPrice, k).unwrap(), Lever::Throughput, k);
        let (a, b) = (case.margin().unwrap(), scaled.unwrap().margin().unwrap());
        prop_assert!((a.cogs_usd_per_mtok / b.cogs_usd_per_mtok - 1.0).abs() < 1e-9);
        prop_assert!((a.gross_margin - b.gross_margin).abs() <= 1e-9 * (1.0 + a.gross_margin.abs()));
    }

    /// Parts of cost and of revenue are the whole, to 1e-9.
    #[test]
    fn the_parts_add_up(case in any_case()) {
        let m = case.margin().unwrap();
        let cogs = m.inference_usd_per_mtok + m.free_usd_per_mtok + m.other_usd_per_mtok
            + m.revenue_share_usd_per_mtok;
        prop_assert!((cogs / m.cogs_usd_per_mtok - 1.0).abs() < 1e-9);
        let r = &m.revenue;
        let income = r.input_usd + r.cached_read_usd + r.cache_write_usd + r.output_usd;
        prop_assert!((income / m.revenue_usd_per_mtok - 1.0).abs() < 1e-9);
        prop_assert!(((1.0 - m.gross_margin) * m.revenue_usd_per_mtok / cogs - 1.0).abs() < 1e-9);
        prop_assert!((m.markup * cogs - m.gross_margin * income).abs() < 1e-9 * (cogs + income));
    }

    /// Every answer, put in, gives the margin that was asked for.
    #[test]
    fn inverse_questions_are_answered(case in any_case(), target in -1.0f64..0.9) {
        let Ok(n) = needed(&case, target) else { return Ok(()) };
        let close = |m: f64| (m - target).abs() < 1e-6;
        let with = |lever, value| margin(&moved(&case, lever, value).unwrap());
        prop_assert!(close(with(Lever::HourlyPrice, n.usd_per_hour / case.cost.usd_per_hour())));
        prop_assert!(close(with(Lever::Throughput, n.tok_per_s / case.tok_per_s().unwrap())));
        prop_assert!(close(with(Lever::ListPrice, n.list_factor)));
        if n.utilization <= 1.0 {
            prop_assert!(close(with(Lever::Utilization, n.utilization)));
        }
        if let Ok(hit) = needed_hit_rate(&case, target)
            && (0.0..=1.0).contains(&hit)
        {
            prop_assert!(close(with(Lever::CacheHitRate, hit)));
        }
    }

    /// The run's interval goes through every figure by its ends.
    #[test]
    fn the_interval_is_that_of_its_ends(case in any_case(), low in 0.2f64..1.0, up in 1.0f64..3.0) {
        let found = case
            .interval(Interval::new(1.0, low, up), |c| Ok(c.margin()?.gross_margin))
            .unwrap();
        prop_assert_eq!(found.value, margin(&case));
        prop_assert_eq!(found.low, Some(margin(&case.at_speed(low))));
        prop_assert_eq!(found.high, Some(margin(&case.at_speed(up))));
        prop_assert!(found.low <= Some(found.value) && Some(found.value) <= found.high);
    }
}

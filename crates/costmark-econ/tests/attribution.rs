//! What the parts of a window cost, on step logs with known answers and on random ones.

use costmark_core::{ModelWork, Roofline, StepPart, StepRecord};
use costmark_econ::{
    CostModel, PhaseTimes, Undefined, WindowCost, WindowSplit, WindowTokens, phase_times,
};
use proptest::prelude::*;

/// Reading the weights takes 1 ms on [`ROOFLINE`], one token's products 0.1 ms.
const WORK: ModelWork = ModelWork {
    layer_weight_bytes: 10_000_000,
    head_weight_bytes: 0,
    embedding_row_bytes: 0,
    kv_bytes_per_token: 1000,
    logits_row_bytes: 0,
    matmul_flops_per_token: 10_000_000,
    head_flops_per_row: 0,
    attention_flops_per_pair: 1000,
};
const ROOFLINE: Roofline = Roofline {
    read_bytes_per_s: 1e10,
    flops_per_s: 1e11,
};

fn step(start_ns: u64, end_ns: u64, prefill: StepPart, decode: StepPart) -> StepRecord {
    StepRecord {
        index: 0,
        replica: 0,
        start_ns,
        end_ns,
        schedule_ns: 0,
        forward_ns: end_ns - start_ns,
        sample_ns: 0,
        prefill,
        decode,
        bytes: 0,
        flops: 0,
        waiting: 0,
        preempted: 0,
        kv_blocks_used: 0,
        kv_blocks_total: 0,
    }
}

fn prefill_of(tokens: u32, context: u32, cached: u32) -> StepPart {
    let mut part = StepPart::default();
    part.add_sequence(tokens, context, cached, true);
    part
}

fn decode_of(sequences: u32, context: u32) -> StepPart {
    let mut part = StepPart::default();
    for _ in 0..sequences {
        part.add_sequence(1, context, 0, true);
    }
    part
}

const NONE: StepPart = StepPart {
    tokens: 0,
    sequences: 0,
    logits_rows: 0,
    kv_tokens_read: 0,
    attended_pairs: 0,
    cached_kv_tokens_read: 0,
    cached_attended_pairs: 0,
};

fn close(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance * a.abs().max(b.abs())
}

#[test]
fn pure_steps_and_idle_time_by_hand() {
    let steps = [
        step(0, 30, prefill_of(64, 0, 0), NONE),
        step(30, 90, NONE, decode_of(4, 64)),
    ];
    let times = phase_times(&steps, 0, 100, 1, &WORK, &ROOFLINE).unwrap();
    assert_eq!(times.prefill_s, 30e-9);
    assert_eq!(times.decode_s, 60e-9);
    assert!(close(times.idle_s, 10e-9, 1e-9));
    assert_eq!((times.cached_s, times.mixed_s), (0.0, 0.0));
    let split = WindowSplit::new(9.0, times).unwrap();
    assert!(close(split.input_usd, 3.0, 1e-12));
    assert!(close(split.output_usd, 6.0, 1e-12));
    assert!(close(split.idle_usd, 0.9, 1e-12));
}

#[test]
fn a_mixed_step_is_split_by_what_its_parts_take_alone() {
    // Prefill alone: 100 tokens, bound by FLOPs: 100 x 1e7 + 5050 pairs x 1000 over 1e11.
    let prefill_s = (100.0 * 1e7 + 5050.0 * 1e3) / 1e11;
    // Decode alone: bound by bytes: weights, 4 x (101 read + 1 written) KV entries over 1e10.
    let decode_s = (1e7 + 4.0 * 102.0 * 1e3) / 1e10;
    let mixed = step(0, 1_000_000, prefill_of(100, 0, 0), decode_of(4, 100));
    let times = phase_times(&[mixed], 0, 1_000_000, 1, &WORK, &ROOFLINE).unwrap();
    let share = prefill_s / (prefill_s + decode_s);
    assert!(close(times.prefill_share().unwrap(), share, 1e-12));
    assert_eq!(times.mixed_share(), Some(1.0));
    assert_eq!(times.idle_share(), Some(0.0));
}

#[test]
fn cached_context_is_charged_for_the_attention_it_takes() {
    // 10 new tokens after 1000 from the cache, bound by bytes: weights, 1010 entries read,
    // 10 written; of these the cache's 1000 reads.
    let part = prefill_of(10, 1000, 1000);
    let alone_s = ((1e7 + 1020.0 * 1e3) / 1e10_f64).max((10.0 * 1e7 + 10_055.0 * 1e3) / 1e11);
    let cached_s = (1000.0 * 1e3 / 1e10_f64).max(10_000.0 * 1e3 / 1e11);
    let times = phase_times(&[step(0, 1000, part, NONE)], 0, 1000, 1, &WORK, &ROOFLINE).unwrap();
    assert!(close(times.cached_s, 1e-6 * cached_s / alone_s, 1e-12));
    let tokens = WindowTokens {
        input: 1010,
        cached: 1000,
        output: 1,
    };
    let model = CostModel::whole(3600.0).unwrap();
    let cost = WindowCost::new(&model, times.window_s, tokens, Ok(times)).unwrap();
    // A cached token is far cheaper than a computed one, but not free.
    let (input, cached) = (
        cost.usd_per_mtok_input.unwrap(),
        cost.usd_per_mtok_cached.unwrap(),
    );
    assert!(0.0 < cached && cached < input / 100.0, "{cached} {input}");
    assert_eq!(cost.usd_per_mtok_output, Ok(0.0));
}

#[test]
fn steps_count_with_the_part_inside_the_window() {
    let steps = [
        step(0, 100, prefill_of(64, 0, 0), NONE),
        step(100, 200, NONE, decode_of(1, 64)),
        step(200, 300, NONE, decode_of(1, 65)),
    ];
    let times = phase_times(&steps, 75, 225, 1, &WORK, &ROOFLINE).unwrap();
    assert!(close(times.prefill_s, 25e-9, 1e-12));
    assert!(close(times.decode_s, 125e-9, 1e-12));
    assert!(times.idle_s.abs() < 1e-18);
}

#[test]
fn what_can_not_be_told_says_why() {
    let steps = [step(0, 100, prefill_of(8, 0, 0), NONE)];
    let times = |steps: &[StepRecord], end, roofline: Roofline| {
        phase_times(steps, 0, end, 1, &WORK, &roofline)
    };
    assert_eq!(times(&steps, 0, ROOFLINE), Err(Undefined::EmptyWindow));
    assert_eq!(times(&[], 100, ROOFLINE), Err(Undefined::NoSteps));
    // Only an empty step: time passed, nothing was done.
    let idle = [step(0, 100, NONE, NONE)];
    assert_eq!(times(&idle, 100, ROOFLINE), Err(Undefined::NoSteps));
    let twice = [steps[0], steps[0]];
    assert_eq!(
        times(&twice, 100, ROOFLINE),
        Err(Undefined::OverlappingSteps)
    );
    for bad in [0.0, f64::NAN, f64::INFINITY, -1.0] {
        let roofline = Roofline {
            read_bytes_per_s: bad,
            ..ROOFLINE
        };
        assert_eq!(times(&steps, 100, roofline), Err(Undefined::NoRoofline));
    }
}

#[test]
fn without_a_step_log_only_the_blended_figure_is_given() {
    let model = CostModel::whole(3.6).unwrap();
    let tokens = WindowTokens {
        input: 600,
        cached: 0,
        output: 400,
    };
    let cost = WindowCost::new(&model, 10.0, tokens, Err(Undefined::NoStepLog)).unwrap();
    assert!(close(cost.usd_per_mtok_blended.unwrap(), 10.0, 1e-12));
    assert_eq!(cost.usd_per_mtok_input, Err(Undefined::NoStepLog));
    assert_eq!(cost.usd_per_mtok_output, Err(Undefined::NoStepLog));
    assert!(cost.split.unwrap_err().to_string().contains("no step log"));
}

#[test]
fn no_tokens_of_a_class_no_price_of_it() {
    let model = CostModel::whole(1.0).unwrap();
    let times = PhaseTimes::new(1.0, 0.5, 0.0, 0.5).unwrap();
    let price = |input, cached, output| {
        WindowCost::new(
            &model,
            1.0,
            WindowTokens {
                input,
                cached,
                output,
            },
            Ok(times),
        )
    };
    let none = price(0, 0, 0).unwrap();
    assert_eq!(none.usd_per_mtok_blended, Err(Undefined::NoTokens));
    assert_eq!(none.usd_per_mtok_input, Err(Undefined::NoInputTokens));
    assert_eq!(none.usd_per_mtok_cached, Err(Undefined::NoCachedTokens));
    assert_eq!(none.usd_per_mtok_output, Err(Undefined::NoOutputTokens));
    // The money was spent all the same.
    assert!(close(none.split.unwrap().total_usd(), none.cost_usd, 1e-12));
    assert_eq!(
        price(5, 5, 1).unwrap().usd_per_mtok_input,
        Err(Undefined::NoInputTokens)
    );
    assert_eq!(price(5, 6, 1), Err(Undefined::CachedExceedsInput));
    let no_time = WindowCost::new(&model, 0.0, WindowTokens::default(), Ok(times));
    assert_eq!(no_time, Err(Undefined::EmptyWindow));
    assert!(PhaseTimes::new(1.0, 0.6, 0.0, 0.5).is_err());
}

/// A published production day (deepseek-ai/open-infra-index, day 6, 2025-02-28): 226.75 nodes
/// of 8 H800 at $2 per GPU-hour, 608 G input tokens of which 342 G from the cache, 168 G
/// output tokens; per node 73.7 k input tok/s in prefill (cache hits included) and 14.8 k
/// output tok/s in decode.
#[test]
fn a_published_production_day() {
    const DAY_S: f64 = 86_400.0;
    let fleet = CostModel::whole(226.75 * 8.0 * 2.0).unwrap();
    assert_eq!(226.75 * 8.0 * 24.0, 43_536.0);
    assert_eq!(fleet.cost_usd(DAY_S), 87_072.0);

    let prefill_nodes = 608e9 / 73.7e3 / DAY_S;
    let decode_nodes = 168e9 / 14.8e3 / DAY_S;
    assert!(close(prefill_nodes, 95.48, 1e-4) && close(decode_nodes, 131.38, 1e-4));
    assert!(close(prefill_nodes + decode_nodes, 226.75, 1e-3));

    let share = prefill_nodes / (prefill_nodes + decode_nodes);
    assert!(close(share, 0.421, 1e-3));
    let times = PhaseTimes::new(DAY_S, DAY_S * share, 0.0, DAY_S * (1.0 - share)).unwrap();
    let price = |cached| {
        let tokens = WindowTokens {
            input: 608_000_000_000,
            cached,
            output: 168_000_000_000,
        };
        WindowCost::new(&fleet, DAY_S, tokens, Ok(times)).unwrap()
    };
    let all = price(0);
    assert!(close(all.usd_per_mtok_input.unwrap(), 0.0603, 1e-3));
    assert!(close(all.usd_per_mtok_output.unwrap(), 0.300, 1e-3));
    assert!(close(all.usd_per_mtok_blended.unwrap(), 0.1122, 1e-3));
    // Spread over the misses alone, as if hits were free.
    assert!(close(
        price(342_000_000_000).usd_per_mtok_input.unwrap(),
        0.138,
        2e-3
    ));
}

/// Two replicas at once are one machine: each step keeps half of it.
#[test]
fn steps_of_replicas_share_the_window() {
    let (prefill, decode) = (prefill_of(64, 0, 0), decode_of(4, 64));
    let steps = [
        step(0, 60, prefill, NONE),
        step(20, 80, NONE, decode),
        step(80, 100, NONE, decode),
    ];
    let times = phase_times(&steps, 0, 100, 2, &WORK, &ROOFLINE).unwrap();
    let near = |a: f64, ns: f64| (a - ns / 1e9).abs() < 1e-18;
    assert!(near(times.prefill_s, 30.0) && near(times.decode_s, 40.0));
    assert!(near(times.idle_s, 30.0) && near(times.window_s, 100.0));
    // On one machine they could not have been.
    let alone = phase_times(&steps, 0, 100, 1, &WORK, &ROOFLINE);
    assert_eq!(alone, Err(Undefined::OverlappingSteps));
}

/// Steps one after another with gaps between, of every kind.
fn step_log() -> impl Strategy<Value = Vec<StepRecord>> {
    let part = (0u32..200, 0u32..500, 0u32..16);
    let one = (0u64..1_000_000, 1u64..5_000_000, part.clone(), part);
    prop::collection::vec(one, 1..40).prop_map(|steps| {
        let mut now = 0;
        steps
            .into_iter()
            .map(|(gap, length, (p, context, cached), (_, kv, sequences))| {
                let prefill = if p > 0 {
                    prefill_of(p, context, cached.min(context))
                } else {
                    NONE
                };
                let start = now + gap;
                now = start + length;
                step(start, now, prefill, decode_of(sequences, kv))
            })
            .collect()
    })
}

proptest! {
    /// Input + cached + output is the cost of the window, to 1e-9; and what a million tokens
    /// of each class cost, times how many there are, is that cost again.
    #[test]
    fn the_parts_add_up(
        steps in step_log(),
        from in 0.0f64..0.6,
        to in 0.6f64..1.2,
        price in 0.01f64..200.0,
        utilization in 0.05f64..=1.0,
        share in 0.1f64..=1.0,
        (uncached, cached, output) in (1u64..1_000_000, 1u64..1_000_000, 1u64..1_000_000),
    ) {
        let last = steps.last().unwrap().end_ns as f64;
        let (start_ns, end_ns) = ((from * last) as u64, (to * last) as u64);
        prop_assume!(end_ns > start_ns);
        let times = match phase_times(&steps, start_ns, end_ns, 1, &WORK, &ROOFLINE) {
            Ok(times) => times,
            Err(Undefined::NoSteps) => return Ok(()),
            Err(other) => return Err(TestCaseError::fail(other.to_string())),
        };
        prop_assert!(close(times.prefill_s + times.decode_s + times.idle_s, times.window_s, 1e-9));
        prop_assert!(0.0 <= times.cached_s && times.cached_s <= times.prefill_s);
        prop_assert!(times.mixed_s <= times.busy_s() * (1.0 + 1e-12));

        let model = CostModel::new(price, utilization, share).unwrap();
        let tokens = WindowTokens { input: uncached + cached, cached, output };
        let cost = WindowCost::new(&model, times.window_s, tokens, Ok(times)).unwrap();
        let split = cost.split.unwrap();
        let hours = (end_ns - start_ns) as f64 / 3.6e12;
        prop_assert!(close(cost.cost_usd, price * share / utilization * hours, 1e-9));
        prop_assert!(close(split.total_usd(), cost.cost_usd, 1e-9));
        prop_assert!(split.idle_usd >= 0.0 && split.idle_usd <= cost.cost_usd);
        let by_class = cost.usd_per_mtok_input.unwrap() * uncached as f64
            + cost.usd_per_mtok_cached.unwrap() * cached as f64
            + cost.usd_per_mtok_output.unwrap() * output as f64;
        prop_assert!(close(by_class / 1e6, cost.cost_usd, 1e-9));
        let blended = cost.usd_per_mtok_blended.unwrap() * tokens.total() as f64;
        prop_assert!(close(blended / 1e6, cost.cost_usd, 1e-9));
    }

    /// Cutting a window in two loses no time and counts none twice.
    #[test]
    fn two_halves_make_the_window(steps in step_log(), cut in 0.05f64..0.95) {
        let end_ns = steps.last().unwrap().end_ns;
        let cut_ns = (cut * end_ns as f64) as u64;
        let times = |from, to| phase_times(&steps, from, to, 1, &WORK, &ROOFLINE);
        let (Ok(whole), Ok(a), Ok(b)) = (times(0, end_ns), times(0, cut_ns), times(cut_ns, end_ns))
        else {
            return Ok(());
        };
        let both = PhaseTimes::sum(&[a, b]).unwrap();
        for (one, two) in [
            (whole.prefill_s, both.prefill_s),
            (whole.cached_s, both.cached_s),
            (whole.decode_s, both.decode_s),
            (whole.idle_s, both.idle_s),
            (whole.mixed_s, both.mixed_s),
        ] {
            prop_assert!((one - two).abs() <= 1e-9 * whole.window_s);
        }
    }
}

//! The fitted split finds what was planted, and its intervals hold the truth as often as stated.

use costmark_econ::fit::{BusyWindow, Law, NoFit, fit};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Input and output tokens of workloads of different ratio.
const MIXES: [(f64, f64); 4] = [
    (1000.0, 100.0),
    (400.0, 400.0),
    (2000.0, 50.0),
    (100.0, 900.0),
];

fn window(
    workload: usize,
    (input, output): (f64, f64),
    a: f64,
    b: f64,
    stretch: f64,
) -> BusyWindow {
    BusyWindow {
        workload,
        seconds: (a * input + b * output) * stretch,
        input,
        output,
    }
}

fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v) = (rng.random_range(0.0..1.0f64), rng.random_range(0.0..1.0f64));
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

proptest! {
    #[test]
    fn planted_times_are_found_exactly(
        a in 1e-6f64..1e-2, b in 1e-6f64..1e-2, k in 2usize..=4, repeats in 1usize..4,
    ) {
        let windows: Vec<BusyWindow> = (0..k)
            .flat_map(|w| (0..repeats).map(move |_| window(w, MIXES[w], a, b, 1.0)))
            .collect();
        // Where one class takes nearly all the time, the other is known to fewer digits.
        let found = fit(&windows).unwrap();
        prop_assert!((found.input_s.value - a).abs() <= 1e-9 * (a + b));
        prop_assert!((found.output_s.value - b).abs() <= 1e-9 * (a + b));
        prop_assert!(found.worst.1.abs() < 1e-9);
    }

    /// Time in other units or windows of other lengths change nothing but the unit.
    #[test]
    fn the_split_is_free_of_units(scale in 1e-3f64..1e3, seed in 0u64..200) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let windows: Vec<BusyWindow> = (0..12)
            .map(|i| window(i % 3, MIXES[i % 3], 1e-4, 1e-3, 1.0 + 0.02 * normal(&mut rng)))
            .collect();
        let slower: Vec<BusyWindow> = windows
            .iter()
            .map(|w| BusyWindow { seconds: w.seconds * scale, ..*w })
            .collect();
        let longer: Vec<BusyWindow> = windows
            .iter()
            .map(|w| BusyWindow {
                seconds: w.seconds * scale,
                input: w.input * scale,
                output: w.output * scale,
                ..*w
            })
            .collect();
        let (one, other, third) = (fit(&windows).unwrap(), fit(&slower).unwrap(), fit(&longer).unwrap());
        let close = |x: f64, y: f64| (x - y).abs() <= 1e-9 * y.abs().max(1e-9);
        prop_assert!(close(other.output_s.value, one.output_s.value * scale));
        prop_assert!(close(other.input_s.high.unwrap(), one.input_s.high.unwrap() * scale));
        prop_assert!(close(third.output_s.value, one.output_s.value));
    }
}

#[test]
fn intervals_hold_the_truth_as_often_as_stated() {
    let (a, b) = (2e-4, 3e-3);
    for (k, repeats) in [(2, 3), (3, 3), (4, 5)] {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let (runs, mut input, mut output) = (4000, 0, 0);
        for _ in 0..runs {
            let windows: Vec<BusyWindow> = (0..k * repeats)
                .map(|i| window(i % k, MIXES[i % k], a, b, 1.0 + 0.03 * normal(&mut rng)))
                .collect();
            let found = fit(&windows).unwrap();
            let holds = |x: costmark_core::Interval, truth: f64| {
                u32::from(x.low.unwrap() <= truth && truth <= x.high.unwrap())
            };
            input += holds(found.input_s, a);
            output += holds(found.output_s, b);
        }
        for (what, held) in [("input", input), ("output", output)] {
            let share = f64::from(held) / f64::from(runs);
            assert!(
                (0.92..=0.985).contains(&share),
                "{what} at {k} × {repeats}: {share}"
            );
        }
    }
}

/// Each workload is off by an error of its own that its repeats share: repeats must not feign
/// certainty.
#[test]
fn a_law_that_does_not_hold_widens_the_intervals() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let (runs, mut held, mut noticed) = (2000, 0, 0);
    for _ in 0..runs {
        let own: Vec<f64> = (0..4).map(|_| 1.0 + 0.08 * normal(&mut rng)).collect();
        let windows: Vec<BusyWindow> = (0..40)
            .map(|i| {
                let stretch = own[i % 4] * (1.0 + 0.005 * normal(&mut rng));
                window(i % 4, MIXES[i % 4], 2e-4, 3e-3, stretch)
            })
            .collect();
        let found = fit(&windows).unwrap();
        noticed += u32::from(found.law == Law::Approximate);
        held +=
            u32::from(found.output_s.low.unwrap() <= 3e-3 && 3e-3 <= found.output_s.high.unwrap());
    }
    assert!(noticed > runs * 98 / 100, "{noticed}");
    let share = f64::from(held) / f64::from(runs);
    assert!((0.92..=0.98).contains(&share), "{share}");
}

#[test]
fn what_can_not_be_told_apart_is_refused() {
    let same = [
        window(0, (1000.0, 100.0), 1e-4, 1e-3, 1.0),
        window(1, (2000.0, 210.0), 1e-4, 1e-3, 1.0),
    ];
    assert_eq!(fit(&same), Err(NoFit::SameRatio));
    assert_eq!(fit(&same[..1]), Err(NoFit::OneWorkload));
    let repeats = [same[0], same[0]];
    assert_eq!(fit(&repeats), Err(NoFit::OneWorkload));
    assert_eq!(fit(&[]), Err(NoFit::OneWorkload));
    for broken in [
        BusyWindow {
            seconds: 0.0,
            ..same[0]
        },
        BusyWindow {
            input: f64::NAN,
            ..same[0]
        },
        BusyWindow {
            input: 0.0,
            output: 0.0,
            ..same[0]
        },
    ] {
        assert_eq!(fit(&[same[1], broken]), Err(NoFit::EmptyWindow));
    }
    // No prompt token was computed anywhere.
    let no_input = [
        BusyWindow {
            workload: 0,
            seconds: 1.0,
            input: 0.0,
            output: 10.0,
        },
        BusyWindow {
            workload: 1,
            seconds: 1.0,
            input: 0.0,
            output: 20.0,
        },
    ];
    assert_eq!(fit(&no_input), Err(NoFit::SameRatio));
}

#[test]
fn by_hand() {
    // Two windows, two unknowns: 3 s = 1000 a + 100 b, 4 s = 500 a + 300 b → a = 1/500, b = 1/100.
    let windows = [
        BusyWindow {
            workload: 0,
            seconds: 3.0,
            input: 1000.0,
            output: 100.0,
        },
        BusyWindow {
            workload: 1,
            seconds: 4.0,
            input: 500.0,
            output: 300.0,
        },
    ];
    let found = fit(&windows).unwrap();
    assert!((found.input_s.value - 0.002).abs() < 1e-12);
    assert!((found.output_s.value - 0.01).abs() < 1e-12);
    assert_eq!((found.input_s.low, found.law), (None, Law::Untested));
    // More prompt in less time: a prompt token can not take less than nothing.
    let odd = [
        BusyWindow {
            workload: 0,
            seconds: 1.0,
            input: 1000.0,
            output: 100.0,
        },
        BusyWindow {
            workload: 1,
            seconds: 2.0,
            input: 500.0,
            output: 120.0,
        },
    ];
    let found = fit(&odd).unwrap();
    assert_eq!(found.input_s.value, 0.0);
    assert!(found.output_s.value > 0.0 && found.worst.1.abs() > 0.1);
}

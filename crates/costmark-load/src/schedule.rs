//! When the requests of an open loop are due: instants drawn from a process or given.

use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, Gamma};

use crate::arrivals::{Arrival, Arrivals};
use crate::process::ArrivalProcess;
use crate::streams::stream;

/// When requests are due.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// Drawn, without end.
    Process(ArrivalProcess),
    /// At these offsets from the begin, nanoseconds, ascending; then no more.
    Times(Arc<[u64]>),
}

/// The arrivals of one unit of an open loop.
#[derive(Debug)]
pub(crate) struct ScheduledArrivals {
    instants: Instants,
    begun_ns: u64,
    next: Option<Arrival>,
}

#[derive(Debug)]
enum Instants {
    Drawn(Box<Drawn>),
    Given(Arc<[u64]>, usize),
    AtOnce(u64),
}

impl ScheduledArrivals {
    /// The same `seed` and `unit` give the same instants; other units independent ones.
    /// Of requests that are all due at once there are `at_once`.
    pub(crate) fn new(
        schedule: &Schedule,
        seed: u64,
        unit: u32,
        at_once: u64,
        begun_ns: u64,
    ) -> Self {
        let instants = match schedule {
            Schedule::Process(ArrivalProcess::AtOnce) => Instants::AtOnce(at_once),
            Schedule::Process(process) => {
                Instants::Drawn(Box::new(Drawn::new(*process, seed, unit)))
            }
            Schedule::Times(times) => Instants::Given(Arc::clone(times), 0),
        };
        let mut arrivals = Self {
            instants,
            begun_ns,
            next: None,
        };
        arrivals.advance();
        arrivals
    }
}

impl Arrivals for ScheduledArrivals {
    fn peek(&self) -> Option<Arrival> {
        self.next
    }

    fn advance(&mut self) {
        let offset_ns = match &mut self.instants {
            Instants::Drawn(drawn) => Some(drawn.next_ns()),
            Instants::Given(times, index) => {
                *index += 1;
                times.get(*index - 1).copied()
            }
            Instants::AtOnce(left) => {
                let any = *left > 0;
                *left = left.saturating_sub(1);
                any.then_some(0)
            }
        };
        self.next = offset_ns.map(|offset_ns| Arrival {
            scheduled_ns: self.begun_ns.saturating_add(offset_ns),
            elapsed: 0.0,
            turn: None,
        });
    }

    fn on_end(&mut self, _: u64) {}

    fn concurrency(&self) -> Option<u32> {
        None
    }

    fn is_exhausted(&self) -> bool {
        self.next.is_none()
    }
}

/// Draws instants.
#[derive(Debug)]
struct Drawn {
    process: ArrivalProcess,
    rng: ChaCha8Rng,
    /// Instants drawn so far.
    count: u64,
    /// What the last instant was computed from: seconds, or the number of requests
    /// expected until then. Sums, so that no rounding adds up over a long run but that of
    /// doubles, one part in 10¹⁶.
    reached: f64,
}

/// Marks the random stream of arrivals, so that no length is drawn from the same numbers.
const PURPOSE: u64 = u64::from_le_bytes(*b"arrivals");

impl Drawn {
    fn new(process: ArrivalProcess, seed: u64, unit: u32) -> Self {
        Self {
            process,
            rng: stream(seed, PURPOSE, u64::from(unit)),
            count: 0,
            reached: 0.0,
        }
    }

    /// The next instant after the begin, nanoseconds.
    fn next_ns(&mut self) -> u64 {
        let seconds = match self.process {
            ArrivalProcess::Constant { per_s } => self.count as f64 / per_s,
            ArrivalProcess::Poisson { per_s } => {
                self.reached += self.exponential() / per_s;
                self.reached
            }
            ArrivalProcess::Gamma { per_s, burstiness } => {
                // Parameters that are not positive and finite were refused before.
                self.reached += Gamma::new(burstiness, 1.0 / (burstiness * per_s))
                    .map_or(1.0 / per_s, |gap_s| gap_s.sample(&mut self.rng));
                self.reached
            }
            ArrivalProcess::Ramp {
                from_per_s,
                to_per_s,
                over_s,
            } => {
                self.reached += self.exponential();
                ramp_instant_s(self.reached, from_per_s, to_per_s, over_s)
            }
            ArrivalProcess::Bursts { size, every_s } => {
                (self.count / u64::from(size.max(1))) as f64 * every_s
            }
            ArrivalProcess::AtOnce => 0.0,
        };
        self.count += 1;
        // Saturating.
        (seconds * 1e9).round() as u64
    }

    fn exponential(&mut self) -> f64 {
        let drawn: f64 = self.rng.sample(Exp1);
        drawn
    }
}

/// When a ramp of rate *a* + (*b* − *a*)·*t*/*d* has brought `expected` requests on average:
/// the inverse of *s* = *a·t* + (*b* − *a*)·*t*²/(2·*d*), and of a rate of *b* after *d*. The
/// arrivals of a unit-rate Poisson process mapped through it form a Poisson process of
/// the ramp's rate (Çinlar's inversion).
fn ramp_instant_s(expected: f64, from_per_s: f64, to_per_s: f64, over_s: f64) -> f64 {
    let in_ramp = f64::midpoint(from_per_s, to_per_s) * over_s;
    if expected >= in_ramp {
        return over_s + (expected - in_ramp) / to_per_s;
    }
    let slope = (to_per_s - from_per_s) / over_s;
    // The form of the root that loses no digits when the slope is near 0.
    let root = (from_per_s * from_per_s + 2.0 * slope * expected)
        .max(0.0)
        .sqrt();
    2.0 * expected / (from_per_s + root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arrivals(process: &str, seed: u64, unit: u32) -> ScheduledArrivals {
        let process = process.parse().expect("a process");
        ScheduledArrivals::new(&Schedule::Process(process), seed, unit, 5, 1_000)
    }

    fn first(mut arrivals: ScheduledArrivals, n: usize) -> Vec<u64> {
        let mut instants = Vec::new();
        while instants.len() < n
            && let Some(arrival) = arrivals.peek()
        {
            instants.push(arrival.scheduled_ns - 1_000);
            arrivals.advance();
        }
        instants
    }

    /// Mean and coefficient of variation of gaps, seconds.
    fn gaps(instants: &[u64]) -> (f64, f64) {
        let gaps: Vec<f64> = instants
            .windows(2)
            .map(|pair| (pair[1] - pair[0]) as f64 / 1e9)
            .collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let variance = gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n;
        (mean, variance.sqrt() / mean)
    }

    #[test]
    fn even_processes_are_exact() {
        let ms = 1_000_000;
        let constant = first(arrivals("constant:4", 1, 0), 4);
        assert_eq!(constant, [0, 250 * ms, 500 * ms, 750 * ms]);
        // No drift: the millionth instant is where it belongs.
        assert_eq!(
            first(arrivals("constant:3", 1, 0), 3_000_001)[3_000_000],
            1_000_000_000 * ms
        );
        let bursts = first(arrivals("bursts:2,500ms", 1, 0), 5);
        assert_eq!(bursts, [0, 0, 500 * ms, 500 * ms, 1000 * ms]);
        assert_eq!(first(arrivals("max", 1, 0), 9), [0; 5]);
        let given = Schedule::Times([3, 3, 8].into());
        assert_eq!(
            first(ScheduledArrivals::new(&given, 0, 0, 0, 1_000), 9),
            [3, 3, 8]
        );
    }

    /// Gaps of 40,000 arrivals against the stated mean and a coefficient of variation of
    /// 1/√burstiness, within six standard errors of the mean and 10 % of the spread.
    #[test]
    fn gaps_have_the_stated_mean_and_spread() {
        for (process, expected_cv) in [
            ("poisson:4", 1.0),
            ("gamma:4,1", 1.0),
            ("gamma:4,0.25", 2.0),
            ("gamma:4,16", 0.25),
        ] {
            let n = 40_000;
            let (mean_s, cv) = gaps(&first(arrivals(process, 11, 2), n));
            let error = expected_cv / (n as f64).sqrt();
            assert!(
                (mean_s * 4.0 - 1.0).abs() < 6.0 * error,
                "{process}: {mean_s}"
            );
            assert!((cv / expected_cv - 1.0).abs() < 0.1, "{process}: {cv}");
        }
    }

    /// Counts in each tenth of a ramp against the integral of its rate, at six deviations.
    #[test]
    fn a_ramp_has_the_stated_rate_at_every_time() {
        for (from, to) in [(0.0f64, 200.0f64), (200.0, 20.0), (50.0, 50.0)] {
            let instants = first(arrivals(&format!("ramp:{from}..{to},100s"), 3, 0), 60_000);
            for tenth in 0..12u32 {
                let rate = |t: f64| from + (to - from) * t.min(100.0) / 100.0;
                let begin_s = f64::from(tenth) * 10.0;
                let expected = 10.0 * f64::midpoint(rate(begin_s), rate(begin_s + 10.0));
                let count = instants
                    .iter()
                    .filter(|&&ns| (begin_s..begin_s + 10.0).contains(&(ns as f64 / 1e9)))
                    .count() as f64;
                assert!(
                    (count - expected).abs() < 6.0 * expected.sqrt(),
                    "{from}..{to}, tenth {tenth}: {count} for {expected}"
                );
            }
        }
    }

    #[test]
    fn seeds_and_units_give_their_own_instants() {
        for process in ["poisson:4", "gamma:4,0.5", "ramp:1..9,5s"] {
            let drawn = |seed, unit| first(arrivals(process, seed, unit), 50);
            assert_eq!(drawn(1, 0), drawn(1, 0));
            assert_ne!(drawn(1, 0), drawn(2, 0));
            assert_ne!(drawn(1, 0), drawn(1, 1));
        }
        // Specified for good: a change of these would change what stored seeds mean.
        assert_eq!(first(arrivals("poisson:1000", 7, 3), 3), GOLDEN);
    }
    const GOLDEN: [u64; 3] = [68_267, 262_995, 1_172_070];

    proptest! {
        /// The ramp's inverse undoes its integral, and instants never go back.
        #[test]
        fn the_ramp_is_inverted(
            a in 0.0..100.0f64,
            b in 0.01..100.0f64,
            over_s in 0.1..1e3f64,
            share in 0.0..2.0f64,
        ) {
            let t = share * over_s;
            let inside = t.min(over_s);
            let expected = a * inside + (b - a) * inside * inside / (2.0 * over_s)
                + b * (t - inside);
            let found = ramp_instant_s(expected, a, b, over_s);
            prop_assert!((found - t).abs() <= 1e-6 * over_s.max(1.0), "{found} {t}");
        }

        #[test]
        fn instants_ascend(seed: u64, rate in 0.01..1e5f64, burstiness in 0.02..20.0f64) {
            let gamma = first(arrivals(&format!("gamma:{rate},{burstiness}"), seed, 0), 200);
            prop_assert!(gamma.is_sorted());
            let ramp = first(arrivals(&format!("ramp:0..{rate},3s"), seed, 0), 200);
            prop_assert!(ramp.is_sorted());
        }
    }
}

//! What recording itself costs.

use std::num::NonZeroU32;
use std::time::Instant;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_core::{Backend, Clock, MonotonicClock, Sampling};
use serde::{Deserialize, Serialize};

use crate::closed_loop::ClosedLoop;
use crate::length::LengthDistribution;
use crate::recorder::{NullRecorder, Recorder};
use crate::stop::{Stop, StopSignal};
use crate::warmup::Warmup;
use crate::workload::Workload;

/// Output tokens of each calibration request.
const OUTPUT_TOKENS: u32 = 256;
const REQUESTS: u64 = 64;
const CONCURRENCY: NonZeroU32 = NonZeroU32::MIN.saturating_add(15);
/// The quickest pass counts: others were disturbed.
const PASSES: usize = 5;

/// The harness's own cost, to be stated with every result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RecordingCost {
    /// Wall time per token event through driver and recorder, all costs of a request
    /// spread over its tokens. An upper bound: it contains the mock's own work.
    pub ns_per_token_event: f64,
    /// Smallest step of the clock that was seen.
    pub timer_resolution_ns: u64,
    /// Cost of reading the clock.
    pub timer_read_ns: f64,
}

/// Measures what recording costs by running a mock on virtual time through the same
/// driver that measures real backends. Takes some 50 ms.
#[must_use]
pub fn calibrate_recording() -> RecordingCost {
    calibrate_recording_with(&mut NullRecorder)
}

/// The same, with a recorder of one's own in the loop. It sees the mock's records.
pub fn calibrate_recording_with(recorder: &mut dyn Recorder) -> RecordingCost {
    let workload = Workload {
        input: LengthDistribution::Fixed(16),
        output: LengthDistribution::Fixed(OUTPUT_TOKENS),
        vocab_size: 32_000,
        seed: 0,
        ignore_eos: true,
        sampling: Sampling::Greedy,
    };
    let closed_loop = ClosedLoop {
        warmup: Warmup::off(),
        ..ClosedLoop::new(CONCURRENCY, Stop::Requests(REQUESTS))
    };
    let ns_per_token_event = (0..PASSES)
        .map(|_| {
            let mut mock = MockBackend::new(MockConfig::default(), MockTime::Virtual);
            let begun = Instant::now();
            let run = closed_loop.run(0, &mut mock, &workload, recorder, &StopSignal::new());
            let wall_ns = begun.elapsed().as_nanos() as f64;
            let events: usize = run
                .requests
                .iter()
                .chain(&run.background)
                .map(|r| r.token_ns.len())
                .sum();
            debug_assert!(mock.now_ns() >= run.end_ns);
            wall_ns / events as f64
        })
        .fold(f64::INFINITY, f64::min);
    let (timer_resolution_ns, timer_read_ns) = timer();
    RecordingCost {
        ns_per_token_event,
        timer_resolution_ns,
        timer_read_ns,
    }
}

/// Smallest step and cost per reading of the monotonic clock.
fn timer() -> (u64, f64) {
    const READINGS: usize = 20_000;
    let clock = MonotonicClock::start();
    let readings: Vec<u64> = (0..READINGS).map(|_| clock.now_ns()).collect();
    let steps = readings.windows(2).map(|pair| pair[1] - pair[0]);
    let resolution_ns = steps.filter(|&step| step > 0).min().unwrap_or(0);
    let total_ns = readings[READINGS - 1] - readings[0];
    (resolution_ns, total_ns as f64 / (READINGS - 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds are loose on purpose: this is no benchmark, tests share the machine.
    #[test]
    fn recording_is_cheap() {
        let cost = calibrate_recording();
        assert!(cost.ns_per_token_event > 1.0, "{cost:?}");
        assert!(cost.ns_per_token_event < 20_000.0, "{cost:?}");
        assert!(cost.timer_resolution_ns > 0, "{cost:?}");
        assert!(cost.timer_read_ns > 0.1, "{cost:?}");
        println!("{cost:?}");
    }
}

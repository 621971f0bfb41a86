//! What is known of a unit while it runs: for the eye, not a result.

use costmark_core::RequestRecord;
use costmark_load::{Phase, Progress};
use costmark_metrics::LatencyHistograms;
use costmark_report::numbers::{short, usd};

use crate::units::human_seconds;

const TOKENS_PER_MTOK: f64 = 1e6;

/// Figures so far.
#[derive(Debug)]
pub(crate) struct Live {
    /// USD per second at the measured load.
    usd_per_s: f64,
    /// Planned length of the measurement, where time ends it.
    duration_ns: Option<u64>,
    latencies: LatencyHistograms,
    /// Of requests that ended, warm-up included.
    input_tokens: u64,
}

impl Live {
    pub(crate) fn new(usd_per_s: f64, duration_ns: Option<u64>) -> Self {
        Self {
            usd_per_s,
            duration_ns,
            latencies: LatencyHistograms::default(),
            input_tokens: 0,
        }
    }

    /// A request ended.
    pub(crate) fn add(&mut self, phase: Phase, record: &RequestRecord) {
        self.input_tokens += u64::from(record.input_tokens);
        if phase == Phase::Measured {
            self.latencies.record_all([record]);
        }
    }

    /// `warming up, 142 tok/s, 16 in flight, TTFT 210 ms, ITL 82.0 ms, $0.41/M, 12 s left`:
    /// what is known of it and fits into so many columns.
    pub(crate) fn words(&self, progress: &Progress, columns: usize) -> String {
        // With each part how soon it is left out: the greatest first.
        let mut parts: Vec<(u8, String)> = Vec::new();
        match progress.phase {
            Phase::Warmup => parts.push((1, "warming up".into())),
            Phase::Measured => {}
            Phase::Cooldown => parts.push((1, "cooling down".into())),
        }
        let seconds = progress.elapsed_ns as f64 / 1e9;
        if progress.output_tokens > 0 && seconds > 0.0 {
            let rate = progress.output_tokens as f64 / seconds;
            parts.push((0, format!("{} tok/s", short(rate))));
        }
        parts.push((4, format!("{} in flight", progress.in_flight)));
        for (rank, name, histogram) in [
            (5, "TTFT", &self.latencies.ttft),
            (6, "ITL", &self.latencies.itl),
        ] {
            if let Some(ns) = histogram.quantile_ns(0.5) {
                parts.push((rank, format!("{name} {} ms", short(ns as f64 / 1e6))));
            }
        }
        let tokens = progress.output_tokens + self.input_tokens;
        if tokens > 0 {
            let cost = self.usd_per_s * seconds / tokens as f64 * TOKENS_PER_MTOK;
            parts.push((3, format!("{}/M", usd(cost))));
        }
        if progress.failed > 0 {
            parts.push((0, format!("{} FAILED", progress.failed)));
        }
        if let Some(left_s) = self.left_s(progress) {
            parts.push((2, format!("{} left", human_seconds(left_s))));
        }
        loop {
            let texts: Vec<&str> = parts.iter().map(|(_, text)| text.as_str()).collect();
            let line = texts.join(", ");
            let last = parts.iter().map(|(rank, _)| *rank).max();
            match last.filter(|&rank| rank > 0 && line.chars().count() > columns) {
                Some(rank) => parts.retain(|(other, _)| *other != rank),
                None => return line,
            }
        }
    }

    fn left_s(&self, progress: &Progress) -> Option<f64> {
        if progress.phase != Phase::Measured {
            return None;
        }
        let measured_s = progress.measured_ns as f64 / 1e9;
        if let Some(duration_ns) = self.duration_ns {
            return Some((duration_ns as f64 / 1e9 - measured_s).max(0.0));
        }
        let done = progress.finished + progress.failed;
        let left = progress.total?.saturating_sub(done);
        (done > 0).then(|| measured_s / done as f64 * left as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_core::{FinishReason, Outcome};

    const MS: u64 = 1_000_000;

    fn progress(phase: Phase) -> Progress {
        Progress {
            phase,
            elapsed_ns: 4_000 * MS,
            measured_ns: 2_000 * MS,
            in_flight: 3,
            sent: 9,
            finished: 5,
            failed: 0,
            total: Some(20),
            output_tokens: 400,
        }
    }

    #[test]
    fn figures_are_those_of_what_ended() {
        // $3.60 an hour is a tenth of a cent a second.
        let mut live = Live::new(0.001, None);
        live.add(
            Phase::Measured,
            &RequestRecord {
                id: 0,
                turn: None,
                scheduled_ns: 0,
                sent_ns: 0,
                token_ns: vec![100 * MS, 120 * MS, 140 * MS].into(),
                event_tokens: vec![],
                finished_ns: 140 * MS,
                input_tokens: 400,
                cached_tokens: 0,
                output_tokens: 3,
                output_hash: None,
                outcome: Outcome::Finished(FinishReason::Length),
            },
        );
        // 4 s cost 0.4 cents, for 800 tokens; 5 requests took 2 s, 15 are left.
        assert_eq!(
            live.words(&progress(Phase::Measured), 80),
            "100 tok/s, 3 in flight, TTFT 100 ms, ITL 20.0 ms, $5.00/M, 6 s left"
        );
        // On a narrow terminal the rate, the money and the time left stay longest.
        for (columns, words) in [
            (60, "100 tok/s, 3 in flight, TTFT 100 ms, $5.00/M, 6 s left"),
            (40, "100 tok/s, $5.00/M, 6 s left"),
            (20, "100 tok/s, 6 s left"),
            (1, "100 tok/s"),
        ] {
            assert_eq!(live.words(&progress(Phase::Measured), columns), words);
        }
    }

    #[test]
    fn what_is_not_known_is_not_said() {
        let mut start = progress(Phase::Warmup);
        (start.output_tokens, start.finished) = (0, 0);
        assert_eq!(
            Live::new(1.0, None).words(&start, 80),
            "warming up, 3 in flight"
        );
        let timed = Live::new(1.0, Some(5_000 * MS));
        assert!(
            timed
                .words(&progress(Phase::Measured), 80)
                .ends_with(", 3 s left")
        );
        let mut failing = progress(Phase::Cooldown);
        failing.failed = 2;
        let words = timed.words(&failing, 80);
        assert!(
            words.contains("2 FAILED") && !words.contains("left"),
            "{words}"
        );
    }
}

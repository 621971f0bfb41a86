//! What `/metrics` tells, in the text format of Prometheus.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use costmark_core::StepRecord;

/// Counters since the start, and the latest of what changes.
#[derive(Debug, Default)]
pub(crate) struct Metrics(Mutex<Values>);

#[derive(Debug, Default, Clone)]
pub(crate) struct Values {
    pub(crate) in_flight: u64,
    pub(crate) finished: u64,
    pub(crate) cancelled: u64,
    pub(crate) failed: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    waiting: u64,
    running: u64,
    kv_used: u64,
    kv_total: u64,
    steps: u64,
    prefill_s: f64,
    decode_s: f64,
}

impl Metrics {
    pub(crate) fn change(&self, change: impl FnOnce(&mut Values)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The page.
    pub(crate) fn page(&self) -> String {
        let values = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut page = String::new();
        let mut line = |kind: &str, name: &str, help: &str, value: f64| {
            // Writing to a string cannot fail.
            _ = write!(
                page,
                "# HELP costmark_{name} {help}\n# TYPE costmark_{name} {kind}\ncostmark_{name} {value}\n"
            );
        };
        let n = |n: u64| n as f64;
        let v = &values;
        line(
            "gauge",
            "requests_in_flight",
            "Requests running or waiting.",
            n(v.in_flight),
        );
        line(
            "gauge",
            "requests_running",
            "Sequences in the latest step.",
            n(v.running),
        );
        line(
            "gauge",
            "requests_waiting",
            "Requests not admitted at the latest step.",
            n(v.waiting),
        );
        line(
            "gauge",
            "kv_blocks_used",
            "KV blocks in use at the latest step.",
            n(v.kv_used),
        );
        line(
            "gauge",
            "kv_blocks_total",
            "KV blocks there are.",
            n(v.kv_total),
        );
        line(
            "counter",
            "requests_finished_total",
            "Requests that ended well.",
            n(v.finished),
        );
        line(
            "counter",
            "requests_cancelled_total",
            "Requests whose client went away.",
            n(v.cancelled),
        );
        line(
            "counter",
            "requests_failed_total",
            "Requests that failed.",
            n(v.failed),
        );
        line(
            "counter",
            "prompt_tokens_total",
            "Prompt tokens of finished requests.",
            n(v.prompt_tokens),
        );
        line(
            "counter",
            "cached_tokens_total",
            "Of these, from the prefix cache.",
            n(v.cached_tokens),
        );
        line(
            "counter",
            "generation_tokens_total",
            "Tokens produced.",
            n(v.output_tokens),
        );
        line("counter", "steps_total", "Forward passes.", n(v.steps));
        line(
            "counter",
            "prefill_seconds_total",
            "Time in steps of prompts only.",
            v.prefill_s,
        );
        line(
            "counter",
            "decode_seconds_total",
            "Time in steps with generation.",
            v.decode_s,
        );
        page
    }
}

impl Values {
    pub(crate) fn on_step(&mut self, step: &StepRecord) {
        self.waiting = u64::from(step.waiting);
        self.running = u64::from(step.sequences());
        self.kv_used = u64::from(step.kv_blocks_used);
        self.kv_total = u64::from(step.kv_blocks_total);
        self.steps += 1;
        let seconds = step.duration_ns() as f64 / 1e9;
        if step.decode.tokens == 0 {
            self.prefill_s += seconds;
        } else {
            self.decode_s += seconds;
        }
    }
}

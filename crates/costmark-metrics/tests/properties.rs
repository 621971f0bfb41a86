//! Window and throughput against plain recomputation from the records.

use costmark_core::{ErrorClass, FinishReason, Outcome, RequestError, RequestRecord};
use costmark_metrics::{LatencyHistograms, UnitInput, Window, summarise};
use proptest::prelude::*;

/// A request on a coarse grid of instants, so that many coincide.
fn record() -> impl Strategy<Value = RequestRecord> {
    let gaps = prop::collection::vec((0..5u64, 1..3u32), 0..12);
    (0..60u64, 0..3u64, 1..5u64, gaps, 0..10u32).prop_map(
        |(scheduled, delay, ttft, gaps, ending)| {
            let sent_ns = scheduled + delay;
            let mut at_ns = sent_ns + ttft;
            let (mut token_ns, mut event_tokens) = (Vec::new(), Vec::new());
            for (gap, tokens) in gaps {
                token_ns.push(at_ns);
                event_tokens.push(tokens);
                at_ns += gap;
            }
            let output_tokens = event_tokens.iter().sum();
            if event_tokens.iter().all(|&n| n == 1) {
                event_tokens.clear();
            }
            RequestRecord {
                id: 0,
                turn: None,
                scheduled_ns: scheduled,
                sent_ns,
                finished_ns: token_ns
                    .last()
                    .map_or(at_ns, |&last: &u64| last.max(sent_ns)),
                token_ns: token_ns.into(),
                event_tokens,
                input_tokens: 7,
                cached_tokens: 2,
                output_tokens,
                output_hash: None,
                outcome: match ending {
                    0 => Outcome::Failed(RequestError {
                        class: ErrorClass::Device,
                        message: "made to fail".into(),
                    }),
                    1 => Outcome::Finished(FinishReason::Cancelled),
                    _ => Outcome::Finished(FinishReason::Length),
                },
            }
        },
    )
}

/// Instants of the token events.
fn times(record: &RequestRecord) -> Vec<u64> {
    record.token_ns.iter().collect()
}

/// Requests wanted in flight during the unit interval that begins at `t`.
fn wanted(records: &[RequestRecord], t: u64) -> u64 {
    let covers = |r: &&RequestRecord| r.scheduled_ns <= t && t < r.finished_ns;
    records.iter().filter(covers).count() as u64
}

proptest! {
    #[test]
    fn the_window_is_the_longest_steady_span(
        records in prop::collection::vec(record(), 0..40),
        target in 1..12u32,
        (start, length) in (0..40u64, 0..80u64),
    ) {
        let end = start + length;
        let window = Window::find(&records, Some(target), start, end);
        let steady = |t: u64| wanted(&records, t) * 100 >= 95 * u64::from(target);
        let (mut longest, mut current) = (0, 0);
        for t in start..end {
            current = if steady(t) { current + 1 } else { 0 };
            longest = longest.max(current);
        }
        prop_assert_eq!(window.steady, longest > 0);
        if window.steady {
            prop_assert_eq!(window.end_ns - window.start_ns, longest);
            prop_assert!((window.start_ns..window.end_ns).all(steady));
        } else {
            prop_assert_eq!((window.start_ns, window.end_ns), (start, end));
        }
        prop_assert!((0.0..=1.0).contains(&window.share_of_run));
    }

    #[test]
    fn rates_follow_from_the_records(
        requests in prop::collection::vec(record(), 0..30),
        background in prop::collection::vec(record(), 0..10),
        target in prop::option::of(1..8u32),
        (start, length) in (0..40u64, 1..80u64),
    ) {
        let found = summarise(&UnitInput {
            concurrency: target,
            start_ns: start,
            end_ns: start + length,
            requests: &requests,
            background: &background,
            steps: &[],
            replicas: 1,
            roofline: None,
            slo: None,
        });
        let all: Vec<RequestRecord> = requests.iter().chain(&background).cloned().collect();
        let (mut input, mut output, mut completed, mut in_flight) = (0, 0, 0, 0);
        // Instant by instant: (t, t + 1] counts what happens at t + 1.
        for t in found.window.start_ns..found.window.end_ns {
            for r in &all {
                let token_ns = times(r);
                for i in (0..token_ns.len()).filter(|&i| token_ns[i] == t + 1) {
                    output += u64::from(r.event_tokens.get(i).copied().unwrap_or(1));
                    input += if i == 0 { 7 } else { 0 };
                }
                let ended_well = r.outcome == Outcome::Finished(FinishReason::Length);
                completed += u64::from(ended_well && r.finished_ns == t + 1);
                in_flight += u64::from(r.sent_ns <= t && t < r.finished_ns);
            }
        }
        let rates = found.throughput;
        prop_assert_eq!((rates.input_tokens, rates.output_tokens), (input, output));
        prop_assert_eq!(rates.cached_tokens * 7, input * 2);
        let per_s = |n: u64| n as f64 / found.window.seconds;
        for (rate, count) in [
            (rates.input_tok_per_s, input),
            (rates.output_tok_per_s, output),
            (rates.total_tok_per_s, input + output),
            (rates.requests_per_s, completed),
        ] {
            prop_assert!((rate - per_s(count)).abs() <= 1e-9 * per_s(count));
        }
        let mean = in_flight as f64 / (found.window.end_ns - found.window.start_ns) as f64;
        prop_assert!((rates.concurrency - mean).abs() < 1e-9);

        let counts = &found.requests;
        prop_assert_eq!(
            counts.finished + counts.cancelled + counts.failed,
            requests.len() as u64
        );
        prop_assert_eq!(counts.errors.values().sum::<u64>(), counts.failed);
    }

    /// Both clocks, and only requests that finished.
    #[test]
    fn latencies_follow_from_the_records(records in prop::collection::vec(record(), 0..40)) {
        // From a grid of nanoseconds to one of milliseconds, where histograms are exact enough.
        let records: Vec<RequestRecord> = records.into_iter().map(|mut r| {
            let ms = 1_000_000;
            r.scheduled_ns *= ms;
            r.sent_ns *= ms;
            r.finished_ns *= ms;
            r.token_ns = r.token_ns.iter().map(|t| t * ms).collect();
            r
        }).collect();
        let mut histograms = LatencyHistograms::default();
        histograms.record_all(&records);
        let found = histograms.summaries();
        let finished: Vec<&RequestRecord> = records
            .iter()
            .filter(|r| r.outcome == Outcome::Finished(FinishReason::Length))
            .collect();
        let mean = |values: Vec<f64>| {
            let n = values.len() as f64;
            (n > 0.0).then(|| values.iter().sum::<f64>() / n / 1e6)
        };
        let with_tokens = || finished.iter().filter(|r| !r.token_ns.is_empty());
        let expect = |values: Vec<f64>, found: Option<f64>| match (mean(values), found) {
            (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * a + 1e-6,
            (a, b) => a.is_none() && b.is_none(),
        };
        let ttft = |start: fn(&RequestRecord) -> u64| {
            with_tokens().map(|r| (times(r)[0] - start(r)) as f64).collect::<Vec<_>>()
        };
        prop_assert!(expect(ttft(|r| r.sent_ns), found.ttft_ms.map(|s| s.mean)));
        prop_assert!(expect(ttft(|r| r.scheduled_ns), found.user_ttft_ms.map(|s| s.mean)));
        let e2e = with_tokens().map(|r| (times(r)[r.token_ns.len() - 1] - r.sent_ns) as f64);
        prop_assert!(expect(e2e.collect(), found.e2e_ms.map(|s| s.mean)));
        let tpot = with_tokens().filter(|r| r.output_tokens > 1).map(|r| {
            let span = times(r)[r.token_ns.len() - 1] - times(r)[0];
            span as f64 / f64::from(r.output_tokens - 1)
        });
        prop_assert!(expect(tpot.collect(), found.tpot_ms.map(|s| s.mean)));
        let gaps_of = |r: &&RequestRecord| {
            times(r).windows(2).map(|w| (w[1] - w[0]) as f64).collect::<Vec<_>>()
        };
        let gaps = finished.iter().flat_map(gaps_of);
        prop_assert!(expect(gaps.collect(), found.itl_ms.map(|s| s.mean)));
        let delays = finished.iter().map(|r| (r.sent_ns - r.scheduled_ns) as f64);
        prop_assert!(expect(delays.collect(), found.dispatch_delay_ms.map(|s| s.mean)));
    }
}

//! Every headline figure of a unit again, from nothing but the raw lines of a real run.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use common::{Place, lines, stdout};
use serde_json::Value;

/// Instants of a request's token events: the first, then gap after gap.
fn instants(request: &Value) -> Vec<u64> {
    let mut all: Vec<u64> = request["first_token_ns"].as_u64().into_iter().collect();
    for gap in request["gaps_ns"].as_array().into_iter().flatten() {
        let (gap_ns, times) = match gap.as_u64() {
            Some(gap_ns) => (gap_ns, 1),
            None => (gap[0].as_u64().unwrap(), gap[1].as_u64().unwrap()),
        };
        for _ in 0..times {
            all.push(all[all.len() - 1] + gap_ns);
        }
    }
    all
}

fn ns(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

#[track_caller]
fn near(found: &Value, expected: f64, tolerance: f64) {
    let found = found.as_f64().unwrap();
    assert!(
        (found - expected).abs() <= tolerance * expected.abs() + 1e-9,
        "{found} is not {expected}"
    );
}

/// The smallest sample that at least the share `q` of all do not exceed.
fn quantile(sorted: &[u64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted[rank - 1] as f64 / 1e6
}

/// A latency in `run.json` against its samples, ns. Percentiles have three digits there, with
/// buckets of half a microsecond at the bottom.
#[track_caller]
fn check(found: &Value, mut samples: Vec<u64>) {
    samples.sort_unstable();
    let n = samples.len();
    assert_eq!(found["n"], n);
    let mean = samples.iter().map(|&ns| ns as f64).sum::<f64>() / n as f64 / 1e6;
    near(&found["mean"], mean, 1e-9);
    near(&found["max"], quantile(&samples, 1.0), 1e-12);
    for (key, q, needed) in [("p50", 0.5, 1), ("p90", 0.9, 64), ("p99", 0.99, 662)] {
        if n < needed {
            assert_eq!(found[key], Value::Null, "{key} of {n}");
        } else {
            let expected = quantile(&samples, q);
            let found = found[key].as_f64().unwrap();
            assert!(
                (found - expected).abs() <= 1e-3 * expected + 0.000_6,
                "{key}: {found} is not {expected}"
            );
        }
    }
}

fn recompute(place: &Place, folder: &str) {
    let document = place.document(folder);
    let all = lines(&place.path().join(folder).join("requests.jsonl"));
    for unit in document["units"].as_array().unwrap() {
        let of_unit = |r: &&Value| {
            ["level", "repeat"]
                .iter()
                .all(|k| r["unit"][*k] == unit[*k])
        };
        let requests: Vec<&Value> = all.iter().filter(of_unit).collect();
        let summary = &unit["summary"];
        let (start, end) = (
            ns(&summary["window"]["start_ns"]),
            ns(&summary["window"]["end_ns"]),
        );
        let seconds = (end - start) as f64 / 1e9;
        near(&summary["window"]["seconds"], seconds, 1e-12);
        let inside = |at: u64| start < at && at <= end;

        let (mut output, mut input, mut completed, mut in_flight) = (0u64, 0u64, 0u64, 0u64);
        for request in &requests {
            let times = instants(request);
            for (i, _) in times.iter().enumerate().filter(|t| inside(*t.1)) {
                output += request["event_tokens"].get(i).map_or(1, ns);
                input += if i == 0 {
                    ns(&request["input_tokens"])
                } else {
                    0
                };
            }
            let reason = &request["outcome"]["reason"];
            let finished = *reason == "length" || *reason == "stop";
            let (sent, ended) = (ns(&request["sent_ns"]), ns(&request["finished_ns"]));
            completed += u64::from(finished && inside(ended));
            in_flight += ended.min(end).saturating_sub(sent.max(start));
        }
        let rates = &summary["throughput"];
        near(&rates["output_tok_per_s"], output as f64 / seconds, 1e-12);
        near(&rates["input_tok_per_s"], input as f64 / seconds, 1e-12);
        near(&rates["requests_per_s"], completed as f64 / seconds, 1e-12);
        near(
            &rates["concurrency"],
            in_flight as f64 / 1e9 / seconds,
            1e-9,
        );

        let measured: Vec<&&Value> = requests
            .iter()
            .filter(|r| r["unit"]["phase"] == "measured")
            .collect();
        let latency = &summary["latency"];
        for (clock, prefix) in [("sent_ns", ""), ("scheduled_ns", "user_")] {
            let since = |of: &dyn Fn(&[u64]) -> u64| -> Vec<u64> {
                let each = measured.iter();
                each.map(|r| of(&instants(r)) - ns(&r[clock])).collect()
            };
            check(&latency[format!("{prefix}ttft_ms")], since(&|t| t[0]));
            check(
                &latency[format!("{prefix}e2e_ms")],
                since(&|t| t[t.len() - 1]),
            );
        }
        let gaps = measured.iter().flat_map(|r| {
            let times = instants(r);
            let gaps: Vec<u64> = times.windows(2).map(|w| w[1] - w[0]).collect();
            gaps
        });
        check(&latency["itl_ms"], gaps.collect());
        let delays = measured
            .iter()
            .map(|r| ns(&r["sent_ns"]) - ns(&r["scheduled_ns"]));
        check(&latency["dispatch_delay_ms"], delays.collect());
    }
}

#[test]
fn a_closed_loop_on_the_engine() {
    let place = Place::new();
    stdout(&mut place.run(&["--concurrency", "1,4", "--repeats", "2", "-o", "out"]));
    recompute(&place, "out");
}

#[test]
fn an_open_loop_on_a_real_clock() {
    let place = Place::new();
    let args = "run --backend mock --mock ttft=5ms,itl=1ms --price 1 --rate 600 --requests 700 \
                --repeats 1 --output-len 3..9 --input-len 8 --quiet -o out";
    let args: Vec<&str> = args.split_whitespace().collect();
    stdout(&mut place.costmark(&args));
    recompute(&place, "out");

    // The machine was sampled meanwhile, and what its lines say is in the result.
    let document = place.document("out");
    let unit = &document["units"][0];
    let window = &unit["summary"]["window"];
    let (start, end) = (ns(&window["start_ns"]), ns(&window["end_ns"]));
    let samples = lines(&place.path().join("out/telemetry.jsonl"));
    let at = |instant: u64| {
        let after = samples
            .iter()
            .position(|s| ns(&s["at_ns"]) >= instant)
            .unwrap();
        let (a, b) = (&samples[after - 1], &samples[after]);
        let span = (ns(&b["at_ns"]) - ns(&a["at_ns"])) as f64;
        let share = (instant - ns(&a["at_ns"])) as f64 / span;
        let own = |s: &Value| s["own_cpu_s"].as_f64().unwrap();
        own(a) + share * (own(b) - own(a))
    };
    let own_cores = (at(end) - at(start)) / ((end - start) as f64 / 1e9);
    near(&unit["machine"]["own_cores"], own_cores, 1e-9);
    let inside = samples
        .iter()
        .filter(|s| (start..=end).contains(&ns(&s["at_ns"])));
    assert_eq!(unit["machine"]["samples"], inside.count());
    // No counter of energy: `none`, and no figure. Where there is one, the figure is there.
    let energy = &unit["energy"];
    assert_eq!(energy["source"] == "none", energy["joules"].is_null());
    assert!(
        document["overhead"]["telemetry_core_share"]
            .as_f64()
            .unwrap()
            > 0.0
    );
}

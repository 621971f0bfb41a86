//! Comparisons: what they say word for word, and what they must never say.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use costmark_econ::CostModel;
use costmark_metrics::{Goodput, Slo};
use costmark_report::compare::{Bar, Comparison, Metric, Verdict, compare};
use costmark_report::document::{LevelDocument, RunDocument};
use costmark_report::money::PricedLevel;
use costmark_report::{NamedRun, WIDTH, find_runs};

fn named(name: &str, document: RunDocument) -> NamedRun {
    NamedRun {
        name: name.into(),
        path: format!("runs/{name}").into(),
        document,
    }
}

/// The same work on a machine that is `factor` times as fast for the same money: rates times
/// `factor`, prices over it, in every repeat.
fn faster(factor: f64) -> RunDocument {
    let mut run = common::run();
    for unit in &mut run.units {
        let throughput = &mut unit.summary.throughput;
        throughput.output_tok_per_s *= factor;
        throughput.input_tok_per_s *= factor;
        throughput.total_tok_per_s *= factor;
        let cost = unit.cost.as_mut().unwrap();
        for usd in [
            &mut cost.usd_per_mtok_input,
            &mut cost.usd_per_mtok_output,
            &mut cost.usd_per_mtok_blended,
        ] {
            *usd = usd.map(|usd| usd / factor);
        }
    }
    rebuild(&mut run);
    run.environment.label = "Faster CPU, 2 threads, 16 GiB".into();
    run
}

fn rebuild(run: &mut RunDocument) {
    run.levels = run
        .plan
        .levels
        .iter()
        .filter_map(|level| {
            let units: Vec<_> = run.units.iter().filter(|u| u.level == level.id).collect();
            LevelDocument::from_units(level, &units, &common::model())
        })
        .collect();
}

fn verdicts(comparison: &Comparison, metric: &str) -> Vec<Verdict> {
    comparison
        .levels
        .iter()
        .map(|level| {
            let metric = level.metrics.iter().find(|m| m.name == metric).unwrap();
            metric.values[1].verdict
        })
        .collect()
}

#[test]
fn two_runs_word_for_word() {
    let runs = [named("a", common::run()), named("b", faster(1.5))];
    let comparison = compare(&runs, &[]);
    insta::assert_snapshot!(comparison.render());
    insta::assert_snapshot!("markdown", comparison.markdown());
    insta::assert_snapshot!("csv", comparison.csv());
}

#[test]
fn a_real_difference_has_a_direction_and_noise_has_none() {
    let comparison = compare(&[named("a", common::run()), named("b", faster(1.5))], &[]);
    assert_eq!(
        verdicts(&comparison, "output_tok_per_s"),
        [Verdict::Better; 2]
    );
    assert_eq!(
        verdicts(&comparison, "usd_per_mtok_output"),
        [Verdict::Better; 2]
    );
    let slower = compare(&[named("a", common::run()), named("b", faster(0.5))], &[]);
    assert_eq!(verdicts(&slower, "output_tok_per_s"), [Verdict::Worse; 2]);
    assert_eq!(
        verdicts(&slower, "usd_per_mtok_output"),
        [Verdict::Worse; 2]
    );
    // Repeats differ by some percent; half a percent is lost in that.
    let same = compare(&[named("a", common::run()), named("b", faster(1.005))], &[]);
    assert_eq!(
        verdicts(&same, "output_tok_per_s"),
        [Verdict::NotDistinguishable; 2]
    );
    let answer = same.cheapest.unwrap().words();
    assert!(answer.contains("not distinguishable"), "{answer}");
}

#[test]
fn the_ratio_is_that_of_the_medians() {
    let comparison = compare(&[named("a", common::run()), named("b", faster(1.5))], &[]);
    let metric = &comparison.levels[0].metrics[0];
    let ratio = metric.values[1].ratio.unwrap();
    assert!((ratio.value - 1.5).abs() < 1e-12);
    assert!(ratio.low.unwrap() < 1.5 && ratio.high.unwrap() > 1.5);
    let answer = comparison.cheapest.unwrap();
    assert_eq!(answer.metric, "usd_per_mtok_output");
    assert_eq!(answer.runs[0].run, "b");
    assert!((answer.runs[1].ratio.unwrap().value - 1.5).abs() < 1e-12);
}

/// With an SLO of which this share of the output tokens of each level is within.
fn within(mut run: RunDocument, share: f64) -> RunDocument {
    let slo = Slo {
        ttft_ms: Some(500.0),
        ..Slo::default()
    };
    run.plan.slo = Some(slo);
    for unit in &mut run.units {
        let rates = unit.summary.throughput;
        unit.summary.goodput = Some(Goodput {
            slo,
            attainment: share,
            requests_per_s: rates.requests_per_s * share,
            output_tok_per_s: rates.output_tok_per_s * share,
            counts: None,
        });
    }
    run
}

#[test]
fn the_cheapest_is_the_cheapest_within_the_slo() {
    // Twice as fast, but only a quarter of its tokens come in time: half as much for the money.
    let runs = [
        named("steady", within(common::run(), 1.0)),
        named("late", within(faster(2.0), 0.25)),
        named("never", within(faster(3.0), 0.0)),
    ];
    let answer = compare(&runs, &[]).cheapest.unwrap();
    assert_eq!(answer.metric, "usd_per_mtok_output_at_slo");
    assert_eq!(answer.runs.len(), 2);
    assert_eq!(answer.runs[0].run, "steady");
    assert!((answer.runs[1].ratio.unwrap().value - 2.0).abs() < 1e-9);
    let words = answer.words();
    assert!(
        words.contains("a million output tokens within the SLO cost"),
        "{words}"
    );
    assert!(
        words.ends_with("At no level within the SLO: never."),
        "{words}"
    );

    // Where phases cannot be told apart there is still an answer within the SLO.
    let mut unsplit = runs.clone();
    for run in &mut unsplit {
        for unit in &mut run.document.units {
            unit.cost.as_mut().unwrap().usd_per_mtok_output = None;
        }
        for level in &mut run.document.levels {
            level.usd_per_mtok_output = None;
        }
    }
    let answer = compare(&unsplit, &[]).cheapest.unwrap();
    assert_eq!(answer.metric, "usd_per_mtok_blended_at_slo");
    assert_eq!(answer.runs[0].run, "steady");

    // None keeps it: told, and ranked without.
    let none = [
        named("a", within(common::run(), 0.0)),
        named("b", within(faster(2.0), 0.0)),
    ];
    let answer = compare(&none, &[]).cheapest.unwrap();
    assert_eq!(answer.metric, "usd_per_mtok_output");
    let words = answer.words();
    assert!(
        words.starts_with("No run keeps the SLO at any level. Without it: Cheapest: b"),
        "{words}"
    );
}

/// `costmark price`, at the run's own price and at twice that, against `costmark compare`.
#[test]
fn the_price_at_the_slo_is_one_figure() {
    let run = named("half", within(common::run(), 0.5));
    let compared = compare(std::slice::from_ref(&run), &[]);
    let price = &run.document.price;
    for times in [1.0, 2.0] {
        let usd_per_hour = times * price.usd_per_hour;
        let cost = CostModel::new(usd_per_hour, price.utilization, 1.0).unwrap();
        for (level, there) in run.document.levels.iter().zip(&compared.levels) {
            let priced = PricedLevel::of(&run.document, level, &cost);
            let at_slo = priced.usd_per_mtok_output_at_slo.unwrap();
            // Half of the tokens bring what all cost.
            let output = priced.usd_per_mtok_output.unwrap();
            assert!((at_slo.value / output.value - 2.0).abs() < 1e-9);
            let name = "usd_per_mtok_output_at_slo";
            let metric = there.metrics.iter().find(|m| m.name == name).unwrap();
            let found = metric.values[0].value.unwrap();
            assert!((at_slo.value / (times * found.value) - 1.0).abs() < 1e-9);
            assert_eq!(at_slo.low.is_some(), found.low.is_some());
        }
    }
}

#[test]
fn other_work_gets_no_verdict_and_fails_a_bar() {
    let changes: [fn(&mut RunDocument); 4] = [
        |run| run.plan.workloads[0].workload_hash = "1".repeat(64),
        |run| run.backends[0].model = "other-1b".into(),
        |run| run.plan.warmup_requests_per_slot = Some(0),
        |run| run.plan.ignore_eos = false,
    ];
    for change in changes {
        let mut other = faster(1.5);
        change(&mut other);
        let comparison = compare(&[named("a", common::run()), named("b", other)], &[]);
        assert!(!comparison.runs[1].is_comparable());
        assert_eq!(
            verdicts(&comparison, "output_tok_per_s"),
            [Verdict::NotComparable; 2]
        );
        let text = comparison.render();
        assert!(text.contains("NOT COMPARABLE, other"), "{text}");
        assert!(text.contains("NOT the same work"), "{text}");
        let outcome = "throughput<-5%".parse::<Bar>().unwrap().check(&comparison);
        assert_eq!(outcome.unknown.len(), 2, "{outcome:?}");
    }
}

#[test]
fn one_repeat_has_a_ratio_and_no_verdict() {
    let mut once = faster(1.5);
    once.units.retain(|u| u.repeat == 0);
    rebuild(&mut once);
    let comparison = compare(&[named("a", common::run()), named("b", once)], &[]);
    assert_eq!(
        verdicts(&comparison, "output_tok_per_s"),
        [Verdict::OneRepeat; 2]
    );
}

#[test]
fn bars_fail_on_what_is_past_them_and_sure() {
    let check = |factor: f64, bar: &str| {
        let runs = [named("a", common::run()), named("b", faster(factor))];
        let bar: Bar = bar.parse().unwrap();
        bar.check(&compare(&runs, &[bar.metric()])).passed.len()
    };
    assert_eq!(check(0.5, "throughput<-5%"), 2);
    assert_eq!(check(1.5, "throughput<-5%"), 0);
    assert_eq!(check(0.5, "throughput<-60%"), 0);
    assert_eq!(check(0.5, "usd_per_mtok_output>+50%"), 2);
    assert_eq!(check(1.0, "ttft_p50_ms>50"), 2);
    assert_eq!(check(1.0, "ttft_p50_ms>500"), 0);
    // Past the bar, but within the noise of the repeats.
    assert_eq!(check(0.995, "throughput<-0.1%"), 0);
    // A level the other run lacks cannot pass silently.
    let mut less = common::run();
    less.levels.truncate(1);
    let bar: Bar = "throughput<-5%".parse().unwrap();
    let outcome = bar.check(&compare(
        &[named("a", common::run()), named("b", less)],
        &[],
    ));
    assert_eq!(outcome.unknown.len(), 1, "{outcome:?}");
}

#[test]
fn a_level_only_one_run_has_is_told_as_missing() {
    let mut less = common::run();
    less.levels.truncate(1);
    let comparison = compare(&[named("a", less), named("b", common::run())], &[]);
    assert_eq!(comparison.levels.len(), 2);
    assert_eq!(
        comparison.levels[1].metrics[0].values[1].verdict,
        Verdict::Missing
    );
}

#[test]
fn hostile_names_stay_text() {
    let evil = "x\u{1b}[2J\u{202e}|<script>alert(1)</script>\r\n`a`,\"b\"";
    let mut run = common::run();
    run.environment.label = evil.into();
    run.backends[0].model = evil.into();
    run.plan.workloads[0].input_len = evil.into();
    run.failure = Some(evil.into());
    run.status = costmark_report::Status::Failed;
    let comparison = compare(&[named("a", common::run()), named("b", run)], &[]);
    for text in [comparison.render(), comparison.markdown(), comparison.csv()] {
        let acts = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.chars().any(acts), "{text:?}");
    }
    assert!(!comparison.markdown().contains("<script>"));
    let cells = |line: &str| line.replace("\\|", "").matches('|').count();
    for line in comparison
        .markdown()
        .lines()
        .filter(|l| l.starts_with("| "))
    {
        assert!([7, 8].contains(&cells(line)), "{line}");
    }
    for line in comparison.render().lines() {
        assert!(line.chars().count() <= usize::from(WIDTH), "{line}");
    }
}

#[test]
fn many_runs_fit_the_width() {
    let runs: Vec<NamedRun> = (0..12)
        .map(|i| {
            let name = format!("20260102T030405Z-a-model-with-a-long-name-{i}-cpu");
            named(&name, faster(1.0 + f64::from(i)))
        })
        .collect();
    let text = compare(&runs, &[Metric::named("throughput").unwrap()]).render();
    for line in text.lines() {
        assert!(line.chars().count() <= usize::from(WIDTH), "{line}");
    }
}

#[test]
fn runs_are_found_below_a_folder_and_damage_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let folder = dir.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("run.json"), text).unwrap();
    };
    let text = serde_json::to_string_pretty(&common::run()).unwrap();
    write("b", &text);
    write("deeper/a", &text);
    let found = find_runs(&[dir.path().to_path_buf(), dir.path().join("b")]).unwrap();
    let names: Vec<&str> = found.iter().map(|run| &run.name[..]).collect();
    assert_eq!(names, ["b", "a"], "each once");

    let empty = tempfile::tempdir().unwrap();
    let error = find_runs(&[empty.path().to_path_buf()]).unwrap_err();
    assert!(error.is_input());
    assert!(error.to_string().contains("no run.json"), "{error}");

    let cut: String = text.lines().take(40).collect::<Vec<_>>().join("\n");
    for (damage, part) in [
        (cut, "line 40"),
        (text.replace("\"status\"", "\"stat\""), "stat"),
        (
            text.replace("\"schema_version\": 2", "\"schema_version\": 3"),
            "newer",
        ),
    ] {
        write("b", &damage);
        let error = find_runs(&[dir.path().join("b")]).unwrap_err();
        assert!(error.is_input());
        assert!(error.to_string().contains(part), "{error}");
    }
}

//! The console output, word for word, and what it must never be.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use costmark_report::document::{DatasheetDocument, DatasheetUse};
use costmark_report::{Status, WIDTH, finding, render, render_for};

#[test]
fn a_complete_run() {
    insta::assert_snapshot!(render(&common::run()));
}

#[test]
fn an_incomplete_run_of_a_server_without_steps() {
    let mut run = common::run();
    run.status = Status::Failed;
    run.failure = Some("the backend stopped: the device was lost".into());
    run.backends[0].synthetic = false;
    run.notes.clear();
    run.environment.peaks.clear();
    run.levels.truncate(1);
    let level = &mut run.levels[0];
    level.usd_per_mtok_input = None;
    level.usd_per_mtok_output = None;
    level.attribution = None;
    level.summary.mbu = None;
    run.finding = finding(&run);
    insta::assert_snapshot!(render(&run));
}

#[test]
fn nothing_measured() {
    let mut run = common::run();
    run.status = Status::Interrupted;
    run.failure = Some("stopped by the user".into());
    run.levels.clear();
    run.units.clear();
    run.finding = finding(&run);
    assert_eq!(run.finding, None);
    assert!(render(&run).contains("No level was measured"));
}

/// Lines of the table itself, between its first and its last rule.
fn table(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text.lines().collect();
    let is_rule = |line: &&str| line.starts_with('─');
    let first = lines.iter().position(is_rule).unwrap();
    let last = lines.iter().rposition(is_rule).unwrap();
    lines[first..=last].to_vec()
}

fn widest(lines: &[&str]) -> usize {
    lines.iter().map(|l| l.chars().count()).max().unwrap()
}

#[test]
fn figures_as_wide_as_they_get_are_whole_and_fit() {
    let mut run = common::run();
    for level in &mut run.levels {
        let summary = &mut level.summary;
        let wide = costmark_core::Interval::new(1_234_567.0, 1_123_456.0, 1_345_678.0);
        summary.output_tok_per_s = wide;
        summary.input_tok_per_s = wide;
        for money in [
            &mut level.usd_per_mtok_input,
            &mut level.usd_per_mtok_output,
            &mut level.usd_per_mtok_blended,
        ] {
            *money = Some(wide);
        }
    }
    let text = render(&run);
    assert!(
        widest(&text.lines().collect::<Vec<_>>()) <= usize::from(WIDTH),
        "{text}"
    );
    for figure in ["1,234,567", "1,123,456", "1,345,678"] {
        assert_eq!(
            text.matches(figure).count(),
            5 * run.levels.len(),
            "{figure}\n{text}"
        );
    }
}

#[test]
fn an_end_that_is_not_known_is_a_dash() {
    let mut run = common::run();
    run.levels.truncate(1);
    run.levels[0].usd_per_mtok_output.as_mut().unwrap().high = None;
    let text = render(&run);
    let high = table(&text)
        .into_iter()
        .find(|l| l.contains("high"))
        .unwrap();
    assert!(high.contains('–'), "{text}");
}

#[test]
fn usual_figures_fit_a_terminal_of_80_columns() {
    let text = render_for(&common::run(), 80);
    assert!(widest(&text.lines().collect::<Vec<_>>()) <= 80, "{text}");
}

#[test]
fn the_use_of_what_the_vendor_states_stands_beside_the_measured() {
    let mut run = common::run();
    let sheet = DatasheetDocument {
        name: "Example 1".into(),
        devices: 2,
        read_bytes_per_s: 400e9,
        flops_per_s: Some(2e12),
        source: "its data sheet".into(),
        unconfirmed: None,
    };
    for unit in &mut run.units {
        let (steps, peaks) = (unit.summary.steps.unwrap(), unit.roofline.unwrap());
        let found = DatasheetUse::of(&unit.summary, Some(&peaks), Some(&sheet)).unwrap();
        // The same bytes and operations over other peaks.
        let bytes = steps.mbu.unwrap() * peaks.read_bytes_per_s;
        assert!((found.mbu * 400e9 / bytes - 1.0).abs() < 1e-12);
        let flops = steps.mfu.unwrap() * peaks.flops_per_s;
        assert!((found.mfu.unwrap() * 2e12 / flops - 1.0).abs() < 1e-12);
        assert_eq!(DatasheetUse::of(&unit.summary, None, Some(&sheet)), None);
        unit.of_datasheet = Some(found);
    }
    assert!(!render(&run).contains("Datasheet "));
    run.environment.datasheet = Some(sheet);
    let text = render(&run);
    let line = text.lines().find(|l| l.starts_with("Datasheet ")).unwrap();
    assert!(
        line.contains("MBU of the 400 GB/s stated for a whole 2 × Example 1"),
        "{text}"
    );
}

#[test]
fn utilization_is_told_with_the_money() {
    let mut run = common::run();
    run.price.utilization = 0.5;
    let text = finding(&run).unwrap();
    assert!(text.contains("50 %"), "{text}");
}

#[test]
fn a_second_level_is_compared_in_words_that_fit() {
    let says = |ratio: f64| {
        let mut run = common::run();
        run.levels.truncate(2);
        for (level, value) in run.levels.iter_mut().zip([ratio, 1.0]) {
            level.usd_per_mtok_output = Some(costmark_core::Interval::point(value));
        }
        finding(&run).unwrap()
    };
    for (ratio, words) in [
        (1.001, "$1.00, the same."),
        (1.02, "$1.02, 2 % more."),
        (1.5, "$1.50, 1.5 times as much."),
        (16.2, "$16.20, 16 times as much."),
    ] {
        let text = says(ratio);
        assert!(text.ends_with(words), "{text}");
    }
}

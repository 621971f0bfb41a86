//! The console output, word for word, and what it must never be.

#![allow(clippy::unwrap_used)] // clippy.toml's leave covers #[test] functions, not their helpers.

mod common;

use costmark_report::{Status, WIDTH, finding, render};

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

#[test]
fn no_line_is_too_wide() {
    let mut run = common::run();
    // Figures as wide as they get.
    for level in &mut run.levels {
        let summary = &mut level.summary;
        for interval in [
            &mut summary.output_tok_per_s,
            &mut summary.input_tok_per_s,
            level.usd_per_mtok_input.as_mut().unwrap(),
            level.usd_per_mtok_output.as_mut().unwrap(),
            level.usd_per_mtok_blended.as_mut().unwrap(),
        ] {
            *interval = costmark_core::Interval::new(123_456.0, 112_345.0, 134_567.0);
        }
    }
    for line in render(&run).lines() {
        assert!(line.chars().count() <= usize::from(WIDTH), "{line}");
    }
}

#[test]
fn utilization_is_told_with_the_money() {
    let mut run = common::run();
    run.price.utilization = 0.5;
    let text = finding(&run).unwrap();
    assert!(text.contains("50 %"), "{text}");
}

//! The published claims and scenarios that come along, against answers computed by hand.

#![allow(clippy::unwrap_used, clippy::panic)] // clippy.toml's leave covers #[test] functions only.

use std::collections::BTreeMap;

use costmark_core::Interval;
use costmark_econ::{CheckedClaim, ClaimFile, Outcome, Scenario, Verdict};

fn all() -> BTreeMap<String, CheckedClaim> {
    ClaimFile::embedded()
        .unwrap()
        .iter()
        .flat_map(|f| f.check(None).unwrap())
        .map(|c| (c.id.clone(), c))
        .collect()
}

fn outcome<'a>(outcomes: &'a [Outcome], name: &str) -> &'a Outcome {
    outcomes
        .iter()
        .find(|o| o.name == name)
        .unwrap_or_else(|| panic!("{name}"))
}

#[track_caller]
fn close(a: f64, b: f64, relative: f64) {
    assert!((a / b - 1.0).abs() <= relative, "{a} is not {b}");
}

#[test]
fn every_claim_has_the_verdict_its_arithmetic_gives() {
    use Verdict::*;
    let wanted = BTreeMap::from([
        ("anthropic-2025-growth", Reproduces),
        ("anthropic-2025-margin-drop", ReproducesUnderAssumption),
        ("anthropic-2025-free-users", WhatIf),
        ("anthropic-2024-margin", Identity),
        ("anthropic-2027-target", WhatIf),
        ("openai-2025-margin", Identity),
        ("openai-2025-enterprise", Reproduces),
        ("anthropic-2025-api", Reproduces),
        ("anthropic-2025-ebitda", WhatIf),
        ("openai-2024-loss", Reproduces),
        ("openai-2024-a100-fleet", WhatIf),
        ("openai-2024-costs", Reproduces),
        ("anthropic-2024-run-rate", Reproduces),
        ("anthropic-2024-compute", Identity),
        ("capital-intensity", WhatIf),
        ("capex-2026", Identity),
        ("memory-share", WhatIf),
        ("agent-roi", DoesNotReproduce),
        ("anthropic-q2-growth", Reproduces),
        ("anthropic-q2-margin", Identity),
        ("openai-q1-margin", Reproduces),
        ("arpu-annualised", DoesNotReproduce),
        ("arpu-times-users", DoesNotReproduce),
        ("spacex-compute", Reproduces),
        ("token-multiple", WhatIf),
        ("budget-burn", Identity),
        ("deepseek-day-cost", Reproduces),
        ("deepseek-day-revenue", Reproduces),
        ("deepseek-day-nodes", Reproduces),
        ("measured-cost", NotCheckable),
        ("measured-tokens-per-hour", NotCheckable),
        ("measured-host-margin", NotCheckable),
        ("measured-openai-2024-break-even", NotCheckable),
    ]);
    let found = all();
    let verdicts: BTreeMap<&str, Verdict> = found
        .iter()
        .map(|(id, c)| (id.as_str(), c.verdict))
        .collect();
    assert_eq!(verdicts, wanted);
}

#[test]
fn results_by_hand() {
    let claims = all();
    for (id, result, value, relative) in [
        ("anthropic-2025-growth", "growth", 11.81, 1e-3),
        (
            "anthropic-2025-margin-drop",
            "planned_inference",
            0.4348,
            1e-4,
        ),
        ("anthropic-2025-margin-drop", "other_cost", 0.0652, 1e-3),
        (
            "anthropic-2025-margin-drop",
            "actual_inference",
            0.5348,
            1e-4,
        ),
        (
            "anthropic-2025-margin-drop",
            "inference_usd",
            2.4065e9,
            1e-4,
        ),
        ("anthropic-2025-margin-drop", "overrun_usd", 0.45e9, 1e-9),
        ("anthropic-2025-free-users", "free_usd", 90e6, 1e-9),
        ("anthropic-2025-free-users", "free_of_all", 0.0360, 2e-3),
        ("anthropic-2024-margin", "cogs", 739.14e6, 1e-9),
        ("anthropic-2027-target", "inference_allowed", 0.235, 1e-9),
        ("anthropic-2027-target", "change", -0.5607, 1e-4),
        ("openai-2025-margin", "cogs", 7.02e9, 1e-9),
        ("openai-2025-enterprise", "enterprise", 5.2e9, 1e-9),
        ("anthropic-2025-api", "api", 3.87e9, 1e-9),
        ("anthropic-2025-ebitda", "other", 2.9e9, 1e-9),
        ("openai-2024-loss", "largest_loss", 5.0e9, 1e-9),
        ("openai-2024-loss", "smallest_loss", 4.0e9, 1e-9),
        ("openai-2024-a100-fleet", "fleet", 351_247.0, 1e-5),
        ("openai-2024-a100-fleet", "tokens_needed", 130_000.0, 1e-9),
        ("openai-2024-costs", "per_head", 1.0e6, 1e-9),
        ("anthropic-2024-run-rate", "month", 66.667e6, 1e-4),
        ("anthropic-2024-compute", "share", 0.9259, 1e-4),
        ("capital-intensity", "ceiling_4", 1.0 / 3.0, 1e-9),
        ("capital-intensity", "share_6", 4.0 / 9.0, 1e-9),
        ("capex-2026", "total", 610e9, 1e-9),
        ("memory-share", "tripled", 0.6, 1e-9),
        ("agent-roi", "low", 7.35, 1e-9),
        ("agent-roi", "high", 10.5, 1e-9),
        ("agent-roi", "work_for_30_low", 0.4082, 1e-4),
        ("anthropic-q2-growth", "growth", 2.2708, 1e-4),
        ("anthropic-q2-margin", "margin", 0.05128, 1e-3),
        ("arpu-annualised", "year_a", 194.4, 1e-9),
        ("arpu-annualised", "ratio", 7.3636, 1e-4),
        ("arpu-annualised", "ratio_as_published", 8.44, 1e-9),
        ("arpu-times-users", "quarter", 6.5124e9, 1e-9),
        ("arpu-times-users", "month_meant", 11.940, 1e-4),
        ("spacex-compute", "of_q2", 0.3440, 1e-3),
        ("token-multiple", "price_low", 0.25, 1e-9),
        ("budget-burn", "rate", 3.0, 1e-9),
    ] {
        let found = outcome(&claims[id].computed.outcomes, result);
        close(found.recomputed.value, value, relative);
    }
}

/// The tolerances of the worked case: 0 on cost, 2e-4 on revenue, 1e-3 on the closure of nodes.
#[test]
fn the_published_production_day() {
    let claims = all();
    let get = |id: &str, name: &str| {
        outcome(&claims[id].computed.outcomes, name)
            .recomputed
            .value
    };
    assert_eq!(get("deepseek-day-cost", "gpu_hours"), 43_536.0);
    assert_eq!(get("deepseek-day-cost", "cost"), 87_072.0);
    close(get("deepseek-day-revenue", "revenue"), 562_027.0, 2e-4);
    close(get("deepseek-day-revenue", "revenue"), 562_100.0, 1e-6);
    close(get("deepseek-day-revenue", "markup"), 5.455, 2e-4);
    close(get("deepseek-day-revenue", "margin"), 0.845, 1e-3);
    close(get("deepseek-day-nodes", "prefill_nodes"), 95.48, 1e-4);
    close(get("deepseek-day-nodes", "decode_nodes"), 131.38, 1e-4);
    close(get("deepseek-day-nodes", "nodes"), 226.75, 1e-3);
    close(get("deepseek-day-nodes", "prefill_share"), 0.421, 1e-3);
    close(get("deepseek-day-nodes", "usd_input"), 0.0603, 1e-3);
    close(get("deepseek-day-nodes", "usd_miss"), 0.138, 2e-3);
    close(get("deepseek-day-nodes", "usd_output"), 0.300, 2e-3);
    // The blended figure by needed nodes; by the published ones it is 0.1122.
    close(get("deepseek-day-nodes", "usd_blended"), 0.1122, 1e-3);
}

#[test]
fn a_run_fills_the_measured_claims() {
    let measured = BTreeMap::from([
        ("usd_per_mtok_output".into(), Interval::new(0.5, 0.4, 0.7)),
        ("usd_per_mtok_input".into(), Interval::point(0.1)),
        ("usd_per_mtok_blended".into(), Interval::point(0.2)),
        (
            "output_tokens_per_accelerator_hour".into(),
            Interval::new(260_000.0, 130_000.0, 390_000.0),
        ),
    ]);
    let files = ClaimFile::embedded().unwrap();
    let file = files
        .iter()
        .find(|f| f.file.ends_with("measured.toml"))
        .unwrap();
    let checked = file.check(Some(&measured)).unwrap();
    let by = |id: &str| checked.iter().find(|c| c.id == id).unwrap();
    assert_eq!(by("measured-cost").verdict, Verdict::WhatIf);
    let output = outcome(&by("measured-cost").computed.outcomes, "usd_output");
    assert_eq!(output.recomputed, Interval::new(0.5, 0.4, 0.7));
    let times = &by("measured-openai-2024-break-even").computed.outcomes[0];
    assert_eq!(times.recomputed, Interval::new(2.0, 1.0, 3.0));
    let lacking = by("measured-tokens-per-hour");
    assert_eq!(lacking.verdict, Verdict::NotCheckable);
    assert!(
        lacking.computed.missing[0]
            .reason
            .contains("tokens_per_accelerator_hour")
    );
}

#[test]
fn scenarios_by_hand() {
    for (name, result, value) in [
        ("provider-year", "planned_inference", 0.1 / 0.23),
        ("provider-year", "inference_usd", 0.1 / 0.23 * 1.23 * 4.5e9),
        ("provider-year", "free_usd", 90e6),
        // 1 - 0.70 - (0.50 - 0.1/0.23) over 0.1/0.23 x 1.23, less 1.
        (
            "provider-year",
            "change_needed",
            0.234_782_6 / 0.534_782_6 - 1.0,
        ),
        ("fleet", "gpus", 4e9 / 1.3 / 8760.0),
        ("fleet", "tokens_break_even", 130_000.0),
        ("fleet", "tok_per_s_break_even", 36.111_111),
        ("fleet", "tokens_target", 433_333.333),
        ("fleet", "tokens_a_year", 4e14),
        ("capital-intensity", "yearly", 20e9),
        ("capital-intensity", "ceiling", 1.0 / 3.0),
        ("capital-intensity", "years_for_target", 80.0 / 9.0),
        ("capital-intensity", "revenue_for_target", 20e9 / 0.3),
        ("memory-shock", "capex_change", 0.3),
        ("memory-shock", "margin_after", 0.556 - 0.444 * 0.3),
        // Costs of 0.444 rise by 0.1332; so must a revenue of which they are to stay 44.4 %.
        ("memory-shock", "price_increase", 0.3),
        ("token-multiple", "times", 3.5),
        ("token-multiple", "equal_price", 5.0 / 3.5),
    ] {
        let scenario = Scenario::find(name).unwrap();
        let computed = scenario.sheet.compute(None).unwrap();
        close(
            outcome(&computed.outcomes, result).recomputed.value,
            value,
            1e-6,
        );
    }
}

#[test]
fn a_scenario_with_the_users_own_figures() {
    let mut fleet = Scenario::find("fleet").unwrap();
    fleet.sheet.set("usd_per_gpu_hour", 2.6).unwrap();
    let computed = fleet.sheet.compute(None).unwrap();
    close(
        outcome(&computed.outcomes, "tokens_break_even")
            .recomputed
            .value,
        260_000.0,
        1e-12,
    );
    assert_eq!(computed.missing.len(), 1, "the measured run is not there");
    let error = fleet.sheet.set("usd_per_gpu_hours", 1.0).unwrap_err();
    assert!(error.contains("usd_per_gpu_hour"), "{error}");
    assert!(fleet.sheet.set("spend", f64::NAN).is_err());
    fleet.sheet.set("usd_per_gpu_hour", 0.0).unwrap();
    let error = fleet.sheet.compute(None).unwrap_err();
    assert!(
        error.contains("gpu_hours") && error.contains("divides by zero"),
        "{error}"
    );
    let unknown = Scenario::find("flet").unwrap_err().to_string();
    assert!(unknown.contains("did you mean fleet"), "{unknown}");
}

const FILE: &str = r#"
schema_version = 1
title = "t"
source = "s"
as_of = "2026-01-31"
[[claim]]
id = "c"
says = "a is twice b"
kind = "check"
inputs.a = { value = 4, rounding = 0.5, unit = "x", text = "a" }
inputs.b = { value = 2, unit = "x", text = "b" }
results = [{ name = "r", formula = "a / b", unit = "x", text = "ratio", published = 2, tolerance = 0.1 }]
"#;

#[test]
fn mistakes_are_refused_by_file_claim_and_field() {
    assert_eq!(ClaimFile::parse("x.toml", FILE).unwrap().claims.len(), 1);
    for (from, to, hints) in [
        (
            "a / b",
            "a / c",
            &["x.toml", "claim `c`", "result `r`", "`c` is not a quantity"][..],
        ),
        ("a / b", "alpha / b", &["alpha", "there are a, b"]),
        (
            "a / b",
            "{measured.usd_per_mtok_outptu}",
            &["did you mean measured.usd_per_mtok_output"],
        ),
        ("a / b", "a / (b", &["result `r`", "is not a formula"]),
        ("value = 2", "value = nan", &["input `b`"]),
        ("inputs.b", "inputs.e", &["input `e`", "already use"]),
        ("source = \"s\"", "source = \"\"", &["source is empty"]),
        ("2026-01-31", "yesterday", &["as_of `yesterday`"]),
        (
            ", tolerance = 0.1",
            "",
            &["result `r`", "published and tolerance"],
        ),
        (
            ", published = 2, tolerance = 0.1",
            "",
            &["claim `c`", "a check needs"],
        ),
        ("\"check\"", "\"what_if\"", &["claim `c`", "it is a check"]),
        ("kind", "kin", &["x.toml", "kin"]),
        ("name = \"r\"", "name = \"a\"", &["result `a`", "taken"]),
    ] {
        assert!(FILE.contains(from), "{from}");
        let error = ClaimFile::parse("x.toml", &FILE.replacen(from, to, 1))
            .unwrap_err()
            .to_string();
        for hint in hints {
            assert!(error.contains(hint), "{to}: `{hint}` is not in: {error}");
        }
    }
    let zero = FILE.replace("value = 2,", "value = 0,");
    let error = ClaimFile::parse("x.toml", &zero)
        .unwrap()
        .check(None)
        .unwrap_err()
        .to_string();
    for hint in ["x.toml", "claim `c`", "result `r`", "divides by zero"] {
        assert!(error.contains(hint), "{error}");
    }
}

/// Rounding of what was published opens a range; a claim holds if the ranges meet.
#[test]
fn rounding_is_the_tolerance() {
    let verdict = |text: &str| ClaimFile::parse("x", text).unwrap().check(None).unwrap()[0].verdict;
    let ratio = &ClaimFile::parse("x", FILE).unwrap().check(None).unwrap()[0];
    let range = outcome(&ratio.computed.outcomes, "r").recomputed;
    assert_eq!(range, Interval::new(2.0, 1.75, 2.25));
    assert_eq!(verdict(FILE), Verdict::Reproduces);
    assert_eq!(
        verdict(&FILE.replace("published = 2,", "published = 2.34,")),
        Verdict::Reproduces
    );
    assert_eq!(
        verdict(&FILE.replace("published = 2,", "published = 2.36,")),
        Verdict::DoesNotReproduce
    );
    let assumed = FILE.replace("kind =", "assumption = \"y\"\nkind =");
    assert_eq!(verdict(&assumed), Verdict::ReproducesUnderAssumption);
}

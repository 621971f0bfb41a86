//! Claims and scenarios: what was said, what comes out, what has to be believed for it.

use costmark_core::Interval;
use costmark_econ::{CheckedClaim, ClaimFile, Computed, Outcome, Scenario, Verdict};

use crate::money::layout::{Grid, paragraph, with_unit};

/// All claims, by report, and a count of the verdicts.
#[must_use]
pub fn claims_table(files: &[(&ClaimFile, Vec<CheckedClaim>)]) -> String {
    let mut text = String::new();
    for (file, claims) in files {
        text += &paragraph("", &heading(file));
        text += &grid(claims).text();
        for claim in claims {
            text += &paragraph(&format!("  {}: ", claim.id), &sentence(claim));
        }
        text.push('\n');
    }
    text += &paragraph("", &summary(files));
    text
}

/// The same in Markdown.
#[must_use]
pub fn claims_markdown(files: &[(&ClaimFile, Vec<CheckedClaim>)]) -> String {
    let mut text = String::from("# Published claims, recomputed\n\n");
    text += &summary(files);
    text.push('\n');
    for (file, claims) in files {
        text += &format!(
            "\n## {}\n\nSource: {}, {}.\n\n",
            file.title, file.source, file.as_of
        );
        text += &grid(claims).markdown();
        text.push('\n');
        for claim in claims {
            text += &format!("- **{}**: {}\n", claim.id, sentence(claim));
        }
    }
    text
}

fn heading(file: &ClaimFile) -> String {
    format!("{} ({}, {})", file.title, file.source, file.as_of)
}

fn sentence(claim: &CheckedClaim) -> String {
    let mut text = format!("{}.", claim.says);
    if let Some(assumption) = &claim.assumption {
        text += &format!(" Assumed: {assumption}.");
    }
    for missing in &claim.computed.missing {
        text += &format!(" Not computed: {} ({}).", missing.text, missing.reason);
    }
    text
}

fn grid(claims: &[CheckedClaim]) -> Grid {
    let mut grid = Grid::new(
        &[
            "claim",
            "quantity",
            "published",
            "recomputed",
            "off by",
            "verdict",
        ],
        2,
    );
    grid.whole_first = true;
    for claim in claims {
        let mut lead = (claim.id.clone(), claim.verdict.name().to_string());
        if claim.computed.outcomes.is_empty() {
            grid.row(vec![
                lead.0,
                "–".into(),
                String::new(),
                String::new(),
                String::new(),
                lead.1,
            ]);
            continue;
        }
        for outcome in &claim.computed.outcomes {
            let published = match (outcome.published, outcome.within) {
                (Some(p), _) => with_unit(p, &outcome.unit),
                (None, Some([low, high])) => format!(
                    "{} to {}",
                    with_unit(low, &outcome.unit),
                    with_unit(high, &outcome.unit)
                ),
                (None, None) => String::new(),
            };
            grid.row(vec![
                std::mem::take(&mut lead.0),
                outcome.text.clone(),
                published,
                recomputed(outcome),
                deviation(outcome),
                std::mem::take(&mut lead.1),
            ]);
        }
    }
    grid
}

fn recomputed(outcome: &Outcome) -> String {
    let Interval { value, low, high } = outcome.recomputed;
    let value = with_unit(value, &outcome.unit);
    match (low, high) {
        (Some(low), Some(high)) => format!(
            "{value}\n[{}, {}]",
            with_unit(low, &outcome.unit),
            with_unit(high, &outcome.unit)
        ),
        _ => value,
    }
}

fn deviation(outcome: &Outcome) -> String {
    let off = outcome.deviation.map_or_else(String::new, |d| {
        format!("{:+.1} %", d * 100.0).replace("-0.0", "0.0")
    });
    match outcome.agrees {
        Some(false) => format!("{off} NO").trim().to_string(),
        _ => off,
    }
}

fn summary(files: &[(&ClaimFile, Vec<CheckedClaim>)]) -> String {
    let claims: Vec<&CheckedClaim> = files.iter().flat_map(|(_, c)| c).collect();
    let count = |verdict: Verdict| claims.iter().filter(|c| c.verdict == verdict).count();
    format!(
        "{} claims: {} reproduce, {} under an assumption, {} do not, {} are not checkable here. \
         {} identities and {} what-ifs are computed but confirm nothing. Brackets: what the \
         rounding of the published figures, or the interval of the run, leaves open. A figure \
         agrees if the ranges meet.",
        claims.len(),
        count(Verdict::Reproduces),
        count(Verdict::ReproducesUnderAssumption),
        count(Verdict::DoesNotReproduce),
        count(Verdict::NotCheckable),
        count(Verdict::Identity),
        count(Verdict::WhatIf),
    )
}

/// A scenario: inputs, results, assumptions. `set` are the inputs the user replaced.
#[must_use]
pub fn scenario_table(scenario: &Scenario, computed: &Computed, set: &[String]) -> String {
    let mut text = paragraph("", &format!("{}: {}", scenario.name, scenario.title));
    text += &inputs(scenario, set).text();
    text += &results(computed).text();
    text += &paragraph(
        "",
        "A what-if: these numbers follow from the inputs and confirm nothing.",
    );
    for missing in &computed.missing {
        text += &paragraph(
            "Missing     ",
            &format!("{}: {}", missing.text, missing.reason),
        );
    }
    for assumption in &scenario.assumptions {
        text += &paragraph("Assumption  ", assumption);
    }
    text += &paragraph(
        "Source      ",
        &format!("{}, {}", scenario.source, scenario.as_of),
    );
    text
}

/// The same in Markdown.
#[must_use]
pub fn scenario_markdown(scenario: &Scenario, computed: &Computed, set: &[String]) -> String {
    let mut text = format!(
        "# {}: {}\n\nA what-if: these numbers follow from the inputs and confirm nothing.\n\n",
        scenario.name, scenario.title
    );
    text += &inputs(scenario, set).markdown();
    text.push('\n');
    text += &results(computed).markdown();
    text.push('\n');
    for missing in &computed.missing {
        text += &format!("- Missing: {}: {}\n", missing.text, missing.reason);
    }
    for assumption in &scenario.assumptions {
        text += &format!("- Assumption: {assumption}\n");
    }
    text + &format!("- Source: {}, {}\n", scenario.source, scenario.as_of)
}

fn inputs(scenario: &Scenario, set: &[String]) -> Grid {
    let mut grid = Grid::new(&["input", "is", "of", "value"], 3);
    for (name, quantity) in &scenario.sheet.inputs {
        let of = if set.contains(name) {
            "you"
        } else {
            "the source"
        };
        grid.row(vec![
            name.clone(),
            quantity.text.clone(),
            of.into(),
            with_unit(quantity.value, &quantity.unit),
        ]);
    }
    grid
}

fn results(computed: &Computed) -> Grid {
    let mut grid = Grid::new(&["result", "by", "comes to"], 2);
    for outcome in &computed.outcomes {
        grid.row(vec![
            outcome.text.clone(),
            outcome.formula.clone(),
            recomputed(outcome),
        ]);
    }
    grid
}

//! What stands in the price books.

use costmark_econ::check::Objection;
use costmark_econ::{ListPrice, Price};

use crate::money::layout::Grid;
use crate::numbers::short;

/// Rental prices, dearest information first: what it is, what it costs, since when.
#[must_use]
pub fn rental_table(prices: &[&Price]) -> String {
    let mut grid = Grid::new(
        &["price", "accelerators", "as of", "$/h", "$/h each", ""],
        3,
    );
    for p in prices {
        let accelerators = match &p.accelerator {
            Some(name) => format!("{} × {name}", p.accelerator_count),
            None => p.vcpus.map_or_else(String::new, |n| format!("{n} vCPU")),
        };
        grid.row(vec![
            p.reference(),
            accelerators,
            p.as_of.to_string(),
            short(p.usd_per_hour),
            p.usd_per_accelerator_hour().map_or_else(String::new, short),
            mark(p.suspect.is_some(), p.note.is_some()),
        ]);
    }
    grid.text() + &legend(prices.iter().map(|p| (p.suspect.as_ref(), p.note.as_ref())))
}

/// List prices, USD per million tokens.
#[must_use]
pub fn list_table(prices: &[&ListPrice]) -> String {
    let mut grid = Grid::new(
        &[
            "list price",
            "as of",
            "input",
            "cached",
            "write",
            "output",
            "batch in",
            "out",
            "",
        ],
        2,
    );
    let money = |usd: Option<f64>| usd.map_or_else(String::new, short);
    for p in prices {
        grid.row(vec![
            p.reference(),
            p.as_of.to_string(),
            short(p.input),
            money(p.cached_read),
            money(p.cache_write),
            short(p.output),
            money(p.batch_input),
            money(p.batch_output),
            mark(
                p.suspect.is_some(),
                p.note.is_some() || p.long_context.is_some(),
            ),
        ]);
    }
    grid.text()
        + "USD per million tokens; * marks a note or other prices for long prompts (see --json).\n"
        + &legend(prices.iter().map(|p| (p.suspect.as_ref(), None)))
}

fn mark(suspect: bool, note: bool) -> String {
    match (suspect, note) {
        (true, _) => "?".into(),
        (false, true) => "*".into(),
        (false, false) => String::new(),
    }
}

/// The reasons behind the marks, each once.
fn legend<'a>(marks: impl Iterator<Item = (Option<&'a String>, Option<&'a String>)>) -> String {
    let (mut doubts, mut notes) = (Vec::new(), Vec::new());
    for (suspect, note) in marks {
        for (list, reason) in [(&mut doubts, suspect), (&mut notes, note)] {
            if let Some(reason) = reason.filter(|r| !list.contains(r)) {
                list.push(reason);
            }
        }
    }
    let line =
        |sign: &str, reason: &String| crate::money::layout::paragraph(&format!("{sign} "), reason);
    doubts
        .iter()
        .map(|r| line("? suspect:", r))
        .collect::<String>()
        + &notes.iter().map(|r| line("*", r)).collect::<String>()
}

/// What `costmark prices check` objects to.
#[must_use]
pub fn objections_table(objections: &[Objection]) -> String {
    let mut text = String::new();
    for o in objections {
        text += &crate::money::layout::paragraph(
            &format!("{:<8}  ", o.code),
            &format!("{} ({}): {}", o.reference, o.file, o.message),
        );
    }
    text
}

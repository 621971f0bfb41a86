//! Books as text that a person goes on keeping.

use std::fmt::Write;

use crate::api::ListPrice;
use crate::book::{Price, Term};

/// A rental book of one provider: a quote per term, an entry per line.
#[must_use]
pub fn price_book(provider: &str, prices: &[Price]) -> String {
    let mut text = format!("schema_version = 1\nprovider = {}\n", quoted(provider));
    for term in Term::ALL {
        let of: Vec<&Price> = prices.iter().filter(|p| p.term == term).collect();
        let Some(first) = of.first() else { continue };
        let _ = write!(
            text,
            "\n[[quote]]\nsource = {}\nas_of = \"{}\"\nterm = \"{term}\"\nprices = [\n",
            quoted(&first.source),
            first.as_of
        );
        for price in of {
            let mut fields = vec![
                format!("instance = {}", quoted(&price.instance)),
                format!("region = {}", quoted(&price.region)),
            ];
            if let Some(name) = &price.accelerator {
                fields.push(format!("accelerator = {}", quoted(name)));
                fields.push(format!("accelerator_count = {}", price.accelerator_count));
            }
            if let Some(vcpus) = price.vcpus {
                fields.push(format!("vcpus = {vcpus}"));
            }
            if let Some(gib) = price.memory_gib {
                fields.push(format!("memory_gib = {}", float(gib)));
            }
            fields.push(format!("usd_per_hour = {}", float(price.usd_per_hour)));
            notes(&mut fields, price.suspect.as_ref(), price.note.as_ref());
            let _ = writeln!(text, "  {{ {} }},", fields.join(", "));
        }
        text.push_str("]\n");
    }
    text
}

/// A book of list prices of one provider.
#[must_use]
pub fn list_book(provider: &str, prices: &[ListPrice]) -> String {
    let mut text = format!("schema_version = 1\nprovider = {}\n", quoted(provider));
    let Some(first) = prices.first() else {
        return text;
    };
    let _ = write!(
        text,
        "\n[[list]]\nsource = {}\nas_of = \"{}\"\nunit = \"usd_per_mtok\"\nmodels = [\n",
        quoted(&first.source),
        first.as_of
    );
    for price in prices {
        let mut fields = vec![format!("model = {}", quoted(&price.model))];
        let mut add = |key: &str, usd: Option<f64>| {
            if let Some(usd) = usd {
                fields.push(format!("{key} = {}", float(usd)));
            }
        };
        add("input", Some(price.input));
        add("cached_read", price.cached_read);
        add("cache_write", price.cache_write);
        add("cache_write_1h", price.cache_write_1h);
        add("output", Some(price.output));
        add("batch_input", price.batch_input);
        add("batch_output", price.batch_output);
        if let Some(long) = price.long_context {
            let mut tier = vec![
                format!("over_tokens = {}", long.over_tokens),
                format!("input = {}", float(long.input)),
            ];
            for (key, usd) in [
                ("cached_read", long.cached_read),
                ("cache_write", long.cache_write),
            ] {
                if let Some(usd) = usd {
                    tier.push(format!("{key} = {}", float(usd)));
                }
            }
            tier.push(format!("output = {}", float(long.output)));
            fields.push(format!("long_context = {{ {} }}", tier.join(", ")));
        }
        if let Some(day) = price.retires {
            fields.push(format!("retires = \"{day}\""));
        }
        notes(&mut fields, price.suspect.as_ref(), price.note.as_ref());
        let _ = writeln!(text, "  {{ {} }},", fields.join(", "));
    }
    text.push_str("]\n");
    text
}

fn notes(fields: &mut Vec<String>, suspect: Option<&String>, note: Option<&String>) {
    for (key, value) in [("suspect", suspect), ("note", note)] {
        if let Some(value) = value {
            fields.push(format!("{key} = {}", quoted(value)));
        }
    }
}

/// A basic TOML string, whatever it holds.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A float that TOML reads as one, never as an integer too large for it.
fn float(x: f64) -> String {
    format!("{x:?}")
}

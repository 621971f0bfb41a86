//! `costmark prices`: what the price books hold, what is wrong with it, and catalogues of others.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use costmark_econ::check::{check_lists, check_rental};
use costmark_econ::import::{
    Origin, Rejected, import_litellm, import_skypilot, list_book, price_book,
};
use costmark_econ::{ListBook, ListPrice, Price, PriceBook, Term};
use costmark_report::money::{list_table, objections_table, rental_table};
use costmark_report::numbers::short;
use jiff::civil::Date;

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::today;
use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum PricesCommand {
    /// Rental prices, list prices and hardware, by filter
    List(ListArgs),
    /// What a careful reader would object to: age, marks, outliers
    Check(CheckArgs),
    /// Turn a catalogue of others into a price book
    #[command(subcommand)]
    Import(ImportCommand),
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Machines by the hour
    Rental,
    /// Tokens by the million
    Api,
    /// Datasheets: memory, bandwidth, arithmetic, power
    Hardware,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ListArgs {
    /// What to list
    #[arg(long, value_enum, default_value = "rental")]
    pub(crate) kind: Kind,
    /// Only of this provider
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: Option<String>,
    /// Only accelerators whose name holds this, e.g. h100
    #[arg(long, value_name = "TEXT")]
    pub(crate) accelerator: Option<String>,
    /// Only models (with --kind api) whose name holds this
    #[arg(long, value_name = "TEXT")]
    pub(crate) model: Option<String>,
    /// Only on these terms: on_demand, spot, reserved_1y, reserved_3y, marketplace
    #[arg(long, value_name = "TERM")]
    pub(crate) term: Option<String>,
    /// Only in this region
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Option<String>,
    /// Read these price books too; their entries come before the built-in ones
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// Price books to check instead of the built-in ones
    pub(crate) files: Vec<PathBuf>,
    /// Exit with 1 if there is any objection
    #[arg(long)]
    pub(crate) strict: bool,
    /// Reckon ages from this day [default: today]
    #[arg(long, value_name = "DATE")]
    pub(crate) today: Option<Date>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// SkyPilot's vms.csv: one provider's instances with on-demand and spot prices
    Skypilot(SkypilotArgs),
    /// LiteLLM's model_prices_and_context_window.json: list prices per token
    Litellm(LitellmArgs),
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OriginArgs {
    /// Whom to cite: repository, commit and path
    #[arg(long, value_name = "TEXT")]
    pub(crate) source: String,
    /// The day the prices were seen, e.g. 2026-01-31
    #[arg(long, value_name = "DATE")]
    pub(crate) as_of: Date,
    /// Write the book here instead of to stdout; must not exist
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct SkypilotArgs {
    /// The catalogue
    pub(crate) file: PathBuf,
    /// Whose it is: aws, gcp, azure, …
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: String,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct LitellmArgs {
    /// The table of model prices
    pub(crate) file: PathBuf,
    /// The seller to take, as LiteLLM names it, e.g. deepinfra
    #[arg(long, value_name = "NAME")]
    pub(crate) provider: String,
    #[command(flatten)]
    pub(crate) origin: OriginArgs,
}

pub(crate) fn run(command: &PricesCommand) -> Result<()> {
    match command {
        PricesCommand::List(args) => list(args),
        PricesCommand::Check(args) => check(args),
        PricesCommand::Import(ImportCommand::Skypilot(args)) => skypilot(args),
        PricesCommand::Import(ImportCommand::Litellm(args)) => litellm(args),
    }
}

fn holds(text: &str, part: Option<&String>) -> bool {
    part.is_none_or(|part| {
        text.to_ascii_lowercase()
            .contains(&part.to_ascii_lowercase())
    })
}

fn list(args: &ListArgs) -> Result<()> {
    let books = Books::load(&args.prices)?;
    let term = match &args.term {
        None => None,
        Some(name) => Some(Term::from_name(name).ok_or_else(|| {
            Failure::input(format!(
                "--term `{name}`: the terms are {}",
                Term::ALL.map(Term::name).join(", ")
            ))
        })?),
    };
    refuse_filters(args)?;
    let of_provider = |p: &str| {
        args.provider
            .as_ref()
            .is_none_or(|wanted| p.eq_ignore_ascii_case(wanted))
    };
    match args.kind {
        Kind::Rental => {
            let mut found: Vec<&Price> = books
                .rental
                .prices()
                .map(|(_, p)| p)
                .filter(|p| {
                    of_provider(&p.provider)
                        && holds(
                            p.accelerator.as_deref().unwrap_or(""),
                            args.accelerator.as_ref(),
                        )
                        && term.is_none_or(|t| p.term == t)
                        && args
                            .region
                            .as_ref()
                            .is_none_or(|r| p.region.eq_ignore_ascii_case(r))
                })
                .collect();
            some(found.len(), || {
                providers(books.rental.prices().map(|(_, p)| &p.provider))
            })?;
            // Cheapest of a kind first.
            found.sort_by(|a, b| {
                let key = |p: &Price| p.usd_per_accelerator_hour().unwrap_or(p.usd_per_hour);
                a.accelerator
                    .cmp(&b.accelerator)
                    .then_with(|| key(a).total_cmp(&key(b)))
            });
            print(args.json, &found, |found| rental_table(found))
        }
        Kind::Api => {
            let found: Vec<&ListPrice> = books
                .lists
                .prices()
                .map(|(_, p)| p)
                .filter(|p| of_provider(&p.provider) && holds(&p.model, args.model.as_ref()))
                .collect();
            some(found.len(), || {
                providers(books.lists.prices().map(|(_, p)| &p.provider))
            })?;
            print(args.json, &found, |found| list_table(found))
        }
        Kind::Hardware => hardware(args),
    }
}

/// A filter that means nothing for what is listed is not passed over.
fn refuse_filters(args: &ListArgs) -> Result<()> {
    let given = [
        (
            "--provider",
            args.provider.is_some(),
            args.kind != Kind::Hardware,
        ),
        (
            "--accelerator",
            args.accelerator.is_some(),
            args.kind != Kind::Api,
        ),
        ("--model", args.model.is_some(), args.kind == Kind::Api),
        ("--term", args.term.is_some(), args.kind == Kind::Rental),
        ("--region", args.region.is_some(), args.kind == Kind::Rental),
    ];
    match given.iter().find(|(_, given, fits)| *given && !fits) {
        Some((flag, ..)) => Err(Failure::input(format!(
            "{flag} does not filter this kind of list; see --kind"
        ))),
        None => Ok(()),
    }
}

fn some(found: usize, providers: impl Fn() -> String) -> Result<()> {
    if found == 0 {
        return Err(Failure::input(format!(
            "no price fits all of these filters; the providers are {}",
            providers()
        )));
    }
    Ok(())
}

fn providers<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn print<T: serde::Serialize>(json: bool, found: &T, table: impl Fn(&T) -> String) -> Result<()> {
    if json {
        output::json(found)
    } else {
        output::text(&table(found))
    }
}

fn hardware(args: &ListArgs) -> Result<()> {
    let sheets = costmark_probe::Datasheets::embedded().map_err(Failure::input)?;
    let found: Vec<_> = sheets
        .devices()
        .iter()
        .filter(|d| holds(&d.name, args.accelerator.as_ref()))
        .collect();
    some(found.len(), || "not asked for here".into())?;
    let values: Vec<serde_json::Value> = found
        .iter()
        .map(|d| {
            serde_json::json!({
                "name": d.name, "vendor": d.vendor, "memory_bytes": d.memory_bytes,
                "bandwidth_bytes_per_s": d.bandwidth_bytes_per_s, "power_w": d.power_w,
                "f32_per_s": d.peaks.f32_per_s, "f16_per_s": d.peaks.f16_per_s,
                "bf16_per_s": d.peaks.bf16_per_s, "fp8_per_s": d.peaks.fp8_per_s,
                "int8_per_s": d.peaks.int8_per_s, "source": d.source,
                "unconfirmed": d.unconfirmed, "capex": d.capex.as_ref().map(|c| serde_json::json!({
                    "usd": c.usd, "as_of": c.as_of, "source": c.source,
                })),
            })
        })
        .collect();
    if args.json {
        return output::json(&values);
    }
    let mut text = String::new();
    let figure = |x: Option<f64>, scale: f64| x.map_or_else(|| "–".into(), |x| short(x / scale));
    text += &format!(
        "{:<30}{:>8}{:>8}{:>9}{:>9}{:>9}{:>7}{:>9}\n",
        "device", "GB", "GB/s", "bf16", "fp8", "int8", "W", "$"
    );
    for d in &found {
        text += &format!(
            "{:<30}{:>8}{:>8}{:>9}{:>9}{:>9}{:>7}{:>9}{}\n",
            d.name,
            figure(d.memory_bytes.map(|b| b as f64), 1e9),
            figure(Some(d.bandwidth_bytes_per_s), 1e9),
            figure(d.peaks.bf16_per_s.or(d.peaks.f16_per_s), 1e12),
            figure(d.peaks.fp8_per_s, 1e12),
            figure(d.peaks.int8_per_s, 1e12),
            figure(d.power_w, 1.0),
            figure(d.capex.as_ref().map(|c| c.usd), 1.0),
            if d.unconfirmed.is_some() { " ?" } else { "" },
        );
    }
    text += "Vendors' dense peaks in 10^12 operations per second (f16 where there is no bf16); $: price of\n\
             one, where a source states it. ? was not confirmed against the document its entry names.\n\
             Sources: --json\n";
    output::text(&text)
}

fn check(args: &CheckArgs) -> Result<()> {
    let today = args.today.unwrap_or_else(today);
    let books = if args.files.is_empty() {
        Books::load(&[])?
    } else {
        let mut books = Books {
            rental: costmark_econ::PriceBooks::default(),
            lists: costmark_econ::ListBooks::default(),
        };
        for path in &args.files {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if text.lines().any(|line| line.trim() == "[[list]]") {
                books
                    .lists
                    .push(ListBook::load(path).map_err(Failure::input)?);
            } else {
                books
                    .rental
                    .push(PriceBook::load(path).map_err(Failure::input)?);
            }
        }
        books
    };
    let mut objections = check_rental(books.rental.prices(), today);
    objections.extend(check_lists(books.lists.prices(), today));
    if args.json {
        output::json(&objections)?;
    } else {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for o in &objections {
            *counts.entry(o.code).or_default() += 1;
        }
        let counts: Vec<String> = counts
            .iter()
            .map(|(code, n)| format!("{n} {code}"))
            .collect();
        let summary = format!(
            "{} rental and {} list prices checked on {today}: {}\n",
            books.rental.prices().count(),
            books.lists.prices().count(),
            if counts.is_empty() {
                "no objection".into()
            } else {
                counts.join(", ")
            },
        );
        output::text(&(objections_table(&objections) + &summary))?;
    }
    if args.strict && !objections.is_empty() {
        return Err(Failure::run(format!(
            "{} objections to the price books (--strict)",
            objections.len()
        )));
    }
    Ok(())
}

fn origin(args: &OriginArgs) -> Result<Origin> {
    if args.source.trim().is_empty() {
        return Err(Failure::input(
            "--source is empty; say where the prices were seen",
        ));
    }
    if args.as_of > today() {
        return Err(Failure::input(format!(
            "--as-of {}: that day is yet to come",
            args.as_of
        )));
    }
    Ok(Origin {
        source: args.source.clone(),
        as_of: args.as_of,
    })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Failure::input(format!("cannot read {}: {e}", path.display())))
}

fn skypilot(args: &SkypilotArgs) -> Result<()> {
    let text = read(&args.file)?;
    let file = args.file.display().to_string();
    let imported = import_skypilot(&file, &text, &args.provider, &origin(&args.origin)?)
        .map_err(Failure::input)?;
    let book = price_book(&args.provider, &imported.prices);
    PriceBook::parse("the imported book", &book).map_err(Failure::run)?;
    write(
        &args.origin,
        &file,
        &book,
        imported.prices.len(),
        &imported.rejected,
    )
}

fn litellm(args: &LitellmArgs) -> Result<()> {
    let text = read(&args.file)?;
    let file = args.file.display().to_string();
    let imported = import_litellm(&file, &text, Some(&args.provider), &origin(&args.origin)?)
        .map_err(Failure::input)?;
    let book = list_book(&args.provider, &imported.prices);
    ListBook::parse("the imported book", &book).map_err(|e| {
        if imported.prices.is_empty() {
            nothing(&file)
        } else {
            Failure::run(e)
        }
    })?;
    write(
        &args.origin,
        &file,
        &book,
        imported.prices.len(),
        &imported.rejected,
    )
}

fn nothing(file: &str) -> Failure {
    Failure::input(format!(
        "{file}: nothing in it is a price of that provider; look at the spelling of --provider"
    ))
}

fn write(
    args: &OriginArgs,
    file: &str,
    book: &str,
    prices: usize,
    rejected: &[Rejected],
) -> Result<()> {
    if prices == 0 {
        for r in rejected.iter().take(3) {
            anstream::eprintln!("left out {file}:{}: {}: {}", r.line, r.name, r.reason);
        }
        return Err(nothing(file));
    }
    match &args.output {
        None => output::text(book)?,
        Some(path) => {
            use std::io::Write;
            std::fs::File::create_new(path)
                .and_then(|mut f| f.write_all(book.as_bytes()))
                .map_err(|e| {
                    Failure::input(format!("--output: cannot write {}: {e}", path.display()))
                })?;
        }
    }
    for r in rejected {
        anstream::eprintln!("left out {file}:{}: {}: {}", r.line, r.name, r.reason);
    }
    anstream::eprintln!("{prices} prices, {} left out", rejected.len());
    Ok(())
}

//! On what terms a machine is paid for a run that was measured already.

use clap::Args;
use costmark_econ::{CostModel, Interruptions, Ownership, PriceChoice, reserved_usd_per_hour};
use costmark_probe::Datasheets;
use costmark_report::RunDocument;
use costmark_report::numbers::{percent, short, usd};

use crate::failure::{Failure, Result};
use crate::money::books::Books;
use crate::money::today;
use crate::price;

/// What an hour costs. Without any of these: what the run was priced with.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Price of time")]
pub(crate) struct TermsArgs {
    /// Price by a dated entry of the price book, e.g. aws/p5.4xlarge@us-east-1:spot
    #[arg(long, value_name = "PROVIDER/TYPE", conflicts_with_all = ["price", "capex"])]
    pub(crate) instance: Option<String>,
    /// Price of the whole machine, USD per hour
    #[arg(
        long,
        value_name = "USD",
        allow_negative_numbers = true,
        conflicts_with = "capex"
    )]
    pub(crate) price: Option<f64>,
    /// Share of the paid time the machine runs at the measured load [default: the run's]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) utilization: Option<f64>,
    /// Part of the machine that is charged, when it is split; the output says so
    #[arg(
        long,
        value_name = "SHARE",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub(crate) share: f64,
    /// Down payment of a reservation, USD, on top of its hourly price
    #[arg(
        long,
        value_name = "USD",
        requires = "reserved_years",
        allow_negative_numbers = true
    )]
    pub(crate) upfront: Option<f64>,
    /// Years of the reservation
    #[arg(
        long,
        value_name = "YEARS",
        requires = "upfront",
        allow_negative_numbers = true
    )]
    pub(crate) reserved_years: Option<f64>,
    /// How often a spot machine is taken away, per hour
    #[arg(
        long,
        value_name = "N",
        requires = "minutes_lost",
        allow_negative_numbers = true
    )]
    pub(crate) interruptions_per_hour: Option<f64>,
    /// Paid minutes without service at each interruption: start, load the model, repeat lost work
    #[arg(
        long,
        value_name = "MIN",
        requires = "interruptions_per_hour",
        allow_negative_numbers = true
    )]
    pub(crate) minutes_lost: Option<f64>,

    /// The machine is bought for this much, USD, host and network included
    #[arg(
        long,
        value_name = "USD",
        help_heading = "Owned machine",
        allow_negative_numbers = true
    )]
    pub(crate) capex: Option<f64>,
    /// What it is worth at the end
    #[arg(long, value_name = "USD", default_value_t = 0.0, requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) residual: f64,
    /// Useful life
    #[arg(long, value_name = "YEARS", default_value_t = 5.0, requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) life_years: f64,
    /// Yearly interest; 0 for straight-line depreciation
    #[arg(long, value_name = "RATE", default_value_t = 0.0, requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) discount_rate: f64,
    /// Power under load, kW [default: the datasheet's, of accelerators named with --device-name]
    #[arg(long, value_name = "KW", requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) load_kw: Option<f64>,
    /// Power when idle, kW
    #[arg(long, value_name = "KW", default_value_t = 0.0, requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) idle_kw: f64,
    /// Accelerators of the machine, to take their power from the datasheets: 8xH100 SXM
    #[arg(
        long,
        value_name = "NxNAME",
        requires = "capex",
        help_heading = "Owned machine"
    )]
    pub(crate) device_name: Option<String>,
    /// Energy of the site over energy of the machine, for the energy line of rented time too
    #[arg(long, value_name = "PUE", default_value_t = 1.3)]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) pue: f64,
    /// Electricity per kWh, for the energy line of rented time too
    #[arg(long, value_name = "USD", default_value_t = 0.08)]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) usd_per_kwh: f64,
    /// Space and power provision, USD per kW of load power and month
    #[arg(long, value_name = "USD", default_value_t = 0.0, requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) colocation: f64,
    /// Staff, repair, insurance, USD per year
    #[arg(long, value_name = "USD", default_value_t = 0.0, requires = "capex")]
    #[arg(help_heading = "Owned machine", allow_negative_numbers = true)]
    pub(crate) operations: f64,
}

/// Where a power is from that nobody measured.
const BY_DATASHEET: &str = "the accelerators' full power by datasheet, host not included";

/// A price of time and how it came about.
pub(crate) struct Terms {
    pub(crate) cost: CostModel,
    /// One sentence each, the price first.
    pub(crate) words: Vec<String>,
    /// What a reader must be told.
    pub(crate) caveats: Vec<String>,
    /// The price in few words.
    pub(crate) short: String,
    /// Accelerators the price is for; 0 where none or not known.
    pub(crate) accelerators: u32,
    /// Their datasheet name.
    pub(crate) accelerator: Option<String>,
    /// Watts under load of what the price is for, with where they are from; none where not known.
    pub(crate) power: Option<(f64, &'static str)>,
    /// Share of capital in the hourly price, where it is known.
    pub(crate) capital_share: Option<f64>,
}

impl Terms {
    pub(crate) fn resolve(args: &TermsArgs, run: &RunDocument, books: &Books) -> Result<Self> {
        let utilization = args.utilization.unwrap_or(run.price.utilization);
        let mut words = Vec::new();
        let mut caveats = Vec::new();
        let (mut accelerators, mut accelerator, mut capital_share) = (0, None, None);
        let mut short_words = run.price.reference.clone();
        let mut usd_per_hour = if let Some(capex) = args.capex {
            let (hour, share) = owned(args, capex, utilization, &mut words)?;
            capital_share = Some(share);
            if let Some((n, name)) = device(args)? {
                (accelerators, accelerator) = (n, Some(name));
            }
            hour
        } else if let Some(reference) = &args.instance {
            let choice = books
                .rental
                .find(reference)
                .map_err(|e| Failure::input(format!("--instance: {e}")))?;
            take(&choice, &mut words, &mut caveats);
            accelerators = choice.price.accelerator_count;
            accelerator = choice.price.accelerator.clone();
            let gpus = price::gpus_of(&run.backends);
            price::check(&choice.price, gpus.as_ref()).map_err(Failure::input)?;
            caveats.extend(price::misfit(
                &run.backends,
                &run.environment.label,
                &choice.price,
            ));
            short_words = format!("{}, {}", choice.price.reference(), choice.price.as_of);
            choice.price.usd_per_hour
        } else if let Some(price) = args.price {
            let choice = PriceChoice::stated(price, today())
                .map_err(|e| Failure::input(format!("--price: {e}")))?;
            take(&choice, &mut words, &mut caveats);
            price
        } else {
            words.push(format!("{}; the run's own price", run.price.explanation));
            if let Some(reason) = &run.price.suspect {
                caveats.push(format!("The price is suspect: {reason}."));
            }
            if let Ok(choice) = books.rental.find(&run.price.reference) {
                accelerators = choice.price.accelerator_count;
                accelerator = choice.price.accelerator;
            }
            run.price.usd_per_hour
        };
        if let (Some(upfront), Some(years)) = (args.upfront, args.reserved_years) {
            usd_per_hour = reserved_usd_per_hour(usd_per_hour, upfront, years)
                .map_err(|e| Failure::input(format!("--upfront: {e}")))?;
            words.push(format!(
                "plus ${} paid down over {years} years: ${}/h",
                short(upfront),
                short(usd_per_hour)
            ));
        }
        if let (Some(per_hour), Some(minutes_lost)) =
            (args.interruptions_per_hour, args.minutes_lost)
        {
            let interruptions = Interruptions {
                per_hour,
                minutes_lost,
            };
            usd_per_hour = interruptions
                .usd_per_hour(usd_per_hour)
                .map_err(|e| Failure::input(format!("--interruptions-per-hour: {e}")))?;
            words.push(format!(
                "{per_hour} interruptions per hour of {minutes_lost} lost minutes each: ${} per hour in \
                 service",
                short(usd_per_hour)
            ));
        }
        let power = match (args.load_kw, &accelerator) {
            (Some(kw), _) => Some((kw * 1e3, "the stated load power")),
            (None, Some(name)) => watts(name)
                .ok()
                .flatten()
                .map(|w| (w * f64::from(accelerators), BY_DATASHEET)),
            (None, None) => None,
        };
        let cost = CostModel::new(usd_per_hour, utilization, args.share)
            .map_err(|e| Failure::input(format!("--utilization, --share: {e}")))?;
        words.push(format!("utilization {}", percent(utilization)));
        if args.share < 1.0 {
            words.push(format!(
                "the machine is split: {} of it is charged",
                percent(args.share)
            ));
        }
        Ok(Self {
            cost,
            words,
            caveats,
            short: short_words,
            accelerators,
            accelerator,
            power,
            capital_share,
        })
    }
}

fn take(choice: &PriceChoice, words: &mut Vec<String>, caveats: &mut Vec<String>) {
    words.push(choice.describe());
    caveats.extend(choice.caveats());
}

/// Hourly cost of a bought machine, and the share of capital in it.
fn owned(
    args: &TermsArgs,
    capex: f64,
    utilization: f64,
    words: &mut Vec<String>,
) -> Result<(f64, f64)> {
    let load_kw = match (args.load_kw, device(args)?) {
        (Some(kw), _) => kw,
        (None, Some((n, name))) => {
            let watts = watts(&name)?.ok_or_else(|| {
                Failure::input(format!(
                    "--device-name: {name} has no power in its datasheet; give --load-kw"
                ))
            })?;
            words.push(format!(
                "load power of {n} × {name} by datasheet, host not included"
            ));
            f64::from(n) * watts / 1e3
        }
        (None, None) => {
            return Err(Failure::input(
                "--capex: give the power under load too (--load-kw), or --device-name to take it \
                 from a datasheet",
            ));
        }
    };
    let machine = Ownership {
        capex_usd: capex,
        residual_usd: args.residual,
        years: args.life_years,
        discount_rate: args.discount_rate,
        load_kw,
        idle_kw: args.idle_kw,
        load_share: utilization,
        pue: args.pue,
        usd_per_kwh: args.usd_per_kwh,
        colocation_usd_per_kw_month: args.colocation,
        operations_usd_per_year: args.operations,
    };
    let year = machine
        .yearly()
        .map_err(|e| Failure::input(format!("owned machine: {e}")))?;
    words.insert(
        0,
        format!(
            "owned, {} a year: capital {} ({} over {} years at {}), power {} ({} kW under load, {} kW \
             idle, PUE {}, ${}/kWh), colocation {}, operations {}; ${}/h over all hours",
            usd(year.total_usd),
            usd(year.capital_usd),
            usd(capex - args.residual),
            args.life_years,
            percent(args.discount_rate),
            usd(year.power_usd),
            short(load_kw),
            short(args.idle_kw),
            args.pue,
            args.usd_per_kwh,
            usd(year.colocation_usd),
            usd(year.operations_usd),
            short(year.usd_per_hour),
        ),
    );
    Ok((year.usd_per_hour, year.capital_usd / year.total_usd))
}

fn device(args: &TermsArgs) -> Result<Option<(u32, String)>> {
    let Some(text) = &args.device_name else {
        return Ok(None);
    };
    text.split_once('x')
        .and_then(|(n, name)| {
            Some((
                n.trim().parse().ok().filter(|n| *n > 0)?,
                name.trim().to_string(),
            ))
        })
        .map(Some)
        .ok_or_else(|| {
            Failure::input(format!(
                "--device-name `{text}`: write how many and what, such as 8xH100 SXM"
            ))
        })
}

/// Datasheet power of an accelerator; none where the sheet states none.
pub(crate) fn watts(name: &str) -> Result<Option<f64>> {
    let sheets = Datasheets::embedded().map_err(Failure::input)?;
    match sheets.find(name) {
        Some(sheet) => Ok(sheet.power_w),
        None => {
            let names: Vec<&str> = sheets.devices().iter().map(|d| d.name.as_str()).collect();
            Err(Failure::input(format!(
                "no datasheet of `{name}`; there are {}",
                names.join(", ")
            )))
        }
    }
}

//! SkyPilot's `vms.csv`: one row per instance type and zone, columns in an order that differs by
//! provider.
//!
//! - Google's host and accelerator rows are summed: there the machine and its accelerators are
//!   sold, and listed, apart.
//! - Spot columns hold placeholders: 0, the on-demand price again, or exactly a tenth of it. None
//!   of these is a price.
//! - Zones of a region mostly cost the same; where they do not, the dearest is taken and said.

use std::collections::BTreeMap;

use crate::book::{Price, Term};
use crate::error::BookError;
use crate::import::{Imported, Origin, Rejected};

struct Columns {
    instance: usize,
    region: usize,
    price: usize,
    spot: Option<usize>,
    accelerator: Option<usize>,
    count: Option<usize>,
    vcpus: Option<usize>,
    memory: Option<usize>,
}

/// One row that can be used.
struct Row {
    line: usize,
    instance: String,
    region: String,
    accelerator: Option<(String, u32)>,
    vcpus: Option<u32>,
    memory_gib: Option<f64>,
    price: f64,
    spot: Option<f64>,
}

/// What is known of an instance in a region after all its zones.
struct Offer {
    row: Row,
    zones_differ: bool,
}

/// Reads a catalogue of one provider.
///
/// # Errors
/// When the text has no header with `InstanceType`, `Price` and `Region`, or the provider's name
/// can not stand in a reference. Rows that are no price are returned, not errors.
pub fn import_skypilot(
    file: &str,
    text: &str,
    provider: &str,
    origin: &Origin,
) -> Result<Imported<Price>, BookError> {
    let error = |problem: String| BookError::Book {
        file: file.to_owned(),
        problem,
    };
    if let Some(problem) = crate::wire::name_problem("provider", provider) {
        return Err(error(problem));
    }
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let header = reader
        .headers()
        .map_err(|e| error(format!("not a CSV file: {e}")))?;
    let columns = Columns::of(header).map_err(error)?;
    let mut rejected = Vec::new();
    let mut offers: BTreeMap<(String, String), Offer> = BTreeMap::new();
    let mut accelerators: BTreeMap<(String, u32, String), Row> = BTreeMap::new();
    for (n, record) in reader.records().enumerate() {
        // The header is line 1; records that span lines are rare enough for a near line.
        let line = n + 2;
        let record = match record {
            Ok(record) => record,
            Err(e) => {
                rejected.push(Rejected {
                    line,
                    name: String::new(),
                    reason: format!("not a row of CSV: {e}"),
                });
                continue;
            }
        };
        match columns.row(line, &record, provider) {
            Err((name, reason)) => rejected.push(Rejected { line, name, reason }),
            Ok(row) if row.instance.is_empty() => {
                // Google's accelerators, sold apart.
                if let Some((name, count)) = row.accelerator.clone() {
                    let key = (name, count, row.region.clone());
                    let known = accelerators.get(&key).map_or(0.0, |r| r.price);
                    if row.price > known {
                        accelerators.insert(key, row);
                    }
                }
            }
            Ok(row) => {
                let key = (row.instance.clone(), row.region.clone());
                match offers.get_mut(&key) {
                    None => {
                        let zones_differ = false;
                        offers.insert(key, Offer { row, zones_differ });
                    }
                    Some(known) => known.add_zone(row),
                }
            }
        }
    }
    let mut prices = Vec::new();
    for (_, mut offer) in offers {
        if provider == "gcp"
            && let Err(reason) = add_accelerator(&mut offer.row, &accelerators)
        {
            rejected.push(Rejected {
                line: offer.row.line,
                name: offer.row.instance,
                reason,
            });
            continue;
        }
        offer.into_prices(provider, origin, &mut prices, &mut rejected);
    }
    rejected.sort_by_key(|r| r.line);
    Ok(Imported { prices, rejected })
}

impl Columns {
    fn of(header: &csv::StringRecord) -> Result<Self, String> {
        let find = |name: &str| {
            header
                .iter()
                .position(|h| h.trim().eq_ignore_ascii_case(name))
        };
        let needed = |name: &str| {
            find(name).ok_or_else(|| {
                format!(
                    "the header has no column {name}; a SkyPilot vms.csv has InstanceType, Price \
                     and Region"
                )
            })
        };
        Ok(Self {
            instance: needed("InstanceType")?,
            region: needed("Region")?,
            price: needed("Price")?,
            spot: find("SpotPrice"),
            accelerator: find("AcceleratorName"),
            count: find("AcceleratorCount"),
            vcpus: find("vCPUs"),
            memory: find("MemoryGiB"),
        })
    }

    fn row(
        &self,
        line: usize,
        record: &csv::StringRecord,
        provider: &str,
    ) -> Result<Row, (String, String)> {
        let text = |i: usize| record.get(i).unwrap_or_default().trim();
        let instance = text(self.instance).to_owned();
        let accelerator_name = self.accelerator.map(text).unwrap_or_default();
        let name = if instance.is_empty() {
            accelerator_name.to_owned()
        } else {
            instance.clone()
        };
        let refuse = |reason: String| (name.clone(), reason);
        if name.is_empty() {
            return Err(refuse(String::from(
                "names neither instance nor accelerator",
            )));
        }
        let region = text(self.region).to_owned();
        let bad = |c: char| c.is_whitespace() || matches!(c, '/' | '@' | ':');
        // Regions of marketplaces are places: "Sweden, SE, EU".
        let region = region.replace(", ", "-").replace([' ', '/', ':', '@'], "_");
        if region.is_empty() || region.chars().any(bad) {
            return Err(refuse(format!("the region `{region}` is not a name")));
        }
        if instance.chars().any(bad) {
            return Err(refuse(String::from(
                "the name holds spaces, `/`, `@` or `:`",
            )));
        }
        let number = |i: Option<usize>| -> Option<f64> {
            text(i?).parse::<f64>().ok().filter(|x| x.is_finite())
        };
        let whole =
            |x: f64| (x >= 1.0 && x <= f64::from(u32::MAX) && x.fract() == 0.0).then_some(x as u32);
        let accelerator = match (accelerator_name, number(self.count)) {
            ("", _) => None,
            (name, Some(n)) => match whole(n) {
                Some(n) => Some((name.to_owned(), n)),
                None => return Err(refuse(format!("{n} accelerators can not be rented"))),
            },
            (_, None) => return Err(refuse(String::from("the accelerator has no count"))),
        };
        let price = match number(Some(self.price)) {
            // A host part of Google's may be 0: all of the price is the accelerator's.
            Some(x) if x > 0.0 || (x == 0.0 && provider == "gcp") => x,
            Some(x) => return Err(refuse(format!("a price of {x} is none"))),
            None => return Err(refuse(format!("`{}` is not a price", text(self.price)))),
        };
        Ok(Row {
            line,
            instance,
            region,
            accelerator,
            vcpus: number(self.vcpus).and_then(whole),
            memory_gib: number(self.memory)
                .map(|m| m * gib_per_unit(provider))
                .filter(|m| *m > 0.0),
            price,
            spot: number(self.spot),
        })
    }
}

/// The column says GiB; some providers' files hold what the provider states instead.
fn gib_per_unit(provider: &str) -> f64 {
    const GB: f64 = 1e9 / (1u64 << 30) as f64;
    match provider {
        // Marketplaces of MiB and GB.
        "vast" => 1.0 / 1024.0,
        "fluidstack" | "paperspace" => GB,
        _ => 1.0,
    }
}

impl Offer {
    fn add_zone(&mut self, row: Row) {
        let differs = |a: f64, b: f64| (a - b).abs() > 1e-9 * a.max(b);
        if differs(self.row.price, row.price) {
            self.zones_differ = true;
            self.row.price = self.row.price.max(row.price);
        }
        self.row.spot = match (self.row.spot, row.spot) {
            (Some(a), Some(b)) => {
                self.zones_differ |= differs(a, b);
                Some(a.max(b))
            }
            (a, b) => a.or(b),
        };
    }

    fn into_prices(
        self,
        provider: &str,
        origin: &Origin,
        prices: &mut Vec<Price>,
        rejected: &mut Vec<Rejected>,
    ) {
        let Self { row, zones_differ } = self;
        let mut reject = |reason: String| {
            rejected.push(Rejected {
                line: row.line,
                name: row.instance.clone(),
                reason,
            });
        };
        if row.price <= 0.0 {
            reject(String::from("a price of 0 is none"));
            return;
        }
        let terms = [
            (
                if provider == "vast" {
                    Term::Marketplace
                } else {
                    Term::OnDemand
                },
                Some(row.price),
            ),
            (Term::Spot, row.spot),
        ];
        for (term, usd_per_hour) in terms {
            let Some(usd_per_hour) = usd_per_hour else {
                continue;
            };
            if term == Term::Spot
                && let Some(what) = placeholder(usd_per_hour, row.price)
            {
                reject(format!(
                    "the spot price {usd_per_hour} is a placeholder: {what}"
                ));
                continue;
            }
            let doubt = (term == Term::Spot && usd_per_hour > row.price)
                .then(|| format!("spot is dearer than the on-demand price of {}", row.price));
            prices.push(Price {
                provider: provider.to_owned(),
                instance: row.instance.clone(),
                accelerator: row.accelerator.as_ref().map(|(name, _)| name.clone()),
                accelerator_count: row.accelerator.as_ref().map_or(0, |(_, n)| *n),
                vcpus: row.vcpus,
                memory_gib: row.memory_gib,
                region: row.region.clone(),
                term,
                usd_per_hour,
                as_of: origin.as_of,
                source: origin.source.clone(),
                suspect: doubt,
                note: zones_differ
                    .then(|| String::from("zones of the region differ; this is the dearest")),
            });
        }
    }
}

/// Why a spot price is none.
fn placeholder(spot: f64, on_demand: f64) -> Option<&'static str> {
    let equals = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs();
    if spot <= 0.0 {
        Some("0 or less")
    } else if equals(spot, on_demand) {
        Some("the on-demand price again")
    } else if equals(spot, on_demand * 0.1) {
        Some("exactly a tenth of the on-demand price")
    } else {
        None
    }
}

/// Adds what the accelerators of a Google machine cost to its host price. Which and how many
/// there are is in the name of the machine type.
///
/// # Errors
/// When the accelerator's row is missing: the host alone would be a fraction of the price.
fn add_accelerator(
    row: &mut Row,
    accelerators: &BTreeMap<(String, u32, String), Row>,
) -> Result<(), String> {
    if row.accelerator.is_some() {
        return Ok(());
    }
    let Some((name, count)) = gcp_accelerator(&row.instance) else {
        return Ok(());
    };
    let key = (name.to_owned(), count, row.region.clone());
    let part = accelerators.get(&key).ok_or_else(|| {
        format!(
            "no row for its {count} {name} in {}; the host alone is not a price",
            row.region
        )
    })?;
    row.price += part.price;
    row.spot = match (row.spot, part.spot) {
        // A placeholder of one part spoils the sum.
        (Some(host), Some(spot)) if placeholder(spot, part.price).is_none() => Some(host + spot),
        _ => None,
    };
    row.accelerator = Some((name.to_owned(), count));
    Ok(())
}

/// Accelerators of a Google machine type, by its documented names.
fn gcp_accelerator(instance: &str) -> Option<(&'static str, u32)> {
    let (family, size) = instance.rsplit_once('-')?;
    let count = |size: &str| {
        size.trim_end_matches('g')
            .parse::<u32>()
            .ok()
            .filter(|n| *n > 0)
    };
    match family {
        "a2-highgpu" | "a2-megagpu" => Some(("A100", count(size)?)),
        "a2-ultragpu" => Some(("A100-80GB", count(size)?)),
        "a3-highgpu" | "a3-edgegpu" => Some(("H100", count(size)?)),
        "a3-megagpu" => Some(("H100-MEGA", count(size)?)),
        "a3-ultragpu" => Some(("H200", count(size)?)),
        "a4-highgpu" => Some(("B200", count(size)?)),
        "g2-standard" => Some((
            "L4",
            match size {
                "24" => 2,
                "48" => 4,
                "96" => 8,
                _ => 1,
            },
        )),
        _ => None,
    }
}

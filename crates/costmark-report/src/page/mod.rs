//! `report.html`: one page that explains itself, without a network.
//!
//! The words and tables are written here and can be read without scripts; `assets/page.js` adds
//! charts (drawn by Plotly, see `build.rs`) and the sliders that price the run anew. Whatever
//! comes from outside (names of models, hosts, files) goes through `html::escaped` or into
//! the JSON block, from which the script takes it as text.

mod data;
mod html;
mod pictures;
mod pricing;
mod raw;
mod sections;
#[cfg(test)]
mod tests;

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use costmark_core::Roofline;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::compare::{Metric, compare};
use crate::document::UnitDocument;
use crate::error::{ReportError, Result};
use crate::find::NamedRun;
use crate::store::{REQUESTS_FILE, RUN_FILE, STEPS_FILE, TELEMETRY_FILE};

pub use pricing::{ListPrice, Pricing};

const TEMPLATE: &str = include_str!("assets/page.html");
const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/page.js");
/// Plotly, gzip, base64: written by `build.rs`.
const PLOTLY: &str = include_str!(concat!(env!("OUT_DIR"), "/plotly.js.gz.base64"));

/// Raw lines up to this size travel inside the page.
const EMBED_RAW_BYTES: u64 = 4 << 20;

/// Writes the page for `runs`, the first of which the others are compared with. `list` is where
/// the price sliders start; without it they start at the break-even price.
///
/// # Errors
/// When raw lines cannot be read.
pub fn page(runs: &[NamedRun], list: Option<&ListPrice>) -> Result<String> {
    let comparison = compare(runs, &[]);
    let ranked_by = comparison
        .cheapest
        .as_ref()
        .and_then(|cheapest| Metric::named(cheapest.metric));
    let mut data = Vec::new();
    let mut remarks = Vec::new();
    for run in runs {
        let mut pictures = pictures::Pictures::new(&run.document);
        remarks.extend(raw::read(&run.path, &mut pictures)?);
        // On simulated time the samples are of another clock than the requests.
        if run.document.units.iter().any(|unit| unit.machine.is_some()) {
            remarks.extend(raw::read_telemetry(&run.path, &mut pictures)?);
        }
        data.push(data::RunData::new(
            run,
            pictures.finish(),
            downloads(run)?,
            ranked_by,
        ));
    }
    let list = match list {
        Some(list) => Pricing::given(list),
        None => Pricing::break_even(&runs[0].document),
    };
    let block = serde_json::json!({ "runs": data, "list": list });
    let page = sections::Page {
        runs,
        data: &data,
        comparison: &comparison,
        remarks: &remarks,
        list: &list,
    };
    Ok(html::fill(
        TEMPLATE,
        &[
            ("title", &html::escaped(&page.title())),
            ("style", STYLE),
            ("body", &page.body()),
            // A `<` could end the block, whatever stands in it.
            ("data", &block.to_string().replace('<', "\\u003c")),
            ("plotly", PLOTLY),
            ("script", SCRIPT),
        ],
    ))
}

/// A file inside the page.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub(crate) struct Download {
    name: String,
    gzip_base64: String,
}

fn downloads(run: &NamedRun) -> Result<Vec<Download>> {
    let size = |name: &str| run.path.join(name).metadata().map_or(0, |m| m.len());
    let mut names = vec![RUN_FILE];
    if size(REQUESTS_FILE) + size(STEPS_FILE) + size(TELEMETRY_FILE) <= EMBED_RAW_BYTES {
        names.extend([REQUESTS_FILE, STEPS_FILE, TELEMETRY_FILE]);
    }
    names
        .into_iter()
        .filter(|name| run.path.join(name).is_file())
        .map(|name| {
            let path = run.path.join(name);
            let bytes = std::fs::read(&path).map_err(|e| ReportError::read(&path, e))?;
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            let packed = encoder
                .write_all(&bytes)
                .and_then(|()| encoder.finish())
                .map_err(|e| ReportError::read(&path, e))?;
            Ok(Download {
                name: name.to_string(),
                gzip_base64: STANDARD.encode(packed),
            })
        })
        .collect()
}

/// The peaks a unit's MBU and MFU are shares of.
fn roofline(unit: &UnitDocument) -> Option<Roofline> {
    unit.roofline
}

//! Input and output time fitted over the workloads of a run, where no step log tells them apart.

use costmark_core::Interval;
use costmark_econ::CostModel;
use costmark_econ::fit::{BusyWindow, FittedSplit, Law, fit};
use serde::Serialize;

use crate::document::{LevelDocument, LoadDocument, RunDocument};
use crate::money::layout::in_line;
use crate::numbers::{percent, usd};

/// What came of a fit over the workloads that were put on one model under one load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FittedLoad {
    /// The load, with the model where there are several.
    pub label: String,
    /// The workloads.
    pub workloads: Vec<String>,
    /// Windows, repeats included.
    pub windows: usize,
    /// Per million computed prompt tokens.
    pub usd_per_mtok_input: Option<Interval>,
    /// Per million output tokens.
    pub usd_per_mtok_output: Option<Interval>,
    /// How far the law was off at the worst workload, and whether that is more than chance.
    pub law: Option<String>,
    /// Why there is no fit.
    pub reason: Option<String>,
}

impl FittedLoad {
    /// In a sentence.
    #[must_use]
    pub fn in_words(&self) -> String {
        let at = format!("at {}", self.label);
        let (Some(input), Some(output)) = (&self.usd_per_mtok_input, &self.usd_per_mtok_output)
        else {
            let reason = self.reason.as_deref().unwrap_or("no cost");
            return format!("{at}: input and output are not told apart: {reason}");
        };
        format!(
            "{at}, over {} windows of {}: {} per million input tokens, {} per million output \
             tokens{}",
            self.windows,
            self.workloads.join(", "),
            in_line(input, usd),
            in_line(output, usd),
            self.law
                .as_deref()
                .map(|law| format!("; {law}"))
                .unwrap_or_default()
        )
    }
}

/// The fits of a run: one for each model and load that several workloads were measured at.
///
/// Only loads that keep the machine busy count: at a rate of its own choosing a server idles, and
/// a window's length says nothing of its tokens.
#[must_use]
pub fn fitted_loads(run: &RunDocument, cost: &CostModel) -> Vec<FittedLoad> {
    let mut done: Vec<(&str, &LoadDocument)> = Vec::new();
    let mut found = Vec::new();
    for level in &run.levels {
        let key = (level.model.as_str(), &level.load);
        let levels = alike(run, level);
        if done.contains(&key) || levels.len() < 2 {
            continue;
        }
        done.push(key);
        let windows = windows(run, &levels);
        let model = match run.plan.models.len() {
            1 => String::new(),
            _ => format!(" on {}", level.model),
        };
        let mut fitted = FittedLoad {
            label: format!("{}{model}", level.load.label()),
            workloads: levels.iter().map(|l| l.workload.clone()).collect(),
            windows: windows.len(),
            usd_per_mtok_input: None,
            usd_per_mtok_output: None,
            law: None,
            reason: None,
        };
        match fit(&windows) {
            Ok(split) => {
                fitted.usd_per_mtok_input = Some(money(split.input_s, cost));
                fitted.usd_per_mtok_output = Some(money(split.output_s, cost));
                fitted.law = Some(law(&split, &fitted.workloads));
            }
            Err(reason) => fitted.reason = Some(reason.to_string()),
        }
        found.push(fitted);
    }
    found
}

/// The fit a level takes part in, if there is one.
pub(crate) fn split_of(run: &RunDocument, level: &LevelDocument) -> Option<FittedSplit> {
    let levels = alike(run, level);
    fit(&windows(run, &levels)).ok()
}

/// The levels of other workloads on the same model under the same load, `level` included; none
/// where the load does not keep the machine busy.
fn alike<'a>(run: &'a RunDocument, level: &LevelDocument) -> Vec<&'a LevelDocument> {
    let busy = matches!(
        level.load,
        LoadDocument::ClosedLoop { .. } | LoadDocument::MaxThroughput { .. }
    );
    run.levels
        .iter()
        .filter(|l| busy && l.model == level.model && l.load == level.load)
        .collect()
}

fn windows(run: &RunDocument, levels: &[&LevelDocument]) -> Vec<BusyWindow> {
    levels
        .iter()
        .enumerate()
        .flat_map(|(workload, level)| {
            run.units
                .iter()
                .filter(|u| u.usable && u.level == level.id)
                .filter_map(|u| u.cost.as_ref())
                .map(move |cost| BusyWindow {
                    workload,
                    seconds: cost.window_s,
                    input: cost.input_tokens.saturating_sub(cost.cached_tokens) as f64,
                    output: cost.output_tokens as f64,
                })
        })
        .collect()
}

fn money(seconds: Interval, cost: &CostModel) -> Interval {
    let usd = |s: f64| cost.cost_usd(s) * costmark_econ::TOKENS_PER_MTOK;
    Interval {
        value: usd(seconds.value),
        low: seconds.low.map(usd),
        high: seconds.high.map(usd),
    }
}

fn law(split: &FittedSplit, workloads: &[String]) -> String {
    let (worst, deviation) = split.worst;
    let name = workloads.get(worst).map_or("one workload", String::as_str);
    let off = format!(
        "{name} takes {} {} than that",
        percent(deviation.abs()),
        if deviation > 0.0 { "longer" } else { "shorter" }
    );
    match split.law {
        Law::Untested => {
            "two workloads fit any two prices: a third would tell whether they hold".into()
        }
        Law::Holds => format!("at most {off}, no more than repeats vary"),
        Law::Approximate => format!(
            "{off}, more than repeats vary: the two prices are an approximation, and their \
             intervals are as wide as workloads differ"
        ),
    }
}

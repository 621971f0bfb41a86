//! Which unit is measured next: the plan's, or what a search for the highest rate asks for.
//!
//! Both follow from the plan and the units measured so far alone, so that a run that is taken
//! up again goes on as if it had not been interrupted.

use costmark_load::{ArrivalProcess, Probe, RateSearch, SearchStep, Stop};
use costmark_metrics::SloCounts;
use costmark_report::LevelId;
use costmark_report::document::{Limit, ProbeDocument, SearchDocument, SearchStatus, UnitDocument};

use crate::plan::{Level, Load, Plan, SearchPlan, Unit, level_id};

/// The next unit of a plan, with its level; `None` when all is measured.
pub(crate) fn next(plan: &Plan, done: &[UnitDocument]) -> Option<(Unit, Level)> {
    let Some(search) = plan.search else {
        let unit = plan.units().into_iter().nth(done.len())?;
        return Some((unit, plan.levels[unit.level].clone()));
    };
    places(plan)
        .find_map(|place| place.walk(search, done).1)
        .map(|(level, repeat)| {
            let number = u32::try_from(done.len()).unwrap_or(u32::MAX);
            let unit = Unit {
                number,
                level: 0,
                repeat,
            };
            (unit, level)
        })
}

/// What the searches of a plan have found so far; those that have begun.
pub(crate) fn searches(plan: &Plan, done: &[UnitDocument]) -> Vec<SearchDocument> {
    let Some(search) = plan.search else {
        return Vec::new();
    };
    places(plan)
        .map(|place| place.walk(search, done).0)
        .filter(|found| !found.probes.is_empty() || found.batch_requests_per_s.is_some())
        .collect()
}

/// A model and a workload of a plan, by their indices: each has a search of its own.
struct Place<'a> {
    plan: &'a Plan,
    model: usize,
    workload: usize,
}

fn places(plan: &Plan) -> impl Iterator<Item = Place<'_>> {
    (0..plan.models.len()).flat_map(move |model| {
        (0..plan.workloads.len()).map(move |workload| Place {
            plan,
            model,
            workload,
        })
    })
}

/// A level and a repeat of it.
type Wanted = (Level, u32);

impl Place<'_> {
    fn level(&self, load: Load, requests: u64) -> Level {
        let plan = self.plan;
        let model = (plan.models.len() > 1).then(|| plan.models[self.model].id());
        let workload = &plan.workloads[self.workload].id;
        let workload = (plan.workloads.len() > 1).then_some(workload.as_str());
        Level {
            id: level_id(model.as_deref(), workload, load),
            model: self.model,
            workload: self.workload,
            load,
            stop: Stop::Requests(requests),
        }
    }

    /// Goes the way of the search as far as it has been measured: how it stands, and what is
    /// to be measured next.
    fn walk(&self, search: SearchPlan, done: &[UnitDocument]) -> (SearchDocument, Option<Wanted>) {
        let plan = self.plan;
        let mut found = SearchDocument {
            model: plan.models[self.model].id(),
            workload: plan.workloads[self.workload].id.clone(),
            slo: plan.slo.unwrap_or_default(),
            share: search.share,
            status: SearchStatus::Searching,
            batch_requests_per_s: None,
            held: None,
            missed: None,
            limit: None,
            probes: Vec::new(),
        };
        let open = |process| Load::Open {
            process,
            max_in_flight: search.max_in_flight,
        };
        // A batch once: it only says where to begin.
        let batch = self.level(open(ArrivalProcess::AtOnce), search.requests);
        let first = match search.first {
            Some(first) => first,
            None => match of_level(done, &batch.id).first() {
                None => return (found, Some((batch, 0))),
                Some(unit) => {
                    let per_s = unit.summary.throughput.requests_per_s;
                    found.batch_requests_per_s = Some(per_s);
                    if !(per_s.is_finite() && per_s > 0.0) {
                        found.status = SearchStatus::NoCapacity;
                        return (found, None);
                    }
                    FIRST_SHARE * per_s
                }
            },
        };
        let way = RateSearch::from_rate(first);
        let mut probes = Vec::new();
        loop {
            found.status = match way.next(&probes) {
                SearchStep::Try(per_s) => {
                    let level = self.level(open(search.shape.at_rate(per_s)), search.requests);
                    let units = of_level(done, &level.id);
                    if units.len() < plan.repeats as usize {
                        let repeat = u32::try_from(units.len()).unwrap_or(u32::MAX);
                        found.settle(None, None);
                        return (found, Some((level, repeat)));
                    }
                    let probe = judged(level.id, per_s, search.share, &units);
                    probes.push(Probe {
                        per_s,
                        held: probe.held,
                    });
                    found.probes.push(probe);
                    continue;
                }
                SearchStep::Found { held, missed } => {
                    found.settle(Some(held), Some(missed));
                    SearchStatus::Found
                }
                SearchStep::NoneHeld(missed) => {
                    found.settle(None, Some(missed));
                    SearchStatus::NoneHeld
                }
                SearchStep::AllHeld(held) => {
                    found.settle(Some(held), None);
                    SearchStatus::AllHeld
                }
            };
            return (found, None);
        }
    }
}

/// Share of a batch's rate at which the search begins: most of it, since a batch ends on an
/// emptying machine, and less, since close to capacity nothing keeps a limit for long.
const FIRST_SHARE: f64 = 0.8;

fn of_level<'a>(done: &'a [UnitDocument], id: &LevelId) -> Vec<&'a UnitDocument> {
    // One that was cut short says nothing of its rate.
    done.iter()
        .filter(|unit| unit.level == *id && unit.complete)
        .collect()
}

/// Enters the two ends of a search.
trait Settle {
    fn settle(&mut self, held: Option<f64>, missed: Option<f64>);
}

impl Settle for SearchDocument {
    fn settle(&mut self, held: Option<f64>, missed: Option<f64>) {
        let at = |rate: Option<f64>| {
            let probe = self.probes.iter().find(|p| Some(p.requests_per_s) == rate);
            probe.cloned()
        };
        (self.held, self.missed) = (at(held), at(missed));
        self.limit = self.missed.as_ref().and_then(|probe| probe.limit);
    }
}

/// Whether a rate held, by all repeats of it together.
fn judged(level: LevelId, per_s: f64, share: f64, units: &[&UnitDocument]) -> ProbeDocument {
    let mut counts = SloCounts::default();
    let (mut goodput, mut tokens) = (Vec::new(), Vec::new());
    let mut verdicts = Vec::new();
    let mut client_limited = 0;
    for unit in units {
        if let Some(of_unit) = &unit.summary.goodput {
            counts.add(&of_unit.counts.unwrap_or_default());
            goodput.push(of_unit.requests_per_s);
            tokens.push(of_unit.output_tok_per_s);
        }
        let open_loop = unit.summary.open_loop;
        verdicts.push(open_loop.and_then(|o| o.saturation).map(|s| s.is_saturated));
        client_limited += usize::from(open_loop.is_some_and(|o| o.client_limited));
    }
    let verdicts: Option<Vec<bool>> = verdicts.into_iter().collect();
    let saturated = verdicts.map(|all| 2 * all.iter().filter(|s| **s).count() > all.len());
    let client_limited = 2 * client_limited > units.len();
    let enough = counts.ended > 0 && counts.attainment() >= share;
    // Without an answer whether requests pile up there is no answer at all: too few brought a
    // token, since they failed.
    let limit = match saturated {
        None => Some(Limit::Failures),
        Some(true) => Some(Limit::Saturation),
        Some(false) if client_limited => Some(Limit::Client),
        Some(false) if enough => None,
        Some(false) => most_missed(&counts),
    };
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
    ProbeDocument {
        level,
        requests_per_s: per_s,
        attainment: counts.attainment(),
        counts,
        goodput_requests_per_s: mean(&goodput),
        goodput_output_tok_per_s: mean(&tokens),
        saturated,
        held: limit.is_none(),
        limit,
    }
}

/// The limit that most requests missed.
fn most_missed(counts: &SloCounts) -> Option<Limit> {
    let all = [
        (Limit::Failures, counts.failed),
        (Limit::Ttft, counts.ttft),
        (Limit::Itl, counts.itl),
        (Limit::Tpot, counts.tpot),
        (Limit::E2e, counts.e2e),
    ];
    // Of equal ones the first.
    let most = all.into_iter().rev().max_by_key(|(_, missed)| *missed)?;
    Some(most.0)
}

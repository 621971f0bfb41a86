//! Which unit is measured next: the plan's, or what a search for the highest rate asks for.
//!
//! Both follow from the plan and the units measured so far alone, so that a run that is taken
//! up again goes on as if it had not been interrupted.

use costmark_load::{ArrivalProcess, Probe, RateSearch, SearchStep, Stop};
use costmark_report::LevelId;
use costmark_report::document::{ProbeDocument, SearchDocument, SearchStatus, UnitDocument};

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
                    let process = search.shape.at_rate(per_s);
                    let level = self.level(open(process), search.requests_at(per_s));
                    let units = of_level(done, &level.id);
                    if units.len() < plan.repeats as usize {
                        let repeat = u32::try_from(units.len()).unwrap_or(u32::MAX);
                        found.settle(None, None);
                        return (found, Some((level, repeat)));
                    }
                    let probe = ProbeDocument::judged(level.id, per_s, search.share, &units);
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

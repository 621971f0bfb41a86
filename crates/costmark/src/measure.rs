//! The measurement itself: the plan's units one after another, with the peaks measured
//! between them. After each unit its summary is in the run folder: whatever happens later,
//! it is not lost.

use std::num::NonZeroU32;

use costmark_core::{ModelWork, Roofline};
use costmark_load::{OpenLoopError, RecordingCost, Stop, UnitRun, calibrate_recording_with};
use costmark_metrics::{
    OpenLoad, RequestCounts, UNUSABLE_CV, UnitInput, summarise, summarise_open,
};
use costmark_report::document::{
    BackendDocument, LevelDocument, Overhead, RunDocument, Tool, UnitCost, UnitDocument, UnitPlan,
    WarmupDocument,
};
use costmark_report::{RunFolder, SCHEMA_VERSION, Status, finding};

use crate::drive::drive;
use crate::environment::{Watch, no_energy};
use crate::estimate::Left;
use crate::live::Live;
use crate::models::{Models, Served};
use crate::plan::{Level, Load, Plan, Unit};
use crate::price::Pricing;
use crate::progress::Progress;
use crate::recorder::{Discard, LineRecorder};
use crate::run::command;
use crate::{advice, agenda, build_info, units};

/// A measurement about to run.
pub(crate) struct Measurement<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) pricing: &'a Pricing,
    pub(crate) progress: Progress,
    pub(crate) folder: RunFolder,
    pub(crate) started_at: jiff::Timestamp,
    /// What was measured before the run was resumed.
    pub(crate) earlier: Option<RunDocument>,
    /// Fail when repeats vary too much.
    pub(crate) strict: bool,
    /// How long the model in memory will take, where that can be estimated.
    pub(crate) left: Option<Left>,
}

/// Why no further unit is run.
type Ending = (Status, String);

impl Measurement<'_> {
    /// Runs all units. Whatever goes wrong is in the document, beside what was measured
    /// until then.
    pub(crate) fn run(
        mut self,
        models: &mut Models<'_>,
        first: Served,
        watch: &mut Watch,
    ) -> (RunDocument, RunFolder) {
        let recording = calibrate_recording_with(&mut Discard::default());
        if let Some(earlier) = &self.earlier {
            watch.continue_from(&earlier.environment);
        }
        let mut document = match self.earlier.take() {
            Some(earlier) => earlier,
            None => self.begin(watch, &recording),
        };
        let ending = self.units(&mut document, models, first, watch);
        document.finished_at = Some(jiff::Timestamp::now().to_string());
        (document.status, document.failure) = match ending {
            Ok(()) => self.verdict(&document),
            Err((status, failure)) => (status, Some(failure)),
        };
        self.update(&mut document, watch);
        if let Err(error) = self.folder.save(&document) {
            document.status = Status::Failed;
            document.failure.get_or_insert_with(|| error.to_string());
        }
        (document, self.folder)
    }

    fn units(
        &mut self,
        document: &mut RunDocument,
        models: &mut Models<'_>,
        mut first: Served,
        watch: &mut Watch,
    ) -> Result<(), Ending> {
        let failed = |error: &dyn std::fmt::Display| (Status::Failed, error.to_string());
        let plan = self.plan;
        self.announce(document, &mut first, watch);
        self.folder.save(document).map_err(|e| failed(&e))?;
        watch
            .sample_into(&self.folder)
            .map_err(|e| failed(&e.message()))?;
        let mut loaded = Some(first);
        while let Some((unit, level)) = agenda::next(plan, &document.units) {
            let level = &level;
            enter(plan, document, unit, level);
            let mut served = match loaded.take() {
                Some(served) if served.model == level.model => served,
                before => {
                    drop(before);
                    let mut served = models
                        .start(level.model)
                        .map_err(|e| failed(&e.message()))?;
                    self.announce(document, &mut served, watch);
                    served
                }
            };
            // What the server did before is not this unit's.
            _ = served.backend.server_metrics();
            let begun = std::time::Instant::now();
            let run = self
                .unit(unit, level, &mut served)
                .map_err(|e| failed(&e))?;
            let server = served.backend.server_metrics();
            let roofline = watch.between().map_err(|e| failed(&e.message()))?;
            let info = served.backend.info();
            let id = plan.models[served.model].id();
            // What a backend says of itself may grow: a server's counts that do not add up.
            if let Some(known) = document.backends.iter_mut().find(|b| b.model_id == id) {
                *known = BackendDocument::new(&id, info);
            }
            let work = info.work;
            let replicas = info.replicas;
            let mut result = self.summarise(level, unit.repeat, &run, (work, replicas), roofline);
            result.server = server;
            watch.enter(&mut result, served.backend.simulates_time());
            self.progress.say(&told(plan, level, &result));
            if let Some(left) = &mut self.left {
                left.unit_ended(unit.level, begun.elapsed().as_secs_f64());
            }
            document.units.push(result);
            self.update(document, watch);
            self.folder.save(document).map_err(|e| failed(&e))?;
            if let Some(error) = &run.error {
                return Err(failed(error));
            }
            if run.interrupted {
                let folder = self.folder.path().display();
                let message =
                    format!("stopped by the user; `costmark run --resume {folder}` goes on");
                return Err((Status::Interrupted, message));
            }
            loaded = Some(served);
        }
        Ok(())
    }

    /// A model is loaded: enters it into the document and says what will be measured.
    fn announce(&mut self, document: &mut RunDocument, served: &mut Served, watch: &Watch) {
        let plan = self.plan;
        let (id, info) = (plan.models[served.model].id(), served.backend.info());
        document.backends.retain(|backend| backend.model_id != id);
        document.backends.push(BackendDocument::new(&id, info));
        document.notes = advice::notes(document, &self.pricing.choice);
        if let Some(search) = plan.search {
            self.progress.say(&format!(
                "Searching the highest rate within the SLO, at each {} requests and {} at least; \
                 eight to ten rates as a rule",
                u64::from(plan.repeats) * search.requests,
                units::human_seconds(f64::from(plan.repeats) * search.least_time.as_secs_f64())
            ));
            return;
        }
        let known = info.work.zip(watch.roofline());
        self.left = known.map(|(work, roofline)| {
            let _stage = self.progress.stage("Trying one request");
            Left::estimate(
                plan,
                served.model,
                served.backend.as_mut(),
                &work,
                &roofline,
            )
        });
        let Some(left) = &mut self.left else { return };
        // Units of a run that is taken up again.
        for unit in &document.units {
            let place = plan.levels.iter().position(|level| level.id == unit.level);
            if let Some(place) = place {
                left.unit_ended(place, (unit.end_ns - unit.start_ns) as f64 / 1e9);
            }
        }
        let times = match plan.repeats {
            1 => "once".to_string(),
            n => format!("{n} times"),
        };
        self.progress.say(&format!(
            "Measuring {times} at {}; this will take about {} (by one request; corrected as units \
             end)",
            plan.levels_in_words(served.model),
            units::human_seconds(left.seconds())
        ));
    }

    fn unit(
        &mut self,
        unit: Unit,
        level: &Level,
        served: &mut Served,
    ) -> Result<UnitRun, OpenLoopError> {
        let mut label = label(self.plan, level, unit.repeat);
        if let Some(left) = &self.left {
            let left = units::human_seconds(left.seconds());
            label = format!("{label} (about {left} left)");
        }
        let stage = self.progress.stage(&label);
        let mut recorder = LineRecorder {
            folder: &mut self.folder,
            level: &level.id,
            repeat: unit.repeat,
            stage: &stage,
            label: &label,
            live: Live::new(
                self.pricing.model.cost_usd(1.0),
                match level.stop {
                    Stop::Duration(ns) => Some(ns),
                    Stop::Requests(_) => None,
                },
            ),
        };
        let source = served.sources[level.workload].as_ref();
        let backend = served.backend.as_mut();
        drive(
            self.plan,
            level,
            unit.number,
            backend,
            source,
            &mut recorder,
        )
    }

    fn summarise(
        &self,
        level: &Level,
        repeat: u32,
        run: &UnitRun,
        (work, replicas): (Option<ModelWork>, u32),
        roofline: Option<Roofline>,
    ) -> UnitDocument {
        let input = UnitInput {
            concurrency: run.concurrency,
            start_ns: run.start_ns,
            end_ns: run.end_ns,
            requests: &run.requests,
            background: &run.background,
            steps: &run.steps,
            replicas,
            roofline,
            slo: self.plan.slo,
        };
        let summary = match level.load {
            Load::Closed(_) => summarise(&input),
            Load::Open { max_in_flight, .. } | Load::Trace { max_in_flight, .. } => summarise_open(
                &input,
                OpenLoad {
                    max_in_flight: max_in_flight.map(NonZeroU32::get),
                    delayed_by_cap: run.delayed_by_cap,
                },
            ),
        };
        let (cost, cost_note) = UnitCost::of(
            &summary,
            &run.steps,
            work.as_ref(),
            roofline.as_ref(),
            &self.pricing.model,
        );
        UnitDocument {
            level: level.id.clone(),
            repeat,
            start_ns: run.start_ns,
            end_ns: run.end_ns,
            complete: run.is_complete(),
            usable: run.error.is_none() && summary.requests.finished > 0,
            warmup: WarmupDocument {
                requests: run.warmup.requests,
                failed: run.warmup.failed,
                duration_ns: run.warmup.duration_ns,
                settled: run.warmup.settled,
            },
            summary,
            roofline,
            of_datasheet: None,
            machine: None,
            server: None,
            energy: no_energy(),
            cost,
            cost_note,
        }
    }

    /// Brings everything that follows from the units up to date.
    fn update(&self, document: &mut RunDocument, watch: &Watch) {
        document.environment = watch.document();
        document.overhead.telemetry_core_share = watch.telemetry_core_share();
        document.levels = document
            .plan
            .levels
            .iter()
            .filter_map(|level| {
                let units: Vec<&UnitDocument> = document
                    .units
                    .iter()
                    .filter(|u| u.level == level.id && u.usable)
                    .collect();
                LevelDocument::from_units(level, &units, &self.pricing.model)
            })
            .collect();
        document.searches = agenda::searches(self.plan, &document.units);
        document.notes = advice::notes(document, &self.pricing.choice);
        document.advice = advice::advise(document);
        document.finding = finding(document);
    }

    /// Complete, unless too many requests failed.
    fn verdict(&self, document: &RunDocument) -> (Status, Option<String>) {
        let count = |of: fn(&RequestCounts) -> u64| -> u64 {
            document.units.iter().map(|u| of(&u.summary.requests)).sum()
        };
        let (failed, finished) = (count(|r| r.failed), count(|r| r.finished));
        let all = failed + finished;
        let share = failed as f64 / all.max(1) as f64;
        if share > self.plan.max_errors {
            let message = format!(
                "{failed} of {all} requests failed, more than --max-errors {} allows; their \
                 messages are in {}",
                self.plan.max_errors,
                self.folder
                    .path()
                    .join(costmark_report::REQUESTS_FILE)
                    .display()
            );
            return (Status::Failed, Some(message));
        }
        if finished == 0 {
            return (Status::Failed, Some("no request was finished".into()));
        }
        let unsteady = document.levels.iter().find(|level| {
            let cv = level.summary.cv;
            self.strict && cv.is_some_and(|cv| cv > UNUSABLE_CV)
        });
        if let Some(level) = unsteady {
            let message = format!(
                "--strict: throughput of level {} varies by {:.0} % between repeats (CV), more \
                 than {:.0} %; raise --requests or --repeats and keep other programs off the \
                 machine",
                level.id,
                100.0 * level.summary.cv.unwrap_or(0.0),
                100.0 * UNUSABLE_CV
            );
            return (Status::Failed, Some(message));
        }
        (Status::Complete, None)
    }

    fn begin(&self, watch: &Watch, recording: &RecordingCost) -> RunDocument {
        let plan = self.plan.document();
        RunDocument {
            schema_version: SCHEMA_VERSION,
            status: Status::Incomplete,
            failure: None,
            tool: tool(),
            command: command(),
            started_at: self.started_at.to_string(),
            finished_at: None,
            plan_hash: plan.hash(),
            plan,
            environment: watch.document(),
            backends: Vec::new(),
            price: self.pricing.document(),
            overhead: Overhead {
                recording_ns_per_token_event: recording.ns_per_token_event,
                timer_resolution_ns: recording.timer_resolution_ns,
                timer_read_ns: recording.timer_read_ns,
                telemetry_core_share: None,
            },
            resumed: Vec::new(),
            units: Vec::new(),
            levels: Vec::new(),
            searches: Vec::new(),
            notes: Vec::new(),
            advice: Vec::new(),
            finding: None,
        }
    }
}

/// A level that a search has just asked for is one of the plan's from now on.
fn enter(plan: &Plan, document: &mut RunDocument, unit: Unit, level: &Level) {
    if plan.search.is_none() {
        return;
    }
    let known = &mut document.plan;
    if known.level(&level.id).is_none() {
        known.levels.push(plan.level_document(level));
    }
    let unit = UnitPlan {
        level: level.id.clone(),
        repeat: unit.repeat,
    };
    if !known.units.contains(&unit) {
        known.units.push(unit);
    }
}

/// This program.
pub(crate) fn tool() -> Tool {
    Tool {
        name: "costmark".into(),
        version: build_info::VERSION.into(),
        git_revision: Some(build_info::GIT_REVISION)
            .filter(|revision| !revision.is_empty())
            .map(Into::into),
        git_dirty: build_info::GIT_DIRTY == "true",
        build_profile: build_info::PROFILE.into(),
        target: build_info::TARGET.into(),
    }
}

fn label(plan: &Plan, level: &Level, repeat: u32) -> String {
    format!(
        "Repeat {} of {}, {}",
        repeat + 1,
        plan.repeats,
        plan.level_in_words(level)
    )
}

/// A unit in a line.
fn told(plan: &Plan, level: &Level, unit: &UnitDocument) -> String {
    let (requests, throughput) = (&unit.summary.requests, &unit.summary.throughput);
    let failed = match requests.failed {
        0 => String::new(),
        n => format!(", {n} FAILED"),
    };
    format!(
        "{}: {} requests{failed} in {}, {:.1} output tok/s",
        label(plan, level, unit.repeat),
        requests.finished,
        units::human_seconds((unit.end_ns - unit.start_ns) as f64 / 1e9),
        throughput.output_tok_per_s
    )
}

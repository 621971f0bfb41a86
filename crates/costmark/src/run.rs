//! `costmark run`: plan → machine → model → measurement → result.

use std::path::Path;

use costmark_core::{BackendKind, MonotonicClock};
use costmark_probe::Machine;
use costmark_report::{RunFolder, Status, render_for};

use crate::accelerators::{self, Accelerators};
use crate::args::RunArgs;
use crate::environment::Watch;
use crate::failure::{Failure, Result};
use crate::measure::{Measurement, tool};
use crate::models::{Models, Served};
use crate::plan::Plan;
use crate::price::Pricing;
use crate::progress::Progress;
use crate::resume::Earlier;
use crate::{agenda, output, plan_file, report, stop, threads};

/// Where run folders go when no place is named.
const RUNS: &str = "runs";

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let earlier = args.resume.as_deref().map(Earlier::read).transpose()?;
    let recorded = earlier.as_ref().map(|e| e.args(args)).transpose()?;
    let (written, file) = match recorded {
        Some(recorded) => (Some(recorded), None),
        None => plan_file::resolve(&command(), args)?.unzip(),
    };
    let args = written.as_ref().unwrap_or(args);
    let progress = Progress::new(args.quiet);
    let machine = Machine::detect();
    let usable = machine.cpu_limits.usable_threads;
    let located = |failure| match &file {
        Some(file) => file.locate(failure),
        None => failure,
    };
    let plan = Plan::resolve(args, usable).map_err(located)?;
    if let Some(earlier) = &earlier {
        earlier.check(&plan, &machine, &tool())?;
    }
    let gpus = accelerators::called(plan.engine.devices.all(), &machine.gpus);
    let pricing = Pricing::resolve(&args.price, usable, gpus.as_ref()).map_err(located)?;
    if let Some(warning) = pricing.warning(gpus.as_ref(), plan.engine.backend) {
        progress.say(&warning);
    }
    threads::limit_compute(plan.engine.threads);
    stop::install()?;

    // Told before minutes are spent on loading: a place that cannot be written.
    let started_at = jiff::Timestamp::now();
    let begun_ns = earlier.as_ref().map_or(Ok(0), Earlier::end_ns)?;
    let (folder, earlier) = match earlier {
        Some(earlier) => earlier
            .open()
            .map(|(folder, document)| (folder, Some(document)))?,
        None => (
            open_folder(args.output.as_deref(), &plan, started_at)?,
            None,
        ),
    };
    let clock = MonotonicClock::start_at(begun_ns);
    let done = earlier.as_ref().map_or(&[][..], |earlier| &earlier.units);
    let first = agenda::next(&plan, done).map_or(0, |(_, level)| level.model);
    let prepared = match prepare(machine, &plan, first, clock, progress) {
        Ok(prepared) => prepared,
        Err(failure) => {
            folder.discard();
            return Err(failure);
        }
    };
    let measurement = Measurement {
        plan: &plan,
        pricing: &pricing,
        progress,
        folder,
        started_at,
        earlier,
        strict: args.strict,
        left: None,
    };
    measure(args, measurement, prepared)
}

/// What was typed, program name first.
pub(crate) fn command() -> Vec<String> {
    std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect()
}

/// What is ready before the first request.
struct Prepared<'a> {
    watch: Watch,
    models: Models<'a>,
    /// The first one to be measured, loaded.
    first: Served,
}

fn prepare(
    machine: Machine,
    plan: &Plan,
    first: usize,
    clock: MonotonicClock,
    progress: Progress,
) -> Result<Prepared<'_>> {
    let mut models = Models::open(plan, clock, progress)?;
    let first = models.start(first)?;
    let is_here = !matches!(plan.engine.backend, BackendKind::Mock | BackendKind::Http);
    let stage = is_here.then(|| progress.stage("Measuring memory bandwidth and arithmetic"));
    let watch = Watch::begin(
        machine,
        plan.engine.threads,
        clock,
        is_here,
        Accelerators::open(plan.engine.devices.all())?,
    )?;
    drop(stage);
    Ok(Prepared {
        watch,
        models,
        first,
    })
}

fn measure(args: &RunArgs, measurement: Measurement<'_>, prepared: Prepared<'_>) -> Result<()> {
    let Prepared {
        mut watch,
        mut models,
        first,
    } = prepared;
    let progress = measurement.progress;
    let measuring = stop::Measuring::begin();
    let (document, folder) = measurement.run(&mut models, first, &mut watch);
    drop(measuring);
    progress.say(&format!("Results in {}", folder.path().display()));
    let page = report::write_beside(folder.path());
    if let Ok(path) = &page {
        progress.say(&format!("Page: {}", path.display()));
    }

    if args.json {
        output::json(&document)?;
    } else {
        output::text(&render_for(&document, output::columns()))?;
    }
    match document.status {
        // Told after the result, which is worth more than its page.
        Status::Complete => page.map(drop),
        _ => Err(match document.failure {
            Some(failure) => Failure::run(failure),
            None => Failure::run("the run did not complete"),
        }),
    }
}

fn open_folder(
    named: Option<&Path>,
    plan: &Plan,
    started_at: jiff::Timestamp,
) -> Result<RunFolder> {
    let folder = match named {
        Some(path) => RunFolder::create(path),
        None => RunFolder::create_fresh(Path::new(RUNS), &folder_name(plan, started_at)),
    };
    // Nothing ran yet: a place that cannot be used is the user's to change.
    folder.map_err(Failure::input)
}

/// `20260102T030405Z-qwen3-0.6b-cpu`, or `…-3-models-cpu`.
fn folder_name(plan: &Plan, started_at: jiff::Timestamp) -> String {
    let model = match &plan.models[..] {
        [model] => model.short_name(),
        models => format!("{}-models", models.len()),
    };
    let time = started_at.strftime("%Y%m%dT%H%M%SZ");
    let device = plan.document().device.replace(':', "").replace(',', "+");
    format!("{time}-{model}-{device}")
}

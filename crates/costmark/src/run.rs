//! `costmark run`: plan → machine → model → measurement → result.

use std::path::Path;

use costmark_core::{Backend, Clock, ModelShape, MonotonicClock};
use costmark_load::Workload;
use costmark_probe::Machine;
use costmark_report::{RunFolder, Status, render};

use crate::args::RunArgs;
use crate::backend::{self, Demand};
use crate::environment::Watch;
use crate::failure::{Failure, Result};
use crate::measure::Measurement;
use crate::plan::Plan;
use crate::price::Pricing;
use crate::progress::Progress;
use crate::{estimate, output, stop, threads, units};

/// Where run folders go when no place is named.
const RUNS: &str = "runs";

/// Runs the command.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let progress = Progress::new(args.quiet);
    let machine = Machine::detect();
    let usable = machine.cpu_limits.usable_threads;
    let plan = Plan::resolve(args, usable)?;
    let pricing = Pricing::resolve(&args.price, usable)?;
    threads::limit_compute(plan.engine.threads);
    stop::install()?;

    // Told before minutes are spent on loading: a place that cannot be written.
    let started_at = jiff::Timestamp::now();
    let folder = open_folder(args.output.as_deref(), &plan, started_at)?;
    match prepare(machine, &plan, progress) {
        Ok(prepared) => measure(args, plan, pricing, progress, prepared, folder, started_at),
        Err(failure) => {
            folder.discard();
            Err(failure)
        }
    }
}

/// What is ready before the first request.
struct Prepared {
    watch: Watch,
    backend: Box<dyn Backend>,
    workload: Workload,
}

fn prepare(machine: Machine, plan: &Plan, progress: Progress) -> Result<Prepared> {
    let clock = MonotonicClock::start();
    let opened = backend::open(&plan.model, plan.engine.backend, progress)?;
    if let Some(shape) = opened.shape() {
        // Told before loading, where the context is known by then.
        check(plan, shape, plan.engine.max_context.unwrap_or(u32::MAX))?;
    }
    let began = clock.now_ns();
    let demand = Demand {
        sequences: plan.max_concurrency(),
        tokens_per_sequence: plan.longest_request_tokens(),
    };
    let backend = backend::start(opened, &plan.engine, demand, clock)?;
    let info = backend.info();
    progress.say(&format!(
        "Loaded {} ({}, {}) in {:.1} s",
        info.model,
        info.source,
        units::human_bytes(info.weight_bytes),
        (clock.now_ns() - began) as f64 / 1e9
    ));
    if info.kv_capacity_tokens < plan.longest_request_tokens() {
        return Err(Failure::input(format!(
            "--kv-budget: the KV cache holds {} tokens, but a request may need {}: raise it, or \
             lower --input-len or --output-len",
            info.kv_capacity_tokens,
            plan.longest_request_tokens()
        )));
    }
    let shape = info
        .shape
        .ok_or_else(|| Failure::run("the backend does not say how large its vocabulary is"))?;
    let workload = check(plan, &shape, info.max_context)?;
    let stage = progress.stage("Measuring memory bandwidth and arithmetic");
    let watch = Watch::begin(machine, plan.engine.threads, clock)?;
    drop(stage);
    Ok(Prepared {
        watch,
        backend,
        workload,
    })
}

/// The requests, if all of them fit the model and `max_context`.
fn check(plan: &Plan, shape: &ModelShape, max_context: u32) -> Result<Workload> {
    let workload = plan.workload(u32::try_from(shape.vocab_size).unwrap_or(u32::MAX));
    let context = u32::try_from(shape.max_context).unwrap_or(u32::MAX);
    workload
        .check(context.min(max_context))
        .map_err(Failure::input)?;
    Ok(workload)
}

fn measure(
    args: &RunArgs,
    plan: Plan,
    pricing: Pricing,
    progress: Progress,
    mut prepared: Prepared,
    folder: RunFolder,
    started_at: jiff::Timestamp,
) -> Result<()> {
    if let Some(work) = prepared.backend.info().work {
        let seconds = estimate::seconds(&plan, &work, &prepared.watch.roofline());
        progress.say(&format!(
            "Measuring {} at concurrency {}; this will take about {} (an estimate)",
            match plan.repeats {
                1 => "once".to_string(),
                n => format!("{n} times"),
            },
            plan.levels
                .iter()
                .map(|l| l.concurrency.to_string())
                .collect::<Vec<_>>()
                .join(", "),
            units::human_seconds(seconds)
        ));
    }
    let measurement = Measurement {
        plan: &plan,
        pricing: &pricing,
        workload: &prepared.workload,
        progress,
        folder,
        started_at,
    };
    let measuring = stop::Measuring::begin();
    let (document, folder) = measurement.run(prepared.backend.as_mut(), &mut prepared.watch);
    drop(measuring);
    progress.say(&format!("Results in {}", folder.path().display()));

    if args.json {
        output::json(&document)?;
    } else {
        output::text(&render(&document))?;
    }
    match document.status {
        Status::Complete => Ok(()),
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

/// `20260102T030405Z-qwen3-0.6b-cpu`.
fn folder_name(plan: &Plan, started_at: jiff::Timestamp) -> String {
    let model = plan.model.model.trim_end_matches('/');
    let last = model.rsplit('/').next().unwrap_or(model);
    let model: String = last
        .chars()
        .map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c,
            _ => '-',
        })
        .collect();
    let time = started_at.strftime("%Y%m%dT%H%M%SZ");
    let device = plan.document().device.replace(':', "");
    format!("{time}-{}-{device}", model.trim_start_matches('.'))
}

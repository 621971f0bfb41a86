//! The models of a plan: all of them found and checked before anything is measured, then
//! loaded one at a time.

use costmark_core::{Backend, BackendKind, Clock, ModelShape, MonotonicClock};
use costmark_load::RequestSource;

use crate::backend::{self, Demand, Opened};
use crate::endpoint::EndpointPlan;
use crate::failure::{Failure, Result};
use crate::plan::{Plan, WorkloadPlan};
use crate::progress::Progress;
use crate::units;

/// The models of a plan, found but not loaded.
pub(crate) struct Models<'a> {
    plan: &'a Plan,
    clock: MonotonicClock,
    progress: Progress,
    /// By index of the model; taken when it is loaded.
    opened: Vec<Option<Opened>>,
}

/// A model that is loaded, with what it will be asked.
pub(crate) struct Served {
    /// Index of the model.
    pub(crate) model: usize,
    pub(crate) backend: Box<dyn Backend>,
    /// By index of the workload.
    pub(crate) sources: Vec<Box<dyn RequestSource>>,
}

impl<'a> Models<'a> {
    /// Finds all models and reads their headers; downloads what is missing. What cannot be
    /// asked of one of them is told now, where it is known before loading.
    pub(crate) fn open(plan: &'a Plan, clock: MonotonicClock, progress: Progress) -> Result<Self> {
        let mut opened = Vec::new();
        for named in &plan.models {
            let found = match &plan.engine.endpoint {
                Some(endpoint) => Opened::Http(Box::new(endpoint.clone())),
                None => backend::open(named, &plan.engine, progress)?,
            };
            if let Some(shape) = found.shape() {
                let max_context = plan.engine.max_context.unwrap_or(u32::MAX);
                sources(plan, vocabulary(shape), context(shape).min(max_context))?;
            }
            opened.push(Some(found));
        }
        Ok(Self {
            plan,
            clock,
            progress,
            opened,
        })
    }

    /// Loads a model. Drop the one before first: memory may hold one only.
    pub(crate) fn start(&mut self, model: usize) -> Result<Served> {
        let plan = self.plan;
        let opened = self.opened.get_mut(model).and_then(Option::take);
        let opened = opened.ok_or_else(|| Failure::run("a model was to be loaded twice"))?;
        if let Opened::Http(endpoint) = &opened {
            return self.connect(model, endpoint);
        }
        let longest = plan.longest_request_tokens();
        let demand = Demand {
            sequences: plan.max_in_flight(model),
            tokens_per_sequence: longest,
        };
        let began = self.clock.now_ns();
        let backend = backend::start(opened, &plan.engine, demand, self.clock)?;
        let info = backend.info();
        if info.kind == BackendKind::Mock {
            return Ok(Served {
                model,
                sources: sources(plan, MOCK_VOCABULARY, info.max_context)?,
                backend,
            });
        }
        let weights = units::human_bytes(info.weight_bytes / u64::from(info.replicas.max(1)));
        self.progress.say(&format!(
            "Loaded {} ({}, {}{weights}) in {:.1} s",
            info.model,
            info.source,
            match info.replicas {
                1 => String::new(),
                n => format!("{n} × "),
            },
            (self.clock.now_ns() - began) as f64 / 1e9
        ));
        // A request is one replica's.
        let held = info.kv_capacity_tokens / u64::from(info.replicas.max(1));
        if held < longest {
            return Err(Failure::input(format!(
                "--kv-budget: the KV cache holds {held} tokens, but a request may need {longest}: \
                 raise it, or lower --input-len or --output-len",
            )));
        }
        let shape = info
            .shape
            .ok_or_else(|| Failure::run("the backend does not say how large its vocabulary is"))?;
        let max_context = context(&shape).min(info.max_context);
        let sources = sources(plan, vocabulary(&shape), max_context)?;
        Ok(Served {
            model,
            backend,
            sources,
        })
    }

    fn connect(&self, model: usize, endpoint: &EndpointPlan) -> Result<Served> {
        let (backend, vocab_size) = endpoint.connect(self.clock)?;
        let info = backend.info();
        self.progress.say(&format!(
            "Driving {} ({}) at {}",
            info.model, info.software, info.source
        ));
        Ok(Served {
            model,
            sources: sources(self.plan, vocab_size, info.max_context)?,
            backend: Box::new(backend),
        })
    }
}

/// Token ids the mock is sent; it does not look at them.
const MOCK_VOCABULARY: u32 = 32_000;

fn vocabulary(shape: &ModelShape) -> u32 {
    u32::try_from(shape.vocab_size).unwrap_or(u32::MAX)
}

fn context(shape: &ModelShape) -> u32 {
    u32::try_from(shape.max_context).unwrap_or(u32::MAX)
}

/// The requests of each workload, if all that this model will be asked fit `max_context`.
fn sources(plan: &Plan, vocab_size: u32, max_context: u32) -> Result<Vec<Box<dyn RequestSource>>> {
    let sources: Vec<Box<dyn RequestSource>> = plan
        .workloads
        .iter()
        .map(|workload| workload.source(vocab_size, plan.asking))
        .collect();
    for source in &sources {
        source.check(max_context).map_err(Failure::input)?;
    }
    let talks = plan.workloads.iter().filter(|w| w.turns(0).is_some());
    let longest = talks.map(WorkloadPlan::longest_request_tokens).max();
    if let Some(longest) = longest.filter(|&tokens| tokens > u64::from(max_context)) {
        return Err(Failure::input(format!(
            "a conversation may reach {longest} tokens, but the context holds {max_context}; lower \
             --turns, --input-len or --output-len"
        )));
    }
    Ok(sources)
}

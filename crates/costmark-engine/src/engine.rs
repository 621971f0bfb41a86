//! The step loop: schedule → forward → sample → events. No thread, no channel.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use costmark_core::{
    Clock, ErrorClass, Event, FinishReason, ModelWork, MonotonicClock, Request, RequestError,
    RequestId, StepPart, StepRecord, TokenEvent, TokenLogprobs, Usage,
};

use crate::batch::StepBatch;
use crate::decoder::Decoder;
use crate::error::{EngineError, Result};
use crate::logprobs;
use crate::memory;
use crate::ops::cpu::{CpuOps, Values};
#[cfg(feature = "cuda")]
use crate::ops::cuda::CudaOps;
use crate::ops::{AttentionShape, KvShape, Ops};
use crate::options::{EngineOptions, Limits};
use crate::request_check;
use crate::sampler::{NonFinite, Sampler};
use crate::scheduler::{Chunk, Phase, Schedule, Scheduler};
use crate::sequence::Sequence;

/// Sees the logits of each token before it is chosen: request, index of the output token,
/// one value per vocabulary entry.
pub type LogitsObserver = Box<dyn FnMut(RequestId, usize, &[f32]) + Send>;

/// A model, its cache and the requests under way.
pub struct EngineCore {
    decoder: Decoder,
    ops: Box<dyn Ops>,
    scheduler: Scheduler,
    limits: Limits,
    work: ModelWork,
    clock: MonotonicClock,
    requests: HashMap<RequestId, Active>,
    next_index: u64,
    observer: Option<LogitsObserver>,
}

/// What sampling and finishing need to know of a request.
struct Active {
    sampler: Sampler,
    max_tokens: usize,
    ignore_eos: bool,
    /// Likeliest tokens to tell with each token, where its log-probability was asked for.
    logprobs: Option<u32>,
}

/// The token chosen for a chunk.
struct Choice {
    token: u32,
    /// Boxed, since most have none.
    logprobs: Option<Box<TokenLogprobs>>,
}

impl EngineCore {
    /// An idle engine where the decoder's weights are, with its KV cache claimed.
    ///
    /// # Errors
    /// When an option cannot be met or the memory is not there.
    pub fn new(decoder: Decoder, options: &EngineOptions, clock: MonotonicClock) -> Result<Self> {
        let device = decoder.device().clone();
        #[cfg(feature = "cuda")]
        if device.is_cuda() {
            let activations = decoder.activation_dtype();
            return Self::with_ops(decoder, options, clock, |attention, kv| {
                let ops = CudaOps::new(attention, kv, options.kv_dtype, activations, &device)?;
                Ok(Box::new(ops))
            });
        }
        if !device.is_cpu() {
            let place = device.location();
            return Err(EngineError::Run(format!("no operations for {place:?}")));
        }
        Self::with_ops(decoder, options, clock, |attention, kv| {
            Ok(Box::new(CpuOps::new(attention, kv, options.kv_dtype)?))
        })
    }

    /// An idle engine with the operations and the KV cache that `make_ops` gives it.
    ///
    /// # Errors
    /// When an option cannot be met or the memory is not there.
    pub fn with_ops(
        decoder: Decoder,
        options: &EngineOptions,
        clock: MonotonicClock,
        make_ops: impl FnOnce(AttentionShape, KvShape) -> Result<Box<dyn Ops>>,
    ) -> Result<Self> {
        let shape = &decoder.config().shape;
        let limits = options.resolve(shape)?;
        memory::keep_freed();
        let kv = KvShape {
            layers: shape.num_layers as usize,
            blocks: limits.kv_blocks as usize,
            block_size: limits.block_size as usize,
        };
        let ops = make_ops(decoder.attention_shape(), kv)?;
        Ok(Self {
            work: decoder.work(options.kv_dtype),
            scheduler: Scheduler::new(&limits),
            ops,
            decoder,
            limits,
            clock,
            requests: HashMap::new(),
            next_index: 0,
            observer: None,
        })
    }

    /// The limits the options came to.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The model.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// What a step must move and compute.
    #[must_use]
    pub fn work(&self) -> &ModelWork {
        &self.work
    }

    /// The clock that stamps events.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Shows all logits to `observer` from now on.
    pub fn observe_logits(&mut self, observer: LogitsObserver) {
        self.observer = Some(observer);
    }

    /// Whether no request is under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Puts a request in line.
    ///
    /// # Errors
    /// [`ErrorClass::Rejected`] when it can never be served: no prompt, nothing to produce,
    /// an id outside the vocabulary, or longer than the context or the cache.
    pub fn add_request(&mut self, request: &Request) -> Result<(), RequestError> {
        let reject = |message: String| RequestError {
            class: ErrorClass::Rejected,
            message,
        };
        self.check(request).map_err(reject)?;
        let sampler = Sampler::new(&request.sampling).map_err(reject)?;
        self.requests.insert(
            request.id,
            Active {
                sampler,
                max_tokens: request.max_tokens as usize,
                ignore_eos: request.ignore_eos,
                logprobs: request.logprobs,
            },
        );
        self.scheduler.add(Sequence::new(request));
        Ok(())
    }

    /// Ends a request; `None` when it is not under way.
    pub fn cancel(&mut self, id: RequestId) -> Option<Event> {
        self.finish(id, self.clock.now_ns(), FinishReason::Cancelled)
    }

    /// Ends all requests with this error, oldest first.
    pub fn fail_all(&mut self, error: &RequestError, events: &mut Vec<Event>) {
        let at_ns = self.clock.now_ns();
        self.requests.clear();
        events.extend(
            self.scheduler
                .clear()
                .into_iter()
                .map(|sequence| Event::Failed {
                    request: sequence.id,
                    at_ns,
                    error: error.clone(),
                }),
        );
    }

    /// Runs one step and appends its events: tokens, ends, then the step's record. Does
    /// nothing when idle.
    ///
    /// # Errors
    /// When the model code or the device fails; the requests are still under way then.
    pub fn step(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let start_ns = self.clock.now_ns();
        let schedule = self.scheduler.schedule();
        if schedule.chunks.is_empty() {
            return Ok(());
        }
        let batch = self.batch(&schedule);
        let scheduled_ns = self.clock.now_ns();
        let logits = self.decoder.forward(&batch, self.ops.as_mut())?;
        self.ops.wait()?;
        let forward_ns = self.clock.now_ns();
        self.scheduler.commit(&schedule);
        // As it was during the forward pass, before ended requests give blocks back.
        let kv_blocks_used = self.scheduler.blocks().used() as u32;
        let waiting = self.scheduler.waiting() as u32;
        let wanted = || schedule.chunks.iter().filter(|c| c.wants_logits);
        let chosen = match &logits {
            Some(logits) => match self.choose_there(wanted(), logits)? {
                Some(chosen) => chosen,
                None => {
                    let logits = logits.to_device(&Device::Cpu)?;
                    self.sample(wanted(), Values::of(&logits)?.get())
                }
            },
            None => Vec::new(),
        };
        let end_ns = self.clock.now_ns();
        for (id, choice) in chosen {
            self.deliver(id, choice, end_ns, events);
        }
        let window = self.decoder.config().sliding_window;
        let (prefill, decode) = parts(&schedule, window);
        let work = self.work.step(&prefill, &decode);
        events.push(Event::Step(StepRecord {
            index: self.next_index,
            replica: 0,
            start_ns,
            end_ns,
            schedule_ns: scheduled_ns - start_ns,
            forward_ns: forward_ns - scheduled_ns,
            sample_ns: end_ns - forward_ns,
            prefill,
            decode,
            bytes: work.bytes,
            flops: work.flops,
            waiting,
            preempted: schedule.preempted,
            kv_blocks_used,
            kv_blocks_total: self.limits.kv_blocks,
        }));
        self.next_index += 1;
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        if self.requests.contains_key(&request.id) {
            return Err(format!("request id {} is already under way", request.id));
        }
        let limits = &self.limits;
        let held = u64::from(limits.kv_blocks) * u64::from(limits.block_size);
        let way_out = if u64::from(limits.max_context) == held {
            "shorten the request or raise --kv-budget, which holds no more"
        } else {
            "shorten the request"
        };
        let vocab_size = self.decoder.config().shape.vocab_size;
        request_check::check(request, vocab_size, limits.max_context.into(), way_out)
    }

    fn batch(&self, schedule: &Schedule) -> StepBatch {
        let mut batch = StepBatch::default();
        for chunk in &schedule.chunks {
            if let Some(sequence) = self.scheduler.sequence(chunk.id) {
                batch.push(
                    &sequence.tokens()[chunk.start..chunk.start + chunk.len],
                    chunk.start,
                    sequence.prompt_tokens(),
                    sequence.table().blocks(),
                    self.scheduler.blocks().block_size(),
                    chunk.wants_logits,
                );
            }
        }
        batch
    }

    /// The choice for each chunk where the logits are, if all can be drawn there and nobody wants
    /// to see a row.
    fn choose_there<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a Chunk>,
        logits: &Tensor,
    ) -> Result<Option<Vec<Chosen>>> {
        let Some(there) = self.ops.draws_there().filter(|_| self.observer.is_none()) else {
            return Ok(None);
        };
        let chunks: Vec<&Chunk> = chunks.collect();
        let can = |chunk: &&Chunk| {
            let active = self.requests.get(&chunk.id);
            active.is_some_and(|a| a.logprobs.is_none() && a.sampler.draws_elsewhere())
        };
        if !chunks.iter().all(can) {
            return Ok(None);
        }
        let mut draws = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            let active = self.requests.get_mut(&chunk.id);
            draws.extend(active.map(|active| active.sampler.draw()));
        }
        let drawn = there.draw(logits, &draws)?;
        let choices = chunks.into_iter().zip(drawn).map(|(chunk, drawn)| {
            let choice = match drawn.not_finite {
                None => Ok(Choice {
                    token: drawn.id,
                    logprobs: None,
                }),
                Some(token_id) => Err(not_finite(NonFinite { token_id }, chunk)),
            };
            (chunk.id, choice)
        });
        Ok(Some(choices.collect()))
    }

    /// The choice for each chunk, whose rows of `logits` come in the same order.
    fn sample<'a>(
        &mut self,
        chunks: impl Iterator<Item = &'a Chunk>,
        logits: &[f32],
    ) -> Vec<Chosen> {
        let vocab = self.decoder.config().shape.vocab_size as usize;
        let rows = chunks.zip(logits.chunks_exact(vocab));
        let mut chosen = Vec::new();
        for (chunk, row) in rows {
            let Some(active) = self.requests.get_mut(&chunk.id) else {
                continue;
            };
            if let Some(observer) = &mut self.observer {
                let sequence = self.scheduler.sequence(chunk.id);
                observer(chunk.id, sequence.map_or(0, Sequence::output_tokens), row);
            }
            let sampled = active.sampler.sample(row);
            let sampled = sampled.map_err(|error| not_finite(error, chunk));
            let choice = sampled.map(|token| Choice {
                token,
                logprobs: active
                    .logprobs
                    .map(|top| Box::new(logprobs::of(chunk.id, token, row, top))),
            });
            chosen.push((chunk.id, choice));
        }
        chosen
    }

    fn deliver(
        &mut self,
        id: RequestId,
        choice: Result<Choice, RequestError>,
        at_ns: u64,
        events: &mut Vec<Event>,
    ) {
        let Choice { token, logprobs } = match choice {
            Ok(choice) => choice,
            Err(error) => {
                self.requests.remove(&id);
                self.scheduler.remove(id);
                events.push(Event::Failed {
                    request: id,
                    at_ns,
                    error,
                });
                return;
            }
        };
        self.scheduler.push_token(id, token);
        events.extend(logprobs.map(Event::Logprobs));
        events.push(Event::Tokens(TokenEvent {
            request: id,
            at_ns,
            tokens: 1,
            token_id: Some(token),
        }));
        let (Some(active), Some(sequence)) = (self.requests.get(&id), self.scheduler.sequence(id))
        else {
            return;
        };
        let is_eos = || self.decoder.config().eos_token_ids.contains(&token);
        let reason = if !active.ignore_eos && is_eos() {
            FinishReason::Stop
        } else if sequence.output_tokens() >= active.max_tokens {
            FinishReason::Length
        } else {
            return;
        };
        events.extend(self.finish(id, at_ns, reason));
    }

    fn finish(&mut self, id: RequestId, at_ns: u64, reason: FinishReason) -> Option<Event> {
        self.requests.remove(&id);
        let sequence = self.scheduler.remove(id)?;
        Some(Event::Finished {
            request: id,
            at_ns,
            reason,
            usage: Usage {
                input_tokens: sequence.prompt_tokens() as u32,
                cached_tokens: sequence.cached_tokens() as u32,
                output_tokens: sequence.output_tokens() as u32,
            },
        })
    }
}

/// A request and its next token.
type Chosen = (RequestId, Result<Choice, RequestError>);

fn not_finite(error: NonFinite, chunk: &Chunk) -> RequestError {
    RequestError {
        class: ErrorClass::NonFiniteLogits,
        message: format!(
            "{error} after {} tokens: the weights may be damaged, or overflow in this dtype; try \
             --dtype f32 or another checkpoint",
            chunk.start + chunk.len
        ),
    }
}

fn parts(schedule: &Schedule, window: Option<u32>) -> (StepPart, StepPart) {
    let (mut prefill, mut decode) = (StepPart::default(), StepPart::default());
    for chunk in &schedule.chunks {
        let part = match chunk.phase {
            Phase::Prefill => &mut prefill,
            Phase::Decode => &mut decode,
        };
        part.add_windowed_sequence(
            chunk.len as u32,
            chunk.start as u32,
            chunk.cached as u32,
            chunk.wants_logits,
            window,
        );
    }
    (prefill, decode)
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;

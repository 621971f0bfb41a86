//! The thread that owns the model: forms batches, runs steps, reports what happened.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use costmark_core::{
    Clock, ErrorClass, Event, FinishReason, MonotonicClock, Request, RequestError, RequestId,
    StepRecord, TokenEvent, Usage,
};

use super::batch::{Batch, Sampled, Slot};
use super::model::Model;
use crate::error::Result;
use crate::request_check;

/// From the driver to the worker.
pub(super) enum Command {
    Submit(Request),
    Cancel(RequestId),
}

/// From the worker to the driver.
pub(super) enum Report {
    Events(Vec<Event>),
    /// The last report: the worker cannot go on.
    Fatal(String),
}

/// See the [module](self).
pub(super) struct Worker {
    pub(super) model: Model,
    pub(super) clock: MonotonicClock,
    pub(super) batch_size: usize,
    pub(super) fill_wait: Duration,
    pub(super) max_context: u64,
    pub(super) commands: Receiver<Command>,
    pub(super) reports: Sender<Report>,
    pub(super) queue: VecDeque<Slot>,
    pub(super) events: Vec<Event>,
    pub(super) steps: u64,
}

impl Worker {
    /// Serves until the driver is gone or the model fails.
    pub(super) fn run(mut self) {
        while let Some(mut batch) = self.next_batch() {
            while !batch.is_done() {
                if let Err(error) = self.step(&mut batch) {
                    let message = format!("the model failed: {error}");
                    self.fail_all(&batch, &message);
                    let _ = self.reports.send(Report::Fatal(message));
                    return;
                }
                if !self.take_waiting_commands(&mut batch) || !self.flush() {
                    return;
                }
            }
            self.model.net.clear();
        }
    }

    /// Waits for a request and then for a batch to fill. `None` when the driver is gone.
    fn next_batch(&mut self) -> Option<Batch> {
        let mut deadline = None;
        loop {
            while self.queue.is_empty() {
                let command = self.commands.recv().ok()?;
                self.idle_command(command);
                deadline = None;
                if !self.flush() {
                    return None;
                }
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.fill_wait);
            let full = Batch::available(&self.queue) >= self.batch_size;
            let left = deadline.saturating_duration_since(Instant::now());
            if full || left.is_zero() {
                return Batch::form(&mut self.queue, self.batch_size);
            }
            match self.commands.recv_timeout(left) {
                Ok(command) => self.idle_command(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
            if !self.flush() {
                return None;
            }
        }
    }

    /// Takes what arrived during a step. `false` when the driver is gone.
    fn take_waiting_commands(&mut self, batch: &mut Batch) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(Command::Cancel(id)) => {
                    let running = |s: &&mut Slot| s.request.id == id && !s.done;
                    if let Some(slot) = batch.slots.iter_mut().find(running) {
                        slot.done = true;
                        let usage = slot.usage();
                        self.finish(id, FinishReason::Cancelled, usage);
                    } else {
                        self.idle_command(Command::Cancel(id));
                    }
                }
                Ok(submit) => self.idle_command(submit),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// A command that touches no running batch.
    fn idle_command(&mut self, command: Command) {
        match command {
            Command::Submit(request) => {
                let id = request.id;
                match self.check(&request).and_then(|()| Slot::new(request)) {
                    Ok(slot) => self.queue.push_back(slot),
                    Err(message) => self.fail(id, ErrorClass::Rejected, message),
                }
            }
            Command::Cancel(id) => {
                let Some(index) = self.queue.iter().position(|s| s.request.id == id) else {
                    return;
                };
                if let Some(slot) = self.queue.remove(index) {
                    self.finish(id, FinishReason::Cancelled, slot.usage());
                }
            }
        }
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        request_check::check(
            request,
            self.model.shape.vocab_size,
            self.max_context,
            "shorten the request, or raise --max-context if the model allows more",
        )
    }

    fn step(&mut self, batch: &mut Batch) -> Result<()> {
        let start_ns = self.clock.now_ns();
        let (prefill, decode) = batch.parts();
        let (input, offset) = batch.input()?;
        let scheduled_ns = self.clock.now_ns();
        // The CPU computes before it returns: nothing to synchronise.
        let logits = self.model.net.forward(&input, offset)?;
        let forward_ns = self.clock.now_ns();
        let sampled = batch.sample(&logits, &self.model.eos_token_ids)?;
        let end_ns = self.clock.now_ns();

        for (slot, sampled) in batch.slots.iter().zip(sampled) {
            let request = slot.request.id;
            match sampled {
                Sampled::Nothing => {}
                Sampled::NonFinite(error) => self.fail(
                    request,
                    ErrorClass::NonFiniteLogits,
                    format!("{error}: the weights may be damaged; try another checkpoint"),
                ),
                Sampled::Token {
                    token,
                    logprobs,
                    reason,
                } => {
                    self.events.extend(logprobs.map(Event::Logprobs));
                    self.events.push(Event::Tokens(TokenEvent {
                        request,
                        at_ns: end_ns,
                        tokens: 1,
                        token_id: Some(token),
                    }));
                    if let Some(reason) = reason {
                        self.events.push(Event::Finished {
                            request,
                            at_ns: end_ns,
                            reason,
                            usage: slot.usage(),
                        });
                    }
                }
            }
        }
        let work = self.model.work.step(&prefill, &decode);
        self.events.push(Event::Step(StepRecord {
            index: self.steps,
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
            waiting: u32::try_from(self.queue.len()).unwrap_or(u32::MAX),
            preempted: 0,
            // The cache is not made of blocks.
            kv_blocks_used: 0,
            kv_blocks_total: 0,
        }));
        self.steps += 1;
        Ok(())
    }

    fn finish(&mut self, request: RequestId, reason: FinishReason, usage: Usage) {
        self.events.push(Event::Finished {
            request,
            at_ns: self.clock.now_ns(),
            reason,
            usage,
        });
    }

    fn fail(&mut self, request: RequestId, class: ErrorClass, message: String) {
        self.events.push(Event::Failed {
            request,
            at_ns: self.clock.now_ns(),
            error: RequestError { class, message },
        });
    }

    fn fail_all(&mut self, batch: &Batch, message: &str) {
        let running = batch.slots.iter().filter(|slot| !slot.done);
        let ids: Vec<_> = running
            .chain(&self.queue)
            .map(|slot| slot.request.id)
            .collect();
        for id in ids {
            self.fail(id, ErrorClass::Device, message.to_string());
        }
        self.flush();
    }

    /// Hands events over. `false` when the driver is gone.
    fn flush(&mut self) -> bool {
        let events = std::mem::take(&mut self.events);
        events.is_empty() || self.reports.send(Report::Events(events)).is_ok()
    }
}

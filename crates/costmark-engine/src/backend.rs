//! The engine on a thread of its own, as a [`Backend`].
//!
//! The thread takes commands between steps and sends one message per step, so the driver
//! wakes once per step however many sequences are in it. Idle, it sleeps on its channel.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use costmark_core::{
    Backend, BackendError, BackendInfo, BackendKind, Bell, Clock, ErrorClass, Event,
    MonotonicClock, Replica, Request, RequestError, RequestId,
};

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::device;
use crate::engine::EngineCore;
use crate::error::{EngineError, Result};
use crate::options::EngineOptions;
use crate::weights::WeightSource;

/// Facts about the checkpoint that go into [`BackendInfo`] as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelDescription {
    /// The model's name, as the user will recognise it.
    pub model: String,
    /// Where the weights came from.
    pub source: String,
    /// The weights are random numbers.
    pub synthetic: bool,
    /// Conversions and other facts a reader of the result must know.
    pub notes: Vec<String>,
}

impl ModelDescription {
    /// What a checkpoint says of itself.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint) -> Self {
        Self {
            model: checkpoint.config.name.clone(),
            source: checkpoint.source.clone(),
            synthetic: checkpoint.synthetic,
            notes: checkpoint.notes.clone(),
        }
    }
}

/// See the [module](self).
pub struct EngineBackend {
    info: BackendInfo,
    clock: MonotonicClock,
    commands: Option<Sender<Command>>,
    messages: Receiver<Message>,
    thread: Option<JoinHandle<()>>,
    in_flight: usize,
    /// Set once the thread is gone.
    dead: Option<BackendError>,
}

enum Command {
    Submit(Request),
    Cancel(RequestId),
    Ring(Bell),
}

enum Message {
    Events(Vec<Event>),
    /// The engine ended with these last events.
    Fatal(Vec<Event>, BackendError),
}

/// Where the thread puts what it has to tell.
struct Outbox {
    messages: Sender<Message>,
    /// Rung after each of them; dropped after the channel, so that its end is heard too.
    bell: Option<Bell>,
}

impl Outbox {
    /// `false` when nobody listens any more.
    fn put(&self, message: Message) -> bool {
        let is_heard = self.messages.send(message).is_ok();
        if let Some(bell) = &self.bell {
            bell.ring();
        }
        is_heard
    }
}

impl EngineBackend {
    /// [`start`](Self::start) with a checkpoint's configuration, weights and description.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub fn open(
        mut checkpoint: Checkpoint,
        options: &EngineOptions,
        clock: MonotonicClock,
    ) -> Result<Self> {
        let description = ModelDescription::of(&checkpoint);
        let weights = checkpoint.weights.as_mut();
        Self::start(&checkpoint.config, weights, description, options, clock)
    }

    /// Loads the weights, claims the KV cache and starts the engine.
    ///
    /// # Errors
    /// When the weights cannot be loaded or an option cannot be met.
    pub fn start(
        config: &ModelConfig,
        weights: &mut dyn WeightSource,
        description: ModelDescription,
        options: &EngineOptions,
        clock: MonotonicClock,
    ) -> Result<Self> {
        // Before minutes of loading: an impossible option is told at once.
        options.resolve(&config.shape)?;
        let decoder = Decoder::load(config, weights)?;
        let core = EngineCore::new(decoder, options, clock)?;
        Self::run(core, description, options, clock)
    }

    /// Starts an engine that is already built.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn run(
        core: EngineCore,
        description: ModelDescription,
        options: &EngineOptions,
        clock: MonotonicClock,
    ) -> Result<Self> {
        let info = info(&core, description, options);
        let (commands, inbox) = mpsc::channel();
        let (sender, messages) = mpsc::channel();
        let outbox = Outbox {
            messages: sender,
            bell: None,
        };
        let thread = std::thread::Builder::new()
            .name("costmark-engine".into())
            .spawn(move || serve(core, &inbox, outbox))
            .map_err(|e| EngineError::Run(format!("the system refuses a thread: {e}")))?;
        Ok(Self {
            info,
            clock,
            commands: Some(commands),
            messages,
            thread: Some(thread),
            in_flight: 0,
            dead: None,
        })
    }

    fn send(&mut self, command: Command) -> Result<(), BackendError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        match &self.commands {
            // A closed channel shows in the next poll, with the reason.
            Some(commands) => drop(commands.send(command)),
            None => return Err(self.bury()),
        }
        Ok(())
    }

    fn take(&mut self, message: Message, events: &mut Vec<Event>) -> Result<(), BackendError> {
        let (batch, result) = match message {
            Message::Events(batch) => (batch, Ok(())),
            Message::Fatal(batch, error) => (batch, Err(error)),
        };
        let ended = |e: &&Event| matches!(e, Event::Finished { .. } | Event::Failed { .. });
        self.in_flight = self
            .in_flight
            .saturating_sub(batch.iter().filter(ended).count());
        events.extend(batch);
        if let Err(error) = &result {
            self.dead = Some(error.clone());
        }
        result
    }

    /// The thread is gone without a word: it panicked.
    fn bury(&mut self) -> BackendError {
        let panic = self.thread.take().and_then(|thread| thread.join().err());
        let reason = panic.as_ref().map_or("it ended early", |payload| {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            text.or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("it panicked")
        });
        let error = BackendError::new(format!(
            "the engine thread died: {reason}. This is a bug in costmark; requests in flight \
             are lost, what was recorded before is valid"
        ));
        self.in_flight = 0;
        self.dead.get_or_insert(error).clone()
    }
}

impl Backend for EngineBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        self.send(Command::Submit(request))?;
        self.in_flight += 1;
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        // A dead engine says so in the next submit or poll.
        let _ = self.send(Command::Cancel(id));
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        if let Some(error) = &self.dead {
            return Err(error.clone());
        }
        let mut received = false;
        loop {
            match self.messages.try_recv() {
                Ok(message) => {
                    self.take(message, events)?;
                    received = true;
                    continue;
                }
                Err(mpsc::TryRecvError::Disconnected) => return Err(self.bury()),
                Err(mpsc::TryRecvError::Empty) if received => return Ok(()),
                Err(mpsc::TryRecvError::Empty) => {}
            }
            let message = match until_ns {
                None if self.in_flight == 0 => return Ok(()),
                None => self.messages.recv().map_err(|_| self.bury())?,
                Some(until_ns) => {
                    let left = until_ns.saturating_sub(self.clock.now_ns());
                    match self.messages.recv_timeout(Duration::from_nanos(left)) {
                        Ok(message) => message,
                        Err(RecvTimeoutError::Timeout) => return Ok(()),
                        Err(RecvTimeoutError::Disconnected) => return Err(self.bury()),
                    }
                }
            };
            self.take(message, events)?;
            received = true;
        }
    }

    fn ringing(&mut self) -> Option<&mut dyn Replica> {
        Some(self)
    }
}

impl Replica for EngineBackend {
    fn ring(&mut self, bell: Bell) {
        // A dead engine says so in the next submit or poll.
        let _ = self.send(Command::Ring(bell));
    }

    /// When a step will end is not known.
    fn due_ns(&self) -> Option<u64> {
        None
    }
}

impl Drop for EngineBackend {
    fn drop(&mut self) {
        // Closing the channel ends the thread after its current step.
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was or will not be reported; nothing is left to do
        }
    }
}

fn info(core: &EngineCore, description: ModelDescription, options: &EngineOptions) -> BackendInfo {
    let (decoder, limits) = (core.decoder(), core.limits());
    BackendInfo {
        kind: BackendKind::Engine,
        model: description.model,
        source: description.source,
        synthetic: description.synthetic,
        weight_dtype: decoder.weight_dtype(),
        kv_dtype: options.kv_dtype.name().into(),
        device: device::name(decoder.device()),
        replicas: 1,
        software: concat!("costmark engine ", env!("CARGO_PKG_VERSION")).into(),
        shape: Some(decoder.config().shape),
        work: Some(*core.work()),
        max_context: limits.max_context,
        max_sequences: limits.max_sequences,
        kv_capacity_tokens: u64::from(limits.kv_blocks) * u64::from(limits.block_size),
        weight_bytes: decoder.weight_bytes(),
        notes: description.notes,
    }
}

/// The engine thread. Ends when the driver hangs up or the engine cannot go on.
fn serve(mut core: EngineCore, inbox: &Receiver<Command>, mut outbox: Outbox) {
    loop {
        let mut events = Vec::new();
        if core.is_idle() {
            match inbox.recv() {
                Ok(command) => obey(&mut core, command, &mut outbox, &mut events),
                Err(_) => return,
            }
        }
        loop {
            match inbox.try_recv() {
                Ok(command) => obey(&mut core, command, &mut outbox, &mut events),
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        if let Err(error) = core.step(&mut events) {
            let message = format!("the engine failed: {error}");
            let failure = RequestError {
                class: ErrorClass::Device,
                message: message.clone(),
            };
            core.fail_all(&failure, &mut events);
            outbox.put(Message::Fatal(events, BackendError::new(message)));
            return;
        }
        if !events.is_empty() && !outbox.put(Message::Events(events)) {
            return;
        }
    }
}

fn obey(core: &mut EngineCore, command: Command, outbox: &mut Outbox, events: &mut Vec<Event>) {
    match command {
        Command::Submit(request) => {
            if let Err(error) = core.add_request(&request) {
                events.push(Event::Failed {
                    request: request.id,
                    at_ns: core.now_ns(),
                    error,
                });
            }
        }
        Command::Cancel(id) => events.extend(core.cancel(id)),
        Command::Ring(bell) => outbox.bell = Some(bell),
    }
}

#[cfg(test)]
#[path = "backend_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "replicas_tests.rs"]
mod replicas_tests;

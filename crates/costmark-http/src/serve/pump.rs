//! Runs the backend: takes commands between its events, hands its events to who waits.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SendError, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use costmark_core::{
    Backend, Bell, Event, FinishReason, Request, RequestError, RequestId, TokenLogprobs, Usage,
    Waiting,
};
use tokio::sync::mpsc::UnboundedSender;

use super::metrics::Metrics;
use super::routes::Desk;

/// How long what there is to hear may wait where the backend does not ring.
const TICK: Duration = Duration::from_micros(500);
/// How often a server that hears nothing looks whether it should stop.
const IDLE: Duration = Duration::from_millis(100);

/// What sockets ask of the backend.
pub(crate) enum Command {
    Submit(Request, UnboundedSender<Piece>),
    Cancel(RequestId),
}

/// Where commands are given; rings after each.
#[derive(Clone)]
pub(crate) struct Orders {
    commands: Sender<Command>,
    bell: Bell,
}

impl Orders {
    pub(crate) fn new(bell: Bell) -> (Self, Receiver<Command>) {
        let (commands, inbox) = channel();
        (Self { commands, bell }, inbox)
    }

    pub(crate) fn send(&self, command: Command) -> Result<(), SendError<Command>> {
        self.commands.send(command)?;
        self.bell.ring();
        Ok(())
    }
}

/// What comes back.
#[derive(Debug)]
pub(crate) enum Piece {
    /// How likely the next token was.
    Logprobs(Box<TokenLogprobs>),
    Token(Option<u32>),
    End(FinishReason, Usage),
    Failed(RequestError),
}

pub(crate) struct Pump<'a> {
    backend: &'a mut dyn Backend,
    rung: Waiting,
    /// How long it sleeps at most.
    patience: Duration,
    inbox: Receiver<Command>,
    metrics: Arc<Metrics>,
    waiting: HashMap<RequestId, UnboundedSender<Piece>>,
}

impl<'a> Pump<'a> {
    pub(crate) fn new(
        backend: &'a mut dyn Backend,
        (bell, rung): (Bell, Waiting),
        inbox: Receiver<Command>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let patience = match backend.ringing() {
            Some(ringing) => {
                ringing.ring(bell);
                IDLE
            }
            None => TICK,
        };
        Self {
            backend,
            rung,
            patience,
            inbox,
            metrics,
            waiting: HashMap::new(),
        }
    }

    /// Until `stop`, and then until nothing is in flight or `grace` is over.
    pub(crate) fn run(
        mut self,
        desk: &Desk,
        grace: Duration,
        stop: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        let mut stopping = None;
        let mut events = Vec::new();
        loop {
            if stopping.is_none() && stop() {
                desk.close();
                stopping = Some(Instant::now());
            }
            if let Some(since) = stopping {
                if self.waiting.is_empty() {
                    return Ok(());
                }
                if since.elapsed() >= grace {
                    // Their clients see the connection end.
                    return Ok(());
                }
            }
            self.take_commands()?;
            if !self.waiting.is_empty() {
                let now_ns = self.backend.now_ns();
                self.backend
                    .poll(Some(now_ns), &mut events)
                    .map_err(io::Error::other)?;
                for event in events.drain(..) {
                    self.hand_over(event);
                }
            }
            self.rest();
        }
    }

    /// Until a command or the backend rings, or what the backend announced is due.
    fn rest(&mut self) {
        let now_ns = self.backend.now_ns();
        let patience = match self.waiting.is_empty() {
            true => IDLE,
            false => self.patience,
        };
        let due = self.backend.ringing().and_then(|ringing| ringing.due_ns());
        let due = due.map(|due_ns| Duration::from_nanos(due_ns.saturating_sub(now_ns)));
        self.rung
            .wait(Some(due.map_or(patience, |due| due.min(patience))));
    }

    fn take_commands(&mut self) -> io::Result<()> {
        loop {
            match self.inbox.try_recv() {
                Ok(command) => self.obey(command)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => {
                    return Err(io::Error::other("the thread that holds the sockets died"));
                }
            }
        }
    }

    fn obey(&mut self, command: Command) -> io::Result<()> {
        match command {
            Command::Submit(request, answer) => {
                self.waiting.insert(request.id, answer);
                self.backend.submit(request).map_err(io::Error::other)
            }
            Command::Cancel(id) => {
                if self.waiting.contains_key(&id) {
                    self.backend.cancel(id);
                }
                Ok(())
            }
        }
    }

    fn hand_over(&mut self, event: Event) {
        // Who has gone does not listen; its cancellation is on the way.
        match event {
            Event::Sent { .. } => {}
            Event::Step(step) => self.metrics.change(|values| values.on_step(&step)),
            Event::Logprobs(told) => {
                if let Some(answer) = self.waiting.get(&told.request) {
                    _ = answer.send(Piece::Logprobs(told));
                }
            }
            Event::Tokens(tokens) => {
                self.pass_on(tokens.request, tokens.tokens, tokens.token_id);
            }
            Event::TokenRun(run) => self.pass_on(run.request, run.span.events, None),
            Event::Finished {
                request,
                reason,
                usage,
                ..
            } => {
                self.metrics.change(|values| {
                    values.finished += u64::from(reason != FinishReason::Cancelled);
                    values.cancelled += u64::from(reason == FinishReason::Cancelled);
                    values.prompt_tokens += u64::from(usage.input_tokens);
                    values.cached_tokens += u64::from(usage.cached_tokens);
                });
                if let Some(answer) = self.waiting.remove(&request) {
                    _ = answer.send(Piece::End(reason, usage));
                }
            }
            Event::Failed { request, error, .. } => {
                self.metrics.change(|values| values.failed += 1);
                if let Some(answer) = self.waiting.remove(&request) {
                    _ = answer.send(Piece::Failed(error));
                }
            }
        }
    }

    fn pass_on(&mut self, request: RequestId, tokens: u32, token_id: Option<u32>) {
        self.metrics
            .change(|values| values.output_tokens += u64::from(tokens));
        if let Some(answer) = self.waiting.get(&request) {
            for _ in 0..tokens {
                _ = answer.send(Piece::Token(token_id));
            }
        }
    }
}

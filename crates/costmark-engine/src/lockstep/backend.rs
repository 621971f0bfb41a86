//! The [`Backend`] face of the worker thread.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use costmark_core::{
    Backend, BackendError, BackendInfo, BackendKind, Clock, Event, MonotonicClock, Request,
    RequestId,
};

use super::LockstepOptions;
use super::model::Model;
use super::worker::{Command, Report, Worker};
use crate::error::{EngineError, Result};
use costmark_kernels::parallel;

/// Runs a candle-transformers model on its own thread, one static batch at a time. See the
/// [module](super).
///
/// Dropping it ends the thread after the step in progress.
pub struct LockstepBackend {
    info: BackendInfo,
    clock: MonotonicClock,
    /// `None` once dropped.
    commands: Option<Sender<Command>>,
    reports: Receiver<Report>,
    worker: Option<JoinHandle<()>>,
    in_flight: usize,
}

impl LockstepBackend {
    /// Loads the model and starts the thread. Events are stamped with a copy of `clock`.
    ///
    /// # Errors
    /// When the model cannot be loaded or an option makes no sense; names the file, tensor
    /// or option.
    pub fn start(options: LockstepOptions, clock: MonotonicClock) -> Result<Self> {
        if options.batch_size == 0 {
            return Err(EngineError::Option(
                "the batch size must be at least 1 (--max-sequences)".into(),
            ));
        }
        if options.max_context == Some(0) {
            return Err(EngineError::Option(
                "--max-context must be at least 1 token".into(),
            ));
        }
        let model = Model::load(&options)?;
        let batch_size = options.batch_size.min(model.max_batch);
        let info = describe(&model, &options, batch_size);
        let (commands, from_driver) = channel();
        let (to_driver, reports) = channel();
        let worker = Worker {
            clock,
            batch_size: batch_size as usize,
            fill_wait: Duration::from_nanos(options.fill_wait_ns),
            max_context: model.shape.max_context,
            model,
            commands: from_driver,
            reports: to_driver,
            queue: VecDeque::new(),
            events: Vec::new(),
            steps: 0,
        };
        let worker = std::thread::Builder::new()
            .name("lockstep".into())
            .spawn(move || worker.run())
            .map_err(|error| EngineError::Run(format!("cannot start a thread: {error}")))?;
        Ok(Self {
            info,
            clock,
            commands: Some(commands),
            reports,
            worker: Some(worker),
            in_flight: 0,
        })
    }

    fn take(&mut self, report: Report, events: &mut Vec<Event>) -> Result<(), BackendError> {
        match report {
            Report::Events(new) => {
                let ended = |e: &&Event| matches!(e, Event::Finished { .. } | Event::Failed { .. });
                let ended = new.iter().filter(ended).count();
                self.in_flight = self.in_flight.saturating_sub(ended);
                events.extend(new);
                Ok(())
            }
            Report::Fatal(message) => Err(BackendError::new(message)),
        }
    }

    /// Why the thread is gone.
    fn ended(&mut self) -> BackendError {
        let outcome = self.worker.take().map(JoinHandle::join);
        let message = match &outcome {
            Some(Err(panic)) => panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("for an unknown reason"),
            _ => "after an error reported before",
        };
        BackendError::new(format!("the lockstep thread ended: {message}"))
    }
}

fn describe(model: &Model, options: &LockstepOptions, batch_size: u32) -> BackendInfo {
    let mut notes = vec![
        "static batches of equal prompt length: a batch runs until its longest sequence is done"
            .to_string(),
    ];
    notes.extend(model.notes.iter().cloned());
    BackendInfo {
        kind: BackendKind::Lockstep,
        model: options.name.clone(),
        source: options.source.clone(),
        synthetic: model.synthetic,
        weight_dtype: model.weight_dtype.clone(),
        kv_dtype: "f32".into(),
        device: format!("cpu ({} threads)", parallel::threads()),
        replicas: 1,
        software: concat!(
            "costmark ",
            env!("CARGO_PKG_VERSION"),
            ", candle-transformers 0.11"
        )
        .into(),
        shape: Some(model.shape),
        work: Some(model.work),
        max_context: u32::try_from(model.shape.max_context).unwrap_or(u32::MAX),
        max_sequences: batch_size,
        kv_capacity_tokens: model.shape.max_context * u64::from(batch_size),
        weight_bytes: model.weight_bytes,
        notes,
    }
}

impl Backend for LockstepBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        let sent = self
            .commands
            .as_ref()
            .is_some_and(|c| c.send(Command::Submit(request)).is_ok());
        if !sent {
            return Err(self.ended());
        }
        self.in_flight += 1;
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(commands) = &self.commands {
            // A thread that is gone is reported by the next poll.
            let _ = commands.send(Command::Cancel(id));
        }
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        if until_ns.is_none() && self.in_flight == 0 {
            return Ok(());
        }
        let first = match until_ns {
            None => self
                .reports
                .recv()
                .map_err(|_| RecvTimeoutError::Disconnected),
            Some(until_ns) => {
                let left = until_ns.saturating_sub(self.clock.now_ns());
                self.reports.recv_timeout(Duration::from_nanos(left))
            }
        };
        match first {
            Ok(report) => self.take(report, events)?,
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(self.ended()),
        }
        while let Ok(report) = self.reports.try_recv() {
            self.take(report, events)?;
        }
        Ok(())
    }
}

impl Drop for LockstepBackend {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(worker) = self.worker.take() {
            // Its panic, if any, has been reported or nobody waits for it.
            let _ = worker.join();
        }
    }
}

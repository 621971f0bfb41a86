//! The backend itself: hands requests to workers and takes in what they report.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use costmark_core::{
    Backend, BackendError, BackendInfo, BackendKind, Clock, ErrorClass, Event, MonotonicClock,
    Request, RequestError, RequestId, ServerMetrics,
};

use super::HttpOptions;
use super::body::{Api, Dialect, PromptText, words};
use super::connect::tls_config;
use super::detect::{Facts, detect};
use super::error::ConnectError;
use super::outbox::Outbox;
use super::recount::Recounter;
use super::request::Job;
use super::tally::{Counts, Tally};
use super::watch::Watch;
use super::worker::{Command, Settings, Worker};

/// How long to wait where no deadline is given, before looking whether a worker died.
const LOOK: Duration = Duration::from_millis(500);
/// Ids below this are in nearly every vocabulary.
const SMALL_VOCABULARY: u32 = 32_000;

/// Drives a server that speaks the OpenAI protocol.
///
/// Latencies are those a client sees: they hold the network, the server's queue and its
/// parsing. Steps are not visible, so there is no MBU and no split by phase.
pub struct HttpBackend {
    info: BackendInfo,
    clock: MonotonicClock,
    dialect: Dialect,
    vocab_size: u32,
    text: Option<Arc<dyn PromptText>>,
    outbox: Arc<Outbox>,
    workers: Vec<Worker>,
    /// Which worker has a request.
    in_flight: HashMap<RequestId, usize>,
    load: Vec<usize>,
    tally: Tally,
    told: Counts,
    /// Reads the server's own metrics, where it has some that are known.
    watch: Option<Watch>,
    /// Notes that do not change.
    notes: Vec<String>,
}

impl HttpBackend {
    /// Finds out who the server is and how it wants to be asked, by a few short requests,
    /// and gets ready to drive it.
    ///
    /// # Errors
    /// The server does not answer, refuses what a measurement needs, or the options are
    /// contradictory.
    pub fn connect(options: HttpOptions, clock: MonotonicClock) -> Result<Self, ConnectError> {
        let outbox = Arc::new(Outbox::default());
        let tally = Tally::default();
        let tls = options
            .endpoint
            .tls
            .then(|| tls_config(options.ca_file.as_deref()))
            .transpose()?;
        let mut settings = Settings {
            tls,
            clock,
            dialect: Dialect {
                api: Api::Completions,
                model: options.model.clone().unwrap_or_default(),
                stream: options.stream,
                ids: true,
                tells_ids: false,
                refused: Vec::new(),
            },
            recounter: None,
            outbox: Arc::clone(&outbox),
            tally: tally.clone(),
            options,
        };
        let facts = detect(&settings)?;
        settings.dialect = facts.dialect.clone();
        if let Some(text) = settings.options.text.as_ref().filter(|_| facts.tells_usage) {
            let started = Recounter::start(Arc::clone(text), tally.clone());
            settings.recounter = Some(started.map_err(|error| {
                ConnectError::Run(format!("the system refuses a thread: {error}"))
            })?);
        }
        let workers = (0..settings.options.threads.max(1))
            .map(|_| Worker::start(settings.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let watch = Watch::start(&settings)?;
        let text = settings.options.text.clone();
        let vocab_size = text
            .as_ref()
            .map(|text| text.vocab_size())
            .or(facts.vocab_size)
            .unwrap_or(SMALL_VOCABULARY);
        Ok(Self {
            info: info(&facts, &settings.options),
            clock,
            dialect: settings.dialect,
            vocab_size,
            text,
            outbox,
            load: vec![0; workers.len()],
            workers,
            in_flight: HashMap::new(),
            tally,
            told: Counts::default(),
            watch,
            notes: facts.notes,
        })
    }

    /// Prompt ids must be below this.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    fn job(&self, request: &Request) -> Option<Job> {
        let text = match (&self.text, self.dialect.ids) {
            (_, true) => String::new(),
            (None, false) => words(&request.prompt),
            (Some(text), false) => text.text(&request.prompt)?,
        };
        Some(Job {
            id: request.id,
            body: self.dialect.body(request, &text),
            input_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            max_tokens: request.max_tokens,
            exact: request.ignore_eos,
        })
    }

    fn send(&self, worker: usize, command: Command) -> Result<(), BackendError> {
        let commands = self.workers[worker].commands.as_ref();
        match commands.map(|commands| commands.send(command)) {
            Some(Ok(())) => Ok(()),
            _ => Err(dead()),
        }
    }

    /// Brings the notes up to date with what was counted.
    fn note(&mut self) {
        let counts = self.tally.counts();
        if counts != self.told {
            self.told = counts;
            self.info.notes = self.notes.clone();
            self.info.notes.extend(counts.notes());
            let watched = self.watch.as_ref().and_then(Watch::note);
            self.info.notes.extend(watched);
        }
    }
}

fn dead() -> BackendError {
    BackendError::new(
        "a thread that holds connections died. This is a bug in costmark; requests in flight are \
         lost, what was recorded before is valid",
    )
}

impl Backend for HttpBackend {
    fn info(&self) -> &BackendInfo {
        &self.info
    }

    fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    fn submit(&mut self, request: Request) -> Result<(), BackendError> {
        let Some(job) = self.job(&request) else {
            self.in_flight.insert(request.id, 0);
            self.load[0] += 1;
            self.outbox.push(Event::Failed {
                request: request.id,
                at_ns: self.clock.now_ns(),
                error: RequestError {
                    class: ErrorClass::Rejected,
                    message: format!(
                        "the tokenizer makes no text of exactly {} tokens from this prompt",
                        request.prompt.len()
                    ),
                },
            });
            return Ok(());
        };
        let least = (0..self.load.len()).min_by_key(|&worker| self.load[worker]);
        let worker = least.unwrap_or(0);
        self.send(worker, Command::Send(job))?;
        self.in_flight.insert(request.id, worker);
        self.load[worker] += 1;
        Ok(())
    }

    fn cancel(&mut self, id: RequestId) {
        if let Some(&worker) = self.in_flight.get(&id) {
            // A dead worker shows in the next submit or poll.
            _ = self.send(worker, Command::Cancel(id));
        }
    }

    fn server_metrics(&mut self) -> Option<ServerMetrics> {
        self.watch.as_ref().and_then(Watch::span)
    }

    fn poll(&mut self, until_ns: Option<u64>, events: &mut Vec<Event>) -> Result<(), BackendError> {
        let before = events.len();
        loop {
            if until_ns.is_none() && self.in_flight.is_empty() {
                return Ok(());
            }
            let left =
                until_ns.map(|at| Duration::from_nanos(at.saturating_sub(self.clock.now_ns())));
            let wait = left.map_or(LOOK, |left| left.min(LOOK));
            self.outbox.take(Instant::now() + wait, events);
            if events.len() > before {
                break;
            }
            let died = |w: &Worker| w.thread.as_ref().is_none_or(JoinHandle::is_finished);
            if self.workers.iter().any(died) {
                return Err(dead());
            }
            if until_ns.is_some_and(|at| self.clock.now_ns() >= at) {
                return Ok(());
            }
        }
        let mut ended = false;
        for event in &events[before..] {
            if let Event::Finished { request, .. } | Event::Failed { request, .. } = event {
                if let Some(worker) = self.in_flight.remove(request) {
                    self.load[worker] -= 1;
                }
                ended = true;
            }
        }
        if ended {
            self.note();
        }
        Ok(())
    }
}

fn info(facts: &Facts, options: &HttpOptions) -> BackendInfo {
    let unknown = || "unknown".to_owned();
    BackendInfo {
        kind: BackendKind::Http,
        model: facts.dialect.model.clone(),
        source: options.endpoint.to_string(),
        synthetic: false,
        weight_dtype: unknown(),
        kv_dtype: unknown(),
        device: if options.endpoint.is_loopback() {
            "server on this machine".into()
        } else {
            "server elsewhere".into()
        },
        replicas: 1,
        software: facts.software.clone(),
        shape: None,
        work: None,
        max_context: facts.max_context.unwrap_or(u32::MAX),
        max_sequences: facts.max_sequences.unwrap_or(u32::MAX),
        kv_capacity_tokens: u64::MAX,
        weight_bytes: facts.weight_bytes.unwrap_or(0),
        notes: facts.notes.clone(),
    }
}

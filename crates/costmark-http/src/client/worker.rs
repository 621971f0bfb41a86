//! A thread that holds sockets.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;

use costmark_core::{
    Clock, ErrorClass, Event, FinishReason, MonotonicClock, RequestError, RequestId, Usage,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{AbortHandle, LocalSet};
use tokio_rustls::rustls::ClientConfig;

use super::body::{Dialect, PromptText};
use super::connect::{Connector, Line};
use super::endpoint::Endpoint;
use super::error::{ConnectError, failure};
use super::outbox::Outbox;
use super::recount::Recounter;
use super::request::{Job, serve};
use super::secrets::Secrets;
use super::tally::Tally;
use super::{HttpOptions, Timeouts};

/// What is told to a worker.
pub(crate) enum Command {
    Send(Job),
    Cancel(RequestId),
}

/// What all requests of a thread share.
pub(crate) struct Shared {
    pub(crate) clock: MonotonicClock,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) dialect: Dialect,
    pub(crate) endpoint: Endpoint,
    pub(crate) secrets: Secrets,
    pub(crate) timeouts: Timeouts,
    pub(crate) text: Option<Arc<dyn PromptText>>,
    /// Counts answers again whose server counts them.
    pub(crate) recounter: Option<Recounter>,
    pub(crate) tally: Tally,
    connector: Connector,
    idle: RefCell<Vec<Line>>,
    /// Requests that have not ended.
    pub(crate) live: RefCell<HashMap<RequestId, Live>>,
}

/// A request that has not ended: its task, and how many tokens it has brought.
type Live = (AbortHandle, Rc<Cell<u32>>);

/// What a [`Shared`] is made of; may move to another thread.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) options: HttpOptions,
    pub(crate) tls: Option<Arc<ClientConfig>>,
    pub(crate) clock: MonotonicClock,
    pub(crate) dialect: Dialect,
    pub(crate) recounter: Option<Recounter>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) tally: Tally,
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Result<Self, ConnectError> {
        let options = &settings.options;
        Ok(Self {
            connector: Connector::new(options, settings.tls.as_ref(), settings.clock)?,
            clock: settings.clock,
            outbox: settings.outbox,
            dialect: settings.dialect,
            endpoint: options.endpoint.clone(),
            secrets: options.secrets.clone(),
            timeouts: options.timeouts,
            text: options.text.clone(),
            recounter: settings.recounter,
            tally: settings.tally,
            idle: RefCell::default(),
            live: RefCell::default(),
        })
    }

    /// A new connection, within the time allowed.
    pub(crate) async fn connect(&self) -> Result<Line, RequestError> {
        let limit = self.timeouts.connect;
        let line = match tokio::time::timeout(limit, self.connector.connect()).await {
            Ok(line) => line?,
            Err(_) => {
                let words = format!(
                    "no connection to {} within {} s",
                    self.endpoint,
                    limit.as_secs_f64()
                );
                return Err(failure(ErrorClass::ConnectTimeout, words));
            }
        };
        if let Line::H2(shared) = &line {
            // The next requests share it.
            self.idle.borrow_mut().push(Line::H2(shared.clone()));
        }
        Ok(line)
    }

    /// A kept connection that is still open, if there is one.
    pub(crate) async fn idle_line(&self) -> Option<Line> {
        poll_fn(|cx| {
            let mut idle = self.idle.borrow_mut();
            while let Some(mut line) = idle.pop() {
                if !line.is_ready(cx) {
                    continue;
                }
                if let Line::H2(shared) = &line {
                    idle.push(Line::H2(shared.clone()));
                }
                return Poll::Ready(Some(line));
            }
            Poll::Ready(None)
        })
        .await
    }

    /// Keeps a connection whose answer has been read.
    pub(crate) fn keep(&self, line: Line) {
        if let Line::H1(_) = line {
            self.idle.borrow_mut().push(line);
        }
    }

    fn cancel(&self, id: RequestId) {
        let Some((task, arrived)) = self.live.borrow_mut().remove(&id) else {
            return;
        };
        // Closes its connection; a server that looks stops working on it.
        task.abort();
        self.outbox.push(Event::Finished {
            request: id,
            at_ns: self.clock.now_ns(),
            reason: FinishReason::Cancelled,
            usage: Usage {
                output_tokens: arrived.get(),
                ..Usage::default()
            },
        });
    }
}

/// A running worker. Dropping the sender ends it.
pub(crate) struct Worker {
    pub(crate) commands: Option<UnboundedSender<Command>>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn start(settings: Settings) -> Result<Self, ConnectError> {
        let refused = |what: &str, error: std::io::Error| {
            ConnectError::Run(format!("the system refuses {what}: {error}"))
        };
        // What can be wrong is found out here, where it can be told.
        Connector::new(&settings.options, settings.tls.as_ref(), settings.clock)?;
        let runtime = runtime().map_err(|e| refused("a socket poller", e))?;
        let (commands, inbox) = unbounded_channel();
        let thread = std::thread::Builder::new()
            .name("costmark-http".into())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, work(settings, inbox));
                drop(local);
                // Not to be held up by a name that is still being resolved.
                runtime.shutdown_background();
            })
            .map_err(|e| refused("a thread", e))?;
        Ok(Self {
            commands: Some(commands),
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join(); // a panic was reported by the backend
        }
    }
}

pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // Beside the sockets: resolves names and counts answers, one after the other.
        .max_blocking_threads(1)
        .build()
}

async fn work(settings: Settings, mut inbox: UnboundedReceiver<Command>) {
    let Ok(shared) = Shared::new(settings).map(Rc::new) else {
        return;
    };
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Send(job) => {
                let (id, arrived) = (job.id, Rc::new(Cell::new(0)));
                let task = serve(Rc::clone(&shared), job, Rc::clone(&arrived));
                let task = tokio::task::spawn_local(task);
                // The task has not run yet.
                let entry = (task.abort_handle(), arrived);
                shared.live.borrow_mut().insert(id, entry);
            }
            Command::Cancel(id) => shared.cancel(id),
        }
    }
}

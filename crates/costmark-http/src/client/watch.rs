//! What the server tells of itself in `/metrics` while it is measured.
//!
//! A thread of its own reads the page once a second, beside the measurement: from before the
//! first request until the backend goes, and whenever a span of it is asked for.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use costmark_core::{Clock, ServerMetrics};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::detect::page;
use super::error::ConnectError;
use super::metrics_page::Reading;
use super::worker::{Settings, Shared, runtime};

const PERIOD: Duration = Duration::from_secs(1);
/// How long a span waits for its last reading; without it, it ends at the one before.
const PATIENCE: Duration = Duration::from_secs(2);

/// Readings of a span, as far as they are told.
#[derive(Debug, Clone, Copy)]
struct Readings {
    n: u64,
    first: Reading,
    last: Reading,
    /// The largest of each gauge.
    most: Reading,
}

impl Readings {
    fn new(first: Reading) -> Self {
        Self {
            n: 1,
            first,
            last: first,
            most: first,
        }
    }

    fn add(&mut self, reading: Reading) {
        self.n += 1;
        self.last = reading;
        for (most, new) in [
            (&mut self.most.kv_use, reading.kv_use),
            (&mut self.most.running, reading.running),
            (&mut self.most.waiting, reading.waiting),
        ] {
            // `None` is below every number.
            if new > *most {
                *most = new;
            }
        }
    }

    /// By how much a counter grew; `None` where it is not told or was set back.
    fn growth(&self, of: impl Fn(&Reading) -> Option<f64>) -> Option<f64> {
        Some(of(&self.last)? - of(&self.first)?).filter(|&n| n >= 0.0)
    }

    /// In figures, once there are two readings.
    fn metrics(&self) -> Option<ServerMetrics> {
        let asked = self.growth(|r| r.cache_asked).filter(|&n| n > 0.0);
        let had = self.growth(|r| r.cache_had);
        (self.n > 1).then(|| ServerMetrics {
            readings: self.n,
            span_s: self.last.at_ns.saturating_sub(self.first.at_ns) as f64 / 1e9,
            kv_use_max: self.most.kv_use,
            running_max: self.most.running,
            waiting_max: self.most.waiting,
            cache_hit_share: asked.zip(had).map(|(asked, had)| had / asked),
            prefill_s: self.growth(|r| r.prefill_s),
            prefill_tokens: self.growth(|r| r.prompt_tokens),
            decode_s: self.growth(|r| r.decode_s),
            decode_tokens: self.growth(|r| r.output_tokens),
        })
    }
}

/// In words.
fn told(metrics: &ServerMetrics) -> String {
    let mut parts = Vec::new();
    if let Some(share) = metrics.kv_use_max {
        parts.push(format!("KV cache in use at most {:.1} %", 100.0 * share));
    }
    for (what, n) in [
        ("running", metrics.running_max),
        ("waiting", metrics.waiting_max),
    ] {
        if let Some(n) = n {
            parts.push(format!("requests {what} at most {n}"));
        }
    }
    if let Some(share) = metrics.cache_hit_share {
        let share = 100.0 * share;
        parts.push(format!("prefix cache hits {share:.1} % of prompt tokens"));
    }
    let phases = [
        ("prefill", metrics.prefill_s, metrics.prefill_tokens),
        ("decode", metrics.decode_s, metrics.decode_tokens),
    ];
    for (phase, seconds, tokens) in phases {
        if let (Some(seconds), Some(tokens)) = (seconds, tokens) {
            parts.push(format!("{phase} {seconds:.3} s for {tokens} tokens"));
        }
    }
    format!(
        "The server's own /metrics, {} readings from before the first request on, \
         warm-up included: {}.",
        metrics.readings,
        parts.join("; ")
    )
}

/// What the thread and its owner share.
#[derive(Debug)]
struct Kept {
    /// From the begin.
    all: Readings,
    /// Since the last span ended.
    span: Readings,
}

/// Reads the page until dropped.
pub(crate) struct Watch {
    kept: Arc<Mutex<Kept>>,
    /// Asks for a reading now, and to be told when it is there.
    ask: UnboundedSender<mpsc::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `None` where the server has no such page, or tells nothing that is known.
    pub(crate) fn start(settings: &Settings) -> Result<Option<Self>, ConnectError> {
        let refused = |what: &str, error: std::io::Error| {
            ConnectError::Run(format!("the system refuses {what}: {error}"))
        };
        let runtime = runtime().map_err(|e| refused("a socket poller", e))?;
        let shared = Shared::new(settings.clone())?;
        let Some(first) = LocalSet::new().block_on(&runtime, read(&shared)) else {
            runtime.shutdown_background();
            return Ok(None);
        };
        drop(shared); // Its connections belong to the runtime of this thread.
        let (all, span) = (Readings::new(first), Readings::new(first));
        let kept = Arc::new(Mutex::new(Kept { all, span }));
        let (ask, asked) = unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (settings, shared_kept) = (settings.clone(), Arc::clone(&kept));
        let thread = std::thread::Builder::new()
            .name("costmark-watch".into())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, watch(settings, &shared_kept, asked, stopped));
                drop(local);
                runtime.shutdown_background();
            })
            .map_err(|e| refused("a thread", e))?;
        Ok(Some(Self {
            kept,
            ask,
            stop: Some(stop),
            thread: Some(thread),
        }))
    }

    /// What was read so far.
    pub(crate) fn note(&self) -> Option<String> {
        lock(&self.kept).all.metrics().as_ref().map(told)
    }

    /// What was told since this was called last, up to now. A server that does not answer in
    /// time has the span end at the reading before, as its `span_s` shows.
    pub(crate) fn span(&self) -> Option<ServerMetrics> {
        let (tell, there) = mpsc::channel();
        if self.ask.send(tell).is_ok() {
            _ = there.recv_timeout(PATIENCE);
        }
        let span = &mut lock(&self.kept).span;
        let metrics = span.metrics();
        *span = Readings::new(span.last);
        metrics
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join(); // a panic has been printed
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> std::sync::MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(
    settings: Settings,
    kept: &Mutex<Kept>,
    mut asked: UnboundedReceiver<mpsc::Sender<()>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let Ok(shared) = Shared::new(settings) else {
        return;
    };
    let look = async {
        loop {
            // Its sender lives until `stopped` is told.
            let tell = tokio::time::timeout(PERIOD, asked.recv()).await;
            // A server too busy to answer is asked again a second later.
            if let Some(reading) = read(&shared).await {
                let mut kept = lock(kept);
                kept.all.add(reading);
                kept.span.add(reading);
            }
            if let Ok(Some(tell)) = tell {
                _ = tell.send(()); // nobody waits any more
            }
        }
    };
    let mut look = std::pin::pin!(look);
    std::future::poll_fn(|cx| {
        if std::pin::Pin::new(&mut stopped).poll(cx).is_ready() {
            return std::task::Poll::Ready(());
        }
        look.as_mut().poll(cx)
    })
    .await;
}

async fn read(shared: &Shared) -> Option<Reading> {
    let page = page(shared, "/metrics").await.ok()?;
    Some(Reading {
        at_ns: shared.clock.now_ns(),
        ..Reading::parse(std::str::from_utf8(&page).ok()?)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_tell_by_their_growth_and_gauges_by_their_top() {
        let at = |n: f64, running: f64| Reading {
            running: Some(running),
            cache_asked: Some(100.0 * n),
            cache_had: Some(25.0 * n),
            decode_s: Some(n),
            output_tokens: Some(40.0 * n),
            ..Reading::default()
        };
        let mut readings = Readings::new(at(3.0, 0.0));
        assert_eq!(readings.metrics(), None);
        readings.add(at(4.0, 9.0));
        readings.add(at(5.0, 2.0));
        let metrics = readings.metrics().unwrap();
        assert_eq!((metrics.readings, metrics.decode_tokens), (3, Some(80.0)));
        assert_eq!((metrics.prefill_s, metrics.kv_use_max), (None, None));
        let note = told(&metrics);
        for words in [
            "3 readings",
            "running at most 9",
            "hits 25.0 %",
            "decode 2.000 s for 80",
        ] {
            assert!(note.contains(words), "{words}: {note}");
        }
        assert!(
            !note.contains("prefill") && !note.contains("waiting"),
            "{note}"
        );
        // A server that was started anew.
        readings.add(at(1.0, 1.0));
        assert_eq!(readings.metrics().unwrap().decode_s, None);
    }
}

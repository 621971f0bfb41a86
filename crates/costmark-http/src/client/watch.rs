//! What the server tells of itself in `/metrics` while it is measured.
//!
//! vLLM, SGLang, llama-server and `costmark serve` each have their own names for the same
//! things. A thread of its own reads the page once a second, beside the measurement: once
//! before the first request, and then until the backend goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::detect::page;
use super::error::ConnectError;
use super::worker::{Settings, Shared, runtime};

const PERIOD: Duration = Duration::from_secs(1);

/// Names of a quantity; the first that the page has is read.
type Names = &'static [&'static str];

/// Fraction of the KV cache in use.
const KV_USE: Names = &[
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "sglang:token_usage",
    "llamacpp:kv_cache_usage_ratio",
];
const RUNNING: Names = &[
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
    "costmark_requests_running",
];
const WAITING: Names = &[
    "vllm:num_requests_waiting",
    "sglang:num_queue_reqs",
    "llamacpp:requests_deferred",
    "costmark_requests_waiting",
];
/// Prompt tokens the prefix cache was asked for.
const CACHE_ASKED: Names = &[
    "vllm:prefix_cache_queries_total",
    "vllm:gpu_prefix_cache_queries_total",
    "sglang:prompt_tokens_total",
    "costmark_prompt_tokens_total",
];
/// Prompt tokens it had.
const CACHE_HAD: Names = &[
    "vllm:prefix_cache_hits_total",
    "vllm:gpu_prefix_cache_hits_total",
    "sglang:cached_tokens_total",
    "costmark_cached_tokens_total",
];
const PREFILL_S: Names = &[
    "vllm:request_prefill_time_seconds_sum",
    "llamacpp:prompt_seconds_total",
    "costmark_prefill_seconds_total",
];
const DECODE_S: Names = &[
    "vllm:request_decode_time_seconds_sum",
    "llamacpp:tokens_predicted_seconds_total",
    "costmark_decode_seconds_total",
];
const PROMPT_TOKENS: Names = &[
    "vllm:prompt_tokens_total",
    "sglang:prompt_tokens_total",
    "llamacpp:prompt_tokens_total",
    "costmark_prompt_tokens_total",
];
const OUTPUT_TOKENS: Names = &[
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
    "costmark_generation_tokens_total",
];

/// One reading of the page. What it does not tell is `None`, never 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Reading {
    kv_use: Option<f64>,
    running: Option<f64>,
    waiting: Option<f64>,
    cache_asked: Option<f64>,
    cache_had: Option<f64>,
    prefill_s: Option<f64>,
    decode_s: Option<f64>,
    prompt_tokens: Option<f64>,
    output_tokens: Option<f64>,
}

impl Reading {
    /// From a page in the text format of Prometheus; `None` where it tells nothing known.
    fn parse(page: &str) -> Option<Self> {
        let mut values: HashMap<&str, f64> = HashMap::new();
        for line in page.lines().map(str::trim).filter(|l| !l.starts_with('#')) {
            // `name{label="any text"} value [timestamp]`
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let rest = match line.rfind('}') {
                Some(end) => &line[end + 1..],
                None => line.get(name.len()..).unwrap_or_default(),
            };
            let value = rest.split_whitespace().next().and_then(|v| v.parse().ok());
            if let Some(value) = value.filter(|v: &f64| v.is_finite()) {
                // Several engines behind one address.
                *values.entry(name).or_default() += value;
            }
        }
        let get = |names: Names| names.iter().find_map(|name| values.get(name).copied());
        let kv_blocks = || {
            let total = get(&["costmark_kv_blocks_total"]).filter(|&n| n > 0.0)?;
            Some(get(&["costmark_kv_blocks_used"])? / total)
        };
        let reading = Self {
            kv_use: get(KV_USE).or_else(kv_blocks),
            running: get(RUNNING),
            waiting: get(WAITING),
            cache_asked: get(CACHE_ASKED),
            cache_had: get(CACHE_HAD),
            prefill_s: get(PREFILL_S),
            decode_s: get(DECODE_S),
            prompt_tokens: get(PROMPT_TOKENS),
            output_tokens: get(OUTPUT_TOKENS),
        };
        (reading != Self::default()).then_some(reading)
    }
}

/// All readings so far, as far as they are told.
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

    /// In words, once there are two readings.
    fn note(&self) -> Option<String> {
        if self.n < 2 {
            return None;
        }
        let mut parts = Vec::new();
        let most = &self.most;
        if let Some(share) = most.kv_use {
            parts.push(format!("KV cache in use at most {:.1} %", 100.0 * share));
        }
        for (what, n) in [("running", most.running), ("waiting", most.waiting)] {
            if let Some(n) = n {
                parts.push(format!("requests {what} at most {n}"));
            }
        }
        let asked = self.growth(|r| r.cache_asked).filter(|&n| n > 0.0);
        if let (Some(asked), Some(had)) = (asked, self.growth(|r| r.cache_had)) {
            let share = 100.0 * had / asked;
            parts.push(format!("prefix cache hits {share:.1} % of prompt tokens"));
        }
        let phases = [
            (
                "prefill",
                self.growth(|r| r.prefill_s),
                self.growth(|r| r.prompt_tokens),
            ),
            (
                "decode",
                self.growth(|r| r.decode_s),
                self.growth(|r| r.output_tokens),
            ),
        ];
        for (phase, seconds, tokens) in phases {
            if let (Some(seconds), Some(tokens)) = (seconds, tokens) {
                parts.push(format!("{phase} {seconds:.3} s for {tokens} tokens"));
            }
        }
        Some(format!(
            "The server's own /metrics, {} readings a second apart from before the first request \
             on, warm-up included: {}.",
            self.n,
            parts.join("; ")
        ))
    }
}

/// Reads the page until dropped.
pub(crate) struct Watch {
    readings: Arc<Mutex<Readings>>,
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
        let readings = Arc::new(Mutex::new(Readings::new(first)));
        let (stop, stopped) = oneshot::channel();
        let (settings, kept) = (settings.clone(), Arc::clone(&readings));
        let thread = std::thread::Builder::new()
            .name("costmark-watch".into())
            .spawn(move || {
                let local = LocalSet::new();
                local.block_on(&runtime, watch(settings, &kept, stopped));
                drop(local);
                runtime.shutdown_background();
            })
            .map_err(|e| refused("a thread", e))?;
        Ok(Some(Self {
            readings,
            stop: Some(stop),
            thread: Some(thread),
        }))
    }

    /// What was read so far.
    pub(crate) fn note(&self) -> Option<String> {
        lock(&self.readings).note()
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

fn lock(readings: &Mutex<Readings>) -> std::sync::MutexGuard<'_, Readings> {
    readings.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(settings: Settings, readings: &Mutex<Readings>, mut stopped: oneshot::Receiver<()>) {
    let Ok(shared) = Shared::new(settings) else {
        return;
    };
    let look = async {
        loop {
            tokio::time::sleep(PERIOD).await;
            // A server too busy to answer is asked again a second later.
            if let Some(reading) = read(&shared).await {
                lock(readings).add(reading);
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
    Reading::parse(std::str::from_utf8(&page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_read_in_its_words() {
        let vllm = "# HELP vllm:num_requests_running x\n\
            vllm:num_requests_running{engine=\"0\",model_name=\"a {b} c\"} 3.0\n\
            vllm:num_requests_running{engine=\"1\",model_name=\"a {b} c\"} 4.0\n\
            vllm:kv_cache_usage_perc{engine=\"0\"} 0.25 1700000000\n\
            vllm:prefix_cache_queries_total{engine=\"0\"} 200\n\
            vllm:prefix_cache_hits_total{engine=\"0\"} 50\n";
        let reading = Reading::parse(vllm).unwrap();
        assert_eq!((reading.running, reading.kv_use), (Some(7.0), Some(0.25)));
        assert_eq!(reading.waiting, None, "what is not told is not 0");
        let llama = "llamacpp:prompt_tokens_total 12\nllamacpp:prompt_seconds_total 0.5\n\
            llamacpp:requests_deferred 1\n";
        let reading = Reading::parse(llama).unwrap();
        assert_eq!((reading.prefill_s, reading.waiting), (Some(0.5), Some(1.0)));
        let sglang = "sglang:token_usage{tp_rank=\"0\"} 0.5\nsglang:num_queue_reqs 2\n";
        assert_eq!(Reading::parse(sglang).unwrap().waiting, Some(2.0));
        let ours = "costmark_kv_blocks_used 3\ncostmark_kv_blocks_total 12\n";
        assert_eq!(Reading::parse(ours).unwrap().kv_use, Some(0.25));
        for nothing in [
            "",
            "<html>no</html>",
            "up 1\n",
            "vllm:num_requests_running NaN",
        ] {
            assert_eq!(Reading::parse(nothing), None, "{nothing}");
        }
    }

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
        assert_eq!(readings.note(), None);
        readings.add(at(4.0, 9.0));
        readings.add(at(5.0, 2.0));
        let note = readings.note().unwrap();
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
        assert!(!readings.note().unwrap().contains("decode"));
    }
}

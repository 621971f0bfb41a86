//! The words of `/metrics`: vLLM, SGLang, llama-server and `costmark serve` each have their own
//! names for the same things.

use std::collections::HashMap;

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
pub(crate) struct Reading {
    /// When it was there; 0 of one that is only parsed.
    pub(crate) at_ns: u64,
    pub(crate) kv_use: Option<f64>,
    pub(crate) running: Option<f64>,
    pub(crate) waiting: Option<f64>,
    pub(crate) cache_asked: Option<f64>,
    pub(crate) cache_had: Option<f64>,
    pub(crate) prefill_s: Option<f64>,
    pub(crate) decode_s: Option<f64>,
    pub(crate) prompt_tokens: Option<f64>,
    pub(crate) output_tokens: Option<f64>,
}

impl Reading {
    /// From a page in the text format of Prometheus; `None` where it tells nothing known.
    pub(crate) fn parse(page: &str) -> Option<Self> {
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
            at_ns: 0,
        };
        (reading != Self::default()).then_some(reading)
    }
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
}

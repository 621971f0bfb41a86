//! What is asked for: drawn lengths, or a recorded trace.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use costmark_core::Sampling;
use costmark_load::{
    LengthDistribution, LengthPairs, MixedWorkload, ObservedLengths, RequestSource, ThinkTime,
    Trace, TraceInfo, TraceOptions, Turns, Workload,
};
use costmark_report::document::{TraceDocument, WorkloadDocument, canonical_hash};
use sha2::{Digest, Sha256};

use super::preset::{self, WorkloadFile};
use crate::args::{LengthArg, WorkloadArgs, turns};
use crate::failure::{Failure, Result};

/// What a workload is called that was put together from flags.
const CUSTOM: &str = "custom";
/// Prompt length when none is given. With [`DEFAULT_OUTPUT_LEN`] it keeps the default run to
/// minutes on two cores.
const DEFAULT_INPUT_LEN: u32 = 32;
/// Output length when none is given.
const DEFAULT_OUTPUT_LEN: u32 = 16;

/// What all requests of a plan have in common.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Asking {
    pub(crate) seed: u64,
    pub(crate) ignore_eos: bool,
    pub(crate) sampling: Sampling,
}

/// One workload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WorkloadPlan {
    /// Unique within the plan.
    pub(crate) id: String,
    /// Where its lengths come from, if that was said.
    source: Option<String>,
    /// Lengths as they are written.
    input_len: String,
    output_len: String,
    asked: Asked,
}

#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Drawn {
        input: LengthDistribution,
        output: LengthDistribution,
        pairs: LengthPairs,
        shared_prefix_tokens: u32,
        /// Conversations, where there is more than one turn or time to think.
        talk: Option<(LengthDistribution, ThinkTime)>,
        /// Of the lengths in files.
        lengths_sha256: Option<String>,
    },
    Traced(Trace, TraceDocument),
}

impl WorkloadPlan {
    /// The workloads that were asked for. Reads files.
    pub(crate) fn resolve(args: &WorkloadArgs, max_requests: Option<u64>) -> Result<Vec<Self>> {
        if let Some(path) = &args.trace {
            return Ok(vec![traced(path, args, max_requests)?]);
        }
        let Some(names) = &args.workload else {
            return Ok(vec![drawn(CUSTOM.into(), None, args)?]);
        };
        let mut all: Vec<Self> = Vec::new();
        for text in names {
            let (id, file) = preset::find(text.trim())?;
            if all.iter().any(|other| other.id == id) {
                return Err(Failure::input(format!(
                    "--workload names {id} twice; use --repeats to measure it again"
                )));
            }
            all.push(drawn(id, Some(file), args)?);
        }
        Ok(all)
    }

    /// Prompt plus output of the longest request there can be.
    pub(crate) fn longest_request_tokens(&self) -> u64 {
        let sum = |&(input, output): &(u32, u32)| u64::from(input) + u64::from(output);
        if let Asked::Drawn {
            input,
            output,
            shared_prefix_tokens,
            talk: Some((turns, _)),
            ..
        } = &self.asked
        {
            let shared = u64::from(*shared_prefix_tokens);
            let own = u64::from(input.longest()).saturating_sub(shared).max(1);
            let turn = own + u64::from(output.longest());
            return shared + u64::from(turns.longest()) * turn;
        }
        match &self.asked {
            Asked::Drawn {
                pairs: LengthPairs::Observed(pairs),
                ..
            } => pairs.iter().map(sum).max().unwrap_or(0),
            Asked::Drawn { input, output, .. } => sum(&(input.longest(), output.longest())),
            Asked::Traced(trace, _) => trace
                .requests
                .iter()
                .map(|r| sum(&(r.input_tokens, r.output_tokens)))
                .max()
                .unwrap_or(0),
        }
    }

    /// Input and output tokens of a request, on average.
    pub(crate) fn mean_tokens(&self) -> (f64, f64) {
        match &self.asked {
            Asked::Drawn {
                input,
                output,
                shared_prefix_tokens,
                talk,
                ..
            } => {
                let (input, output) = (input.mean(), output.mean());
                let own = (input - f64::from(*shared_prefix_tokens)).max(1.0);
                let before = talk
                    .as_ref()
                    .map_or(0.0, |(turns, _)| (turns.mean() - 1.0) / 2.0);
                (input + before * (own + output), output)
            }
            Asked::Traced(trace, _) => {
                let n = trace.requests.len().max(1) as f64;
                let (input, output) = trace.requests.iter().fold((0.0, 0.0), |(i, o), r| {
                    (
                        i + f64::from(r.input_tokens),
                        o + f64::from(r.output_tokens),
                    )
                });
                (input / n, output / n)
            }
        }
    }

    /// The trace it is, if it is one.
    pub(crate) fn trace(&self) -> Option<&Trace> {
        match &self.asked {
            Asked::Traced(trace, _) => Some(trace),
            Asked::Drawn { .. } => None,
        }
    }

    /// How users hold conversations, if they do.
    pub(crate) fn turns(&self, seed: u64) -> Option<Turns> {
        match &self.asked {
            Asked::Drawn {
                talk: Some((turns, think)),
                ..
            } => Some(Turns {
                turns: turns.clone(),
                think: *think,
                seed,
            }),
            _ => None,
        }
    }

    /// The requests, for a model of this vocabulary.
    pub(crate) fn source(&self, vocab_size: u32, asking: Asking) -> Box<dyn RequestSource> {
        match &self.asked {
            Asked::Traced(trace, _) => {
                let mut source = trace.source(vocab_size, asking.seed);
                source.ignore_eos = asking.ignore_eos;
                source.sampling = asking.sampling;
                Box::new(source)
            }
            Asked::Drawn {
                input,
                output,
                pairs,
                shared_prefix_tokens,
                ..
            } => {
                let base = Workload {
                    input: input.clone(),
                    output: output.clone(),
                    vocab_size,
                    seed: asking.seed,
                    ignore_eos: asking.ignore_eos,
                    sampling: asking.sampling,
                };
                if *pairs == LengthPairs::Correlated(0.0) && *shared_prefix_tokens == 0 {
                    return Box::new(base);
                }
                Box::new(MixedWorkload {
                    base,
                    pairs: pairs.clone(),
                    shared_prefix_tokens: *shared_prefix_tokens,
                })
            }
        }
    }

    /// As it goes into the result.
    pub(crate) fn document(&self) -> WorkloadDocument {
        let mut document = WorkloadDocument {
            id: String::new(),
            workload_hash: String::new(),
            source: None,
            input_len: self.input_len.clone(),
            output_len: self.output_len.clone(),
            length_correlation: None,
            lengths_sha256: None,
            shared_prefix_tokens: 0,
            turns: None,
            think_time: None,
            trace: None,
        };
        match &self.asked {
            Asked::Drawn {
                pairs,
                shared_prefix_tokens,
                lengths_sha256,
                talk,
                ..
            } => {
                if let Some((turns, think)) = talk {
                    document.turns = Some(turns.to_string());
                    document.think_time = Some(think.to_string());
                }
                document.shared_prefix_tokens = *shared_prefix_tokens;
                document.lengths_sha256.clone_from(lengths_sha256);
                if let LengthPairs::Correlated(rho) = pairs {
                    document.length_correlation = Some(*rho);
                }
                if lengths_sha256.is_some() {
                    // What is in the files counts, not where they are.
                    document.input_len = "file".into();
                    document.output_len = "file".into();
                }
            }
            Asked::Traced(_, trace) => {
                document.trace = Some(TraceDocument {
                    file: String::new(),
                    ..trace.clone()
                });
            }
        }
        // Whatever it is called and wherever it was read from, it is the same work.
        document.workload_hash = canonical_hash(&document);
        document.id.clone_from(&self.id);
        document.source.clone_from(&self.source);
        document.input_len.clone_from(&self.input_len);
        document.output_len.clone_from(&self.output_len);
        if let Asked::Traced(_, trace) = &self.asked {
            document.trace = Some(trace.clone());
        }
        document
    }
}

/// A workload of drawn lengths: what flags say counts before what the file says.
fn drawn(id: String, file: Option<WorkloadFile>, args: &WorkloadArgs) -> Result<WorkloadPlan> {
    let length = |flag: &str, arg: Option<&LengthArg>, text: Option<&str>, default: u32| match arg {
        Some(arg) => Ok(arg.clone()),
        None => match text {
            Some(text) => text
                .parse()
                .map_err(|e| Failure::input(format!("workload {id}: {flag}: {e}"))),
            None => Ok(LengthArg::Drawn(LengthDistribution::Fixed(default))),
        },
    };
    let of_file = |text: fn(&WorkloadFile) -> &str| file.as_ref().map(text);
    let input = length(
        "input_len",
        args.input_len.as_ref(),
        of_file(|f| &f.input_len),
        DEFAULT_INPUT_LEN,
    )?;
    let output = length(
        "output_len",
        args.output_len.as_ref(),
        of_file(|f| &f.output_len),
        DEFAULT_OUTPUT_LEN,
    )?;
    let correlation = args
        .length_correlation
        .or(file.as_ref().map(|f| f.correlation));
    if let Some(rho) = correlation
        && !(-1.0..=1.0).contains(&rho)
    {
        return Err(Failure::input(format!(
            "--length-correlation {rho}: is a correlation, from -1 to 1"
        )));
    }
    let mut hasher = Sha256::new();
    let mut read = |arg: &LengthArg| match arg {
        LengthArg::Drawn(length) => Ok((Some(length.clone()), None)),
        LengthArg::File(path) => observed(path, &mut hasher).map(|read| (None, Some(read))),
    };
    let (input_drawn, input_file) = read(&input)?;
    let (output_drawn, output_file) = read(&output)?;
    let has_files = input_file.is_some() || output_file.is_some();
    let pairs = match (&input_file, args.length_correlation) {
        // The same file of pairs for both: they stay together, unless that was said.
        (Some(ObservedLengths::Pairs(pairs)), None) if input == output => {
            LengthPairs::Observed(pairs.clone())
        }
        _ => LengthPairs::Correlated(correlation.unwrap_or(0.0)),
    };
    let shared_prefix_tokens = args
        .shared_prefix
        .or(file.as_ref().map(|f| f.shared_prefix))
        .unwrap_or(0);
    let talk = talk(&id, file.as_ref(), args)?;
    Ok(WorkloadPlan {
        id,
        source: file.map(|f| f.source),
        input_len: written(&input, input_file.as_ref()),
        output_len: written(&output, output_file.as_ref()),
        asked: Asked::Drawn {
            input: input_drawn
                .or(input_file.map(|f| f.inputs()))
                .unwrap_or(LengthDistribution::Fixed(DEFAULT_INPUT_LEN)),
            output: output_drawn
                .or(output_file.map(|f| f.outputs()))
                .unwrap_or(LengthDistribution::Fixed(DEFAULT_OUTPUT_LEN)),
            pairs,
            shared_prefix_tokens,
            talk,
            lengths_sha256: has_files.then(|| hex(hasher)),
        },
    })
}

/// Conversations: what flags say counts before what the file says.
fn talk(
    id: &str,
    file: Option<&WorkloadFile>,
    args: &WorkloadArgs,
) -> Result<Option<(LengthDistribution, ThinkTime)>> {
    let wrong = |key: &str, why: &dyn std::fmt::Display| {
        Failure::input(format!("workload {id}: {key}: {why}"))
    };
    let of_turns = match (&args.turns, file.and_then(|f| f.turns.as_ref())) {
        (Some(typed), _) => Some(typed.clone()),
        (None, Some(text)) => Some(turns(text).map_err(|e| wrong("turns", &e))?),
        (None, None) => None,
    };
    let think = match (args.think_time, file.and_then(|f| f.think_time.as_ref())) {
        (Some(typed), _) => typed,
        (None, Some(text)) => text.parse().map_err(|e| wrong("think_time", &e))?,
        (None, None) => ThinkTime::None,
    };
    let turns = of_turns.unwrap_or(LengthDistribution::Fixed(1));
    let is_plain = turns == LengthDistribution::Fixed(1) && think == ThinkTime::None;
    Ok((!is_plain).then_some((turns, think)))
}

fn written(arg: &LengthArg, read: Option<&ObservedLengths>) -> String {
    match (arg, read) {
        (LengthArg::Drawn(length), _) => length.to_string(),
        (LengthArg::File(path), read) => {
            let n = read.map_or(0, ObservedLengths::len);
            format!("file:{} ({n} lengths)", path.display())
        }
    }
}

fn observed(path: &Path, hasher: &mut Sha256) -> Result<ObservedLengths> {
    let read =
        ObservedLengths::read(open(path)?, &path.display().to_string()).map_err(Failure::input)?;
    match &read {
        ObservedLengths::Single(all) => {
            for n in all.iter() {
                hasher.update(n.to_le_bytes());
            }
        }
        ObservedLengths::Pairs(all) => {
            for (input, output) in all.iter() {
                hasher.update(input.to_le_bytes());
                hasher.update(output.to_le_bytes());
            }
        }
    }
    Ok(read)
}

/// A trace as a workload. Only the stretch that is asked for is held.
fn traced(path: &Path, args: &WorkloadArgs, max_requests: Option<u64>) -> Result<WorkloadPlan> {
    let options = TraceOptions {
        speed: 1.0,
        from_s: args.trace_window.map_or(0.0, |w| w.from_s),
        to_s: args.trace_window.and_then(|w| w.to_s),
        max_requests: max_requests.and_then(|n| usize::try_from(n).ok()),
    };
    let trace = read_trace(path, &options)
        .map_err(|failure| Failure::input(format!("--trace {}", failure.message())))?;
    if let Some(format) = args.trace_format
        && format != trace.format
    {
        return Err(Failure::input(format!(
            "--trace-format: {} is written otherwise, as its first line shows ({:?}); leave the \
             flag out",
            path.display(),
            trace.format
        )));
    }
    let mut hasher = Sha256::new();
    for request in trace.requests.iter() {
        hasher.update(request.at_ns.to_le_bytes());
        hasher.update(request.input_tokens.to_le_bytes());
        hasher.update(request.output_tokens.to_le_bytes());
        for block in &request.blocks {
            hasher.update(block.to_le_bytes());
        }
    }
    let document = TraceDocument {
        file: path.display().to_string(),
        requests: trace.requests.len() as u64,
        failed: trace.failed,
        from_s: options.from_s,
        to_s: options.to_s,
        requests_sha256: hex(hasher),
    };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok(WorkloadPlan {
        id: stem.into_owned(),
        source: None,
        input_len: "the trace's".into(),
        output_len: "the trace's".into(),
        asked: Asked::Traced(trace, document),
    })
}

/// Describes a trace in a file of any size.
pub(crate) fn trace_info(path: &Path, options: &TraceOptions) -> Result<TraceInfo> {
    TraceInfo::read(open(path)?, &path.display().to_string(), options).map_err(Failure::input)
}

/// Reads a trace from a file.
fn read_trace(path: &Path, options: &TraceOptions) -> Result<Trace> {
    Trace::read(open(path)?, &path.display().to_string(), options).map_err(Failure::input)
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path)
        .and_then(|file| {
            if file.metadata()?.is_dir() {
                return Err(std::io::Error::other("is a folder, not a file"));
            }
            Ok(file)
        })
        .map_err(|e| Failure::input(format!("{}: {e}", path.display())))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

fn hex(hasher: Sha256) -> String {
    hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect()
}

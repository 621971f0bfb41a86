//! The lines of trace files.

use serde::{Deserialize, Serialize};

/// Prompt tokens one block id stands for in Mooncake traces.
pub const TRACE_BLOCK_TOKENS: u32 = 512;
/// No model takes so much: a longer length is a mistake in the file.
const MAX_TOKENS: u32 = 100_000_000;

/// How a trace is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceFormat {
    /// Azure's LLM inference traces: CSV of `TIMESTAMP,ContextTokens,GeneratedTokens`.
    Azure,
    /// Mooncake's traces: JSON lines of `timestamp` (ms), `input_length`, `output_length`
    /// and `hash_ids`, one for each 512 tokens of the prompt.
    Mooncake,
    /// BurstGPT: CSV with columns `Timestamp` (s), `Request tokens` and `Response tokens`
    /// among others. No response tokens mean that the request failed.
    BurstGpt,
    /// costmark's own: CSV of `at_s,input_tokens,output_tokens`.
    Plain,
}

/// A request as a line has it. No output tokens: it failed.
pub(super) struct Entry {
    pub(super) at_s: f64,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) blocks: Box<[u64]>,
}

/// Reads the lines of one file.
pub(super) enum Lines {
    Mooncake,
    /// Columns of time, input and output tokens, and how many there are.
    Csv(TraceFormat, [usize; 3], usize),
}

#[derive(Deserialize)]
struct MooncakeLine {
    timestamp: f64,
    input_length: i64,
    output_length: i64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

const HEADERS: [(TraceFormat, [&str; 3]); 3] = [
    (
        TraceFormat::Azure,
        ["TIMESTAMP", "ContextTokens", "GeneratedTokens"],
    ),
    (
        TraceFormat::BurstGpt,
        ["Timestamp", "Request tokens", "Response tokens"],
    ),
    (
        TraceFormat::Plain,
        ["at_s", "input_tokens", "output_tokens"],
    ),
];

impl Lines {
    /// From the first line; whether that is a request already.
    pub(super) fn detect(first: &str) -> Result<(Self, bool), String> {
        let first = first.trim_start_matches('\u{feff}').trim();
        if first.starts_with('{') {
            return Ok((Self::Mooncake, true));
        }
        let names: Vec<&str> = first.split(',').map(str::trim).collect();
        let column = |name: &str| names.iter().position(|n| *n == name);
        for (format, [at, input, output]) in HEADERS {
            if let (Some(at), Some(input), Some(output)) =
                (column(at), column(input), column(output))
            {
                return Ok((Self::Csv(format, [at, input, output], names.len()), false));
            }
        }
        Err(
            "not a known trace: expected JSON lines with `timestamp`, or a header with \
             `TIMESTAMP,ContextTokens,GeneratedTokens` (Azure), `Timestamp`, `Request tokens`, \
             `Response tokens` (BurstGPT) or `at_s,input_tokens,output_tokens`"
                .into(),
        )
    }

    pub(super) fn format(&self) -> TraceFormat {
        match self {
            Self::Mooncake => TraceFormat::Mooncake,
            Self::Csv(format, ..) => *format,
        }
    }

    pub(super) fn parse(&self, line: &str) -> Result<Entry, String> {
        let entry = match self {
            Self::Mooncake => mooncake(line)?,
            Self::Csv(format, columns, width) => csv(line, *format, *columns, *width)?,
        };
        if !entry.at_s.is_finite() || entry.at_s < 0.0 {
            return Err(format!("{} is not a time", entry.at_s));
        }
        Ok(entry)
    }
}

fn mooncake(line: &str) -> Result<Entry, String> {
    let line: MooncakeLine = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let input_tokens = length("input_length", line.input_length, 1)?;
    let blocks = line.hash_ids.len();
    let expected = input_tokens.div_ceil(TRACE_BLOCK_TOKENS) as usize;
    if blocks != 0 && blocks != expected {
        return Err(format!(
            "{blocks} hash_ids for {input_tokens} input tokens; one for each 512 makes {expected}"
        ));
    }
    Ok(Entry {
        at_s: line.timestamp / 1e3,
        input_tokens,
        output_tokens: length("output_length", line.output_length, 1)?,
        blocks: line.hash_ids.into(),
    })
}

fn csv(
    line: &str,
    format: TraceFormat,
    columns: [usize; 3],
    width: usize,
) -> Result<Entry, String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    if fields.len() != width {
        return Err(format!(
            "{} fields where the header has {width}",
            fields.len()
        ));
    }
    let [at, input, output] = columns.map(|i| fields[i]);
    let tokens = |name, text: &str, least| {
        let count = text
            .parse::<i64>()
            .map_err(|_| format!("{name}: `{text}` is not a whole number of tokens"))?;
        length(name, count, least)
    };
    // BurstGPT keeps failed requests, with a response of no tokens.
    let least_output = i64::from(format != TraceFormat::BurstGpt);
    Ok(Entry {
        at_s: match format {
            TraceFormat::Azure => timestamp_s(at)?,
            _ => at
                .parse()
                .map_err(|_| format!("`{at}` is not a time in seconds"))?,
        },
        input_tokens: tokens("input tokens", input, least_output)?.max(1),
        output_tokens: tokens("output tokens", output, least_output)?,
        blocks: Box::default(),
    })
}

pub(crate) fn length(name: &str, tokens: i64, least: i64) -> Result<u32, String> {
    u32::try_from(tokens)
        .ok()
        .filter(|&n| i64::from(n) >= least && n <= MAX_TOKENS)
        .ok_or_else(|| format!("{name} is {tokens}; expected {least} to {MAX_TOKENS}"))
}

/// Seconds of a date and time, with or without an offset (taken for UTC).
fn timestamp_s(text: &str) -> Result<f64, String> {
    let timestamp = text.parse::<jiff::Timestamp>().or_else(|_| {
        let civil: jiff::civil::DateTime = text.parse()?;
        Ok(civil.to_zoned(jiff::tz::TimeZone::UTC)?.timestamp())
    });
    let timestamp = timestamp.map_err(|_: jiff::Error| {
        format!("`{text}` is not a time like `2023-11-16 18:17:03.9799600`")
    })?;
    // Of the day these differ in, doubles hold fractions of a microsecond.
    Ok(timestamp.as_nanosecond() as f64 / 1e9)
}

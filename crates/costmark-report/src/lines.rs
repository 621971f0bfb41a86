//! The raw records as they stand in `requests.jsonl` and `steps.jsonl`, one JSON object
//! per line.
//!
//! These are wire types: what a file of schema version [`SCHEMA_VERSION`](crate::SCHEMA_VERSION)
//! holds, whatever the types in memory become. Instants are nanoseconds from the start of
//! the run. Unknown keys are refused, so that a file of another version is never read wrongly.

use std::borrow::Cow;
use std::fmt;

use costmark_core::{
    ErrorClass, FinishReason, Outcome, RequestError, RequestRecord, Span, StepPart, StepRecord,
    TokenTimes,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document::{GpuLine, LevelId};

/// Which part of the run a record belongs to.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct UnitTag {
    /// Which of the plan's levels.
    pub level: LevelId,
    /// Counts from 0.
    pub repeat: u32,
    /// In which phase of the unit a request was sent or a step ran.
    pub phase: Phase,
}

/// Part of a unit.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Sent to reach a steady state. Latencies are not used.
    Warmup,
    /// Measured.
    Measured,
    /// Sent to keep the load up until the last measured request ended. Latencies are not used.
    Cooldown,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestLine {
    /// Level, repeat and phase.
    pub unit: UnitTag,
    /// Unique within the run.
    pub id: u64,
    /// Which turn of its conversation it is, from 1; absent of a request that stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub turn: Option<u32>,
    /// When the arrival process wanted it sent.
    pub scheduled_ns: u64,
    /// When it was handed over.
    pub sent_ns: u64,
    /// Instant of the first token event; absent when no token came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ns: Option<u64>,
    /// From each token event to the next.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps_ns: Vec<Gap>,
    /// Tokens of each event; left out when every event brought exactly one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub event_tokens: Vec<u32>,
    /// When its end was reported.
    pub finished_ns: u64,
    /// Prompt tokens.
    pub input_tokens: u32,
    /// Of these, found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens produced.
    pub output_tokens: u32,
    /// FNV-1a over the output token ids, 16 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_hash: Option<String>,
    /// How it ended.
    pub outcome: OutcomeLine,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OutcomeLine {
    /// It produced its tokens.
    Finished {
        /// Why it stopped.
        reason: FinishReason,
    },
    /// It failed.
    Failed {
        /// Kind of failure.
        class: ErrorClass,
        /// What was wrong.
        message: String,
    },
}

impl RequestLine {
    /// The line for a record of this unit.
    #[must_use]
    pub fn new(unit: &UnitTag, record: &RequestRecord) -> Self {
        Self {
            unit: unit.clone(),
            id: record.id,
            turn: record.turn,
            scheduled_ns: record.scheduled_ns,
            sent_ns: record.sent_ns,
            first_token_ns: record.token_ns.first(),
            gaps_ns: record
                .token_ns
                .gaps()
                .map(|(gap_ns, times)| match times {
                    1 => Gap::One(gap_ns),
                    _ => Gap::Several(gap_ns, times),
                })
                .collect(),
            event_tokens: record.event_tokens.clone(),
            finished_ns: record.finished_ns,
            input_tokens: record.input_tokens,
            cached_tokens: record.cached_tokens,
            output_tokens: record.output_tokens,
            output_hash: record.output_hash.map(|hash| format!("{hash:016x}")),
            outcome: match &record.outcome {
                Outcome::Finished(reason) => OutcomeLine::Finished { reason: *reason },
                Outcome::Failed(error) => OutcomeLine::Failed {
                    class: error.class,
                    message: error.message.clone(),
                },
            },
        }
    }

    /// The record this line was made from.
    ///
    /// # Errors
    /// When the output hash is not a hexadecimal number, or token events and their counts
    /// do not fit together.
    pub fn into_record(self) -> Result<RequestRecord, String> {
        let token_ns = self.token_times()?;
        Ok(RequestRecord {
            id: self.id,
            turn: self.turn,
            scheduled_ns: self.scheduled_ns,
            sent_ns: self.sent_ns,
            token_ns,
            event_tokens: self.event_tokens,
            finished_ns: self.finished_ns,
            input_tokens: self.input_tokens,
            cached_tokens: self.cached_tokens,
            output_tokens: self.output_tokens,
            output_hash: self
                .output_hash
                .map(|hash| u64::from_str_radix(&hash, 16))
                .transpose()
                .map_err(|e| format!("output_hash: {e}"))?,
            outcome: match self.outcome {
                OutcomeLine::Finished { reason } => Outcome::Finished(reason),
                OutcomeLine::Failed { class, message } => {
                    Outcome::Failed(RequestError { class, message })
                }
            },
        })
    }
}

impl RequestLine {
    fn token_times(&self) -> Result<TokenTimes, String> {
        let mut times = TokenTimes::new();
        match self.first_token_ns {
            Some(first_ns) => times.push(first_ns),
            None if self.gaps_ns.is_empty() => {}
            None => return Err("gaps_ns: there are gaps but no first_token_ns".into()),
        }
        let (mut at_ns, mut events) = (self.first_token_ns.unwrap_or(0), 1u32);
        for gap in &self.gaps_ns {
            let (gap_ns, n) = match *gap {
                Gap::One(gap_ns) => (gap_ns, 1),
                Gap::Several(gap_ns, n) => (gap_ns, n),
            };
            let last_ns = gap_ns
                .checked_mul(u64::from(n))
                .and_then(|ns| at_ns.checked_add(ns));
            let all = events.checked_add(n);
            let (Some(last_ns), Some(all), 1..) = (last_ns, all, n) else {
                return Err(format!("gaps_ns: {n} gaps of {gap_ns} ns cannot be"));
            };
            times.extend(Span {
                first_ns: at_ns + gap_ns,
                gap_ns,
                events: n,
            });
            (at_ns, events) = (last_ns, all);
        }
        if !self.event_tokens.is_empty() && self.event_tokens.len() != times.len() {
            return Err(format!(
                "event_tokens: {} counts for {} token events",
                self.event_tokens.len(),
                times.len()
            ));
        }
        Ok(times)
    }
}

/// A gap between token events: a number of nanoseconds, or `[nanoseconds, times]` for as many
/// equal gaps in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// Once.
    One(u64),
    /// This many in a row.
    Several(u64, u32),
}

impl JsonSchema for Gap {
    fn schema_name() -> Cow<'static, str> {
        "Gap".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let ns = json_schema!({ "type": "integer", "minimum": 0 });
        json_schema!({
            "description": "Nanoseconds, or [nanoseconds, times] for so many equal gaps in a row.",
            "anyOf": [
                ns,
                {
                    "type": "array",
                    "prefixItems": [ns, { "type": "integer", "minimum": 1 }],
                    "minItems": 2,
                    "maxItems": 2
                }
            ]
        })
    }
}

impl Serialize for Gap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(gap_ns) => gap_ns.serialize(serializer),
            Self::Several(gap_ns, times) => (gap_ns, times).serialize(serializer),
        }
    }
}

/// By hand: serde's untagged enums keep a copy of every value until it is known which it is.
impl<'de> Deserialize<'de> for Gap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct GapVisitor;

        impl<'de> Visitor<'de> for GapVisitor {
            type Value = Gap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("nanoseconds, or [nanoseconds, times]")
            }

            fn visit_u64<E: de::Error>(self, gap_ns: u64) -> Result<Gap, E> {
                Ok(Gap::One(gap_ns))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Gap, A::Error> {
                let missing = |n| de::Error::invalid_length(n, &self);
                let gap_ns = pair.next_element()?.ok_or_else(|| missing(0))?;
                let times = pair.next_element()?.ok_or_else(|| missing(1))?;
                Ok(Gap::Several(gap_ns, times))
            }
        }

        deserializer.deserialize_any(GapVisitor)
    }
}

/// One forward pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepLine {
    /// Level, repeat and phase.
    pub unit: UnitTag,
    /// Counts from 0 in each backend.
    pub index: u64,
    /// Which of several replicas ran it; left out of the first one's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub replica: u32,
    /// Begin of scheduling.
    pub start_ns: u64,
    /// After sampling.
    pub end_ns: u64,
    /// Choosing what to run.
    pub schedule_ns: u64,
    /// The forward pass.
    pub forward_ns: u64,
    /// Choosing tokens.
    pub sample_ns: u64,
    /// Prompt work.
    pub prefill: PartLine,
    /// Generation work.
    pub decode: PartLine,
    /// Bytes that had to move (modelled).
    pub bytes: u64,
    /// FLOPs that had to be done (modelled).
    pub flops: u64,
    /// Requests waiting after scheduling.
    pub waiting: u32,
    /// Sequences preempted.
    pub preempted: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks there are.
    pub kv_blocks_total: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The prefill or decode half of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartLine {
    /// Tokens run through the model.
    pub tokens: u32,
    /// Sequences they belong to.
    pub sequences: u32,
    /// Rows of logits.
    pub logits_rows: u32,
    /// KV entries read.
    pub kv_tokens_read: u64,
    /// (query, key) pairs attended.
    pub attended_pairs: u64,
    /// Of `kv_tokens_read`, from the prefix cache.
    pub cached_kv_tokens_read: u64,
    /// Of `attended_pairs`, with a key from the prefix cache.
    pub cached_attended_pairs: u64,
}

impl From<StepPart> for PartLine {
    fn from(part: StepPart) -> Self {
        Self {
            tokens: part.tokens,
            sequences: part.sequences,
            logits_rows: part.logits_rows,
            kv_tokens_read: part.kv_tokens_read,
            attended_pairs: part.attended_pairs,
            cached_kv_tokens_read: part.cached_kv_tokens_read,
            cached_attended_pairs: part.cached_attended_pairs,
        }
    }
}

impl From<PartLine> for StepPart {
    fn from(part: PartLine) -> Self {
        Self {
            tokens: part.tokens,
            sequences: part.sequences,
            logits_rows: part.logits_rows,
            kv_tokens_read: part.kv_tokens_read,
            attended_pairs: part.attended_pairs,
            cached_kv_tokens_read: part.cached_kv_tokens_read,
            cached_attended_pairs: part.cached_attended_pairs,
        }
    }
}

impl StepLine {
    /// The line for a step of this unit.
    #[must_use]
    pub fn new(unit: &UnitTag, step: &StepRecord) -> Self {
        Self {
            unit: unit.clone(),
            index: step.index,
            replica: step.replica,
            start_ns: step.start_ns,
            end_ns: step.end_ns,
            schedule_ns: step.schedule_ns,
            forward_ns: step.forward_ns,
            sample_ns: step.sample_ns,
            prefill: step.prefill.into(),
            decode: step.decode.into(),
            bytes: step.bytes,
            flops: step.flops,
            waiting: step.waiting,
            preempted: step.preempted,
            kv_blocks_used: step.kv_blocks_used,
            kv_blocks_total: step.kv_blocks_total,
        }
    }
}

impl From<StepLine> for StepRecord {
    fn from(line: StepLine) -> Self {
        Self {
            index: line.index,
            replica: line.replica,
            start_ns: line.start_ns,
            end_ns: line.end_ns,
            schedule_ns: line.schedule_ns,
            forward_ns: line.forward_ns,
            sample_ns: line.sample_ns,
            prefill: line.prefill.into(),
            decode: line.decode.into(),
            bytes: line.bytes,
            flops: line.flops,
            waiting: line.waiting,
            preempted: line.preempted,
            kv_blocks_used: line.kv_blocks_used,
            kv_blocks_total: line.kv_blocks_total,
        }
    }
}

/// The machine at one moment. Counters are since the run began to be measured (since it was
/// resumed, for lines after that); what the system does not tell is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TelemetryLine {
    /// When.
    pub at_ns: u64,
    /// CPU seconds of costmark.
    pub own_cpu_s: f64,
    /// CPU seconds of everything on this system, costmark included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_cpu_s: Option<f64>,
    /// CPU seconds the hypervisor gave to others though they were wanted here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal_cpu_s: Option<f64>,
    /// Resident memory of costmark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss_bytes: Option<u64>,
    /// Memory that could still be claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available_bytes: Option<u64>,
    /// Mean frequency of the cores, once a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mhz: Option<f64>,
    /// Energy of all processor packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package_joules: Option<f64>,
    /// The GPU that computes, where one does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuLine>,
    /// The GPUs that compute, where several do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<GpuLine>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> UnitTag {
        UnitTag {
            level: "c16".into(),
            repeat: 2,
            phase: Phase::Measured,
        }
    }

    fn record(outcome: Outcome) -> RequestRecord {
        RequestRecord {
            id: 7,
            turn: Some(3),
            scheduled_ns: 1,
            sent_ns: 2,
            token_ns: vec![10, 15, 20, 27].into(),
            event_tokens: vec![1, 3, 1, 1],
            finished_ns: 21,
            input_tokens: 5,
            cached_tokens: 1,
            output_tokens: 6,
            output_hash: Some(0xab),
            outcome,
        }
    }

    #[test]
    fn requests_survive_the_file() {
        let failed = Outcome::Failed(RequestError {
            class: ErrorClass::NonFiniteLogits,
            message: "NaN in row 3".into(),
        });
        for outcome in [Outcome::Finished(FinishReason::Length), failed] {
            let before = record(outcome);
            let text = serde_json::to_string(&RequestLine::new(&unit(), &before)).unwrap();
            let line: RequestLine = serde_json::from_str(&text).unwrap();
            assert_eq!(line.unit, unit());
            assert!(
                text.contains(r#""first_token_ns":10,"gaps_ns":[[5,2],7]"#),
                "{text}"
            );
            assert_eq!(line.into_record().unwrap(), before);
        }
    }

    #[test]
    fn steps_survive_the_file() {
        let mut prefill = StepPart::default();
        prefill.add_sequence(30, 4, 2, true);
        let mut decode = StepPart::default();
        decode.add_sequence(1, 9, 3, true);
        let before = StepRecord {
            index: 3,
            replica: 0,
            start_ns: 1,
            end_ns: 100,
            schedule_ns: 2,
            forward_ns: 90,
            sample_ns: 5,
            prefill,
            decode,
            bytes: 11,
            flops: 12,
            waiting: 13,
            preempted: 14,
            kv_blocks_used: 15,
            kv_blocks_total: 16,
        };
        for replica in [0, 7] {
            let before = StepRecord { replica, ..before };
            let text = serde_json::to_string(&StepLine::new(&unit(), &before)).unwrap();
            assert_eq!(text.contains("replica"), replica > 0, "{text}");
            let line: StepLine = serde_json::from_str(&text).unwrap();
            assert_eq!(StepRecord::from(line), before);
        }
    }

    #[test]
    fn unknown_keys_and_bad_hashes_are_refused() {
        let line = RequestLine::new(&unit(), &record(Outcome::Finished(FinishReason::Stop)));
        let mut value = serde_json::to_value(&line).unwrap();
        value["surprise"] = 1.into();
        assert!(serde_json::from_value::<RequestLine>(value).is_err());
        let refused = |spoil: fn(&mut RequestLine)| {
            let mut bad = line.clone();
            spoil(&mut bad);
            bad.into_record().unwrap_err()
        };
        assert!(refused(|l| l.output_hash = Some("xyz".into())).contains("output_hash"));
        assert!(refused(|l| l.first_token_ns = None).contains("no first_token_ns"));
        assert!(refused(|l| l.event_tokens.truncate(2)).contains("2 counts for 4"));
        for gap in [Gap::Several(1, 0), Gap::Several(u64::MAX, 2)] {
            let mut bad = line.clone();
            bad.gaps_ns.push(gap);
            assert!(bad.into_record().unwrap_err().contains("cannot be"));
        }
        for text in ["[5]", "[5,2,1]", "-1", "\"5\"", "[5,-1]"] {
            assert!(serde_json::from_str::<Gap>(text).is_err(), "{text}");
        }
    }
}

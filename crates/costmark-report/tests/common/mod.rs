//! A run made by hand: round numbers, so that every figure can be checked in the head.

#![allow(dead_code)] // Each test file uses its own part.

use costmark_core::{
    BackendKind, FinishReason, ModelWork, Outcome, RequestRecord, Roofline, Sampling, StepPart,
    StepRecord,
};
use costmark_econ::{CostModel, PriceBasis};
use costmark_metrics::{UnitInput, summarise};
use costmark_report::document::{
    BackendDocument, EnergyDocument, Environment, LevelDocument, LevelId, LevelPlan, LoadDocument,
    MachineDocument, ModelDocument, NeighbourDocument, Overhead, PeakReading, PlanDocument,
    PriceDocument, RateDocument, Resumption, RunDocument, Status, Tool, UnitCost, UnitDocument,
    UnitPlan, WarmupDocument, WorkloadDocument,
};
use costmark_report::{Phase, SCHEMA_VERSION, UnitTag, finding};

const MS: u64 = 1_000_000;
/// A request: prefilled for 100 ms, then a token every 20 ms.
const INPUT: u32 = 50;
const OUTPUT: u32 = 46;
const PREFILL_NS: u64 = 100 * MS;
const DECODE_NS: u64 = 20 * MS;
/// 100 + 45 × 20 ms.
const REQUEST_NS: u64 = 1000 * MS;

pub(crate) const WORK: ModelWork = ModelWork {
    layer_weight_bytes: 400_000_000,
    head_weight_bytes: 100_000_000,
    embedding_row_bytes: 1000,
    kv_bytes_per_token: 100_000,
    logits_row_bytes: 600_000,
    matmul_flops_per_token: 9_000_000,
    head_flops_per_row: 3_000_000,
    attention_flops_per_pair: 2_000,
};

pub(crate) const ROOFLINE: Roofline = Roofline {
    read_bytes_per_s: 40e9,
    flops_per_s: 100e9,
};

/// Raw records of one unit.
pub(crate) struct Raw {
    pub(crate) concurrency: u32,
    pub(crate) tag: UnitTag,
    pub(crate) requests: Vec<RequestRecord>,
    pub(crate) steps: Vec<StepRecord>,
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
}

impl Raw {
    fn replicas(&self) -> u32 {
        1 + self.steps.iter().map(|s| s.replica).max().unwrap_or(0)
    }

    /// A second replica does the same at the same time.
    pub(crate) fn doubled(mut self) -> Self {
        self.concurrency *= 2;
        let again = self.requests.clone().into_iter().map(|mut request| {
            request.id += 1_000_000;
            request
        });
        self.requests.extend(again);
        let again = self.steps.clone().into_iter().map(|mut step| {
            step.replica = 1;
            step
        });
        self.steps.extend(again);
        self.steps.sort_by_key(|step| step.end_ns);
        self
    }
}

/// `concurrency` slots, each with requests one after another for `seconds`; `slower_ns` is
/// added to every gap between tokens.
pub(crate) fn raw(concurrency: u32, repeat: u32, seconds: u64, slower_ns: u64) -> Raw {
    let start_ns = u64::from(repeat + 1) * 1_000_000 * MS + u64::from(concurrency);
    let gap_ns = DECODE_NS + slower_ns;
    let request_ns = PREFILL_NS + u64::from(OUTPUT - 1) * gap_ns;
    let per_slot = seconds * 1000 * MS / REQUEST_NS;
    let mut requests = Vec::new();
    let mut steps = Vec::new();
    for slot in 0..u64::from(concurrency) {
        for n in 0..per_slot {
            let sent_ns = start_ns + n * request_ns;
            let token_ns = (0..u64::from(OUTPUT))
                .map(|i| sent_ns + PREFILL_NS + i * gap_ns)
                .collect();
            requests.push(RequestRecord {
                id: slot * 1000 + n,
                turn: None,
                scheduled_ns: sent_ns,
                sent_ns,
                finished_ns: sent_ns + request_ns,
                token_ns,
                event_tokens: vec![],
                input_tokens: INPUT,
                cached_tokens: 0,
                output_tokens: OUTPUT,
                output_hash: Some(n),
                outcome: Outcome::Finished(FinishReason::Length),
            });
        }
    }
    for n in 0..per_slot {
        let begin_ns = start_ns + n * request_ns;
        let mut prefill = StepPart::default();
        let mut decode = StepPart::default();
        for _ in 0..concurrency {
            prefill.add_sequence(INPUT, 0, 0, true);
            decode.add_sequence(1, INPUT + OUTPUT / 2, 0, true);
        }
        let mut push = |start_ns, end_ns: u64, prefill, decode| {
            let work = WORK.step(&prefill, &decode);
            steps.push(StepRecord {
                index: steps.len() as u64,
                replica: 0,
                start_ns,
                end_ns,
                schedule_ns: MS / 10,
                forward_ns: (end_ns - start_ns) * 99 / 100,
                sample_ns: MS / 10,
                prefill,
                decode,
                bytes: work.bytes,
                flops: work.flops,
                waiting: 0,
                preempted: 0,
                kv_blocks_used: concurrency,
                kv_blocks_total: 100,
            });
        };
        push(
            begin_ns,
            begin_ns + PREFILL_NS,
            prefill,
            StepPart::default(),
        );
        for i in 0..u64::from(OUTPUT - 1) {
            let at_ns = begin_ns + PREFILL_NS + i * gap_ns;
            push(at_ns, at_ns + gap_ns, StepPart::default(), decode);
        }
    }
    Raw {
        concurrency,
        tag: UnitTag {
            level: LevelId::from(format!("c{concurrency}").as_str()),
            repeat,
            phase: Phase::Measured,
        },
        requests,
        steps,
        start_ns,
        end_ns: start_ns + per_slot * request_ns,
    }
}

pub(crate) fn unit(raw: &Raw, model: &CostModel) -> UnitDocument {
    let summary = summarise(&UnitInput {
        concurrency: Some(raw.concurrency),
        start_ns: raw.start_ns,
        end_ns: raw.end_ns,
        requests: &raw.requests,
        background: &[],
        steps: &raw.steps,
        replicas: raw.replicas(),
        roofline: Some(ROOFLINE),
        slo: None,
    });
    let (cost, cost_note) = UnitCost::of(&summary, &raw.steps, Some(&WORK), Some(&ROOFLINE), model);
    UnitDocument {
        level: raw.tag.level.clone(),
        repeat: raw.tag.repeat,
        start_ns: raw.start_ns,
        end_ns: raw.end_ns,
        complete: true,
        usable: true,
        warmup: WarmupDocument {
            requests: 4,
            failed: 0,
            duration_ns: 5_000 * MS,
            settled: true,
        },
        summary,
        roofline: Some(ROOFLINE),
        cost,
        cost_note,
        of_datasheet: None,
        machine: Some(MachineDocument {
            samples: 200,
            own_cores: 1.9,
            other_cores: Some(0.05),
            steal_cores: Some(0.01),
            steal_share: Some(0.005),
            mhz: Some(2_450.0),
            min_mhz: Some(2_400.0),
            max_rss_bytes: Some(1 << 30),
            min_available_bytes: Some(1 << 33),
            gpu: None,
            gpus: Vec::new(),
        }),
        server: None,
        energy: EnergyDocument {
            source: "rapl".into(),
            joules: Some(500.0),
            joules_per_output_token: Some(0.5),
            joules_per_token: Some(0.1),
        },
    }
}

/// $3.60 an hour: a tenth of a cent a second.
pub(crate) fn model() -> CostModel {
    CostModel::whole(3.6).unwrap()
}

/// Two levels, three repeats of 20 s.
pub(crate) fn raws() -> Vec<Raw> {
    (0..3)
        .flat_map(|repeat| {
            let slower_ns = u64::from(repeat) * MS / 2;
            [
                raw(1, repeat, 20, slower_ns),
                raw(16, repeat, 20, slower_ns),
            ]
        })
        .collect()
}

pub(crate) fn plan() -> PlanDocument {
    let levels = [1, 16].map(|concurrency| LevelPlan {
        id: LevelId::from(format!("c{concurrency}").as_str()),
        model: "example-1b".into(),
        workload: "custom".into(),
        load: LoadDocument::ClosedLoop { concurrency },
        requests: None,
        duration_s: Some(20.0),
    });
    PlanDocument {
        models: vec![ModelDocument {
            id: "example-1b".into(),
            model: "example-1b".into(),
            weights: "synthetic:0".into(),
            dtype: None,
            quantize: Some("q8_0".into()),
        }],
        workloads: vec![WorkloadDocument {
            id: "custom".into(),
            workload_hash: "0".repeat(64),
            source: None,
            length_correlation: Some(0.0),
            lengths_sha256: None,
            shared_prefix_tokens: 0,
            turns: None,
            think_time: None,
            trace: None,
            input_len: INPUT.to_string(),
            output_len: OUTPUT.to_string(),
        }],
        units: (0..3)
            .flat_map(|repeat| {
                levels.iter().map(move |level| UnitPlan {
                    level: level.id.clone(),
                    repeat,
                })
            })
            .collect(),
        levels: levels.to_vec(),
        device: "cpu".into(),
        backend: BackendKind::Engine,
        threads: 2,
        kv_budget_bytes: None,
        kv_dtype: None,
        block_size: None,
        max_batched_tokens: None,
        max_sequences: None,
        max_context: None,
        prefix_cache: true,
        mock: None,
        endpoint: None,
        repeats: 3,
        seed: 0,
        warmup_requests_per_slot: Some(3),
        warmup_s: None,
        ignore_eos: true,
        sampling: Sampling::Greedy,
        slo: None,
        goodput_search: None,
        utilization: 1.0,
        max_errors: 0.0,
    }
}

pub(crate) fn run() -> RunDocument {
    run_of(&raws(), plan())
}

pub(crate) fn run_of(raws: &[Raw], plan: PlanDocument) -> RunDocument {
    let units: Vec<UnitDocument> = raws.iter().map(|raw| unit(raw, &model())).collect();
    let levels = plan
        .levels
        .iter()
        .filter_map(|level| {
            let of: Vec<&UnitDocument> = units.iter().filter(|u| u.level == level.id).collect();
            LevelDocument::from_units(level, &of, &model())
        })
        .collect();
    let rate = |best: f64| RateDocument {
        best,
        median: best * 0.98,
        worst: best * 0.9,
        passes: 7,
    };
    let mut run = RunDocument {
        schema_version: SCHEMA_VERSION,
        status: Status::Complete,
        failure: None,
        tool: Tool {
            name: "costmark".into(),
            version: "0.1.0".into(),
            git_revision: Some("0123456789abcdef".into()),
            git_dirty: false,
            build_profile: "release".into(),
            target: "x86_64-unknown-linux-gnu".into(),
        },
        command: vec!["costmark".into(), "run".into()],
        started_at: "2026-01-02T03:04:05Z".into(),
        finished_at: Some("2026-01-02T03:06:05Z".into()),
        resumed: vec![Resumption {
            at: "2026-01-02T03:05:00Z".into(),
            unit: 2,
        }],
        plan_hash: plan.hash(),
        plan,
        environment: Environment {
            label: "Example CPU, 2 threads, 16 GiB".into(),
            machine: serde_json::json!({"os": "linux"}),
            peaks: vec![
                PeakReading {
                    at_ns: 1,
                    read_bytes_per_s: rate(40e9),
                    triad_bytes_per_s: Some(rate(30e9)),
                    f32_flops_per_s: Some(rate(100e9)),
                    copy_bytes_per_s: None,
                    bf16_flops_per_s: None,
                },
                PeakReading {
                    at_ns: 2,
                    read_bytes_per_s: rate(39e9),
                    triad_bytes_per_s: None,
                    f32_flops_per_s: None,
                    copy_bytes_per_s: None,
                    bf16_flops_per_s: None,
                },
            ],
            datasheet: None,
            read_bandwidth_drift: Some(40.0 / 39.0 - 1.0),
            steal_share: Some(0.0),
            other_cpu_s: Some(1.5),
            neighbours: vec![NeighbourDocument {
                name: "rustc".into(),
                cpu_s: 1.25,
            }],
            peak_rss_bytes: Some(2 << 30),
        },
        backends: vec![BackendDocument {
            model_id: "example-1b".into(),
            kind: BackendKind::Engine,
            model: "example-1b".into(),
            source: "synthetic, seed 0".into(),
            synthetic: true,
            weight_dtype: "q8_0".into(),
            kv_dtype: "f16".into(),
            device: "cpu (2 threads)".into(),
            replicas: raws.first().map_or(1, Raw::replicas),
            software: "costmark engine 0.1.0".into(),
            shape: None,
            work: Some(WORK),
            max_context: 4096,
            max_sequences: 16,
            kv_capacity_tokens: 65_536,
            weight_bytes: 500_000_000,
            notes: vec![],
        }],
        price: PriceDocument {
            usd_per_hour: 3.6,
            reference: "user/this-machine@unstated:on_demand".into(),
            basis: PriceBasis::Stated,
            explanation: "$3.6/h, stated by user".into(),
            as_of: "2026-01-02".into(),
            source: "stated by user".into(),
            utilization: 1.0,
            suspect: None,
        },
        overhead: Overhead {
            recording_ns_per_token_event: 212.3,
            timer_resolution_ns: 20,
            timer_read_ns: 25.0,
            telemetry_core_share: Some(0.001),
        },
        units,
        levels,
        notes: vec!["synthetic weights: output is meaningless, speed is not".into()],
        searches: Vec::new(),
        advice: vec![],
        finding: None,
    };
    run.finding = finding(&run);
    run
}

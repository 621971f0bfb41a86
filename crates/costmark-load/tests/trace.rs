//! Traces of every format: read, described, replayed, and refused.

use std::io::Cursor;
use std::path::Path;

use costmark_core::mock::{MockBackend, MockConfig, MockTime};
use costmark_load::{
    NullRecorder, OpenLoop, Phase, RequestKey, RequestSource, Stop, StopSignal, Trace, TraceError,
    TraceFormat, TraceInfo, TraceOptions,
};
use proptest::prelude::*;

const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
    2023-11-16 23:59:59.5000000,374,44\r\n\
    2023-11-17 00:00:00.2500000,396,109\r\n\
    2023-11-17 00:00:02.5000000,12,7\r\n";
const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}
{"timestamp": 1500, "input_length": 1500, "output_length": 9, "hash_ids": [0, 1, 7]}
{"timestamp": 1500, "input_length": 512, "output_length": 1, "hash_ids": [9]}
"#;
const BURSTGPT: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
    5,ChatGPT,472,18,490,Conversation log\n\
    45,ChatGPT,1087,0,1087,Conversation log\n\
    118,GPT-4,417,276,693,API log\n";
const PLAIN: &str = "at_s,input_tokens,output_tokens\n0.5,10,3\n\n0.75,20,4\n";

fn read_with(text: &str, options: &TraceOptions) -> Result<Trace, TraceError> {
    Trace::read(Cursor::new(text), "t.csv", options)
}

fn read(text: &str) -> Trace {
    read_with(text, &TraceOptions::default()).expect("a trace")
}

fn seen(trace: &Trace) -> Vec<(u64, u32, u32)> {
    let ms = |ns: u64| (ns + 500_000) / 1_000_000;
    let requests = trace.requests.iter();
    requests
        .map(|r| (ms(r.at_ns), r.input_tokens, r.output_tokens))
        .collect()
}

#[test]
fn every_format_is_told_by_its_first_line() {
    let azure = read(AZURE);
    assert_eq!(azure.format, TraceFormat::Azure);
    assert_eq!(seen(&azure), [(0, 374, 44), (750, 396, 109), (3000, 12, 7)]);
    let mooncake = read(MOONCAKE);
    assert_eq!(mooncake.format, TraceFormat::Mooncake);
    assert_eq!(
        seen(&mooncake),
        [(0, 1100, 5), (1500, 1500, 9), (1500, 512, 1)]
    );
    let burst = read(BURSTGPT);
    assert_eq!((burst.format, burst.failed), (TraceFormat::BurstGpt, 1));
    assert_eq!(seen(&burst), [(0, 472, 18), (113_000, 417, 276)]);
    let plain = read(PLAIN);
    assert_eq!(plain.format, TraceFormat::Plain);
    assert_eq!(seen(&plain), [(0, 10, 3), (250, 20, 4)]);
}

#[test]
fn windows_and_speed() {
    let options = TraceOptions {
        speed: 2.0,
        from_s: 0.5,
        to_s: Some(3.0),
        max_requests: None,
    };
    assert_eq!(
        seen(&read_with(AZURE, &options).unwrap()),
        [(125, 396, 109)]
    );
    let first = TraceOptions {
        max_requests: Some(1),
        ..TraceOptions::default()
    };
    // What comes after the stretch is not even looked at.
    let broken = format!("{PLAIN}later,lines,broken\n");
    assert_eq!(seen(&read_with(&broken, &first).unwrap()), [(0, 10, 3)]);
}

#[test]
fn errors_name_the_line() {
    let plain = |line: &str| format!("at_s,input_tokens,output_tokens\n1,2,3\n{line}\n");
    for (text, expected) in [
        (plain("0.5,2,3"), "t.csv:3: the request came before"),
        (plain("2,2"), "t.csv:3: 2 fields where the header has 3"),
        (
            plain("2,-5,3"),
            "t.csv:3: input tokens is -5; expected 1 to",
        ),
        (plain("2,5,0"), "t.csv:3: output tokens is 0"),
        (
            plain("2,5,99999999999"),
            "t.csv:3: output tokens is 99999999999",
        ),
        (
            plain("2,x,3"),
            "t.csv:3: input tokens: `x` is not a whole number",
        ),
        (plain("NaN,2,3"), "t.csv:3: NaN is not a time"),
        (plain("soon,2,3"), "`soon` is not a time in seconds"),
        (
            AZURE.replace("23:59:59", "25:59:59"),
            "t.csv:2: `2023-11-16 25:59",
        ),
        (
            MOONCAKE.replace("[9]", "[9, 10]"),
            "t.csv:3: 2 hash_ids for 512 input tokens",
        ),
        (
            MOONCAKE.replace("\"output_length\": 9", "\"output\": 9"),
            "t.csv:2: missing field",
        ),
        ("a,b,c\n1,2,3\n".into(), "t.csv:1: not a known trace"),
        (String::new(), "t.csv:1: the file is empty"),
        (
            "at_s,input_tokens,output_tokens\n".into(),
            "no request in the stretch",
        ),
        ("x".repeat(2 << 20), "line 1 is longer than 1 MiB"),
    ] {
        let message = read_with(&text, &TraceOptions::default())
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    for options in [
        TraceOptions {
            speed: 0.0,
            ..TraceOptions::default()
        },
        TraceOptions {
            from_s: 5.0,
            to_s: Some(5.0),
            ..TraceOptions::default()
        },
    ] {
        assert!(matches!(
            read_with(PLAIN, &options),
            Err(TraceError::Options(_))
        ));
    }
}

#[test]
fn equal_blocks_give_equal_tokens() {
    let source = read(MOONCAKE).source(5_000, 3);
    let prompt = |unit, index| {
        let key = RequestKey {
            unit,
            phase: Phase::Measured,
            index,
        };
        source.make(key, index, 0.0).prompt
    };
    let (first, second) = (prompt(0, 0), prompt(0, 1));
    assert_eq!((first.len(), second.len()), (1_100, 1_500));
    assert_eq!(first[..1_024], second[..1_024]);
    assert_ne!(first[1_024..], second[1_024..1_100]);
    assert_ne!(first[..512], prompt(0, 2)[..512]);
    assert_ne!(first[..512], prompt(1, 0)[..512], "units share nothing");
    assert!(source.check(1_509).is_ok());
    let message = source.check(1_508).unwrap_err().to_string();
    assert!(message.contains("1509 together"), "{message}");
}

#[test]
fn a_replay_is_the_trace() {
    let trace = read(MOONCAKE);
    let plan = OpenLoop::new(trace.schedule(), Stop::Requests(u64::MAX), 0);
    let mut mock = MockBackend::new(MockConfig::default(), MockTime::Virtual);
    let source = trace.source(100, 0);
    let run = plan
        .run(0, &mut mock, &source, &mut NullRecorder, &StopSignal::new())
        .unwrap();
    let mut replayed: Vec<_> = run
        .requests
        .iter()
        .map(|r| {
            (
                r.id,
                r.scheduled_ns / 1_000_000,
                r.input_tokens,
                r.output_tokens,
            )
        })
        .collect();
    replayed.sort_unstable();
    assert_eq!(
        replayed,
        [(0, 0, 1100, 5), (1, 1500, 1500, 9), (2, 1500, 512, 1)]
    );
}

#[test]
fn a_trace_in_figures() {
    let info = TraceInfo::of(&read(MOONCAKE));
    assert_eq!((info.requests, info.duration_s), (3, 1.5));
    assert_eq!(info.requests_per_s, Some(2.0 / 1.5));
    // Of 3112 prompt tokens, the second request's first 1024 were seen.
    assert_eq!(info.reusable_share, Some(1_024.0 / 3_112.0));
    let input = info.input_tokens;
    assert_eq!(
        (input.min, input.p50, input.p90, input.max),
        (512, 1_100, 1_500, 1_500)
    );
    // Gaps 1.5 and 0 s: deviation 1.0607 over mean 0.75.
    assert!((info.gap_cv.unwrap() - 2f64.sqrt()).abs() < 1e-12);
    assert_eq!((info.arrivals[0], info.arrivals[59]), (1, 2));
    assert_eq!(TraceInfo::of(&read(PLAIN)).reusable_share, None);
}

/// The published traces, where they are present.
#[test]
fn published_traces_are_read_whole() {
    let Some(folder) = std::env::var_os("COSTMARK_TRACES") else {
        println!("COSTMARK_TRACES names no folder of published traces: nothing was read");
        return;
    };
    for (name, format, requests) in [
        ("AzureLLMInferenceTrace_code.csv", TraceFormat::Azure, 8_819),
        (
            "AzureLLMInferenceTrace_conv.csv",
            TraceFormat::Azure,
            19_366,
        ),
        (
            "mooncake_conversation_head2000.jsonl",
            TraceFormat::Mooncake,
            2_000,
        ),
    ] {
        let file = std::fs::File::open(Path::new(&folder).join(name)).unwrap();
        let reader = std::io::BufReader::new(file);
        let trace = Trace::read(reader, name, &TraceOptions::default()).unwrap();
        let info = TraceInfo::of(&trace);
        assert_eq!((info.format, info.requests), (format, requests));
        assert_eq!(info.arrivals.iter().sum::<u64>(), requests);
    }
}

proptest! {
    /// Whatever is in a file, reading it ends without a panic.
    #[test]
    fn no_file_is_too_strange(text in "(\\{\"timestamp\": )?[ -~\n]{0,300}", head in 0..4usize) {
        let headers = ["", "TIMESTAMP,ContextTokens,GeneratedTokens\n",
            "at_s,input_tokens,output_tokens\n", "Timestamp,Request tokens,Response tokens\n"];
        let _ = read_with(&format!("{}{text}", headers[head]), &TraceOptions::default());
    }

    /// What is written in the plain format comes back.
    #[test]
    fn plain_traces_round_trip(
        gaps in prop::collection::vec((0..100_000u64, 1..9_000u32, 1..9_000u32), 1..50),
    ) {
        let mut text = "at_s,input_tokens,output_tokens\n".to_owned();
        let (mut at_ms, mut expected) = (0, Vec::new());
        for (gap, input, output) in gaps {
            text += &format!("{},{input},{output}\n", at_ms as f64 / 1e3);
            expected.push((at_ms, input, output));
            at_ms += gap;
        }
        prop_assert_eq!(seen(&read(&text)), expected);
    }
}

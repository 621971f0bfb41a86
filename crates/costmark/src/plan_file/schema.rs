//! The JSON Schema of plan files, made from the flags themselves: `configs/plans/plan.schema.json`
//! is this, word for word. What it lets through parses, but for what it cannot see: order
//! within a range, devices named twice, names of models, and what files hold.

use clap::Arg;
use serde_json::{Map, Value, json};

use super::{AXES, DESCRIPTION, flags, key_of, takes_list};

/// A number above 0, then a unit of time.
const TIME: &str = r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?|[0-9]+\.[0-9]*[1-9][0-9]*) ?(ms|s|m|h)$";
const BYTES: &str = r"^([0-9]*[1-9][0-9]*(\.[0-9]+)?) ?(B|kB|KB|KiB|MB|MiB|GB|GiB|TB|TiB)$";
const LENGTH: &str = r"^([1-9][0-9]*(\.\.[1-9][0-9]*)?|(normal|lognormal):[1-9][0-9]*,[1-9][0-9]*|quantiles:[0-9.]+=[1-9][0-9]*(,[0-9.]+=[1-9][0-9]*)+|file:.+)$";
/// A device below 256.
const DEVICE: &str = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const WINDOW: &str = r"^([0-9.]+ ?(ms|s|m|h)|0)?\.\.([0-9.]+ ?(ms|s|m|h))?$";

/// Keys that only have a meaning beside another one.
const NEEDS: [(&str, &str); 12] = [
    ("top_p", "temperature"),
    ("top_k", "temperature"),
    ("trace_format", "trace"),
    ("trace_window", "trace"),
    ("time_scale", "trace"),
    ("find_goodput", "slo"),
    ("mock", "backend"),
    ("api", "endpoint"),
    ("no_stream", "endpoint"),
    ("http2", "endpoint"),
    ("tokenizer", "endpoint"),
    ("ca_file", "endpoint"),
];

/// The whole schema.
pub(super) fn schema() -> Value {
    let flags = flags();
    let mut keys = Map::new();
    keys.insert(
        DESCRIPTION.into(),
        json!({ "type": "string", "description": "A line for people" }),
    );
    for flag in &flags {
        let long = flag.get_long().unwrap_or_default();
        keys.insert(key_of(long), of_flag(flag));
    }
    let mut exclusive = Vec::new();
    for (a, b) in excluded(&flags) {
        exclusive.push(json!({ "not": { "required": [a, b] } }));
    }
    let needs_one = |others: [&str; 2]| {
        let all = others.map(|other| json!({ "required": [other] }));
        json!({ "anyOf": all })
    };
    exclusive.push(json!({
        "if": { "required": ["arrivals"] },
        "then": needs_one(["rate", "find_goodput"])
    }));
    let needs: Map<String, Value> = NEEDS
        .iter()
        .map(|(key, other)| ((*key).to_string(), json!([other])))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plan file of costmark run --plan",
        "description": "Each key is the flag of costmark run of the same name, with _ for -.",
        "type": "object",
        "additionalProperties": false,
        "properties": keys,
        "dependentRequired": needs,
        "allOf": exclusive,
    })
}

/// Pairs of keys that cannot stand together, each once.
fn excluded(flags: &[Arg]) -> Vec<(String, String)> {
    let mut cli = <crate::args::Cli as clap::CommandFactory>::command();
    cli.build();
    let Some(run) = cli.find_subcommand("run") else {
        return Vec::new();
    };
    let name = |arg: &Arg| key_of(arg.get_long().unwrap_or_default());
    let known = |key: &String| flags.iter().any(|flag| name(flag) == *key);
    let mut pairs = Vec::new();
    for flag in flags {
        let mut others: Vec<String> = run
            .get_arg_conflicts_with(flag)
            .into_iter()
            .map(name)
            .collect();
        for group in run.get_groups().cloned().filter_map(single) {
            let members: Vec<_> = group.get_args().collect();
            if members.contains(&flag.get_id()) {
                let in_group = flags.iter().filter(|f| members.contains(&f.get_id()));
                others.extend(in_group.map(name));
            }
        }
        for other in others.into_iter().filter(known) {
            let (a, b) = (name(flag), other);
            let pair = if a < b { (a, b) } else { (b, a) };
            // In a file the formats are one axis.
            let both_axes = AXES.contains(&pair.0.as_str()) && AXES.contains(&pair.1.as_str());
            if pair.0 != pair.1 && !both_axes && !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
    }
    pairs.sort();
    pairs
}

/// A group of which one may be given.
fn single(mut group: clap::ArgGroup) -> Option<clap::ArgGroup> {
    (!group.is_multiple()).then_some(group)
}

fn of_flag(flag: &Arg) -> Value {
    let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let one = match flag.get_action().takes_values() {
        false => json!({ "type": "boolean" }),
        true => scalar(flag),
    };
    let mut value = match takes_list(flag) {
        true => json!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] }),
        false => one,
    };
    if let Some(map) = value.as_object_mut() {
        map.insert("description".into(), help.into());
    }
    value
}

fn scalar(flag: &Arg) -> Value {
    let values: Vec<String> = flag
        .get_possible_values()
        .iter()
        .map(|value| value.get_name().to_string())
        .collect();
    if !values.is_empty() {
        return json!({ "enum": values });
    }
    let whole = |least: u64| json!({ "type": "integer", "minimum": least });
    let text = |pattern: &str| json!({ "type": "string", "pattern": pattern });
    let or = |a: Value, b: Value| json!({ "anyOf": [a, b] });
    match key_of(flag.get_long().unwrap_or_default()).as_str() {
        "concurrency" => json!({ "type": "integer", "minimum": 1, "maximum": 65_536 }),
        "threads" => json!({ "type": "integer", "minimum": 1, "maximum": 4096 }),
        "repeats" => json!({ "type": "integer", "minimum": 1, "maximum": 1000 }),
        "block_size" | "max_batched_tokens" | "max_sequences" | "max_context"
        | "max_concurrency" | "requests" => whole(1),
        "seed" | "shared_prefix" | "top_k" => whole(0),
        "rate" | "time_scale" | "temperature" | "price" => {
            json!({ "type": "number", "exclusiveMinimum": 0 })
        }
        "max_errors" => json!({ "type": "number", "minimum": 0, "maximum": 1 }),
        "utilization" | "top_p" => {
            json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1 })
        }
        "length_correlation" => json!({ "type": "number", "minimum": -1, "maximum": 1 }),
        "duration" | "connect_timeout" | "first_token_timeout" | "token_timeout" => text(TIME),
        "turns" => or(whole(1), text(r"^[1-9][0-9]*(\.\.[1-9][0-9]*)?$")),
        "think_time" => {
            text(r"^(exp:[0-9.]+ ?(ms|s|m|h)|[0-9.]+ ?(ms|s|m|h)(\.\.[0-9.]+ ?(ms|s|m|h))?|0)$")
        }
        "warmup" => or(whole(0), text(TIME)),
        "kv_budget" => or(whole(1), text(BYTES)),
        "input_len" | "output_len" => or(whole(1), text(LENGTH)),
        "trace_window" => text(WINDOW),
        "trace_format" => json!({ "enum": ["azure", "mooncake", "burstgpt", "plain"] }),
        "dtype" | "kv_dtype" => json!({ "enum": ["f32", "f16", "bf16"] }),
        "device" => text("^(cpu|cuda(:[0-9]+)?)$"),
        "devices" => {
            let part = format!("{DEVICE}(-{DEVICE})?");
            let number = json!({ "type": "integer", "minimum": 0, "maximum": 255 });
            or(number, text(&format!("^{part}( *, *{part})*$")))
        }
        "weights" => text("^(real|synthetic(:[0-9]+)?)$"),
        "arrivals" => text(
            r"^(poisson|constant|gamma:[0-9.]*[1-9][0-9.]*|bursts:[1-9][0-9]*|ramp:[0-9.]*[1-9][0-9.]*(ms|s|m|h))$",
        ),
        "slo" => text(
            r"^ *(ttft|itl|tpot|e2e)=[0-9.]+ ?(ms|s|m|h)( *, *(ttft|itl|tpot|e2e)=[0-9.]+ ?(ms|s|m|h))*(@p[0-9.]+)?$",
        ),
        _ => json!({ "type": "string" }),
    }
}

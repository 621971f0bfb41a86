//! `costmark workloads`: what can be asked by name.

use clap::Args;
use costmark_report::numbers::short;
use serde::Serialize;

use crate::args::WorkloadArgs;
use crate::failure::Result;
use crate::output;
use crate::plan::WorkloadPlan;
use crate::plan::preset::{PRESETS, WorkloadFile, find};

/// How they are shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkloadsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    description: String,
    source: String,
    input_len: String,
    output_len: String,
    correlation: f64,
    shared_prefix: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    turns: Option<String>,
    mean_input_tokens: f64,
    mean_output_tokens: f64,
    longest_request_tokens: u64,
}

/// Runs the command.
pub(crate) fn run(args: &WorkloadsArgs) -> Result<()> {
    let all = PRESETS
        .iter()
        .map(|(name, _)| listed(name, find(name)?.1))
        .collect::<Result<Vec<_>>>()?;
    if args.json {
        return output::json(&all);
    }
    let mut text = String::from(
        "name              mean input  mean output  shared prefix  longest request (tokens)\n",
    );
    for w in &all {
        text.push_str(&format!(
            "{:<16}{:>12}{:>13}{:>15}{:>17}\n",
            w.name,
            short(w.mean_input_tokens),
            short(w.mean_output_tokens),
            w.shared_prefix,
            w.longest_request_tokens
        ));
    }
    for w in &all {
        text.push_str(&format!("\n{}\n", w.description));
        text.push_str(&format!("  {}\n", w.source));
    }
    text.push_str("\nUse: costmark run --workload NAME; or write a .toml file like those in configs/workloads.\n");
    output::text(&text)
}

fn listed(name: &'static str, file: WorkloadFile) -> Result<Listed> {
    let args = WorkloadArgs {
        workload: Some(vec![name.to_string()]),
        ..WorkloadArgs::default()
    };
    let plans = WorkloadPlan::resolve(&args, None)?;
    let (input, output) = plans.first().map_or((0.0, 0.0), WorkloadPlan::mean_tokens);
    Ok(Listed {
        name,
        mean_input_tokens: input,
        mean_output_tokens: output,
        longest_request_tokens: plans
            .first()
            .map_or(0, WorkloadPlan::longest_request_tokens),
        description: file.description,
        source: file.source,
        input_len: file.input_len,
        output_len: file.output_len,
        correlation: file.correlation,
        shared_prefix: file.shared_prefix,
        turns: file.turns,
    })
}

//! `costmark trace info`: what a recorded load looks like, before it is replayed.

use std::path::PathBuf;

use clap::Args;
use costmark_load::{LengthQuantiles, TraceInfo, TraceOptions};
use costmark_report::numbers::{percent, short};

use crate::args::{TraceWindow, trace_window};
use crate::failure::Result;
use crate::plan::trace_info;
use crate::{output, units};

/// The trace to look at.
#[derive(Debug, Clone, Args)]
pub(crate) struct TraceInfoArgs {
    /// The trace: Azure's or BurstGPT's CSV, Mooncake's JSON lines, or CSV with the header
    /// at_s,input_tokens,output_tokens
    file: PathBuf,
    /// The stretch to look at, e.g. 10m..20m
    #[arg(long, value_name = "FROM..TO", value_parser = trace_window)]
    trace_window: Option<TraceWindow>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(crate) fn run(args: &TraceInfoArgs) -> Result<()> {
    let options = TraceOptions {
        from_s: args.trace_window.map_or(0.0, |w| w.from_s),
        to_s: args.trace_window.and_then(|w| w.to_s),
        ..TraceOptions::default()
    };
    let info = trace_info(&args.file, &options)?;
    if args.json {
        return output::json(&info);
    }
    output::text(&text(&info))
}

fn text(info: &TraceInfo) -> String {
    let mut text = format!("{:?} trace: {} requests", info.format, info.requests);
    if info.failed > 0 {
        text.push_str(&format!(" ({} failed ones left out)", info.failed));
    }
    text.push_str(&format!(" in {}", units::human_seconds(info.duration_s)));
    if let Some(rate) = info.requests_per_s {
        text.push_str(&format!(", {} requests/s", short(rate)));
    }
    text.push_str("\n\n          mean      min      p50      p90      p99      max\n");
    for (name, lengths) in [
        ("input", &info.input_tokens),
        ("output", &info.output_tokens),
    ] {
        text.push_str(&row(name, lengths));
    }
    text.push('\n');
    if let Some(cv) = info.gap_cv {
        let burstiness = if cv > 0.0 {
            format!("; like --arrivals gamma:{}", short(1.0 / (cv * cv)))
        } else {
            String::new()
        };
        text.push_str(&format!(
            "Gaps between arrivals vary by {} of their mean (CV; 1 is a Poisson process, more is \
             burstier{burstiness})\n",
            short(cv)
        ));
    }
    if let Some(share) = info.reusable_share {
        text.push_str(&format!(
            "{} of prompt tokens{} are in blocks that an earlier request began with: the most a \
             prefix cache can find\n",
            percent(share),
            info.reusable_requests
                .map_or(String::new(), |n| format!(" of the first {n} requests"))
        ));
    }
    text.push_str(&format!(
        "Arrivals  {}\n          0 to {}, up to {} in each of {} parts\n",
        sparkline(&info.arrivals),
        units::human_seconds(info.duration_s),
        info.arrivals.iter().max().unwrap_or(&0),
        info.arrivals.len()
    ));
    text
}

fn row(name: &str, lengths: &LengthQuantiles) -> String {
    format!(
        "{name:<6}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}\n",
        short(lengths.mean),
        lengths.min,
        lengths.p50,
        lengths.p90,
        lengths.p99,
        lengths.max
    )
}

/// One character for each count, as high as its share of the highest.
fn sparkline(counts: &[u64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let bar = |&count: &u64| match count {
        0 => ' ',
        n => BARS[((n * 8).div_ceil(most) as usize - 1).min(7)],
    };
    counts.iter().map(bar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_share() {
        assert_eq!(sparkline(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(sparkline(&[0, 0]), "  ");
        assert_eq!(sparkline(&[u64::from(u32::MAX), 1]), "█▁");
    }
}

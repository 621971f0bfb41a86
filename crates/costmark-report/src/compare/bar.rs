//! Bars a run must not pass: `throughput<-5%`, `ttft_p50_ms>500`.

use std::fmt;

use serde::Serialize;

use super::{Comparison, Metric, Verdict};
use crate::numbers::short;

/// A condition under which a comparison counts as failed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    metric: &'static str,
    is_above: bool,
    limit: f64,
    /// The limit is a change against the baseline, as a share.
    is_change: bool,
}

/// What a bar met in a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BarOutcome {
    /// The bar as typed.
    pub bar: String,
    /// Where it was passed, in words.
    pub passed: Vec<String>,
    /// Where it could not be checked, in words.
    pub unknown: Vec<String>,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_above { '>' } else { '<' };
        if self.is_change {
            write!(f, "{}{sign}{:+}%", self.metric, self.limit * 100.0)
        } else {
            write!(f, "{}{sign}{}", self.metric, self.limit)
        }
    }
}

impl std::str::FromStr for Bar {
    type Err = String;

    /// `METRIC<-5%` and `METRIC>+5%` bound the change against the baseline; without a
    /// percent sign the figure itself.
    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "write METRIC<LIMIT or METRIC>LIMIT, such as throughput<-5% (a change \
                            against the baseline) or ttft_p50_ms>500 (the figure itself)";
        let at = text.find(['<', '>']).ok_or(FORM)?;
        let (name, rest) = (text[..at].trim(), text[at + 1..].trim());
        let metric = Metric::named(name).ok_or_else(|| {
            format!(
                "no metric is called `{name}`; there are {}",
                Metric::names()
            )
        })?;
        let (number, is_change) = match rest.strip_suffix('%') {
            Some(number) => (number.trim_end(), true),
            None => (rest, false),
        };
        let limit: f64 = number
            .parse()
            .ok()
            .filter(|limit: &f64| limit.is_finite())
            .ok_or_else(|| format!("`{number}` is no number; {FORM}"))?;
        Ok(Self {
            metric: metric.name,
            is_above: text.as_bytes()[at] == b'>',
            limit: if is_change { limit / 100.0 } else { limit },
            is_change,
        })
    }
}

impl Bar {
    /// The metric it is about.
    #[must_use]
    pub fn metric(&self) -> &'static Metric {
        Metric::named(self.metric).unwrap_or(&super::METRICS[0])
    }

    /// Checks every level of every run but the baseline.
    ///
    /// A change passes the bar when the ratio of the medians does and the interval does not
    /// hold "no change" (95 %): noise fails nobody's build. With one repeat there is no
    /// interval, and the ratio alone decides.
    #[must_use]
    pub fn check(&self, comparison: &Comparison) -> BarOutcome {
        let mut outcome = BarOutcome {
            bar: self.to_string(),
            passed: Vec::new(),
            unknown: Vec::new(),
        };
        for level in &comparison.levels {
            let metric = level.metrics.iter().find(|m| m.name == self.metric);
            for (index, run) in comparison.runs.iter().enumerate().skip(1) {
                let place = format!("{} at {}", run.name, level.label);
                let Some(value) = metric.map(|m| &m.values[index]) else {
                    outcome.unknown.push(format!("{place}: no such figure"));
                    continue;
                };
                match value.verdict {
                    Verdict::Missing if self.is_change || value.value.is_none() => {
                        outcome.unknown.push(format!("{place}: not in both runs"));
                        continue;
                    }
                    Verdict::NotComparable => {
                        outcome.unknown.push(format!("{place}: not the same work"));
                        continue;
                    }
                    _ => {}
                }
                if let Some(found) = self.passed_by(value) {
                    outcome.passed.push(format!("{place}: {found}"));
                }
            }
        }
        if comparison.levels.is_empty() {
            outcome.unknown.push("no run has a level".into());
        }
        outcome
    }

    fn passed_by(&self, value: &super::ComparedValue) -> Option<String> {
        let is_past = |x: f64| {
            if self.is_above {
                x > self.limit
            } else {
                x < self.limit
            }
        };
        if !self.is_change {
            let own = value.value?.value;
            return is_past(own).then(|| short(own));
        }
        let change = value.ratio?.value - 1.0;
        let is_sure = value.verdict != Verdict::NotDistinguishable;
        (is_sure && is_past(change)).then(|| format!("{:+.1} %", change * 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_read_as_typed() {
        let bar: Bar = "throughput<-5%".parse().unwrap();
        assert_eq!(bar.to_string(), "output_tok_per_s<-5%");
        assert_eq!(
            (bar.is_above, bar.is_change, bar.limit),
            (false, true, -0.05)
        );
        let bar: Bar = " ttft_p50_ms > 500 ".parse().unwrap();
        assert_eq!(bar.to_string(), "ttft_p50_ms>500");
        assert_eq!((bar.is_above, bar.is_change), (true, false));
    }

    #[test]
    fn what_is_no_bar_is_refused_with_the_way_out() {
        for (text, part) in [
            ("throughput", "write METRIC<LIMIT"),
            ("speed<-5%", "output_tok_per_s (throughput)"),
            ("throughput<fast", "no number"),
            ("throughput<nan%", "no number"),
            ("", "write METRIC<LIMIT"),
            ("<", "no metric"),
        ] {
            let error = text.parse::<Bar>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

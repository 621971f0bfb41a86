//! What the step log and the timeline show.

use super::{Page, formulas, or_dash};
use crate::numbers::{percent, short};
use crate::page::html::{details, escaped, figure, table};

impl Page<'_> {
    pub(super) fn inside(&self, out: &mut String) {
        out.push_str("<h2>Where the time went</h2>");
        let rows = self.each_level(|r, l| {
            let Some(time) = &self.data[r].levels[l].time else {
                return vec!["–".into(); 9];
            };
            let share = |x: f64| percent(x);
            let optional = |x| or_dash(x, percent);
            vec![
                share(time.prefill),
                share(time.decode),
                share(time.mixed),
                share(time.idle),
                share(time.outside_forward),
                optional(time.mbu),
                optional(time.decode_mbu),
                optional(time.mfu),
                optional(time.prefill_mfu),
            ]
        });
        out.push_str(&figure(
            "phases",
            "Time by phase",
            "Shares of the measured time. Decoding is bound by memory bandwidth (MBU), prefill by \
             arithmetic (MFU).",
            &table(
                "Shares of the window; MBU and MFU are modelled from the step log",
                &[
                    "level",
                    "prefill",
                    "decode",
                    "both at once",
                    "no step",
                    "outside forward",
                    "MBU",
                    "MBU in decode",
                    "MFU",
                    "MFU in prefill",
                ],
                &rows,
            ),
        ));
        if self.runs.len() > 1 {
            out.push_str(
                "<p class=\"no-print\"><label>Steps and timeline of <select id=\"shown-run\">",
            );
            for (i, run) in self.runs.iter().enumerate() {
                out.push_str(&format!(
                    "<option value=\"{i}\">{}</option>",
                    escaped(&run.name)
                ));
            }
            out.push_str("</select></label></p>");
        }
        let steps: Vec<Vec<String>> = self
            .runs
            .iter()
            .zip(self.data)
            .map(|(run, data)| {
                let kinds = data.pictures.cells.iter();
                let kinds: Vec<String> = kinds
                    .map(|(kind, cells)| format!("{kind:?}: {} points", cells.len()).to_lowercase())
                    .collect();
                vec![
                    run.name.clone(),
                    data.pictures.steps.to_string(),
                    kinds.join(", "),
                ]
            })
            .collect();
        out.push_str(&figure(
            "roofline",
            "Steps under the roofline",
            "Each point stands for forward passes of about the same speed; the line is what the \
             measured peaks of this machine allow. Left of the knee bandwidth is the limit, right \
             of it arithmetic: the rate of f32 products, which quantised weights may exceed, \
             since they use other instructions.",
            &table(
                "Steps in the log, and points drawn for the measured ones",
                &["run", "steps", "points"],
                &steps,
            ),
        ));
        out.push_str(&details(
            "How MBU, MFU and the roofline are computed",
            formulas::ROOFLINE,
        ));
        let rows: Vec<Vec<String>> = self
            .runs
            .iter()
            .zip(self.data)
            .flat_map(|(run, data)| {
                let p = &data.pictures;
                [
                    ("requests in flight", &p.in_flight),
                    ("sequences per step", &p.sequences),
                    ("requests waiting", &p.waiting),
                    ("KV cache in use", &p.kv_share),
                    ("MBU of steps", &p.mbu),
                    ("TTFT ms", &p.ttft_ms),
                    ("cores costmark kept busy", &p.own_cores),
                    ("cores others took", &p.other_cores),
                    ("memory costmark held, GiB", &p.rss_gib),
                    ("frequency, GHz", &p.ghz),
                    ("power of the processor packages, W", &p.watts),
                ]
                .into_iter()
                .filter(|(_, series)| !series.at_s.is_empty())
                .map(|(what, series)| {
                    let least = series.low.iter().copied().reduce(f64::min);
                    let most = series.high.iter().copied().reduce(f64::max);
                    vec![
                        format!("{}, {what}", run.name),
                        or_dash(least, short),
                        or_dash(most, short),
                    ]
                })
            })
            .collect();
        out.push_str(&figure(
            "timeline",
            "Over time",
            "Batch occupancy, KV cache and bandwidth use from the first warm-up to the last request. \
             The line is the mean of each five-hundredth of the run (a point where requests are few), the \
             band its least and greatest value; shaded spans were measured. Cores are those that costmark kept busy, and those \
             that other programs or the hypervisor took.",
            &table("Extremes over the run", &["quantity", "least", "greatest"], &rows),
        ));
    }
}

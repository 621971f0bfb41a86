//! Under which conditions it was measured, and the data itself.

use super::Page;
use crate::numbers::{percent, short};
use crate::page::html::{details, escaped, table};

impl Page<'_> {
    pub(super) fn conditions(&self, out: &mut String) {
        out.push_str("<h2>Conditions</h2>");
        for run in self.runs {
            let d = &run.document;
            let mut rows: Vec<Vec<String>> = Vec::new();
            let mut row = |name: &str, value: String| rows.push(vec![name.into(), value]);
            row("machine", d.environment.label.clone());
            for backend in &d.backends {
                row(
                    "model",
                    format!(
                        "{}, weights {} ({}), KV {}",
                        backend.model, backend.weight_dtype, backend.source, backend.kv_dtype
                    ),
                );
                row(
                    "served by",
                    format!("{} on {}", backend.software, backend.device),
                );
            }
            for workload in &d.plan.workloads {
                row(
                    "workload",
                    format!(
                        "{}: input {} tokens, output {} tokens",
                        workload.id, workload.input_len, workload.output_len
                    ),
                );
            }
            row("repeats", d.plan.repeats.to_string());
            row(
                "price",
                format!(
                    "{}; utilization {}",
                    d.price.explanation,
                    percent(d.price.utilization)
                ),
            );
            row("started", d.started_at.clone());
            row("command", d.command.join(" "));
            row(
                "tool",
                format!(
                    "{} {} ({}{}), {} build, {}",
                    d.tool.name,
                    d.tool.version,
                    d.tool.git_revision.as_deref().unwrap_or("no revision"),
                    if d.tool.git_dirty {
                        ", with changes"
                    } else {
                        ""
                    },
                    d.tool.build_profile,
                    d.tool.target
                ),
            );
            let peaks: Vec<String> = d
                .environment
                .peaks
                .iter()
                .map(|p| short(p.read_bytes_per_s.best / 1e9))
                .collect();
            if !peaks.is_empty() {
                row("read bandwidth, GB/s, over the run", peaks.join(", "));
            }
            if let Some(sheet) = &d.environment.datasheet {
                let doubt = sheet.unconfirmed.as_ref();
                row(
                    "memory bandwidth by datasheet, GB/s",
                    format!(
                        "{}, of {} × {} as a whole ({}{})",
                        short(sheet.read_bytes_per_s / 1e9),
                        sheet.devices,
                        sheet.name,
                        sheet.source,
                        doubt.map_or(String::new(), |d| format!("; {d}"))
                    ),
                );
            }
            if let Some(drift) = d.environment.read_bandwidth_drift {
                row("its drift", percent(drift));
            }
            if let Some(steal) = d.environment.steal_share {
                row("CPU time given to others by the hypervisor", percent(steal));
            }
            row(
                "recording one token event",
                format!("{} ns", short(d.overhead.recording_ns_per_token_event)),
            );
            for note in &d.notes {
                row("note", note.clone());
            }
            for advice in &d.advice {
                row("advice", advice.message.clone());
            }
            let whole = serde_json::to_string_pretty(&d.environment.machine).unwrap_or_default();
            let body = format!(
                "{}{}",
                table(&format!("Conditions of {}", run.name), &[], &rows),
                details(
                    "Everything known about the machine",
                    &format!(
                        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"Machine\"><pre>{}</pre></div>",
                        // Line by line: line breaks are the only control characters kept.
                        whole.lines().map(escaped).collect::<Vec<_>>().join("\n")
                    )
                )
            );
            if self.runs.len() > 1 {
                out.push_str(&details(&run.name, &body));
            } else {
                out.push_str(&body);
            }
        }
        for remark in self.remarks {
            out.push_str(&format!("<p class=\"alarm\">{}</p>", escaped(remark)));
        }
    }

    pub(super) fn raw(&self, out: &mut String) {
        out.push_str(
            "<h2>Data</h2><p>Everything on this page is computed from these files. They stand in \
             the run folder; raw lines of larger runs are only there. Their keys are described by \
             <code>costmark schema</code>.</p><div id=\"downloads\" class=\"no-print\"></div>",
        );
        for run in self.runs {
            let path = run.path.display().to_string();
            out.push_str(&format!(
                "<p class=\"soft\">Run folder: <code>{}</code></p>",
                escaped(&path)
            ));
        }
    }
}

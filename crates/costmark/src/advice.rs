//! What a reader must know about a run, and what the user could do for a better one.

use std::collections::BTreeSet;

use costmark_econ::{PriceBasis, PriceChoice};
use costmark_report::document::{
    AdviceDocument, GpuDocument, MachineDocument, RunDocument, UnitDocument,
};
use costmark_report::numbers::percent;

use crate::price::{gpus_of, misfit};

/// Drift of the read bandwidth from which it is told.
const DRIFT: f64 = 0.1;
/// Share of CPU time taken by others from which it is told.
const TAKEN: f64 = 0.02;

/// Facts of model, price and cost that belong to every reading of the result.
pub(crate) fn notes(document: &RunDocument, price: &PriceChoice) -> Vec<String> {
    let mut notes = Vec::new();
    for note in document.backends.iter().flat_map(|b| &b.notes) {
        if !notes.contains(note) {
            notes.push(note.clone());
        }
    }
    let talks = document.plan.workloads.iter().any(|w| w.turns.is_some());
    if talks && document.plan.endpoint.is_some() {
        notes.push(
            "Where the server does not tell the token ids of its output, conversations go on with \
             others in their place: lengths are right, but its cache finds the prompt only."
                .into(),
        );
    }
    notes.extend(price.caveats());
    let gpus = gpus_of(&document.backends).map(|gpus| gpus.count);
    let replicas = document.backends.iter().map(|b| b.replicas).max();
    let used = gpus.or(replicas.filter(|&n| n > 1));
    notes.extend(used.and_then(|used| rented_beyond(used, price)));
    if matches!(price.basis, PriceBasis::Book { .. }) {
        let label = &document.environment.label;
        notes.extend(misfit(&document.backends, label, &price.price));
    }
    let counted = document.units.iter().filter(|u| u.usable);
    for note in counted.filter_map(|u| u.cost_note.as_ref()) {
        let text = format!("Cost is not split between input and output: {note}.");
        if !notes.contains(&text) {
            notes.push(text);
        }
    }
    if document.plan.repeats > 1
        && document
            .levels
            .iter()
            .any(|l| l.repeats < document.plan.repeats)
    {
        notes.push("Some levels have fewer repeats than planned.".into());
    }
    notes
}

/// Advice on the run as a whole.
pub(crate) fn advise(document: &RunDocument) -> Vec<AdviceDocument> {
    let mut list = Vec::new();
    let mut add = |code: &str, message: String| {
        list.push(AdviceDocument {
            code: code.into(),
            message,
        });
    };
    if document.tool.build_profile == "debug" {
        add(
            "debug_build",
            "this is a debug build, which is slower; build with --release for figures to keep"
                .into(),
        );
    }
    let environment = &document.environment;
    if let Some(drift) = environment.read_bandwidth_drift.filter(|&d| d > DRIFT) {
        add(
            "bandwidth_drift",
            format!(
                "memory bandwidth drifted by {} during the run; each MBU uses the readings \
                 nearest to it, but the machine is shared or throttled: run again with more \
                 --repeats when it is quiet",
                percent(drift)
            ),
        );
    }
    if let Some(steal) = environment.steal_share.filter(|&s| s > TAKEN) {
        add(
            "steal",
            format!(
                "the hypervisor gave {} of the CPU time wanted to others; measure on a machine \
                 with dedicated cores",
                percent(steal)
            ),
        );
    }
    if let Some(share) = other_share(document).filter(|&s| s > TAKEN) {
        add(
            "other_programs",
            format!(
                "other programs used {} of the CPU time of this machine{}; stop them and run again",
                percent(share),
                named(document)
            ),
        );
    }
    let usable = document.units.iter().filter(|u| u.usable);
    let machines = usable.filter_map(|u| u.machine.as_ref());
    let gpus: Vec<&GpuDocument> = machines.flat_map(MachineDocument::all_gpus).collect();
    for (code, message) in gpu_advice(&gpus) {
        add(code, message);
    }
    let unsettled = |u: &&UnitDocument| u.usable && !u.warmup.settled;
    let unsettled = document.units.iter().filter(unsettled).count();
    if unsettled > 0
        && document
            .plan
            .warmup_requests_per_slot
            .is_some_and(|n| n > 0)
    {
        add(
            "not_settled",
            format!(
                "in {unsettled} of {} units step times had not settled when the measurement \
                 began; raise --warmup",
                document.units.len()
            ),
        );
    }
    list
}

/// Share of samples from which it is told that a GPU was slowed.
const SLOWED: f64 = 0.01;

/// What kept GPUs from what they can do.
fn gpu_advice(seen: &[&GpuDocument]) -> Vec<(&'static str, String)> {
    let mut list = Vec::new();
    if let Some((gpus, share)) = slowed(seen, |gpu| gpu.heat_throttled_share) {
        list.push((
            "gpu_heat",
            format!("heat slowed {gpus} in up to {share} of a unit; cool better and run again"),
        ));
    }
    if let Some((gpus, share)) = slowed(seen, |gpu| gpu.hardware_throttled_share) {
        list.push((
            "gpu_hardware",
            format!(
                "hardware slowed {gpus} in up to {share} of a unit (power brake, too much current, \
                 or another GPU it is tied to); `nvidia-smi -q -d PERFORMANCE` says which"
            ),
        ));
    }
    if let Some((gpus, share)) = slowed(seen, |gpu| gpu.power_throttled_share) {
        list.push((
            "gpu_power",
            format!(
                "the power limit held the clocks of {gpus} down in up to {share} of a unit; a \
                 machine with another limit gives other figures"
            ),
        ));
    }
    let others = |gpu: &GpuDocument| gpu.max_other_processes.map(f64::from);
    if let Some((gpus, others)) = worst(seen, others, 0.0) {
        list.push((
            "gpu_shared",
            format!(
                "{others} other processes held memory of {gpus} (nvidia-smi shows which); stop \
                 them and run again"
            ),
        ));
    }
    list
}

/// The GPUs of which this share of samples is worth telling, by name, and the greatest share.
fn slowed(seen: &[&GpuDocument], of: fn(&GpuDocument) -> Option<f64>) -> Option<(String, String)> {
    let (gpus, share) = worst(seen, of, SLOWED)?;
    Some((gpus, percent(share)))
}

/// The GPUs for which a figure was over `least` in some unit, by name, and the greatest of them.
fn worst(
    seen: &[&GpuDocument],
    of: fn(&GpuDocument) -> Option<f64>,
    least: f64,
) -> Option<(String, f64)> {
    let over = |gpu: &&GpuDocument| Some((gpu.cuda, of(gpu).filter(|&figure| figure > least)?));
    let over: Vec<(Option<u32>, f64)> = seen.iter().filter_map(over).collect();
    let numbers: BTreeSet<Option<u32>> = over.iter().map(|(cuda, _)| *cuda).collect();
    let names: Vec<String> = numbers.into_iter().map(gpu_name).collect();
    let worst = over.into_iter().map(|(_, figure)| figure);
    Some((names.join(", "), worst.reduce(f64::max)?))
}

fn gpu_name(cuda: Option<u32>) -> String {
    cuda.map_or_else(|| "the GPU".into(), |n| format!("cuda:{n}"))
}

/// Accelerators that are paid for and were not used, of a machine that was named.
fn rented_beyond(used: u32, price: &PriceChoice) -> Option<String> {
    let rented = price.price.accelerator_count;
    let is_named = matches!(price.basis, PriceBasis::Book { .. });
    (is_named && used < rented).then(|| {
        let were = if used == 1 { "was" } else { "were" };
        format!(
            "The price is that of a whole machine with {rented} accelerators, of which {used} {were} \
             used."
        )
    })
}

/// Who they were, in brackets.
fn named(document: &RunDocument) -> String {
    let neighbours = &document.environment.neighbours;
    let names: Vec<String> = neighbours
        .iter()
        .map(|n| format!("{} {:.0} s", n.name, n.cpu_s))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!(" ({})", names.join(", ")),
    }
}

/// Share of the usable CPU time since the first unit that others used.
fn other_share(document: &RunDocument) -> Option<f64> {
    let taken_s = document.environment.other_cpu_s?;
    let begin_ns = document.environment.peaks.first()?.at_ns;
    let end_ns = document.environment.peaks.last()?.at_ns;
    let wall_s = end_ns.checked_sub(begin_ns).filter(|&ns| ns > 0)? as f64 / 1e9;
    Some(taken_s / (wall_s * f64::from(document.plan.threads)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use costmark_econ::PriceBooks;

    fn gpu(cuda: Option<u32>, heat: f64, others: u32) -> GpuDocument {
        GpuDocument {
            cuda,
            samples: 10,
            power_w: None,
            sm_mhz: None,
            min_sm_mhz: None,
            max_temperature_c: None,
            max_used_bytes: None,
            power_throttled_share: None,
            heat_throttled_share: Some(heat),
            hardware_throttled_share: Some(0.0),
            max_other_processes: Some(others),
        }
    }

    #[test]
    fn what_disturbed_names_the_gpus() {
        let seen = [
            gpu(Some(0), 0.0, 0),
            gpu(Some(5), 0.02, 0),
            gpu(Some(3), 0.3, 1),
            gpu(Some(3), 0.1, 2),
        ];
        let told = gpu_advice(&seen.iter().collect::<Vec<_>>());
        let codes: Vec<&str> = told.iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, ["gpu_heat", "gpu_shared"]);
        let (heat, shared) = (&told[0].1, &told[1].1);
        assert!(heat.contains("slowed cuda:3, cuda:5 in up to 30"), "{heat}");
        assert!(
            shared.contains("2 other processes held memory of cuda:3 "),
            "{shared}"
        );
        let only = [gpu(None, 0.5, 0)];
        let told = gpu_advice(&[&only[0]]);
        assert!(told[0].1.contains("slowed the GPU in up to 50"), "{told:?}");
        assert!(gpu_advice(&[&gpu(Some(1), 0.01, 0)]).is_empty());
    }

    #[test]
    fn what_is_paid_for_and_not_used_is_told() {
        let books = PriceBooks::embedded().unwrap();
        let eight = books.find("aws/p5.48xlarge").unwrap();
        let told = rented_beyond(4, &eight).unwrap();
        assert!(told.contains("8 accelerators, of which 4"), "{told}");
        assert_eq!(rented_beyond(8, &eight), None);
        let told = rented_beyond(1, &eight).unwrap();
        assert!(
            told.contains("8 accelerators, of which 1 was used"),
            "{told}"
        );
    }
}

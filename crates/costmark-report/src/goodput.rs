//! Whether a rate holds: the verdict of a search for the highest rate within the SLO on one of the
//! rates it tried. Where the search goes next is not decided here.

use costmark_metrics::SloCounts;

use crate::document::{LevelId, Limit, ProbeDocument, SearchDocument, UnitDocument};

impl ProbeDocument {
    /// Whether a rate held, by all repeats of it together. `share` is that of requests which must
    /// keep the limits.
    #[must_use]
    pub fn judged(level: LevelId, per_s: f64, share: f64, units: &[&UnitDocument]) -> Self {
        let mut counts = SloCounts::default();
        let (mut goodput, mut tokens) = (Vec::new(), Vec::new());
        let mut verdicts = Vec::new();
        let mut client_limited = 0;
        for unit in units {
            if let Some(of_unit) = &unit.summary.goodput {
                counts.add(&of_unit.counts.unwrap_or_default());
                goodput.push(of_unit.requests_per_s);
                tokens.push(of_unit.output_tok_per_s);
            }
            let open_loop = unit.summary.open_loop;
            verdicts.push(open_loop.and_then(|o| o.saturation).map(|s| s.is_saturated));
            client_limited += usize::from(open_loop.is_some_and(|o| o.client_limited));
        }
        let verdicts: Option<Vec<bool>> = verdicts.into_iter().collect();
        let saturated = verdicts.map(|all| 2 * all.iter().filter(|s| **s).count() > all.len());
        let client_limited = 2 * client_limited > units.len();
        let enough = counts.ended > 0 && counts.attainment() >= share;
        // Without an answer whether requests pile up there is no answer at all: too few brought a
        // token, since they failed.
        let limit = match saturated {
            None => Some(Limit::Failures),
            Some(true) => Some(Limit::Saturation),
            Some(false) if client_limited => Some(Limit::Client),
            Some(false) if enough => None,
            Some(false) => most_missed(&counts),
        };
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
        Self {
            level,
            requests_per_s: per_s,
            attainment: counts.attainment(),
            counts,
            goodput_requests_per_s: mean(&goodput),
            goodput_output_tok_per_s: mean(&tokens),
            saturated,
            held: limit.is_none(),
            limit,
        }
    }
}

impl SearchDocument {
    /// Enters its two ends, as far as there are any: the rate that held and the one that did not.
    pub fn settle(&mut self, held: Option<f64>, missed: Option<f64>) {
        let at = |rate: Option<f64>| {
            let probe = self.probes.iter().find(|p| Some(p.requests_per_s) == rate);
            probe.cloned()
        };
        (self.held, self.missed) = (at(held), at(missed));
        self.limit = self.missed.as_ref().and_then(|probe| probe.limit);
    }

    /// The search with the verdicts that `units` give on the rates it tried. Which rates it tried,
    /// and whether it was at its end, is how it went and stays.
    #[must_use]
    pub fn judged_again(&self, units: &[UnitDocument]) -> Self {
        let mut again = self.clone();
        for probe in &mut again.probes {
            let of_level: Vec<&UnitDocument> = units
                .iter()
                .filter(|unit| unit.level == probe.level && unit.complete)
                .collect();
            *probe = ProbeDocument::judged(
                probe.level.clone(),
                probe.requests_per_s,
                self.share,
                &of_level,
            );
        }
        let rates = |held: bool| {
            let probes = again.probes.iter().filter(move |p| p.held == held);
            probes.map(|p| p.requests_per_s)
        };
        let missed = rates(false).reduce(f64::min);
        let held = rates(true)
            .filter(|rate| missed.is_none_or(|missed| *rate < missed))
            .reduce(f64::max);
        // One under way has entered neither.
        let is_settled = self.held.is_some() || self.missed.is_some();
        if is_settled {
            again.settle(held, missed);
        }
        again
    }
}

/// The limit that most requests missed.
fn most_missed(counts: &SloCounts) -> Option<Limit> {
    let all = [
        (Limit::Failures, counts.failed),
        (Limit::Ttft, counts.ttft),
        (Limit::Itl, counts.itl),
        (Limit::Tpot, counts.tpot),
        (Limit::E2e, counts.e2e),
    ];
    // Of equal ones the first.
    let most = all.into_iter().rev().max_by_key(|(_, missed)| *missed)?;
    Some(most.0)
}

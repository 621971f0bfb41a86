//! The names closest to a mistyped one.

/// How many near misses an error shows.
const SUGGESTIONS: usize = 4;
/// Jaro-Winkler similarity under which two names have nothing to do with each other.
const SIMILAR: f64 = 0.8;

/// The names most like `wanted`, closest first, each once. Without a `/` in `wanted` the part
/// of a name after its first `/` is compared.
pub(crate) fn nearest(wanted: &str, names: impl Iterator<Item = String>) -> Vec<String> {
    let wanted = wanted.to_ascii_lowercase();
    let mut scored: Vec<(f64, String)> = Vec::new();
    for name in names {
        if scored.iter().any(|(_, seen)| *seen == name) {
            continue;
        }
        let lower = name.to_ascii_lowercase();
        let candidate = match lower.split_once('/') {
            Some((_, rest)) if !wanted.contains('/') => rest,
            _ => &lower,
        };
        let last = candidate.rsplit('/').next().unwrap_or(candidate);
        let wanted_last = wanted.rsplit('/').next().unwrap_or(&wanted);
        let score = strsim::jaro_winkler(&wanted, candidate)
            .max(strsim::jaro_winkler(wanted_last, last) * 0.97);
        if score >= SIMILAR {
            scored.push((score, name));
        }
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.truncate(SUGGESTIONS);
    scored.into_iter().map(|(_, name)| name).collect()
}

//! `--mock`: how the backend without a model behaves.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use costmark_core::mock::MockConfig;

use crate::units;

/// Stated latencies. Keys that are not given keep the mock's defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MockArg {
    ttft: Duration,
    itl: Duration,
    /// `None` for any number.
    max_sequences: Option<u32>,
    /// Mocks that serve side by side, each of `max_sequences`.
    pub(crate) replicas: u32,
    /// Time jumps from event to event instead of passing.
    pub(crate) is_virtual: bool,
}

const ACCEPTED: &str = "keys are ttft=TIME, itl=TIME, max-sequences=N, replicas=N and virtual, \
                        e.g. ttft=50ms,itl=10ms,max-sequences=16,virtual";
/// Mocks there can be.
const MOST_REPLICAS: u32 = 256;

impl Default for MockArg {
    fn default() -> Self {
        let config = MockConfig::default();
        Self {
            ttft: Duration::from_nanos(config.ttft_ns),
            itl: Duration::from_nanos(config.itl_ns),
            max_sequences: None,
            replicas: 1,
            is_virtual: false,
        }
    }
}

impl MockArg {
    /// As the mock takes it.
    pub(crate) fn config(&self) -> MockConfig {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        MockConfig {
            ttft_ns: ns(self.ttft),
            itl_ns: ns(self.itl),
            max_sequences: self.max_sequences.map_or(usize::MAX, |n| n as usize),
            // The same instants at a fraction of the work.
            runs: self.is_virtual,
            ..MockConfig::default()
        }
    }
}

impl FromStr for MockArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut mock = Self::default();
        let mut seen = Vec::new();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            if seen.contains(&key) {
                return Err(format!("`{key}` is given twice"));
            }
            seen.push(key);
            let time =
                || units::duration(value).map_err(|e| format!("`{key}={value}`: {e}; {ACCEPTED}"));
            match key {
                "ttft" => mock.ttft = time()?,
                "itl" => mock.itl = time()?,
                "max-sequences" => {
                    let n = value.parse().ok().filter(|&n: &u32| n > 0);
                    let n = n.ok_or_else(|| {
                        format!("`{key}={value}`: expected a whole number above 0; {ACCEPTED}")
                    })?;
                    mock.max_sequences = Some(n);
                }
                "replicas" => {
                    let n = value.parse().ok();
                    let n = n.filter(|n: &u32| (1..=MOST_REPLICAS).contains(n));
                    mock.replicas = n.ok_or_else(|| {
                        format!(
                            "`{key}={value}`: expected a whole number from 1 to {MOST_REPLICAS}; \
                             {ACCEPTED}"
                        )
                    })?;
                }
                "virtual" if value.is_empty() => mock.is_virtual = true,
                _ => return Err(format!("there is no `{part}`; {ACCEPTED}")),
            }
        }
        Ok(mock)
    }
}

impl fmt::Display for MockArg {
    /// All keys, so that equal behaviour has equal text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_nanos() as f64 / 1e6;
        write!(f, "ttft={}ms,itl={}ms", ms(self.ttft), ms(self.itl))?;
        if let Some(n) = self.max_sequences {
            write!(f, ",max-sequences={n}")?;
        }
        if self.replicas > 1 {
            write!(f, ",replicas={}", self.replicas)?;
        }
        if self.is_virtual {
            write!(f, ",virtual")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in [
            "ttft=50ms,itl=10ms",
            "ttft=1.5ms,itl=0.25ms,max-sequences=16,virtual",
            "ttft=50ms,itl=10ms,max-sequences=4,replicas=3,virtual",
        ] {
            let mock: MockArg = text.parse().unwrap();
            assert_eq!(mock.to_string(), text);
        }
        let mock: MockArg = "virtual, ttft=2s".parse().unwrap();
        assert_eq!(mock.to_string(), "ttft=2000ms,itl=10ms,virtual");
        assert_eq!(mock.config().ttft_ns, 2_000_000_000);
    }

    #[test]
    fn errors_name_the_key_and_what_is_accepted() {
        for (text, reason) in [
            ("tfft=50ms", "there is no `tfft=50ms`"),
            ("ttft=50", "with a unit"),
            ("ttft=-50ms", "`ttft=-50ms`"),
            ("max-sequences=0", "above 0"),
            ("replicas=0", "from 1 to 256"),
            ("replicas=two", "`replicas=two`"),
            ("virtual=yes", "there is no `virtual=yes`"),
            ("itl=1ms,itl=2ms", "`itl` is given twice"),
        ] {
            let message = text.parse::<MockArg>().unwrap_err();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}

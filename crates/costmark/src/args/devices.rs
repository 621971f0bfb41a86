//! `--devices`: the GPUs that serve side by side.

use std::fmt;
use std::str::FromStr;

/// Numbers of CUDA devices, ascending, each once, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DevicesArg(Vec<usize>);

const EXPECTED: &str = "name GPUs by number, such as 0-7 or 0,2,5";
/// GPUs are numbered below this: more than any host has.
const MOST: usize = 256;

impl DevicesArg {
    /// The numbers.
    pub(crate) fn numbers(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for DevicesArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = match part.split_once('-') {
                None => (number(part)?, number(part)?),
                Some((first, last)) => (number(first.trim())?, number(last.trim())?),
            };
            if first > last {
                return Err(format!("`{part}` runs backwards; write {last}-{first}"));
            }
            for n in first..=last {
                if numbers.contains(&n) {
                    return Err(format!("GPU {n} is named twice; {EXPECTED}"));
                }
                numbers.push(n);
            }
        }
        numbers.sort_unstable();
        Ok(Self(numbers))
    }
}

fn number(text: &str) -> Result<usize, String> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_number {
        return Err(format!("`{text}` is no number of a GPU; {EXPECTED}"));
    }
    match text.parse() {
        Ok(n) if n < MOST => Ok(n),
        _ => Err(format!(
            "no machine has a GPU {text}: they are counted from 0; {EXPECTED}"
        )),
    }
}

impl fmt::Display for DevicesArg {
    /// As short as it can be written, so that equal devices have equal text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for &n in &self.0 {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => runs.push((n, n)),
            }
        }
        for (i, (first, last)) in runs.into_iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges() {
        for (text, numbers, short) in [
            ("0-7", &[0, 1, 2, 3, 4, 5, 6, 7][..], "0-7"),
            ("3", &[3], "3"),
            ("5, 0,2", &[0, 2, 5], "0,2,5"),
            ("4-6,0-1,3", &[0, 1, 3, 4, 5, 6], "0-1,3-6"),
            ("2-2", &[2], "2"),
            ("255", &[255], "255"),
        ] {
            let devices: DevicesArg = text.parse().unwrap();
            assert_eq!(devices.numbers(), numbers, "{text}");
            assert_eq!(devices.to_string(), short);
            assert_eq!(short.parse(), Ok(devices));
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (text, reason) in [
            ("", "`` is no number"),
            ("0,,1", "`` is no number"),
            ("0,", "0-7 or 0,2,5"),
            ("all", "`all` is no number"),
            ("-1", "`` is no number"),
            ("+1", "`+1` is no number"),
            ("1.5", "`1.5` is no number"),
            ("0-1-2", "`1-2` is no number"),
            ("cuda:0", "`cuda:0` is no number"),
            ("7-0", "write 0-7"),
            ("0-3,2", "GPU 2 is named twice"),
            ("1,1", "GPU 1 is named twice"),
            ("0-256", "no machine has a GPU 256"),
            ("0-18446744073709551616", "no machine has a GPU"),
        ] {
            let message = text.parse::<DevicesArg>().unwrap_err();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }
}

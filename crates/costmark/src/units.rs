//! Values of flags: bytes, durations, devices, kinds of weights.

use std::time::Duration;

use costmark_metrics::Slo;

use crate::args::{DeviceArg, WarmupArg, WeightsArg};

/// A number of bytes, as typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

/// `2GiB`, `512MiB`, `1.5GB`, `1073741824`.
pub(crate) fn bytes(text: &str) -> Result<Bytes, String> {
    text.parse::<bytesize::ByteSize>()
        .map_err(|_| "expected bytes with a unit, such as 2GiB, 512MiB or 1.5GB".to_string())
        .and_then(|size| match size.as_u64() {
            0 => Err("must be more than 0".to_string()),
            n => Ok(Bytes(n)),
        })
}

/// `30s`, `2m`, `500ms`, `1h 30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a time above 0 with a unit, such as 30s, 2m or 500ms";
    text.parse::<jiff::SignedDuration>()
        .ok()
        .filter(jiff::SignedDuration::is_positive)
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| expected.to_string())
}

/// Requests per second: more than 0.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    text.trim()
        .parse::<f64>()
        .ok()
        .filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "expected requests per second above 0, such as 2 or 0.5".to_string())
}

/// `ttft=2s,itl=100ms,e2e=30s`: limits on each request.
pub(crate) fn slo(text: &str) -> Result<Slo, String> {
    const ACCEPTED: &str = "limits are ttft=TIME, itl=TIME (95 % of a request's gaps between \
                            tokens), tpot=TIME (its mean gap) and e2e=TIME, then @pN for the share \
                            of requests that must keep them, e.g. ttft=2s,itl=100ms,e2e=30s@p95";
    let (text, share) =
        match text.split_once('@') {
            None => (text, None),
            Some((text, share)) => {
                let percent = share
                    .trim()
                    .strip_prefix('p')
                    .and_then(|p| p.parse::<f64>().ok());
                let percent = percent.filter(|&p| (1.0..100.0).contains(&p)).ok_or_else(|| {
                format!("`@{share}` is no share of requests, from @p1 to below @p100; {ACCEPTED}")
            })?;
                // 99.9 / 100 is not 0.999 in binary.
                (text, Some((percent * 1e7).round() / 1e9))
            }
        };
    let mut slo = Slo {
        share,
        ..Slo::default()
    };
    for part in text.split(',').map(str::trim) {
        let (name, value) = part
            .split_once('=')
            .ok_or_else(|| format!("`{part}` is no limit; {ACCEPTED}"))?;
        let limit = match name {
            "ttft" => &mut slo.ttft_ms,
            "itl" => &mut slo.itl_ms,
            "tpot" => &mut slo.tpot_ms,
            "e2e" => &mut slo.e2e_ms,
            _ => return Err(format!("there is no limit `{name}`; {ACCEPTED}")),
        };
        if limit.is_some() {
            return Err(format!("`{name}` is given twice; {ACCEPTED}"));
        }
        let time = duration(value).map_err(|e| format!("`{part}`: {e}"))?;
        *limit = Some(time.as_secs_f64() * 1e3);
    }
    match (slo.ttft_ms, slo.e2e_ms) {
        (Some(ttft), Some(e2e)) if ttft > e2e => Err(format!(
            "a first token after {ttft} ms comes later than an end after {e2e} ms; lower ttft or \
             raise e2e"
        )),
        _ => Ok(slo),
    }
}

/// `3`, `30s`.
pub(crate) fn warmup(text: &str) -> Result<WarmupArg, String> {
    if let Ok(requests) = text.parse() {
        return Ok(WarmupArg::RequestsPerSlot(requests));
    }
    duration(text).map(WarmupArg::For).map_err(|_| {
        "expected a number of requests per concurrent request, such as 3, or a time with a unit, \
         such as 30s"
            .to_string()
    })
}

/// `cpu`, `cuda`, `cuda:1`.
pub(crate) fn device(text: &str) -> Result<DeviceArg, String> {
    match text.split_once(':') {
        None if text == "cpu" => Ok(DeviceArg::Cpu),
        None if text == "cuda" => Ok(DeviceArg::Cuda(0)),
        Some(("cuda", index)) => index
            .parse()
            .map(DeviceArg::Cuda)
            .map_err(|_| format!("`{index}` is no device number; write cuda:0 for the first GPU")),
        _ => Err("expected cpu, cuda or cuda:N".to_string()),
    }
}

/// `real`, `synthetic`, `synthetic:7`.
pub(crate) fn weights(text: &str) -> Result<WeightsArg, String> {
    match text.split_once(':') {
        None if text == "real" => Ok(WeightsArg::Real),
        None if text == "synthetic" => Ok(WeightsArg::Synthetic { seed: 0 }),
        Some(("synthetic", seed)) => seed
            .parse()
            .map(|seed| WeightsArg::Synthetic { seed })
            .map_err(|_| format!("`{seed}` is no seed; write a whole number, e.g. synthetic:7")),
        _ => Err("expected real, synthetic or synthetic:SEED".to_string()),
    }
}

/// `1.2 GiB`; for messages.
pub(crate) fn human_bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `45 s`, `2 min 5 s`; for messages.
pub(crate) fn human_seconds(seconds: f64) -> String {
    let whole = seconds.round().max(0.0) as u64;
    match whole {
        0..120 => format!("{whole} s"),
        _ => format!("{} min {} s", whole / 60, whole % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_a_request() {
        let all = slo("ttft=2s, itl=100ms,e2e=30s").unwrap();
        assert_eq!(
            (all.ttft_ms, all.itl_ms, all.e2e_ms),
            (Some(2000.0), Some(100.0), Some(30_000.0))
        );
        assert_eq!((all.tpot_ms, all.share), (None, None));
        assert_eq!(slo("tpot=1ms@p99.9").unwrap().share, Some(0.999));
        for (text, reason) in [
            ("tfft=2s", "no limit `tfft`"),
            ("ttft=2", "with a unit"),
            ("ttft", "is no limit"),
            ("itl=1ms,itl=2ms", "given twice"),
            ("ttft=1s@95", "no share of requests"),
            ("ttft=1s@p100", "below @p100"),
            ("@p95", "is no limit"),
            ("ttft=3s,e2e=2s", "lower ttft"),
        ] {
            let message = slo(text).unwrap_err();
            assert!(message.contains(reason), "{text}: {message}");
        }
    }

    #[test]
    fn bytes_with_units() {
        assert_eq!(bytes("2GiB"), Ok(Bytes(2 << 30)));
        assert_eq!(bytes("1.5 MB"), Ok(Bytes(1_500_000)));
        assert_eq!(bytes("4096"), Ok(Bytes(4096)));
        assert!(bytes("0").is_err());
        assert!(bytes("-1GiB").is_err());
        assert!(bytes("lots").is_err());
    }

    #[test]
    fn durations_with_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["0s", "-3s", "30", "soon", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devices_and_weights() {
        assert_eq!(device("cuda:3"), Ok(DeviceArg::Cuda(3)));
        assert_eq!(device("cuda"), Ok(DeviceArg::Cuda(0)));
        assert!(device("tpu").is_err());
        assert!(device("cuda:x").is_err());
        assert_eq!(
            weights("synthetic:9"),
            Ok(WeightsArg::Synthetic { seed: 9 })
        );
        assert!(weights("synthetic:").is_err());
        assert!(weights("fake").is_err());
    }

    #[test]
    fn human_numbers() {
        assert_eq!(human_bytes(900), "900 B");
        assert_eq!(human_bytes(3 << 29), "1.5 GiB");
        assert_eq!(human_seconds(125.2), "2 min 5 s");
        assert_eq!(human_seconds(89.6), "90 s");
    }
}

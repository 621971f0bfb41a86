//! What vendors state of accelerators and processors (`configs/hardware/`), to set a measured
//! rate against. Peaks are dense: without structured sparsity.

use costmark_core::accelerator::likeness;
use include_dir::{Dir, include_dir};
use serde::Deserialize;

use crate::error::ProbeError;
use crate::machine::Cpu;

static EMBEDDED: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/../../configs/hardware");

const SCHEMA_VERSION: u32 = 1;

/// One device as its vendor states it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Datasheet {
    /// The name price books use, e.g. `H100 SXM`.
    pub name: String,
    /// Who makes it.
    pub vendor: String,
    /// What the figures are for.
    pub unit: DeviceUnit,
    /// How a processor of this kind identifies itself.
    #[serde(default)]
    pub cpuid: Vec<CpuId>,
    /// Memory, bytes; none for processors, whose memory is plugged in.
    pub memory_bytes: Option<u64>,
    /// Memory bandwidth, bytes per second.
    pub bandwidth_bytes_per_s: f64,
    /// Dense peaks, FLOP/s (integer operations per second for int8).
    #[serde(default)]
    pub peaks: DatasheetPeaks,
    /// Power limit, watts.
    pub power_w: Option<f64>,
    /// What one costs to buy, where a source states it.
    pub capex: Option<Capex>,
    /// The document that states it.
    pub source: String,
    /// Why the figures are to be doubted: not checked against that document, or only in part.
    pub unconfirmed: Option<String>,
}

/// The numbers by which a processor identifies itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuId {
    /// Vendor string, e.g. `AuthenticAMD`.
    pub vendor: String,
    /// Family, the extended part included.
    pub family: u32,
    /// Model, the extended part included.
    pub model: u32,
}

/// What a device costs to buy.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capex {
    /// US dollars for one.
    pub usd: f64,
    /// The day that was so, e.g. `2024-03-19`.
    pub as_of: String,
    /// Who says so.
    pub source: String,
}

/// What a datasheet's figures are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceUnit {
    /// One accelerator.
    Accelerator,
    /// One processor socket with all memory channels filled.
    CpuSocket,
}

/// Dense matrix peaks by data type, operations per second. Absent where the device does not
/// have it or the sheet does not state it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasheetPeaks {
    /// f32 outside matrix units.
    pub f32_per_s: Option<f64>,
    /// f16 with f32 accumulation.
    pub f16_per_s: Option<f64>,
    /// bf16 with f32 accumulation.
    pub bf16_per_s: Option<f64>,
    /// fp8.
    pub fp8_per_s: Option<f64>,
    /// int8.
    pub int8_per_s: Option<f64>,
}

/// All datasheets.
#[derive(Debug, Clone, PartialEq)]
pub struct Datasheets {
    devices: Vec<Datasheet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    schema_version: u32,
    device: Vec<Datasheet>,
}

impl Datasheets {
    /// Those that come with costmark (`configs/hardware/`).
    ///
    /// # Errors
    /// When a file is broken, which the tests rule out for a released build.
    pub fn embedded() -> Result<Self, ProbeError> {
        let mut files: Vec<_> = EMBEDDED.files().collect();
        files.sort_by_key(|f| f.path());
        let mut devices: Vec<Datasheet> = Vec::new();
        for file in files {
            let name = format!("configs/hardware/{}", file.path().display());
            for device in parse(&name, file.contents_utf8().unwrap_or_default())? {
                if devices.iter().any(|d| d.name == device.name) {
                    return Err(error(&name, format!("`{}` is there twice", device.name)));
                }
                devices.push(device);
            }
        }
        Ok(Self { devices })
    }

    /// All devices.
    #[must_use]
    pub fn devices(&self) -> &[Datasheet] {
        &self.devices
    }

    /// The device of that name, letter case aside.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Datasheet> {
        self.devices
            .iter()
            .find(|d| d.name.eq_ignore_ascii_case(name))
    }

    /// The sheet of this processor, if there is one.
    #[must_use]
    pub fn of_cpu(&self, cpu: &Cpu) -> Option<&Datasheet> {
        let is_it = |id: &CpuId| {
            cpu.vendor.as_ref() == Some(&id.vendor)
                && cpu.family == Some(id.family)
                && cpu.model_number == Some(id.model)
        };
        self.devices.iter().find(|d| d.cpuid.iter().any(is_it))
    }

    /// The sheet of the accelerator that its driver calls so, e.g. `NVIDIA H100 80GB HBM3`, if
    /// there is one.
    #[must_use]
    pub fn of_gpu(&self, name: &str) -> Option<&Datasheet> {
        let gpus = self
            .devices
            .iter()
            .filter(|d| d.unit == DeviceUnit::Accelerator);
        gpus.filter_map(|d| Some((likeness(name, &d.name)?, d)))
            .max_by_key(|(words, _)| *words)
            .map(|(_, device)| device)
    }
}

fn parse(file: &str, text: &str) -> Result<Vec<Datasheet>, ProbeError> {
    let raw: File =
        toml::from_str(text).map_err(|e| error(file, e.to_string().trim_end().to_owned()))?;
    if raw.schema_version != SCHEMA_VERSION {
        return Err(error(
            file,
            format!(
                "schema_version is {}, this costmark reads {SCHEMA_VERSION}",
                raw.schema_version
            ),
        ));
    }
    for device in &raw.device {
        if let Some(problem) = device.problem() {
            return Err(error(file, format!("device `{}`: {problem}", device.name)));
        }
    }
    Ok(raw.device)
}

impl Datasheet {
    fn problem(&self) -> Option<&'static str> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let p = &self.peaks;
        let peaks = [
            p.f32_per_s,
            p.f16_per_s,
            p.bf16_per_s,
            p.fp8_per_s,
            p.int8_per_s,
        ];
        if self.name.trim().is_empty() || self.vendor.trim().is_empty() {
            Some("name and vendor must not be empty")
        } else if self.source.trim().is_empty() {
            Some("source is empty; name the document that states the figures")
        } else if self
            .unconfirmed
            .as_ref()
            .is_some_and(|u| u.trim().is_empty())
        {
            Some("unconfirmed is empty; say what was not checked, or leave it out")
        } else if self.capex.as_ref().is_some_and(|c| {
            !positive(c.usd) || c.as_of.trim().is_empty() || c.source.trim().is_empty()
        }) {
            Some("capex needs a positive usd, an as_of day and a source")
        } else if self.unit != DeviceUnit::CpuSocket && !self.cpuid.is_empty() {
            Some("cpuid is for processors; leave it out")
        } else if self.memory_bytes == Some(0) || !positive(self.bandwidth_bytes_per_s) {
            Some("memory_bytes and bandwidth_bytes_per_s must be positive")
        } else if !peaks
            .into_iter()
            .flatten()
            .chain(self.power_w)
            .all(positive)
        {
            Some("peaks and power_w must be positive; leave out what is not stated")
        } else {
            None
        }
    }
}

fn error(file: &str, problem: String) -> ProbeError {
    ProbeError::Datasheet {
        file: file.to_owned(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
schema_version = 1
[[device]]
name = "X1"
vendor = "Example"
unit = "accelerator"
memory_bytes = 1_000_000_000
bandwidth_bytes_per_s = 1e12
peaks = { f16_per_s = 1e14 }
source = "X1 datasheet"
"#;

    #[test]
    fn drivers_names_find_their_sheets() {
        let sheets = Datasheets::embedded().unwrap();
        let of = |name: &str| sheets.of_gpu(name).map(|sheet| sheet.name.as_str());
        assert_eq!(of("NVIDIA H200"), Some("H200"));
        assert_eq!(of("NVIDIA H100 80GB HBM3"), Some("H100 SXM"));
        assert_eq!(of("NVIDIA A100-SXM4-80GB"), Some("A100 80GB SXM"));
        assert_eq!(of("NVIDIA L4"), Some("L4"));
        assert_eq!(of("NVIDIA GeForce GT 710"), None);
    }

    #[test]
    fn what_comes_along_is_sound() {
        let sheets = Datasheets::embedded().unwrap();
        assert!(!sheets.devices().is_empty());
        for device in sheets.devices() {
            // Above a byte per hundred FLOPs or below one in a thousand, a unit has slipped.
            if let Some(f16) = device.peaks.f16_per_s {
                let flops_per_byte = f16 / device.bandwidth_bytes_per_s;
                assert!((40.0..1000.0).contains(&flops_per_byte), "{}", device.name);
            }
        }
    }

    #[test]
    fn processors_are_known_by_their_numbers() {
        let sheets = Datasheets::embedded().unwrap();
        let mut cpu = crate::Machine::detect().cpu;
        let mut name = |vendor: &str, family, model| {
            cpu.vendor = Some(vendor.into());
            (cpu.family, cpu.model_number) = (Some(family), Some(model));
            sheets.of_cpu(&cpu).map(|d| d.name.clone())
        };
        assert_eq!(name("AuthenticAMD", 25, 1).as_deref(), Some("EPYC 7003"));
        let emerald_rapids = Some("Xeon Scalable 5th generation");
        assert_eq!(name("GenuineIntel", 6, 207).as_deref(), emerald_rapids);
        // A desktop part of the same maker, and the same numbers of another one.
        assert_eq!(name("GenuineIntel", 6, 158), None);
        assert_eq!(name("AuthenticAMD", 6, 207), None);
    }

    #[test]
    fn mistakes_are_refused_by_file_and_device() {
        assert_eq!(parse("x.toml", GOOD).unwrap()[0].name, "X1");
        for (from, to, hint) in [
            ("vendor", "vender", "vender"),
            ("schema_version = 1", "schema_version = 2", "schema_version"),
            ("1e12", "-1e12", "device `X1`"),
            ("\"X1 datasheet\"", "\"\"", "source is empty"),
            ("source", "# source", "missing field `source`"),
            ("1e14", "0.0", "leave out"),
            (
                "\"accelerator\"",
                "\"accelerator\"\ncpuid = [{ vendor = \"x\", family = 1, model = 1 }]",
                "cpuid is for processors",
            ),
        ] {
            let message = parse("x.toml", &GOOD.replace(from, to))
                .unwrap_err()
                .to_string();
            assert!(
                message.starts_with("x.toml: ") && message.contains(hint),
                "{message}"
            );
        }
    }
}

//! NVIDIA GPUs: who they are and what they do while a run is on.
//!
//! The driver's management library is looked for at run time, so that nothing here needs CUDA
//! to build, and a machine without a driver simply has no GPUs. What is read is read only:
//! clocks, power limits and modes stay as they are.

mod nvml;
mod telemetry;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use nvml::Nvml;
pub use telemetry::{GpuRecord, GpuSample, GpuSampler, GpuSummary, watch};

/// A GPU as the driver shows it. What it does not tell is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Its number here; CUDA may count otherwise.
    pub index: u32,
    /// Its name, e.g. `NVIDIA H200`.
    pub name: String,
    /// `GPU-` and 32 hexadecimal digits in groups.
    pub uuid: Option<String>,
    /// Memory, bytes.
    pub memory_bytes: Option<u64>,
    /// Memory in use by whomever, bytes.
    pub used_bytes: Option<u64>,
    /// Version of the driver.
    pub driver_version: Option<String>,
    /// The newest CUDA the driver supports, e.g. `13.0`.
    pub cuda_version: Option<String>,
    /// Compute capability, e.g. `9.0`.
    pub compute_capability: Option<String>,
    /// Whether its memory corrects errors, which costs some bandwidth on some.
    pub ecc: Option<bool>,
    /// Whether it is divided into instances.
    pub mig: Option<bool>,
    /// Links to other GPUs that are up.
    pub nvlinks: Option<u32>,
    /// How it is attached.
    pub pcie: Option<Pcie>,
    /// The power it may draw, W.
    pub power_limit_w: Option<f64>,
}

/// A PCI Express link. An idle GPU lowers its generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pcie {
    /// Generation now.
    pub generation: u32,
    /// Lanes now.
    pub lanes: u32,
    /// Highest generation of GPU and slot.
    pub max_generation: u32,
    /// Most lanes of GPU and slot.
    pub max_lanes: u32,
}

/// What a GPU does at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GpuReading {
    /// Energy since the driver was loaded, J.
    pub joules: Option<f64>,
    /// Power, W.
    pub power_w: Option<f64>,
    /// Clock of the multiprocessors, MHz.
    pub sm_mhz: Option<f64>,
    /// Clock of the memory, MHz.
    pub memory_mhz: Option<f64>,
    /// Temperature, °C.
    pub temperature_c: Option<f64>,
    /// Memory in use by whomever, bytes.
    pub used_bytes: Option<u64>,
    /// Why clocks are lower than they could be.
    pub throttled: Option<Throttled>,
    /// Other processes that hold memory of it.
    pub others: Option<u32>,
}

/// Why clocks are held down, beyond idleness and what was set on purpose.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Throttled {
    /// The power limit is reached.
    pub power: bool,
    /// It or its memory is too hot.
    pub heat: bool,
    /// Slowed by hardware: power brake, too much current, or another GPU it is tied to.
    pub hardware: bool,
}

impl Throttled {
    /// Whether for any reason.
    #[must_use]
    pub fn any(self) -> bool {
        self.power || self.heat || self.hardware
    }
}

/// Why there are no GPUs to be seen.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// No library: no driver, or a container without it.
    #[error("there is no NVIDIA driver here ({0})")]
    NoDriver(String),
    /// The library is there and refuses.
    #[error("the NVIDIA driver does not answer: {0}")]
    Refused(String),
}

/// Where readings come from.
pub trait GpuSource: Send {
    /// All GPUs.
    ///
    /// # Errors
    /// The driver refuses.
    fn gpus(&self) -> Result<Vec<Gpu>, GpuError>;

    /// What the GPU of this index does now.
    fn read(&self, index: u32) -> GpuReading;
}

/// All GPUs of this machine; none without a driver.
#[must_use]
pub fn gpus() -> Vec<Gpu> {
    Nvml::open()
        .and_then(|nvml| nvml.gpus())
        .unwrap_or_default()
}

/// Names under which the library is looked for; containers often have the first only.
fn library_names() -> [PathBuf; 2] {
    ["libnvidia-ml.so.1", "libnvidia-ml.so"].map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever machine this is, asking ends without a panic.
    #[test]
    fn asking_is_safe_everywhere() {
        for gpu in gpus() {
            assert!(!gpu.name.is_empty());
        }
    }

    #[test]
    fn keys_survive_json() {
        let gpu = Gpu {
            index: 0,
            name: "NVIDIA H200".into(),
            uuid: Some("GPU-0".into()),
            memory_bytes: Some(150_754_820_096),
            used_bytes: Some(0),
            driver_version: Some("580.65.06".into()),
            cuda_version: Some("13.0".into()),
            compute_capability: Some("9.0".into()),
            ecc: Some(true),
            mig: Some(false),
            nvlinks: Some(18),
            pcie: Some(Pcie {
                generation: 5,
                lanes: 16,
                max_generation: 5,
                max_lanes: 16,
            }),
            power_limit_w: Some(700.0),
        };
        let json = serde_json::to_string(&gpu).unwrap();
        assert_eq!(serde_json::from_str::<Gpu>(&json).unwrap(), gpu);
    }
}

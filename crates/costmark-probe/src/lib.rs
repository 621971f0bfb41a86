//! What machine is this, and how fast are its memory and its arithmetic.
//!
//! [`Machine`] identifies the host and the limits this process runs under,
//! [`measure_peaks`] measures what its memory and its matrix products can do,
//! [`ProcessUsage`] and [`HostCpuTimes`] read what a run used and what others took,
//! [`Telemetry`] watches both while it is on, [`Processes`] names the others, [`gpu`] does the
//! same for NVIDIA GPUs, and [`datasheet`] holds what vendors state. Nothing here is about models or money.
//!
//! For Unix; limits, caches and host times are read on Linux and absent elsewhere.

pub mod datasheet;
pub mod gpu;
pub mod machine;
pub mod peaks;
pub mod telemetry;
pub mod usage;

mod bandwidth;
mod cgroup;
mod cpu;
mod energy;
mod error;
mod flops;
mod neighbours;
mod text;

pub use datasheet::{Capex, CpuId, Datasheet, DatasheetPeaks, Datasheets, DeviceUnit};
pub use energy::{POWERCAP, PackageEnergy};
pub use error::ProbeError;
pub use machine::{Cache, Cpu, CpuLimits, Machine, Memory};
pub use neighbours::{Neighbour, Processes};
pub use peaks::{PeakOptions, Peaks, Rate, measure_peaks, quick_read_bandwidth};
pub use telemetry::{Sample, Telemetry, TelemetryCost, TelemetrySummary};
pub use usage::{HostCpuTimes, ProcessUsage};

//! [`GpuSource`] from NVIDIA's management library.

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml as Library};

use super::{Gpu, GpuError, GpuReading, GpuSource, Pcie, Throttled, library_names};

/// Links a GPU has at most.
const MOST_LINKS: u32 = 18;

/// The library, loaded.
pub struct Nvml(Library);

impl Nvml {
    /// Looks for the library and starts it.
    ///
    /// # Errors
    /// There is none, or it refuses.
    pub fn open() -> Result<Self, GpuError> {
        let mut missing = String::new();
        for name in library_names() {
            match Library::builder().lib_path(name.as_os_str()).init() {
                Ok(library) => return Ok(Self(library)),
                Err(NvmlError::LibloadingError(error)) => missing = error.to_string(),
                Err(error) => return Err(GpuError::Refused(error.to_string())),
            }
        }
        Err(GpuError::NoDriver(missing))
    }

    fn describe(&self, index: u32) -> Result<Gpu, NvmlError> {
        let device = self.0.device_by_index(index)?;
        let memory = device.memory_info().ok();
        let links = (0..MOST_LINKS).map(|link| device.link_wrapper_for(link).is_active());
        let up: Vec<bool> = links.map_while(Result::ok).collect();
        Ok(Gpu {
            index,
            name: device.name()?,
            uuid: device.uuid().ok(),
            memory_bytes: memory.as_ref().map(|m| m.total),
            used_bytes: memory.as_ref().map(|m| m.used),
            driver_version: self.0.sys_driver_version().ok(),
            cuda_version: self.0.sys_cuda_driver_version().ok().map(cuda_version),
            compute_capability: device
                .cuda_compute_capability()
                .ok()
                .map(|c| format!("{}.{}", c.major, c.minor)),
            ecc: device.is_ecc_enabled().ok().map(|e| e.currently_enabled),
            mig: device.mig_mode().ok().map(|mode| mode.current == 1),
            nvlinks: (!up.is_empty()).then(|| up.iter().filter(|up| **up).count() as u32),
            pcie: pcie(&device),
            power_limit_w: device.enforced_power_limit().ok().map(watts),
        })
    }
}

impl GpuSource for Nvml {
    fn gpus(&self) -> Result<Vec<Gpu>, GpuError> {
        let refused = |error: NvmlError| GpuError::Refused(error.to_string());
        let count = self.0.device_count().map_err(refused)?;
        (0..count)
            .map(|index| self.describe(index).map_err(refused))
            .collect()
    }

    fn read(&self, index: u32) -> GpuReading {
        let Ok(device) = self.0.device_by_index(index) else {
            return GpuReading::default();
        };
        let own = std::process::id();
        GpuReading {
            joules: device
                .total_energy_consumption()
                .ok()
                .map(|millijoules| millijoules as f64 / 1e3),
            power_w: device.power_usage().ok().map(watts),
            sm_mhz: device.clock_info(Clock::SM).ok().map(f64::from),
            memory_mhz: device.clock_info(Clock::Memory).ok().map(f64::from),
            temperature_c: device
                .temperature(TemperatureSensor::Gpu)
                .ok()
                .map(f64::from),
            used_bytes: device.memory_info().ok().map(|m| m.used),
            throttled: device.current_throttle_reasons().ok().map(throttled),
            others: device.running_compute_processes().ok().map(|processes| {
                let others = processes.iter().filter(|process| process.pid != own);
                others.count() as u32
            }),
        }
    }
}

fn pcie(device: &Device<'_>) -> Option<Pcie> {
    Some(Pcie {
        generation: device.current_pcie_link_gen().ok()?,
        lanes: device.current_pcie_link_width().ok()?,
        max_generation: device.max_pcie_link_gen().ok()?,
        max_lanes: device.max_pcie_link_width().ok()?,
    })
}

fn watts(milliwatts: u32) -> f64 {
    f64::from(milliwatts) / 1e3
}

/// `13000` as `13.0`.
fn cuda_version(number: i32) -> String {
    format!("{}.{}", number / 1000, number % 1000 / 10)
}

fn throttled(reasons: ThrottleReasons) -> Throttled {
    Throttled {
        power: reasons.contains(ThrottleReasons::SW_POWER_CAP),
        heat: reasons.intersects(
            ThrottleReasons::SW_THERMAL_SLOWDOWN | ThrottleReasons::HW_THERMAL_SLOWDOWN,
        ),
        hardware: reasons.intersects(
            ThrottleReasons::HW_SLOWDOWN
                | ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN
                | ThrottleReasons::SYNC_BOOST,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_reasons() {
        assert_eq!(cuda_version(13_000), "13.0");
        assert_eq!(cuda_version(12_080), "12.8");
        let idle = throttled(ThrottleReasons::GPU_IDLE | ThrottleReasons::DISPLAY_CLOCK_SETTING);
        assert!(!idle.any());
        let set = throttled(ThrottleReasons::APPLICATIONS_CLOCKS_SETTING);
        assert!(!set.any(), "what was set on purpose is no fault");
        let hot = throttled(ThrottleReasons::SW_POWER_CAP | ThrottleReasons::HW_THERMAL_SLOWDOWN);
        assert!(hot.power && hot.heat && !hot.hardware);
        assert!(throttled(ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN).hardware);
    }

    /// A machine without a driver says so; one with a driver has one.
    #[test]
    fn a_missing_driver_is_told() {
        match Nvml::open() {
            Ok(nvml) => assert!(nvml.gpus().is_ok()),
            Err(GpuError::NoDriver(why)) => assert!(why.contains("libnvidia-ml"), "{why}"),
            Err(GpuError::Refused(_)) => {}
        }
    }
}

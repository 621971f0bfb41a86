//! Where a model runs: this machine's CPU, or one of its NVIDIA GPUs.

use crate::error::{EngineError, Result};
use crate::memory;
use costmark_kernels::parallel;

pub use candle_core::Device;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// All threads of the CPU that this process may use.
    Cpu,
    /// The GPU of this number, counted as the CUDA driver does.
    Cuda(usize),
}

/// Opens the device.
///
/// # Errors
/// [`EngineError::Option`] when there is no such device, or this build or its driver cannot
/// use it; the message says what to do.
pub fn open(choice: DeviceChoice) -> Result<Device> {
    match choice {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(ordinal) => open_cuda(ordinal),
    }
}

/// Whether there is such a device that this build can use; touches none.
///
/// # Errors
/// As for [`open`].
pub fn check(choice: DeviceChoice) -> Result<()> {
    match choice {
        DeviceChoice::Cpu => Ok(()),
        DeviceChoice::Cuda(ordinal) => match obstacle(ordinal) {
            Some(message) => Err(wrong(ordinal, &message)),
            None => Ok(()),
        },
    }
}

/// GPUs that CUDA shows to this program; none in a build for CPUs.
#[must_use]
pub fn gpu_count() -> usize {
    #[cfg(feature = "cuda")]
    return Facts::of_this_machine(0).gpus;
    #[cfg(not(feature = "cuda"))]
    0
}

/// Bytes that can still be claimed where `device` computes; `None` where that is not told.
#[must_use]
pub fn available_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => driver::memory(cuda).map(|(free, _)| free),
        _ => memory::available_bytes(),
    }
}

/// Bytes of a GPU's memory, in use or not; `None` for the CPU.
#[must_use]
pub fn gpu_memory_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => driver::memory(cuda).map(|(_, total)| total),
        _ => None,
    }
}

/// What a GPU calls itself, e.g. `NVIDIA H200`; `None` for the CPU.
#[must_use]
pub fn gpu_name(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().name().ok(),
        _ => None,
    }
}

/// A GPU's own number, the same for every program, as NVIDIA's tools print it: `GPU-` and 32
/// hexadecimal digits in groups. `None` for the CPU.
#[must_use]
pub fn gpu_uuid(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let uuid = cuda.cuda_stream().context().uuid().ok()?;
            Some(uuid_text(uuid.bytes.map(|byte| byte as u8)))
        }
        _ => None,
    }
}

#[cfg(any(feature = "cuda", test))]
fn uuid_text(bytes: [u8; 16]) -> String {
    let hex = |range: std::ops::Range<usize>| -> String {
        bytes[range]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    };
    format!(
        "GPU-{}-{}-{}-{}-{}",
        hex(0..4),
        hex(4..6),
        hex(6..8),
        hex(8..10),
        hex(10..16)
    )
}

/// For results: `cpu (8 threads)`, `cuda:0 (NVIDIA H200)`.
#[must_use]
pub fn name(device: &Device) -> String {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => {
            let name = gpu_name(device).unwrap_or_else(|| "unknown".into());
            format!("cuda:{} ({name})", cuda.cuda_stream().context().ordinal())
        }
        _ => format!("cpu ({} threads)", parallel::threads()),
    }
}

fn wrong(ordinal: usize, message: &str) -> EngineError {
    EngineError::Option(format!(
        "--device cuda:{ordinal}: {message}, or use --device cpu"
    ))
}

/// What keeps this build from using a GPU, and the way out, to be followed by another way out.
#[cfg(not(feature = "cuda"))]
#[must_use]
pub fn obstacle(_ordinal: usize) -> Option<String> {
    Some(
        "this costmark was built without CUDA: build one for GPUs with `scripts/cuda-toolkit cargo \
         build --release --features cuda`"
            .into(),
    )
}

/// What keeps this build from using a GPU, and the way out, to be followed by another way out.
#[cfg(feature = "cuda")]
#[must_use]
pub fn obstacle(ordinal: usize) -> Option<String> {
    Facts::of_this_machine(ordinal).check(ordinal).err()
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize) -> Result<Device> {
    check(DeviceChoice::Cuda(ordinal)).map(|()| Device::Cpu)
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> Result<Device> {
    check(DeviceChoice::Cuda(ordinal))?;
    let device = driver::open(ordinal).map_err(|error| {
        let message = format!(
            "the GPU cannot be opened ({error}): another program may hold it alone (nvidia-smi \
             shows who); wait or choose another"
        );
        wrong(ordinal, &message)
    })?;
    Ok(Device::Cuda(device))
}

/// What decides whether a GPU can be used.
#[cfg(any(feature = "cuda", test))]
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// The driver's library was found.
    has_driver: bool,
    /// What its initialisation returned: 0 or an error.
    init: u32,
    /// The newest CUDA it supports, `1000 · major + 10 · minor`.
    driver_version: u32,
    /// The CUDA this program was built with.
    built_version: u32,
    /// GPUs it shows.
    gpus: usize,
    /// Compute capability of the wanted one, `10 · major + minor`.
    capability: u32,
    /// The one this program's kernels were compiled for.
    built_capability: u32,
}

/// Older ones lack bf16 on their tensor cores.
#[cfg(any(feature = "cuda", test))]
const LEAST_CAPABILITY: u32 = 80;

#[cfg(any(feature = "cuda", test))]
impl Facts {
    /// What is wrong and the way out, to be followed by another way out.
    fn check(&self, ordinal: usize) -> Result<(), String> {
        let version = |v: u32| format!("{}.{}", v / 1000, v % 1000 / 10);
        let capability = |c: u32| format!("{}.{}", c / 10, c % 10);
        if !self.has_driver {
            return Err(
                "there is no NVIDIA driver here (libcuda.so.1): install it, start the container \
                 with its GPUs (docker run --gpus all)"
                    .into(),
            );
        }
        // Any minor version of the same major one will do.
        if self.driver_version / 1000 < self.built_version / 1000 {
            return Err(format!(
                "the driver supports CUDA {}, but this program was built with {}: update the \
                 driver, build with CUDA {} (scripts/cuda-toolkit uses CUDA_HOME)",
                version(self.driver_version),
                version(self.built_version),
                self.driver_version / 1000
            ));
        }
        if self.init != 0 && self.init != NO_DEVICE {
            return Err(format!(
                "the driver does not start (error {}): see whether nvidia-smi works",
                self.init
            ));
        }
        if ordinal >= self.gpus {
            return Err(match self.gpus {
                0 => "the driver shows no GPU: see whether nvidia-smi lists one and \
                      CUDA_VISIBLE_DEVICES does not hide it"
                    .into(),
                1 => "there is one GPU, cuda:0: name that one".into(),
                n => format!(
                    "there are {n} GPUs, cuda:0 to cuda:{}: name one of them",
                    n - 1
                ),
            });
        }
        if self.capability < LEAST_CAPABILITY {
            return Err(format!(
                "the GPU is of compute capability {}, and {} (A100) is the least that is \
                 supported: use a newer one",
                capability(self.capability),
                capability(LEAST_CAPABILITY)
            ));
        }
        if self.capability < self.built_capability
            || self.capability / 10 != self.built_capability / 10
        {
            return Err(format!(
                "the GPU is of compute capability {}, but this program was built for {}: build \
                 it with CUDA_COMPUTE_CAP={}",
                capability(self.capability),
                capability(self.built_capability),
                self.capability
            ));
        }
        Ok(())
    }
}

/// `CUDA_ERROR_NO_DEVICE`.
#[cfg(any(feature = "cuda", test))]
const NO_DEVICE: u32 = 100;

/// What the driver is asked directly.
#[cfg(feature = "cuda")]
#[allow(unsafe_code)]
mod driver {
    use std::sync::OnceLock;

    use candle_core::cuda_backend::cudarc::driver::{CudaContext, result, sys};
    use candle_core::{CudaDevice, Device};

    use super::Facts;

    unsafe extern "C" {
        /// `cuda/driver.c`: 1 when the driver's library was found.
        fn costmark_load_driver() -> std::ffi::c_int;
    }

    impl Facts {
        pub(super) fn of_this_machine(ordinal: usize) -> Self {
            static LOADED: OnceLock<bool> = OnceLock::new();
            // SAFETY: fills a table that nothing reads before this first use of CUDA.
            let has_driver = *LOADED.get_or_init(|| unsafe { costmark_load_driver() } == 1);
            let mut version = 0;
            // SAFETY: writes one integer.
            let known = unsafe { sys::cuDriverGetVersion(&raw mut version) };
            let driver_version = if known == sys::CUresult::CUDA_SUCCESS {
                u32::try_from(version).unwrap_or(0)
            } else {
                0
            };
            let init = result::init().map_or_else(|error| error.0 as u32, |()| 0);
            let gpus = CudaContext::device_count().map_or(0, |n| usize::try_from(n).unwrap_or(0));
            Self {
                has_driver,
                init,
                driver_version,
                built_version: sys::CUDA_VERSION,
                gpus,
                capability: if ordinal < gpus {
                    capability(ordinal).unwrap_or(0)
                } else {
                    0
                },
                built_capability: built_capability(),
            }
        }
    }

    fn capability(ordinal: usize) -> Option<u32> {
        use sys::CUdevice_attribute_enum as Attribute;
        let device = result::device::get(i32::try_from(ordinal).ok()?).ok()?;
        // SAFETY: the device came from the driver.
        let ask = |what| unsafe { result::device::get_attribute(device, what) }.ok();
        let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        u32::try_from(10 * major + minor).ok()
    }

    /// Set by `scripts/cuda-toolkit`; candle's kernels were compiled for it.
    fn built_capability() -> u32 {
        option_env!("CUDA_COMPUTE_CAP")
            .and_then(|text| text.parse().ok())
            .unwrap_or(super::LEAST_CAPABILITY)
    }

    /// A device whose work goes through one stream, whatever thread asks for it.
    pub(super) fn open(ordinal: usize) -> candle_core::Result<CudaDevice> {
        let opened = Device::new_cuda_with_stream(ordinal)?;
        let device = opened.as_cuda_device()?.clone();
        // SAFETY: all work of this device is in the order of its one stream.
        unsafe { device.disable_event_tracking() };
        keep_freed(&device);
        Ok(device)
    }

    /// Lets the driver keep memory that was freed for the next step, instead of giving it back
    /// to the system whenever the stream is waited for.
    fn keep_freed(device: &CudaDevice) {
        let Some(pool) = pool(device) else {
            return;
        };
        let mut threshold = u64::MAX;
        // SAFETY: the pool is the driver's own, the value is a u64 as this attribute's is. Where
        // it is refused, nothing is lost but time.
        unsafe {
            sys::cuMemPoolSetAttribute(
                pool,
                sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD,
                (&raw mut threshold).cast(),
            );
        }
    }

    /// Where the driver keeps memory that was freed; `None` where it keeps none.
    fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
        let mut pool = std::ptr::null_mut();
        let gpu = device.cuda_stream().context().cu_device();
        // SAFETY: writes one pointer.
        let found = unsafe { sys::cuDeviceGetDefaultMemPool(&raw mut pool, gpu) };
        (found == sys::CUresult::CUDA_SUCCESS).then_some(pool)
    }

    /// Free and all bytes of the GPU. Waits for it, and lets go of what it keeps: memory of a
    /// model that was dropped is free.
    pub(super) fn memory(device: &CudaDevice) -> Option<(u64, u64)> {
        let stream = device.cuda_stream();
        let context = stream.context();
        context.synchronize().ok()?;
        if let Some(pool) = pool(device) {
            // SAFETY: the pool is the driver's own; only what nobody uses is let go.
            unsafe { sys::cuMemPoolTrimTo(pool, 0) };
        }
        let (free, total) = context.mem_get_info().ok()?;
        Some((free as u64, total as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Facts = Facts {
        has_driver: true,
        init: 0,
        driver_version: 13_000,
        built_version: 13_000,
        gpus: 2,
        capability: 90,
        built_capability: 90,
    };

    #[test]
    fn a_gpu_that_can_be_used() {
        assert_eq!(H200.check(1), Ok(()));
        let newer = Facts {
            driver_version: 13_020,
            ..H200
        };
        assert_eq!(newer.check(0), Ok(()));
        let older_minor = Facts {
            built_version: 13_020,
            ..H200
        };
        assert_eq!(older_minor.check(0), Ok(()));
        let ada = Facts {
            capability: 89,
            built_capability: 80,
            ..H200
        };
        assert_eq!(ada.check(0), Ok(()));
    }

    #[test]
    fn each_obstacle_is_named_with_its_way_out() {
        let cases = [
            (
                Facts {
                    has_driver: false,
                    init: 34,
                    driver_version: 0,
                    gpus: 0,
                    ..H200
                },
                ["no NVIDIA driver", "--gpus all"],
            ),
            (
                Facts {
                    driver_version: 12_040,
                    ..H200
                },
                ["supports CUDA 12.4", "update the driver"],
            ),
            (Facts { init: 999, ..H200 }, ["error 999", "nvidia-smi"]),
            (
                Facts {
                    init: NO_DEVICE,
                    gpus: 0,
                    ..H200
                },
                ["shows no GPU", "CUDA_VISIBLE_DEVICES"],
            ),
            (Facts { gpus: 1, ..H200 }, ["one GPU", "cuda:0"]),
            (Facts { gpus: 3, ..H200 }, ["3 GPUs", "cuda:0 to cuda:2"]),
            (
                Facts {
                    capability: 75,
                    ..H200
                },
                ["compute capability 7.5", "newer"],
            ),
            (
                Facts {
                    capability: 80,
                    ..H200
                },
                ["built for 9.0", "CUDA_COMPUTE_CAP=80"],
            ),
            (
                Facts {
                    capability: 120,
                    ..H200
                },
                ["capability 12.0", "CUDA_COMPUTE_CAP=120"],
            ),
        ];
        for (facts, expected) in cases {
            let ordinal = if facts.gpus == 2 { 0 } else { 5 };
            let message = facts.check(ordinal).unwrap_err();
            for part in expected {
                assert!(message.contains(part), "{message}");
            }
        }
    }

    #[test]
    fn a_uuid_is_written_as_nvidias_tools_do() {
        let bytes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(uuid_text(bytes), "GPU-00010203-0405-0607-0809-0a0b0c0d0eff");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_for_cpus_says_how_to_get_the_other() {
        let error = open(DeviceChoice::Cuda(3)).unwrap_err();
        assert!(error.is_input());
        let message = error.to_string();
        assert!(
            message.contains("cuda:3") && message.contains("--features cuda"),
            "{message}"
        );
    }

    /// On a machine with a GPU there is nothing to see here.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_machine_without_a_gpu_is_an_error_of_the_user() {
        if let Err(error) = open(DeviceChoice::Cuda(0)) {
            assert!(error.is_input(), "{error}");
            assert!(error.to_string().contains("--device cpu"), "{error}");
        }
    }
}

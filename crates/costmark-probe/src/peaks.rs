//! What memory and arithmetic of this machine can do: the denominators of MBU and MFU.

use std::time::{Duration, Instant};

use costmark_core::Roofline;
use serde::{Deserialize, Serialize};

use crate::bandwidth::{Buffer, Kernel};
use crate::error::ProbeError;
use crate::flops;
use crate::machine::Machine;

/// Buffers are at least this large, for machines whose caches are not known.
const MIN_BUFFER_BYTES: u64 = 256 << 20;
/// Buffers are this many times the last-level cache, so that hardly any of it is found there
/// again in the next pass: nothing by a cache that evicts the oldest line, 2 % by one that evicts
/// at random (`h = exp(-4 (1 - h))`). More would be paid for on servers with caches of hundreds
/// of megabytes, where a pass over gigabytes stands between any two units of a run.
const CACHES_PER_BUFFER: u64 = 4;

/// How to measure peaks.
#[derive(Debug, Clone, PartialEq)]
pub struct PeakOptions {
    /// Threads to use.
    pub threads: usize,
    /// Bytes to run over.
    pub buffer_bytes: u64,
    /// Time to spend on each of read bandwidth, triad and matrix product. Allocation and a
    /// least number of passes come on top.
    pub time_each: Duration,
}

impl PeakOptions {
    /// All usable threads, a buffer of four times the last-level cache (at least 256 MiB, at
    /// most a quarter of the memory available), 0.4 s each.
    #[must_use]
    pub fn for_machine(machine: &Machine) -> Self {
        let wanted = machine
            .last_level_cache_bytes()
            .unwrap_or(0)
            .saturating_mul(CACHES_PER_BUFFER)
            .max(MIN_BUFFER_BYTES);
        Self {
            threads: machine.cpu_limits.usable_threads as usize,
            buffer_bytes: machine
                .memory
                .available_bytes
                .map_or(wanted, |available| wanted.min(available / 4)),
            time_each: Duration::from_millis(400),
        }
    }
}

/// A rate measured in several passes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The best pass: the peak.
    pub best: f64,
    /// The median pass: what was usual. Far below the best, the machine is shared.
    pub median: f64,
    /// The worst pass.
    pub worst: f64,
    /// How many passes.
    pub passes: u32,
}

impl Rate {
    /// Of the rates of single passes, positive each.
    ///
    /// # Errors
    /// There are none; `what` was to be measured.
    pub fn of(mut rates: Vec<f64>, what: &'static str) -> Result<Self, ProbeError> {
        rates.sort_by(f64::total_cmp);
        let (Some(&worst), Some(&best)) = (rates.first(), rates.last()) else {
            return Err(ProbeError::Worker(what));
        };
        let middle = rates.len() / 2;
        let median = if rates.len() % 2 == 1 {
            rates[middle]
        } else {
            f64::midpoint(rates[middle - 1], rates[middle])
        };
        Ok(Self {
            best,
            median,
            worst,
            passes: u32::try_from(rates.len()).unwrap_or(u32::MAX),
        })
    }
}

/// Measured peaks of this machine with all usable threads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peaks {
    /// Threads used.
    pub threads: u32,
    /// Size of the buffer run over, bytes.
    pub buffer_bytes: u64,
    /// Memory read bandwidth: a sum over the buffer, in large pages where the system gives them,
    /// which weights lie in too, fetched ahead.
    pub read_bytes_per_s: Rate,
    /// Triad bandwidth `a = b + s·c` in f64: two reads and one write counted, as STREAM does.
    /// The read of `a`'s lines that a plain store causes on most machines (write-allocate)
    /// is not counted, so up to a third more moves.
    pub triad_bytes_per_s: Rate,
    /// FLOP/s of the f32 matrix product that candle uses on CPUs.
    pub f32_flops_per_s: Rate,
    /// Side of the square matrices multiplied.
    pub matrix_side: u32,
    /// What the measurement took, seconds.
    pub elapsed_s: f64,
}

impl Peaks {
    /// The best passes, as denominators of MBU and MFU and weights of the cost split.
    #[must_use]
    pub fn roofline(&self) -> Roofline {
        self.roofline_with(&self.read_bytes_per_s)
    }

    /// The same with a later reading of the bandwidth, which drifts on shared machines.
    #[must_use]
    pub fn roofline_with(&self, read_bytes_per_s: &Rate) -> Roofline {
        Roofline {
            read_bytes_per_s: read_bytes_per_s.best,
            flops_per_s: self.f32_flops_per_s.best,
        }
    }
}

/// Measures the peaks. Takes about three times [`PeakOptions::time_each`] and half a second.
///
/// # Errors
/// Too little memory, no threads, or a wrong matrix product.
pub fn measure_peaks(options: &PeakOptions) -> Result<Peaks, ProbeError> {
    let began = Instant::now();
    let threads = options.threads.max(1);
    let mut buffer = allocate(options)?;
    let read = buffer.run(Kernel::Read, options.time_each)?;
    let triad = buffer.run(Kernel::Triad, options.time_each)?;
    let buffer_bytes = buffer.bytes();
    drop(buffer);
    let (products, side) = flops::matrix_rates(threads, options.time_each)?;
    Ok(Peaks {
        threads: u32::try_from(threads).unwrap_or(u32::MAX),
        buffer_bytes,
        read_bytes_per_s: Rate::of(read, "read bandwidth")?,
        triad_bytes_per_s: Rate::of(triad, "triad bandwidth")?,
        f32_flops_per_s: Rate::of(products, "matrix product")?,
        matrix_side: u32::try_from(side).unwrap_or(u32::MAX),
        elapsed_s: began.elapsed().as_secs_f64(),
    })
}

/// Measures the read bandwidth again in about 0.2 s, to be called between repeats: on shared
/// machines the peak drifts.
///
/// # Errors
/// Too little memory or no threads.
pub fn quick_read_bandwidth(options: &PeakOptions) -> Result<Rate, ProbeError> {
    let mut buffer = allocate(options)?;
    let rates = buffer.run(Kernel::Read, Duration::from_millis(120))?;
    Rate::of(rates, "read bandwidth")
}

fn allocate(options: &PeakOptions) -> Result<Buffer, ProbeError> {
    Buffer::allocate(
        options.buffer_bytes,
        options.threads.max(1),
        crate::machine::Memory::now().available_bytes.unwrap_or(0),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_orders_its_passes() {
        let odd = Rate::of(vec![3.0, 1.0, 2.0], "x").unwrap();
        assert_eq!(
            (odd.worst, odd.median, odd.best, odd.passes),
            (1.0, 2.0, 3.0, 3)
        );
        let even = Rate::of(vec![4.0, 1.0, 2.0, 3.0], "x").unwrap();
        assert_eq!(even.median, 2.5);
        assert!(Rate::of(vec![], "x").is_err());
    }

    #[test]
    fn buffers_outgrow_caches_and_fit_memory() {
        let mut machine = Machine::detect();
        machine.caches = vec![crate::Cache {
            level: 3,
            kind: String::from("unified"),
            bytes: 32 << 20,
            instances: 8,
        }];
        machine.memory.available_bytes = Some(64 << 30);
        assert_eq!(PeakOptions::for_machine(&machine).buffer_bytes, 1 << 30);
        machine.caches.clear();
        assert_eq!(PeakOptions::for_machine(&machine).buffer_bytes, 256 << 20);
        machine.memory.available_bytes = Some(400 << 20);
        assert_eq!(PeakOptions::for_machine(&machine).buffer_bytes, 100 << 20);
    }

    #[test]
    fn keys_carry_units_and_survive_json() {
        let rate = Rate::of(vec![1e9, 2e9, 4e9], "x").unwrap();
        let peaks = Peaks {
            threads: 2,
            buffer_bytes: 1 << 28,
            read_bytes_per_s: rate,
            triad_bytes_per_s: rate,
            f32_flops_per_s: rate,
            matrix_side: 1024,
            elapsed_s: 1.5,
        };
        let json = serde_json::to_value(&peaks).unwrap();
        assert_eq!(json["read_bytes_per_s"]["best"], 4e9);
        assert_eq!(serde_json::from_value::<Peaks>(json).unwrap(), peaks);
    }

    /// No claim on speed: other tests run beside this one.
    #[test]
    fn peaks_are_positive() {
        let options = PeakOptions {
            threads: 2,
            buffer_bytes: 8 << 20,
            time_each: Duration::ZERO,
        };
        let peaks = measure_peaks(&options).unwrap();
        for rate in [
            peaks.read_bytes_per_s,
            peaks.triad_bytes_per_s,
            peaks.f32_flops_per_s,
        ] {
            assert!(0.0 < rate.worst && rate.worst <= rate.median && rate.median <= rate.best);
            assert!(rate.passes >= 3);
        }
        let roofline = peaks.roofline();
        assert_eq!(roofline.read_bytes_per_s, peaks.read_bytes_per_s.best);
        assert_eq!(roofline.flops_per_s, peaks.f32_flops_per_s.best);
        assert!(quick_read_bandwidth(&options).unwrap().best > 0.0);
    }
}

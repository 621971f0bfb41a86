//! The tile registers: leave to use them, their shapes, their instructions.
//!
//! The compiler knows neither. It never uses these registers, so what is in them stays from
//! one instruction here to the next.
#![allow(unsafe_code)]

use std::arch::asm;
use std::sync::OnceLock;

/// Whether the CPU has tiles of bytes and of bf16, and the system lets this process use them.
/// Asks the system once.
pub(crate) fn permitted() -> bool {
    static PERMITTED: OnceLock<bool> = OnceLock::new();
    *PERMITTED.get_or_init(|| in_cpu() && asked_for())
}

fn in_cpu() -> bool {
    use std::arch::x86_64::__cpuid_count;
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    const INT8: u32 = 1 << 25;
    let highest = __cpuid_count(0, 0).eax;
    highest >= 7 && __cpuid_count(7, 0).edx & (BF16 | TILE | INT8) == BF16 | TILE | INT8
}

/// Linux keeps room for the registers only for processes that ask.
#[cfg(target_os = "linux")]
fn asked_for() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    let refused = unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        )
    };
    refused == 0
}

#[cfg(not(target_os = "linux"))]
fn asked_for() -> bool {
    false
}

/// Shapes of the eight registers: rows, and bytes of a row.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Shapes([u8; 64]);

impl Shapes {
    pub(crate) fn new(shapes: [(usize, usize); 8]) -> Self {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for (tile, (rows, row_bytes)) in shapes.into_iter().enumerate() {
            // At most 16 rows of 64 bytes.
            bytes[16 + 2 * tile] = row_bytes as u8;
            bytes[48 + tile] = rows as u8;
        }
        Self(bytes)
    }
}

/// Tiles in use, until this is dropped.
///
/// Other code in this process may have shaped the registers of this thread once and for all
/// (candle does), so its shapes come back then. What was in the registers does not.
pub(crate) struct Tiles {
    before: Shapes,
}

impl Tiles {
    /// Shapes the registers and empties them.
    ///
    /// # Safety
    /// Tiles are [`permitted`], and the shapes are at most 16 rows of 64 bytes.
    pub(crate) unsafe fn shape(shapes: &Shapes) -> Self {
        let mut before = Shapes([0; 64]);
        // SAFETY: writes and reads 64 bytes; the caller vouches for the rest.
        unsafe {
            asm!(
                "sttilecfg [{0}]",
                "ldtilecfg [{1}]",
                in(reg) &raw mut before,
                in(reg) &raw const *shapes,
                options(nostack, preserves_flags)
            );
        }
        Self { before }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        let before = &raw const self.before;
        // SAFETY: such a value exists only where tiles are permitted; these shapes were in use,
        // or they are all 0, which leaves the registers free.
        unsafe {
            asm!("ldtilecfg [{0}]", in(reg) before, options(nostack, readonly, preserves_flags));
        }
    }
}

/// Empties a register.
macro_rules! zero {
    ($tile:literal) => {
        std::arch::asm!(
            concat!("tilezero tmm", $tile),
            options(nostack, nomem, preserves_flags)
        )
    };
}

/// Loads a register from rows that begin `$stride` bytes apart.
macro_rules! load {
    ($tile:literal, $from:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tileloadd tmm", $tile, ", [{0} + {1}*1]"),
            in(reg) $from,
            in(reg) $stride,
            options(nostack, readonly, preserves_flags)
        )
    };
}

/// Stores a register as rows that begin `$stride` bytes apart.
macro_rules! store {
    ($tile:literal, $to:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tilestored [{0} + {1}*1], tmm", $tile),
            in(reg) $to,
            in(reg) $stride,
            options(nostack, preserves_flags)
        )
    };
}

/// Adds the product of activations and weights to sums.
macro_rules! multiply {
    ($instruction:literal, $sums:literal, $x:literal, $weights:literal) => {
        std::arch::asm!(
            concat!($instruction, " tmm", $sums, ", tmm", $x, ", tmm", $weights),
            options(nostack, nomem, preserves_flags)
        )
    };
}

pub(crate) use {load, multiply, store, zero};

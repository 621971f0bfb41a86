//! How many threads compute.
//!
//! candle and gemm size their pools from the environment the first time they are used, and
//! candle's own default counts physical cores of the host, whatever share of them this
//! process may use. So the number is put into the environment before any thread exists.

#![allow(unsafe_code)]

/// The variables candle's pools and rayon's global pool read.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// Makes every compute pool that is created from now on use `threads` threads. Called by
/// each command before it does anything else that could start one.
pub(crate) fn limit_compute(threads: u32) {
    for variable in VARIABLES {
        // SAFETY: changing the environment while another thread reads it is undefined
        // behaviour. Commands call this first, from the main thread, and nothing that runs
        // before (reading arguments, price books and the machine's identity) starts threads.
        unsafe { std::env::set_var(variable, threads.to_string()) };
    }
}

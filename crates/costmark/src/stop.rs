//! Ctrl-C. While a measurement runs it asks the driver to end it well; the second one asks
//! to end it at once. Outside a measurement there is nothing to save.

use std::sync::atomic::{AtomicBool, Ordering};

use costmark_load::StopSignal;

use crate::failure::{Failure, Result};

/// What the signal handler and the driver share.
pub(crate) static SIGNAL: StopSignal = StopSignal::new();

static MEASURING: AtomicBool = AtomicBool::new(false);

/// Exit code of a run that a user stopped.
const STOPPED: i32 = 1;

/// Takes over Ctrl-C (and SIGTERM).
pub(crate) fn install() -> Result<()> {
    ctrlc::set_handler(|| {
        if !MEASURING.load(Ordering::Relaxed) {
            exit("stopped before anything was measured");
        }
        let asked_before = SIGNAL.is_immediate();
        match SIGNAL.request() {
            1 => anstream::eprintln!(
                "\nstopping: requests in flight finish and are written. Again to stop at once"
            ),
            _ if !asked_before => anstream::eprintln!("\nstopping at once"),
            // The third time something must hang.
            _ => exit("stopped; the run folder holds what was written so far"),
        }
    })
    .map_err(|e| Failure::run(format!("cannot listen for Ctrl-C: {e}")))
}

#[allow(clippy::exit)] // The handler's thread has no way to return through main.
fn exit(why: &str) -> ! {
    anstream::eprintln!("\n{why}");
    std::process::exit(STOPPED)
}

/// While it lives, Ctrl-C is for the driver.
pub(crate) struct Measuring(());

impl Measuring {
    /// From now on.
    pub(crate) fn begin() -> Self {
        MEASURING.store(true, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Measuring {
    fn drop(&mut self) {
        MEASURING.store(false, Ordering::Relaxed);
    }
}

//! Where raw records go while a run is on.

use std::io;

use costmark_core::{RequestRecord, StepRecord};

use crate::unit::Phase;

/// Receives raw records as they come, in the driver's thread: be quick.
///
/// An error ends the unit; what was measured so far is still in its
/// [`UnitRun`](crate::UnitRun), together with the error.
pub trait Recorder {
    /// A forward pass ended.
    ///
    /// # Errors
    /// The record could not be kept.
    fn on_step(&mut self, phase: Phase, step: &StepRecord) -> io::Result<()>;

    /// A request ended, well or not.
    ///
    /// # Errors
    /// The record could not be kept.
    fn on_request(&mut self, phase: Phase, record: &RequestRecord) -> io::Result<()>;

    /// Some ten times a second, and once more at the end of the unit.
    fn on_progress(&mut self, progress: &Progress) {
        let _ = progress;
    }
}

/// Counters for a live view. Cheap, not a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What the driver is doing.
    pub phase: Phase,
    /// Time since the unit began, warm-up included.
    pub elapsed_ns: u64,
    /// Time since the measurement began; 0 during warm-up.
    pub measured_ns: u64,
    /// Requests in flight, of every phase.
    pub in_flight: u64,
    /// Measured requests sent.
    pub sent: u64,
    /// Measured requests that ended well.
    pub finished: u64,
    /// Measured requests that failed.
    pub failed: u64,
    /// Measured requests there will be, where that is known.
    pub total: Option<u64>,
    /// Output tokens of every phase since the unit began.
    pub output_tokens: u64,
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullRecorder;

impl Recorder for NullRecorder {
    fn on_step(&mut self, _: Phase, _: &StepRecord) -> io::Result<()> {
        Ok(())
    }

    fn on_request(&mut self, _: Phase, _: &RequestRecord) -> io::Result<()> {
        Ok(())
    }
}

//! Puts a stated load on any [`Backend`](costmark_core::Backend) and writes down what came back.
//!
//! - [`LengthDistribution`] and [`Workload`]: what is asked. A pure function of seed and
//!   index, so the same requests go out in the same order however fast they are answered.
//! - [`Arrivals`]: when it is asked. [`ClosedLoop`] keeps a number of requests in flight.
//! - [`Recorder`]: where raw records go while the run is on.
//! - [`UnitRun`]: one measured stretch, complete or cut short, with all that was observed.
//!
//! No statistic is taken here and no file is opened.

mod arrivals;
mod calibrate;
mod closed_loop;
mod driver;
mod in_flight;
mod length;
mod recorder;
mod stop;
mod unit;
mod warmup;
mod workload;

pub use arrivals::{Arrival, Arrivals, Slots};
pub use calibrate::{RecordingCost, calibrate_recording, calibrate_recording_with};
pub use closed_loop::{ClosedLoop, DEFAULT_MAX_CONSECUTIVE_FAILURES, DEFAULT_STALL_TIMEOUT_NS};
pub use length::{LengthDistribution, LengthError};
pub use recorder::{NullRecorder, Progress, Recorder};
pub use stop::{Stop, StopSignal};
pub use unit::{Phase, UnitError, UnitRun, WarmupFacts};
pub use warmup::Warmup;
pub use workload::{RequestKey, Workload, WorkloadError};

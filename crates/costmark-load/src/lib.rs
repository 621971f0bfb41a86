//! Puts a stated load on any [`Backend`](costmark_core::Backend) and writes down what came back.
//!
//! - [`LengthDistribution`] and [`Workload`]: what is asked. A pure function of seed and
//!   index, so the same requests go out in the same order however fast they are answered.
//!   [`MixedWorkload`] adds correlated or observed lengths and a shared prefix;
//!   [`RequestSource`] is anything that makes requests this way.
//! - [`Arrivals`]: when it is asked. [`ClosedLoop`] keeps a number of requests in flight;
//!   [`OpenLoop`] sends them by a [`Schedule`], whatever became of earlier ones. [`Turns`] make
//!   a closed loop one of users who hold conversations.
//! - [`Trace`]: both, as they were recorded in production.
//! - [`Recorder`]: where raw records go while the run is on.
//! - [`UnitRun`]: one measured stretch, complete or cut short, with all that was observed.
//!
//! No statistic of a run is taken here and no file is opened.

mod arrivals;
mod calibrate;
mod cap;
mod closed_loop;
mod driver;
mod in_flight;
mod length;
mod mix;
mod observed;
mod open_loop;
mod phases;
mod process;
mod recorder;
mod schedule;
mod search;
mod shape;
mod source;
mod stop;
mod streams;
mod trace;
mod unit;
mod users;
mod warmup;
mod workload;

pub use arrivals::{Arrival, Arrivals, Ended, Slots};
pub use calibrate::{RecordingCost, calibrate_recording, calibrate_recording_with};
pub use closed_loop::{ClosedLoop, DEFAULT_MAX_CONSECUTIVE_FAILURES, DEFAULT_STALL_TIMEOUT_NS};
pub use length::{LengthDistribution, LengthError};
pub use mix::{LengthPairs, MixedWorkload};
pub use observed::ObservedLengths;
pub use open_loop::{OpenLoop, OpenLoopError, OpenWarmup};
pub use process::{ArrivalProcess, ArrivalsError};
pub use recorder::{NullRecorder, Progress, Recorder};
pub use schedule::Schedule;
pub use search::{Probe, RateSearch, SearchStep};
pub use shape::{ArrivalShape, ArrivalShapeError};
pub use source::RequestSource;
pub use stop::{Stop, StopSignal};
pub use trace::{
    LengthQuantiles, MOST_BLOCKS, SPARKLINE_BINS, TRACE_BLOCK_TOKENS, Trace, TraceError,
    TraceFormat, TraceInfo, TraceOptions, TraceRequest, TraceSource,
};
pub use unit::{Phase, UnitError, UnitRun, WarmupFacts};
pub use users::{ThinkTime, ThinkTimeError, Turns};
pub use warmup::Warmup;
pub use workload::{RequestKey, Workload, WorkloadError};

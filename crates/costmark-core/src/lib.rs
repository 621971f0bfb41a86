//! The vocabulary every other crate speaks: requests, token events, step logs,
//! the arithmetic of what a model must move and compute, and the [`Backend`]
//! contract with a deterministic [`mock`] of it.
//!
//! Nothing here measures, prints or opens a file. Durations and instants are
//! `u64` nanoseconds and say so in their names (`_ns`); instants count from the
//! origin of the backend's [`Clock`].

pub mod accelerator;
pub mod backend;
pub mod clock;
pub mod interval;
pub mod mock;
pub mod replicas;
pub mod request;
pub mod server;
pub mod shape;
pub mod step;
pub mod token_times;
pub mod work;

pub use backend::{
    Backend, BackendError, BackendInfo, BackendKind, Event, TokenEvent, TokenLogprobs, TokenRun,
    Usage,
};
pub use clock::{Clock, MonotonicClock};
pub use interval::Interval;
pub use replicas::{Bell, Replica, Replicas, Waiting};
pub use request::{
    ErrorClass, FinishReason, Outcome, Request, RequestError, RequestId, RequestRecord, Sampling,
};
pub use server::ServerMetrics;
pub use shape::ModelShape;
pub use step::{StepPart, StepRecord};
pub use token_times::{Span, TokenTimes};
pub use work::{ModelWork, Roofline, Work};

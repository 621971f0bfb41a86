//! From tokens per second to dollars: price books, the cost of a measured window, and
//! its attribution to input, cached input and output tokens.
//!
//! Pure arithmetic over records and data; no clock, no terminal, and no file but price
//! books. Money is f64 USD, never rounded here. `usd_per_mtok` always means US dollars
//! per 1,000,000 tokens.
//!
//! A figure that can not be had is not a number in disguise: it is an [`Undefined`] that
//! says why.

pub mod attribute;
pub mod book;
pub mod choice;
pub mod cost;
pub mod window;

mod error;
mod lookup;
mod wire;

pub use attribute::{PhaseTimes, phase_times};
pub use book::{Price, PriceBook, PriceBooks, Term};
pub use choice::{PriceBasis, PriceChoice};
pub use cost::{CostModel, TOKENS_PER_MTOK};
pub use error::{BookError, CostError, LookupError, Undefined};
pub use window::{WindowCost, WindowSplit, WindowTokens};

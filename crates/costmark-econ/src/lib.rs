//! From tokens per second to dollars: price books, the cost of a measured window, and
//! its attribution to input, cached input and output tokens.
//!
//! Pure arithmetic over records and data; no clock, no network, no terminal, and no file but
//! price books, claims and scenarios. "Today" is an argument. Money is f64 USD, never rounded here. `usd_per_mtok` always means US dollars
//! per 1,000,000 tokens.
//!
//! A figure that can not be had is not a number in disguise: it is an [`Undefined`] that
//! says why.

pub mod accelerator;
pub mod api;
pub mod attribute;
pub mod book;
pub mod check;
pub mod choice;
pub mod claims;
pub mod cost;
pub mod energy;
pub mod fit;
pub mod import;
pub mod margin;
pub mod ownership;
pub mod pareto;
pub mod revenue;
pub mod scenario;
pub mod sensitivity;
pub mod sheet;
pub mod usage;
pub mod window;

mod error;
mod formula;
mod lookup;
mod nearest;
mod wire;

pub use api::{ListBook, ListBooks, ListPrice};
pub use attribute::{PhaseTimes, phase_times};
pub use book::{Price, PriceBook, PriceBooks, Term};
pub use choice::{PriceBasis, PriceChoice};
pub use claims::{CheckedClaim, Claim, ClaimFile, Kind, Verdict};
pub use cost::{CostModel, TOKENS_PER_MTOK};
pub use energy::energy_usd_per_mtok;
pub use error::{BookError, CostError, LookupError, MarginError, Undefined};
pub use margin::{Margin, MarginCase, Needed, Speed, needed, needed_hit_rate};
pub use ownership::{Interruptions, Ownership, YearlyCost, reserved_usd_per_hour};
pub use pareto::pareto;
pub use revenue::{Revenue, TokenMix, revenue};
pub use scenario::Scenario;
pub use sensitivity::{Bar, Lever, Range, Spread, memory_factor, monte_carlo, tornado};
pub use sheet::{Computed, MEASURED, Measured, Missing, Outcome, Quantity, Sheet, Step};
pub use usage::{ClassCosts, Usage, UsageCost};
pub use window::{WindowCost, WindowSplit, WindowTokens};

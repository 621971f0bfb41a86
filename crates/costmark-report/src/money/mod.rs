//! The tables of money: prices, costs of a run, margins, claims, scenarios, machines ranked.
//! At most 100 columns; each says its assumption, its source and its date.

mod claims;
mod energy;
mod facts;
mod fitted;
mod layout;
mod margin;
mod price;
mod prices;
mod rank;

pub use claims::{claims_markdown, claims_table, scenario_markdown, scenario_table};
pub use energy::EnergyLine;
pub use facts::{LevelFacts, level_facts, measured};
pub use fitted::{FittedLoad, fitted_loads};
pub use layout::paragraph;
pub use margin::{MarginReport, NeededReport, margin_table};
pub use price::{PriceReport, PricedLevel, price_table};
pub use prices::{list_table, objections_table, rental_table};
pub use rank::{RankedRun, rank_table};

//! Pure rules over facts and `now`: what may be served, and what must be asked upstream first.
//!
//! Nothing here does I/O, keeps state or reads a clock: every fact is an argument, so a test runs
//! a year in a microsecond.

mod cached_only;
pub mod closure;
pub mod freshness;
pub mod rule;
pub mod view;

pub use freshness::{AfterFailure, Decision, Held, InvalidMode, Mode, Options};
pub use view::View;

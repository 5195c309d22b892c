//! The few helpers that several modules need. They know nothing of orlop's domain.

pub mod background;
pub mod clock;
pub mod error;
pub mod format;
pub mod fs;
pub mod json;
pub mod live;
pub mod single_flight;
pub mod task;

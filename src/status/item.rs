//! What the health of the server consists of: items, each with its level and its remedy.

use serde::{Deserialize, Serialize};

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    #[default]
    Good,
    /// It serves, and somebody should look.
    Warn,
    /// It does not do all of what it is for.
    Bad,
}

/// Something that needs somebody. One that is [`Level::Good`] is only worth knowing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthItem {
    /// How bad it is.
    pub level: Level,
    /// What it is, as a sentence; names and versions stand in backticks.
    pub text: String,
    /// What to do about it, as a sentence; commands stand in backticks. `None`: nothing.
    pub remedy: Option<String>,
}

impl HealthItem {
    /// An item with its remedy.
    pub(super) fn new(
        level: Level,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> HealthItem {
        HealthItem {
            level,
            text: text.into(),
            remedy: Some(remedy.into()),
        }
    }
}

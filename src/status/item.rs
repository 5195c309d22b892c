//! What the health of the server consists of: items, each with its level and its remedy.

use serde::{Deserialize, Serialize};

/// A [`HealthItem`]: `item!(Warn, "what {} is", value; "what to do about it")`.
macro_rules! item {
    ($level:ident, $text:literal $(, $value:expr)*; $remedy:literal $(, $name:expr)*) => {
        $crate::status::item::HealthItem {
            level: $crate::status::item::Level::$level,
            text: format_args!($text $(, $value)*).to_string(),
            remedy: Some(format_args!($remedy $(, $name)*).to_string()),
        }
    };
}

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

//! What a check found.

use serde::Serialize;

use crate::status::{HealthItem, Level};

/// A [`Finding`]: `finding!(Fail, "check" => "what {was} found"; "what to do about it")`.
macro_rules! finding {
    ($severity:ident, $check:expr => $found:literal $(; $remedy:literal)?) => {
        $crate::doctor::finding::Finding {
            check: $check,
            severity: $crate::doctor::finding::Severity::$severity,
            found: format_args!($found).to_string(),
            remedy: None$(.or(Some(format_args!($remedy).to_string())))?,
        }
    };
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is as it should be.
    Ok,
    /// It works, and may fail soon or for others.
    Warn,
    /// It fails.
    Fail,
    /// It was not checked.
    Skip,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: &'static str,
    /// How it ended.
    #[serde(rename = "verdict")]
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    /// What the server reports about itself, or what its rules find without it.
    pub(super) fn of(check: &'static str, item: HealthItem) -> Finding {
        Finding {
            check,
            severity: item.level.into(),
            found: item.text,
            remedy: item.remedy,
        }
    }
}

impl From<Level> for Severity {
    fn from(level: Level) -> Severity {
        match level {
            Level::Good => Severity::Ok,
            Level::Warn => Severity::Warn,
            Level::Bad => Severity::Fail,
        }
    }
}

/// What was found so far.
pub(super) struct Findings<'a> {
    pub(super) list: Vec<Finding>,
    pub(super) on_finding: &'a mut dyn FnMut(&Finding),
}

impl Findings<'_> {
    pub(super) fn add(&mut self, finding: Finding) {
        (self.on_finding)(&finding);
        self.list.push(finding);
    }
}

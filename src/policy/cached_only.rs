//! The rule that shows cached versions only: cargo then fails at resolution, and never at a download.

use super::rule::{Facts, IndexLine, Judgement, Rule};

/// Shows a version if its file is cached. A line that cannot be read is left out, because its file
/// is unknown.
#[derive(Debug)]
pub(super) struct CachedOnly;

impl Rule for CachedOnly {
    fn judge(&self, line: &IndexLine<'_>, facts: &Facts<'_>) -> Judgement {
        let is_cached = line.row.is_some_and(|row| (facts.is_cached)(&row.checksum));
        Judgement::at_any_time(is_cached)
    }

    fn is_cached_only(&self) -> bool {
        true
    }
}

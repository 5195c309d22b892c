//! Views: named lists of rules that leave whole lines of an index file out, and never edit one.
//!
//! A view is pure: which lines it shows follows from the file, from the [`Facts`] beside it and from
//! nothing else. The root index is the view without rules, [`View::all`].

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use bytes::{Bytes, BytesMut};
use semver::Version;

use super::{
    cached_only::CachedOnly,
    rule::{Facts, IndexLine, Judgement, Rule, earlier},
};
use crate::registry::{IndexFile, client::view_base};

/// The name of the view that is the root index. Reserved: no other view gets it.
pub const ALL: &str = "all";

/// The name of the view of what is cached. Reserved: no other view gets it.
pub const HELD: &str = "held";

/// Every view that there may be beside the root index, as a configuration switches them on.
pub const KNOWN: &[&str] = &[HELD];

/// A view: a name, and the rules that a line must pass to be shown.
#[derive(Debug, Clone)]
pub struct View {
    name: String,
    rules: Vec<Arc<dyn Rule>>,
}

/// What a view shows of an index file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The lines that are left, byte for byte. `None`: none is, and the view does not have the crate.
    pub bytes: Option<Bytes>,
    /// Whether anything was left out.
    pub dropped: bool,
    /// When the view may show other lines of the same file. `None`: not before the file, the view or
    /// what is cached changes.
    pub valid_until: Option<SystemTime>,
}

impl View {
    /// A view with rules of its own.
    pub fn new(name: &str, rules: Vec<Arc<dyn Rule>>) -> View {
        View {
            name: name.to_owned(),
            rules,
        }
    }

    /// The root index: every line, and whatever upstream has that is not cached yet.
    pub fn all() -> View {
        View::new(ALL, Vec::new())
    }

    /// The view of what is cached.
    pub fn held() -> View {
        View::new(HELD, vec![Arc::new(CachedOnly)])
    }

    /// Its name, as it stands in paths.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL below which clients reach this view of the mirror at `base`.
    pub fn base_url(&self, base: &str) -> String {
        match self.name.as_str() {
            ALL => base.to_owned(),
            name => view_base(base, name),
        }
    }

    /// Whether it shows every index file as it is.
    pub fn is_unfiltered(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether it shows only what is cached, so that it is answered without asking upstream.
    pub fn is_cached_only(&self) -> bool {
        self.rules.iter().any(|rule| rule.is_cached_only())
    }

    /// The lines of `file` that this view shows.
    pub fn apply(&self, file: &IndexFile, facts: &Facts<'_>) -> Shown {
        let versions = self.judged_versions(file, facts);
        let mut rows = file.rows().iter().peekable();
        let mut left = BytesMut::new();
        let (mut start, mut lines, mut dropped) = (0_usize, 0_usize, false);
        let mut valid_until = None;
        for line in file.bytes().split_inclusive(|byte| *byte == b'\n') {
            let is_blank = line.trim_ascii().is_empty();
            let row = rows.next_if(|row| row.line.start == start);
            let judged = match row {
                Some(row) => versions.get(&row.version).copied(),
                None if is_blank => None,
                None => Some(self.judge(&IndexLine { bytes: line, row }, facts)),
            };
            let judged = judged.unwrap_or(Judgement::at_any_time(true));
            if judged.is_shown {
                left.extend_from_slice(line);
                lines = lines.saturating_add(usize::from(!is_blank));
            }
            dropped |= !judged.is_shown;
            valid_until = earlier(valid_until, judged.valid_until);
            start = start.saturating_add(line.len());
        }
        let bytes = if dropped {
            left.freeze()
        } else {
            file.bytes().clone()
        };
        Shown {
            bytes: (lines > 0).then_some(bytes),
            dropped,
            valid_until,
        }
    }

    /// What the rules say about each version. The newest line of a version speaks for all of its
    /// lines, as it does in cargo: one that an older line stands for alone would be a file that the
    /// index has taken back.
    fn judged_versions<'a>(
        &self,
        file: &'a IndexFile,
        facts: &Facts<'_>,
    ) -> HashMap<&'a Version, Judgement> {
        let mut judged = HashMap::with_capacity(file.rows().len());
        for row in file.rows().iter().rev() {
            judged.entry(&row.version).or_insert_with(|| {
                let bytes = file.bytes().get(row.line.clone()).unwrap_or_default();
                let line = IndexLine {
                    bytes,
                    row: Some(row),
                };
                self.judge(&line, facts)
            });
        }
        judged
    }

    fn judge(&self, line: &IndexLine<'_>, facts: &Facts<'_>) -> Judgement {
        Judgement::of_all(self.rules.iter().map(|rule| rule.judge(line, facts)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::registry::{Checksum, CrateName, entry::Row};

    /// Facts at a time, where nothing is cached.
    fn facts_at(seconds: u64) -> Facts<'static> {
        Facts {
            is_cached: &|_| false,
            now: UNIX_EPOCH + Duration::from_secs(seconds),
        }
    }

    /// Hides the lines that have a text in them until a time.
    #[derive(Debug)]
    struct HiddenUntil(&'static str, u64);

    impl Rule for HiddenUntil {
        fn judge(&self, line: &IndexLine<'_>, facts: &Facts<'_>) -> Judgement {
            let at = UNIX_EPOCH + Duration::from_secs(self.1);
            let text = String::from_utf8_lossy(line.bytes);
            let is_hidden = text.contains(self.0) && facts.now < at;
            Judgement {
                is_shown: !is_hidden,
                valid_until: is_hidden.then_some(at),
            }
        }
    }

    #[test]
    fn what_a_rule_hides_until_a_time_is_valid_until_then() {
        let [one, two, three] = ["0.1.0", "0.2.0", "0.3.0"].map(|version| line(version, "", ""));
        let newer = r#"{"v":3,"name":"demo"}"#;
        let text = format!("{one}\n{two}\n{three}\n{newer}\n");
        let view = View::new(
            "aged",
            vec![
                Arc::new(HiddenUntil("0.2.0", 100)),
                Arc::new(HiddenUntil("0.3.0", 50)),
                Arc::new(HiddenUntil(r#""v":3"#, 200)),
            ],
        );
        assert!(!view.is_unfiltered() && !view.is_cached_only());
        for (seconds, left, until) in [
            (49, format!("{one}\n"), Some(50)),
            (50, format!("{one}\n{three}\n"), Some(100)),
            (100, format!("{one}\n{two}\n{three}\n"), Some(200)),
            (200, text.clone(), None),
        ] {
            let shown = view.apply(&file(&text), &facts_at(seconds));
            assert_eq!(shown.bytes, Some(left.into()), "{seconds}");
            let until = until.map(|until| UNIX_EPOCH + Duration::from_secs(until));
            assert_eq!(shown.valid_until, until, "{seconds}");
        }
    }

    #[test]
    fn a_line_that_one_rule_hides_for_ever_has_no_expiry() {
        let text = format!("{}\n", line("0.1.0", "1", ""));
        let rules: Vec<Arc<dyn Rule>> =
            vec![Arc::new(CachedOnly), Arc::new(HiddenUntil("0.1.0", 100))];
        let view = View::new("both", rules);
        assert!(view.is_cached_only());
        let shown = view.apply(&file(&text), &facts_at(1));
        assert_eq!((shown.bytes, shown.valid_until), (None, None));
    }

    fn line(version: &str, content: &str, rest: &str) -> String {
        let sum = Checksum::of(content.as_bytes());
        format!(
            r#"{{"name":"demo","vers":"{version}","deps":[],"cksum":"{sum}","features":{{}},"yanked":false{rest}}}"#
        )
    }

    fn file(text: &str) -> IndexFile {
        let name = CrateName::parse("demo").expect("a good name");
        IndexFile::parse(&name, Bytes::copy_from_slice(text.as_bytes())).expect("a good file")
    }

    /// What the view of the held shows of `text`, where the files with these contents are held.
    fn shown(text: &str, held: &[&str]) -> Shown {
        let held: Vec<_> = held
            .iter()
            .map(|content| Checksum::of(content.as_bytes()))
            .collect();
        let facts = Facts {
            is_cached: &|sum| held.contains(sum),
            now: UNIX_EPOCH,
        };
        View::held().apply(&file(text), &facts)
    }

    fn check(text: &str, held: &[&str], left: Option<&str>) {
        let found = shown(text, held);
        let left = left.map(|left| Bytes::copy_from_slice(left.as_bytes()));
        assert_eq!(found.bytes, left, "{text}");
        assert_eq!(found.dropped, left.as_deref() != Some(text.as_bytes()));
    }

    #[test]
    fn a_version_is_shown_when_its_file_is_held() {
        let (one, two, three) = (
            line("0.1.0", "1", ""),
            line("0.2.0", "2", r#","v":2"#),
            line("0.3.0", "3", ""),
        );
        let text = format!("{one}\n{two}\n{three}\n");
        check(&text, &["1", "2", "3"], Some(&text));
        check(&text, &["2"], Some(&format!("{two}\n")));
        check(&text, &["1", "3"], Some(&format!("{one}\n{three}\n")));
        check(&text, &[], None);
    }

    #[test]
    fn the_root_index_shows_every_line() {
        let one = line("0.1.0", "1", "");
        let text = format!("{one}\r\n{{\"v\":3,\"name\":\"demo\"}}\n{one}");
        let shown = View::all().apply(&file(&text), &facts_at(0));
        assert_eq!(shown.bytes.as_deref(), Some(text.as_bytes()));
        assert!(!shown.dropped);
    }

    #[test]
    fn the_root_index_lies_at_the_base_and_other_views_below_it() {
        let base = "http://mirror.lab:8080";
        assert_eq!(View::all().base_url(base), base);
        assert_eq!(View::held().base_url(base), format!("{base}/view/held"));
    }

    #[test]
    fn a_line_keeps_what_ends_it() {
        let (one, two) = (
            line("0.1.0", "1", "").replace(':', ": "),
            line("0.2.0", "2", ""),
        );
        let text = format!("{one}\r\n{two}");
        check(&text, &["1"], Some(&format!("{one}\r\n")));
        check(&text, &["2"], Some(&two));
        check(&text, &["1", "2"], Some(&text));
    }

    #[test]
    fn a_line_that_cannot_be_read_is_not_held() {
        let one = line("0.1.0", "1", "");
        let newer = r#"{"v":3,"name":"demo"}"#;
        check(
            &format!("{newer}\n{one}\n"),
            &["1"],
            Some(&format!("{one}\n")),
        );
        check(&format!("{newer}\n"), &["1"], None);
    }

    #[test]
    fn the_newest_line_of_a_version_speaks_for_it() {
        let (old, new) = (line("0.1.0", "old", ""), line("0.1.0", "new", ""));
        let text = format!("{old}\n{new}\n");
        check(&text, &["old"], None);
        check(&text, &["new"], Some(&text));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_some_of_the_whole_lines_in_order(
            lines in proptest::collection::vec((0_u8..12, 0_u8..6, any::<bool>(), 0_u8..3), 1..24),
            held in proptest::collection::vec(0_u8..6, 0..6),
            ends in any::<bool>(),
        ) {
            let mut text = String::new();
            for (version, content, is_newer, blank) in &lines {
                let rest = if *is_newer { r#","v":7"# } else { "" };
                let mut line = line(&format!("0.{version}.0"), &content.to_string(), rest);
                if *is_newer && content % 2 == 0 {
                    line = line.replace("\"vers\"", "\"version\"");
                }
                text.push_str(&line);
                text.push_str(if *blank == 0 { "\n\n" } else { "\n" });
            }
            if !ends {
                text.truncate(text.trim_end().len());
            }
            let contents: Vec<_> = held.iter().map(ToString::to_string).collect();
            let contents: Vec<&str> = contents.iter().map(String::as_str).collect();
            let shown = shown(&text, &contents);
            let left = shown.bytes.clone().unwrap_or_default();
            let mut whole = text.as_bytes().split_inclusive(|byte| *byte == b'\n');
            for line in left.split_inclusive(|byte| *byte == b'\n') {
                prop_assert!(whole.any(|one| one == line), "{:?}", String::from_utf8_lossy(line));
            }
            if shown.bytes.is_some() {
                let name = CrateName::parse("demo").expect("a good name");
                let again = IndexFile::parse(&name, left).expect("still an index file");
                prop_assert_eq!(again.passed_over(), 0);
                let sums: Vec<_> = held.iter().map(|one| Checksum::of(one.to_string().as_bytes())).collect();
                let in_force = |row: &Row| again.row(&row.version).expect("it is there").checksum;
                prop_assert!(again.rows().iter().all(|row| sums.contains(&in_force(row))));
            }
        }
    }
}

//! What happened of late, in the order in which people want to know it: pure.

use std::collections::HashSet;

use crate::{
    mirror::activity::{Activity, Happened},
    registry::words::seconds,
};

/// How many of one kind in a row are told one by one.
const ONE_BY_ONE: usize = 3;

/// How many names of a run are told.
const TOLD_NAMES: usize = 3;

/// How many notable ones are kept among what is told, whatever else happened.
const NOTABLE: usize = 20;

/// The newest of all, the newest first and at most `limit`: runs of the same usual kind are told as
/// one, and what is notable stays among them. `more`: there were more events than were handed in.
pub(super) fn newest(mut all: Vec<Activity>, limit: usize, more: bool) -> Vec<Activity> {
    all.sort_by_key(|activity| std::cmp::Reverse(activity.at));
    let mut told = HashSet::new();
    // What was read off the journal again is known to the second.
    all.retain(|one| told.insert((seconds(one.at), one.kind, one.what.clone())));
    let mut merged = merge(all, more);
    let notable = merged.iter().filter(|one| one.kind.is_notable());
    let notable = notable.count().min(NOTABLE).min(limit);
    let (mut kept_notable, mut kept_usual) = (0, 0);
    merged.retain(|one| {
        if one.kind.is_notable() {
            kept_notable += 1;
            // More of them are told where there is room.
            kept_notable <= notable
        } else {
            kept_usual += 1;
            kept_usual <= limit - notable
        }
    });
    merged
}

fn merge(all: Vec<Activity>, more: bool) -> Vec<Activity> {
    let mut runs: Vec<Vec<Activity>> = Vec::new();
    for one in all {
        match runs.last_mut() {
            Some(run) if run.last().is_some_and(|last| last.kind == one.kind) => run.push(one),
            _ => runs.push(vec![one]),
        }
    }
    // What was not handed in is older than the oldest that is usual.
    let is_usual = |run: &Vec<Activity>| {
        let kind = run.first().map(|one| one.kind);
        kind.is_some_and(|kind| in_one(kind).is_some() && !kind.is_notable())
    };
    let cut = runs.iter().rposition(is_usual).filter(|_| more);
    let runs = runs.into_iter().enumerate();
    runs.flat_map(|(number, run)| told(run, cut == Some(number)))
        .collect()
}

fn told(run: Vec<Activity>, more: bool) -> Vec<Activity> {
    let first = run.first().filter(|_| run.len() > ONE_BY_ONE);
    let as_one = first.and_then(|first| Some((first, in_one(first.kind)?)));
    let Some((first, noun)) = as_one else {
        return run;
    };
    let at_least = if more { "more than " } else { "" };
    let names = names(&run);
    vec![Activity {
        at: first.at,
        kind: first.kind,
        name: None,
        what: format!("{at_least}{} {noun}: {names}", run.len()),
    }]
}

/// The first names of a run, each once.
fn names(run: &[Activity]) -> String {
    let mut seen = HashSet::new();
    let names = run.iter().filter_map(|one| one.name.as_ref());
    let names: Vec<_> = names.filter(|name| seen.insert(*name)).collect();
    let listed = names
        .iter()
        .take(TOLD_NAMES)
        .map(|name| format!("`{name}`"));
    let mut listed = listed.collect::<Vec<_>>().join(", ");
    if names.len() > TOLD_NAMES {
        listed.push_str(", …");
    }
    listed
}

/// How many of a kind are told as one; `None`: each stands for itself.
fn in_one(kind: Happened) -> Option<&'static str> {
    match kind {
        Happened::New => Some("crates seen for the first time"),
        Happened::Version => Some("new versions"),
        Happened::Yanked => Some("versions yanked"),
        Happened::Unyanked => Some("versions no longer yanked"),
        Happened::Back => Some("crates in upstream's index again"),
        Happened::Gone => Some("crates no longer in upstream's index"),
        Happened::Removed => {
            Some("versions no longer in upstream's index; what is held of them is kept")
        }
        Happened::Changed
        | Happened::Fetched
        | Happened::Trouble
        | Happened::Job
        | Happened::Followed => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::registry::CrateName;

    fn one(second: u64, kind: Happened) -> Activity {
        Activity {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            kind,
            name: CrateName::parse(&format!("c{second}")).ok(),
            what: format!("`c{second}` {}", kind.as_str()),
        }
    }

    fn texts(all: Vec<Activity>, limit: usize, more: bool) -> Vec<String> {
        let newest = newest(all, limit, more);
        newest.into_iter().map(|one| one.what).collect()
    }

    #[test]
    fn runs_are_told_as_one_and_the_newest_comes_first() {
        let mut all: Vec<Activity> = (0..240).map(|second| one(second, Happened::New)).collect();
        all.push(one(300, Happened::Version));
        all.push(one(301, Happened::Version));
        assert_eq!(
            texts(all.clone(), 60, false),
            [
                "`c301` version",
                "`c300` version",
                "240 crates seen for the first time: `c239`, `c238`, `c237`, …"
            ]
        );
        assert!(texts(all, 60, true)[2].starts_with("more than 240 crates"));
    }

    #[test]
    fn a_burst_does_not_push_off_what_is_notable() {
        let mut all = vec![one(1, Happened::Changed), one(2, Happened::Trouble)];
        // Kinds in turns, so that no run is long enough to be told as one.
        for second in 10..1010 {
            let kind = [Happened::New, Happened::Version][usize::from(second % 2 == 0)];
            all.push(one(second, kind));
        }
        let told = texts(all, 60, false);
        assert_eq!(told.len(), 60);
        assert_eq!(told[58..], ["`c2` trouble", "`c1` changed"]);
    }

    #[test]
    fn what_is_told_twice_is_there_once_and_there_is_a_bound() {
        let all = (0..500)
            .map(|second| one(second / 2, Happened::Changed))
            .collect();
        assert_eq!(texts(all, 60, false).len(), NOTABLE);
        assert_eq!(
            texts(vec![one(1, Happened::Gone); 3], 60, false),
            ["`c1` gone"]
        );
        assert!(texts(Vec::new(), 60, true).is_empty());
    }
}

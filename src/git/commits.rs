//! Commit objects: a function of parent, tree, generation, change number, time and message, and read back.
//!
//! ```text
//! tree <id>
//! parent <id>                                             … none in the first one
//! author orlop <orlop@localhost> <seconds> +0000
//! committer orlop <orlop@localhost> <seconds> +0000
//! change <number>
//!
//! generation N: <first line of the message>
//!                                                         … the rest only if there is one
//! <rest of the message>
//! ```

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gix::{
    hash::Kind as HashKind,
    objs::{CommitRef, Kind},
};

use super::{Error, ObjectId, packs::Packs, types::Commit};
use crate::util::format::seconds;

/// The header with the change number. git keeps headers that it does not know.
const CHANGE: &str = "change";

const WHO: &str = "orlop <orlop@localhost>";

/// A commit of ours as it stands in the repository.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) tree: ObjectId,
    pub(super) parent: Option<ObjectId>,
    pub(super) facts: Commit,
}

/// The bytes of a commit object.
pub(super) fn to_bytes(commit: &Commit, tree: ObjectId, parent: Option<ObjectId>) -> Vec<u8> {
    let seconds = seconds(commit.time);
    let mut text = format!("tree {tree}\n");
    if let Some(parent) = parent {
        put(&mut text, format_args!("parent {parent}\n"));
    }
    for role in ["author", "committer"] {
        put(&mut text, format_args!("{role} {WHO} {seconds} +0000\n"));
    }
    put(&mut text, format_args!("{CHANGE} {}\n", commit.change));
    // git reads messages up to a NUL.
    let message = commit.message.replace('\0', " ");
    let generation = commit.generation;
    match message.split_once('\n') {
        Some((first, rest)) => put(
            &mut text,
            format_args!("\ngeneration {generation}: {first}\n\n{rest}\n"),
        ),
        None => put(
            &mut text,
            format_args!("\ngeneration {generation}: {message}\n"),
        ),
    }
    text.into_bytes()
}

fn put(text: &mut String, words: std::fmt::Arguments<'_>) {
    text.write_fmt(words).expect("a string takes everything");
}

/// Reads a commit of ours.
///
/// # Errors
/// [`Error::Damaged`] also for one that we did not write; [`Error::Unknown`], [`Error::Io`].
pub(super) fn read(packs: &Packs, id: &ObjectId) -> Result<Read, Error> {
    let data = packs.read_as(Kind::Commit, id)?;
    parse(&data)
        .ok_or_else(|| Error::damaged(packs.dir(), format!("commit `{id}` is none of ours")))
}

fn parse(data: &[u8]) -> Option<Read> {
    let commit = CommitRef::from_bytes(data, HashKind::Sha1).ok()?;
    let mut parents = commit.parents();
    let parent = parents.next();
    if parents.next().is_some() {
        return None;
    }
    let seconds = u64::try_from(commit.time().ok()?.seconds).ok()?;
    let change = commit.extra_headers().find(CHANGE)?;
    let change = std::str::from_utf8(change).ok()?.parse().ok()?;
    let (generation, message) = parse_message(std::str::from_utf8(commit.message).ok()?)?;
    Some(Read {
        tree: commit.tree(),
        parent,
        facts: Commit {
            generation,
            change,
            time: time_of(seconds)?,
            message,
        },
    })
}

fn time_of(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn parse_message(text: &str) -> Option<(u64, String)> {
    let (generation, text) = text.strip_prefix("generation ")?.split_once(": ")?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let message = match text.split_once('\n') {
        Some((first, rest)) => format!("{first}\n{}", rest.strip_prefix('\n').unwrap_or(rest)),
        None => text.to_owned(),
    };
    Some((generation.parse().ok()?, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_message(message: &str) {
        let commit = Commit {
            generation: 7,
            change: 70,
            time: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            message: message.into(),
        };
        let tree = ObjectId::empty_tree(HashKind::Sha1);
        for parent in [None, Some(tree)] {
            let read = parse(&to_bytes(&commit, tree, parent)).expect("a commit of ours");
            assert_eq!(read.facts, commit);
            assert_eq!((read.tree, read.parent), (tree, parent));
        }
    }

    #[test]
    fn a_message_comes_back_as_it_was_given() {
        for message in [
            "",
            "3 crates",
            "3 crates\n",
            "a\nb",
            "a\n\nb\n",
            "\n",
            "\n\n\n",
            "ü: ñ",
        ] {
            check_message(message);
        }
    }

    #[test]
    fn a_commit_of_somebody_else_is_none_of_ours() {
        let ours = to_bytes(
            &Commit {
                generation: 7,
                change: 70,
                time: UNIX_EPOCH,
                message: "x".into(),
            },
            ObjectId::empty_tree(HashKind::Sha1),
            None,
        );
        let text = String::from_utf8(ours).expect("text");
        for (from, to) in [
            ("generation 7: ", "Update "),
            ("generation 7: ", "generation x: "),
            ("author", "arthur"),
            ("change 70\n", ""),
            ("change 70", "change x"),
            ("tree", "trees"),
        ] {
            assert!(parse(text.replace(from, to).as_bytes()).is_none(), "{to}");
        }
    }
}

//! One run: brings the repository to what the view shows.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{CONFIG, Fault, GitIndex, NEVER, compare::Comparison, message::Summary, recover};
use crate::{
    git::{self, Commit, FileChange, Head, ObjectId, Repo},
    mirror::views::shown,
    registry::{CrateName, RegistryConfig},
    store::{Changed, CommitId, Published},
    util::error,
};

/// What the last run left.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// The head whose tree is what the view showed, but for the names that wait. Nothing is known of
    /// another head.
    head: Option<ObjectId>,
    /// How many names the tree has; `None`: not counted.
    names: Option<u64>,
}

/// What one run starts from.
pub(super) struct Start<'a> {
    pub(super) now: SystemTime,
    pub(super) base: Option<&'a str>,
    /// What changed since the last run.
    pub(super) changed: &'a Changed,
    /// Every change up to this number is in `changed`, or was before.
    pub(super) change: u64,
    pub(super) stop: &'a AtomicBool,
}

impl GitIndex {
    /// Brings the repository to what the view shows. Returns the new commit, if there was anything to
    /// commit. Blocks for the disk.
    pub(super) fn run(&self, now: SystemTime, stop: &AtomicBool) -> Result<Option<Head>, Fault> {
        let mut work = self.work.lock();
        let base = self.base.read().clone();
        // The number first: changes are told of before they are counted.
        let change = self.store.change_number();
        let waiting = self.waiting();
        self.running.store(waiting.names, Ordering::SeqCst);
        let changed = self.changes.take();
        let start = Start {
            now,
            base: base.as_deref(),
            changed: &changed,
            change,
            stop,
        };
        let outcome = self.bring(&mut work, &start);
        if outcome.is_ok() {
            *self.seen_base.write() = base;
            self.has_run.store(true, Ordering::SeqCst);
            *self.names.lock() = work.names;
            let has_head = self.head().is_some();
            self.was_published.store(has_head, Ordering::SeqCst);
        } else {
            // What was written of it is not known.
            work.head = None;
            self.changes.put_back(&changed);
        }
        self.running.store(0, Ordering::SeqCst);
        drop(work);
        self.note(&outcome);
        outcome
    }

    /// Notes for the status page and the log how a run ended.
    pub(super) fn note(&self, outcome: &Result<Option<Head>, Fault>) {
        match outcome {
            Ok(_) => {
                let facts = self.repo().zip(self.head());
                let facts = facts.and_then(|(repo, head)| repo.commit_facts(head.id).ok());
                *self.published_at.lock() = facts.map(|facts| facts.time);
                *self.failing.lock() = None;
            }
            Err(Fault::Stopped) => {}
            Err(fault) => {
                let text = error::one_line(fault);
                let before = self.failing.lock().replace(text.clone());
                if before.as_ref() != Some(&text) {
                    tracing::error!(
                        error = text,
                        view = self.view.name(),
                        "could not bring the git index of the view `{}` up to date; it is tried \
                         again (logged once)",
                        self.view.name()
                    );
                }
            }
        }
    }

    /// Opens the repository: it can be served then as it is.
    pub(super) fn open(&self) -> Result<&Repo, Fault> {
        if let Some(repo) = self.repo() {
            return Ok(repo);
        }
        let dir = self.dir.clone();
        let repo = super::open_repository(git::Options { dir }, &self.view)?;
        Ok(self.repo.get_or_init(|| repo))
    }

    fn bring(&self, work: &mut Work, start: &Start<'_>) -> Result<Option<Head>, Fault> {
        if self.waits_for_base() {
            return Ok(None);
        }
        let repo = self.open()?;
        let damage = if repo.is_gone() {
            Some("its folder was removed".to_owned())
        } else {
            match repo.repair() {
                Err(error) if error.is_damage() => Some(error.to_string()),
                repaired => repaired.map(|()| None)?,
            }
        };
        // Before the repository is set aside: it may be all that there is of the index.
        self.recover(repo)?;
        if let Some(damage) = damage {
            self.recover_lacking(repo)?;
            self.begin_anew(repo, &damage)?;
        }
        self.check_origin(repo, work)?;
        match self.publish(repo, work, start) {
            Err(Fault::Git(error)) if error.is_damage() => {
                self.recover(repo)?;
                self.recover_lacking(repo)?;
                self.begin_anew(repo, &error)?;
                self.publish(repo, work, start)
            }
            outcome => outcome,
        }
    }

    /// Sets the repository aside. The next commit is a new root.
    fn begin_anew(&self, repo: &Repo, why: &dyn std::fmt::Display) -> Result<(), Fault> {
        tracing::error!(
            "the git index of the view `{}` is set aside as `….broken-<n>`: {why}",
            self.view.name()
        );
        self.was_published.store(true, Ordering::SeqCst);
        Ok(repo.set_aside()?)
    }

    // --- the guard

    /// [`recover`](GitIndex::recover) before anything else changes the store.
    pub(super) fn recover_at_start(&self) {
        let Some(repo) = self.repo() else {
            return;
        };
        let mut work = self.work.lock();
        let recovered = self.recover(repo);
        if let Err(error) = recovered {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "could not recover lost index files from the git index; it is tried again"
            );
        } else if self.is_current(repo) {
            work.head = repo.head().map(|head| head.id);
            self.changes.take();
        }
    }

    /// Whether the head has everything that the store has, as far as the store noted it.
    fn is_current(&self, repo: &Repo) -> bool {
        let noted = self.store.published(self.view.name()).ok().flatten();
        let number = self.store.change_number();
        noted.is_some_and(|noted| {
            let is_head = repo
                .head()
                .is_some_and(|head| id_of(head.id) == noted.commit);
            is_head && noted.change == number
        })
    }

    /// Whether [`recover`](GitIndex::recover) has something to look at.
    pub(super) fn needs_guard(&self) -> bool {
        let guarded = self.guarded.load(Ordering::SeqCst);
        self.view.is_unfiltered()
            && (guarded == NEVER || guarded != self.store.reopened() || self.store.may_lack_index())
    }

    /// Gives the store the index files back that it lost: all of them with an older sled, or the
    /// changes after the number that it had when it was opened.
    fn recover(&self, repo: &Repo) -> Result<(), Fault> {
        if !self.needs_guard() {
            return Ok(());
        }
        let reopened = self.store.reopened();
        let is_lost = self.store.index_was_lost()?;
        let head = repo.readable_head();
        let change = match head.map(|head| repo.commit_facts(head.id)) {
            Some(Ok(facts)) => facts.change,
            Some(Err(error)) if !error.is_damage() => return Err(error.into()),
            _ => 0,
        };
        let is_reopened = self.guarded.load(Ordering::SeqCst) != reopened;
        let is_behind = is_reopened && change > self.store.change_number_at_open();
        if let Some(head) = head.filter(|_| is_lost || is_behind) {
            recover::give_all(&self.store, repo, head, &|_name| Ok(true))?;
        }
        if is_behind || self.store.may_lack_index() {
            self.store.index_is_back(change)?;
        }
        self.guarded.store(reopened, Ordering::SeqCst);
        Ok(())
    }

    /// Gives the store the index files that it does not have at all, though it lost no changes.
    fn recover_lacking(&self, repo: &Repo) -> Result<(), Fault> {
        let Some(head) = repo.readable_head().filter(|_| self.view.is_unfiltered()) else {
            return Ok(());
        };
        let reopened = self.store.reopened();
        recover::give_all(&self.store, repo, head, &|name| {
            Ok(self.store.snapshot(name)?.is_none())
        })?;
        self.check_reads(reopened)
    }

    /// Sets aside a repository that is not the one that was published: another one, or an older copy.
    fn check_origin(&self, repo: &Repo, work: &Work) -> Result<(), Fault> {
        let Some(head) = repo.head().filter(|head| work.head != Some(head.id)) else {
            return Ok(());
        };
        let Some(noted) = self.store.published(self.view.name())? else {
            return Ok(());
        };
        if repo.commit_of(noted.generation).map(id_of) == Some(noted.commit) {
            return Ok(());
        }
        let why = format!(
            "its head, generation {}, does not follow the published generation {}",
            head.generation, noted.generation
        );
        self.begin_anew(repo, &why)
    }

    // --- publishing

    /// A file that could not be read looks like one that is not there: it must not be committed as
    /// removed, nor be replaced by the one of the head.
    fn check_reads(&self, reopened: u64) -> Result<(), Fault> {
        if self.store.has_read_soundly(reopened) {
            return Ok(());
        }
        Err(Fault::Unreadable)
    }

    fn publish(
        &self,
        repo: &Repo,
        work: &mut Work,
        start: &Start<'_>,
    ) -> Result<Option<Head>, Fault> {
        let reopened = self.store.reopened();
        self.check_reads(reopened)?;
        let head = repo.head();
        let is_known = head.is_some() && work.head == head.map(|head| head.id);
        let mut comparison = Comparison {
            store: &self.store,
            view: &self.view,
            repo,
            head,
            stop: start.stop,
            now: start.now,
            valid_until: None,
            changed: Vec::new(),
            summary: Summary::default(),
            lacking: Vec::new(),
        };
        match start.changed {
            Changed::Names(names) if is_known => {
                comparison.valid_until = *self.valid_until.lock();
                comparison.names(names)?;
            }
            _ => work.names = Some(comparison.all()?),
        }
        let Comparison {
            changed,
            summary,
            lacking,
            valid_until,
            ..
        } = comparison;
        self.check_reads(reopened)?;
        *self.valid_until.lock() = valid_until;
        if let Some(head) = head {
            recover::give(&self.store, repo, head, lacking)?;
        }
        let config = new_config(repo, head, start.base)?;
        let published = if changed.is_empty() && config.is_none() {
            None
        } else {
            let head = self.commit(repo, head, start, config, &changed, &summary)?;
            work.names = work.names.map(|names| summary.names_after(names));
            Some(head)
        };
        let Some(head) = published.or(head) else {
            return Ok(None);
        };
        self.store.note_published(
            self.view.name(),
            Some(&Published {
                // The number falls when sled is opened anew and lost changes.
                change: start.change.min(self.store.change_number()),
                generation: head.generation,
                commit: id_of(head.id),
            }),
        )?;
        work.head = Some(head.id);
        Ok(published)
    }

    /// Reads what the view shows once more while it is written, so that no file is named that went
    /// since it was compared.
    pub(super) fn commit(
        &self,
        repo: &Repo,
        parent: Option<Head>,
        start: &Start<'_>,
        config: Option<Bytes>,
        names: &[CrateName],
        summary: &Summary,
    ) -> Result<Head, Fault> {
        let name = self.view.name();
        if parent.is_none() && self.store.published(name)?.is_some() {
            tracing::warn!(
                "the git index of the view `{name}` begins anew with one root commit, and git \
                 clients fetch all of it once"
            );
            // What was published before is no part of the new history.
            self.store.note_published(name, None)?;
        }
        let before = match parent {
            Some(parent) => repo.commit_facts(parent.id)?.change,
            None => 0,
        };
        let base = start.base.filter(|_| config.is_some());
        let mut failure = None;
        let reopened = self.store.reopened();
        self.check_reads(reopened)?;
        let files = names.iter().map_while(|name| {
            let shown = shown(&self.store, &self.view, name, start.now);
            let bytes = shown.map_err(|error| failure = Some(error)).ok()?.bytes;
            let path = name.index_path();
            Some(FileChange { path, bytes })
        });
        let mut changes = config.map(config_change).into_iter().chain(files);
        let facts = || {
            // After the last file was read, so that nothing newer is in the commit.
            let durable = self.store.make_durable()?;
            self.check_reads(reopened)?;
            Ok::<_, Fault>(Commit {
                generation: parent.map_or(1, |parent| parent.generation.saturating_add(1)),
                change: durable.max(before),
                time: whole_seconds(start.now),
                message: summary.message(base),
            })
        };
        let head = repo.commit(&mut changes, facts)?;
        drop(changes);
        if let Some(error) = failure {
            // What was committed is right as far as it goes; the rest is compared again.
            return Err(error.into());
        }
        tracing::info!(
            generation = head.generation,
            view = name,
            "published generation {} of the view `{name}`: {}",
            head.generation,
            summary.subject()
        );
        Ok(head)
    }
}

/// `config.json`, if the repository has another one than it should.
fn new_config(repo: &Repo, head: Option<Head>, base: Option<&str>) -> Result<Option<Bytes>, Fault> {
    let Some(base) = base else {
        return Ok(None);
    };
    let config = Bytes::from(serde_json::to_vec(&RegistryConfig::of_mirror(base))?);
    let committed = match head {
        Some(head) => repo.file(head.id, CONFIG)?,
        None => None,
    };
    Ok((committed.as_ref() != Some(&config)).then_some(config))
}

fn config_change(bytes: Bytes) -> FileChange {
    FileChange {
        path: CONFIG.to_owned(),
        bytes: Some(bytes),
    }
}

fn id_of(id: ObjectId) -> CommitId {
    id.as_slice().try_into().unwrap_or_default()
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

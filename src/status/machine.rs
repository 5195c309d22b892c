//! The machine of the server, as far as it may get in the way of the store: the data folder, inodes,
//! open files.

use rustix::process::{Resource, getrlimit};

use super::item::{HealthItem, Level};
use crate::{jobs::Services, metrics::SetAside, store::FolderCondition, util::error::one_line};

/// Open files that the server of a lab needs for its connections, blobs and packs.
const MIN_OPEN_FILES: u64 = 4096;

/// A mirror that fills creates so many files within days.
const MIN_INODES: u64 = 10_000;

/// What the machine of the server looks like.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// The data folder; `None`: it was not looked at.
    pub folder: Option<FolderCondition>,
    /// How many files the process may have open; `None`: there is no limit.
    pub max_open_files: Option<u64>,
    /// How much could not be used and was set aside.
    pub set_aside: Vec<(SetAside, u64)>,
}

impl Machine {
    /// Looks at the machine that this process runs on. Blocks for the disk.
    pub(super) fn of(services: &Services) -> Machine {
        let folder = services.store.condition();
        if let Err(error) = &folder {
            let error = one_line(error);
            tracing::debug!(%error, "could not look at the data folder");
        }
        Machine {
            folder: folder.ok(),
            max_open_files: getrlimit(Resource::Nofile).current,
            set_aside: services.set_aside().to_vec(),
        }
    }

    /// What should be put right. None of it keeps the server from serving.
    pub fn items(&self) -> Vec<HealthItem> {
        self.items_as(Level::Warn)
    }

    /// The same, where `rights` says how bad wrong owners and modes are: a server that runs serves all
    /// the same, but one that is to be started may not come up.
    pub(super) fn items_as(&self, rights: Level) -> Vec<HealthItem> {
        let mut all = Vec::new();
        let max = self.max_open_files;
        if let Some(max) = max.filter(|max| *max < MIN_OPEN_FILES) {
            all.push(item!(Warn,
                "The server may have only {max} files open at a time.";
                "Raise the limit: `LimitNOFILE=65536` in the systemd unit, or `ulimit -Hn`."));
        }
        let Some(folder) = &self.folder else {
            return all;
        };
        // Without the path, which is not for everyone who reads the page.
        if folder.is_open_to_all() {
            let mode = folder.mode;
            let item = item!(Warn,
                "Every user may write into the data folder (mode {mode:o}).";
                "`chmod o-w` the folder that `data` names");
            all.push(HealthItem {
                level: rights,
                ..item
            });
        }
        if let Some((path, uid)) = &folder.foreign {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let owner = folder.owner;
            let item = item!(Warn,
                "`{name}` in the data folder belongs to uid {uid}, and the folder to uid {owner}.";
                "With the server stopped: `chown -R {owner}` the folder that `data` names");
            all.push(HealthItem {
                level: rights,
                ..item
            });
        }
        if let Some(free) = folder.free_inodes.filter(|free| *free < MIN_INODES) {
            all.push(item!(Warn,
                "Only {free} more files fit on the disk of the data folder (inodes).";
                "Each crate is a file: use a file system with more inodes."));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_machine_lacks_is_said_with_its_remedy() {
        let folder = FolderCondition {
            dir: "/data".into(),
            owner: 7,
            mode: 0o755,
            foreign: None,
            free_inodes: Some(MIN_INODES),
        };
        let well = Machine {
            folder: Some(folder.clone()),
            max_open_files: Some(MIN_OPEN_FILES),
            set_aside: Vec::new(),
        };
        assert_eq!(well.items(), []);
        assert_eq!(Machine::default().items(), []);
        let bad = Machine {
            folder: Some(FolderCondition {
                mode: 0o777,
                foreign: Some(("/data/journal".into(), 0)),
                free_inodes: Some(9_999),
                ..folder
            }),
            max_open_files: Some(1024),
            set_aside: Vec::new(),
        };
        let expected = [
            (Level::Warn, "only 1024 files", "LimitNOFILE"),
            (Level::Warn, "(mode 777)", "`chmod o-w` the folder"),
            (
                Level::Warn,
                "`journal` in the data folder belongs to uid 0",
                "`chown -R 7` the folder",
            ),
            (Level::Warn, "Only 9999 more files", "more inodes"),
        ];
        let items = bad.items();
        assert_eq!(items.len(), expected.len());
        for (item, (level, text, remedy)) in items.iter().zip(expected) {
            assert_eq!(item.level, level);
            assert!(item.text.contains(text), "{item:?}");
            assert!(item.remedy.as_deref().is_some_and(|it| it.contains(remedy)));
        }
    }
}

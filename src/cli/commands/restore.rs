//! `orlop restore`: make a store of a backup.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::backup::folder::{INCOMPLETE, MANIFEST, blob_path, copy, damaged_blob, failed, hash};
use crate::{
    cli::{Error, SettingArgs, load, tell},
    config::Config,
    git::{self, Repo},
    jobs::{
        Fault, JobError,
        archive::{PUBLIC, SECRET, is_safe},
        backup::{BLOBS, FORMAT, Manifest, dump, parse_blob_line},
    },
    registry::Checksum,
    store,
    util::{clock::Clock, format::size, fs::sync_dir},
};

/// The longest manifest. Each file has some 150 bytes, and there are hundreds.
const MOST_MANIFEST_BYTES: u64 = 64 << 20;

/// The longest line of the list of crate files.
const MOST_LINE_BYTES: u64 = 128;

/// How often progress is told, in crate files.
const TOLD_EVERY: u64 = 10_000;

/// Make a store of a backup.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
The backup is checked, every byte of it, and made into a store in the empty or absent folder of
the settings (--data). It answers as the store of the backup did: the same index files, crate
files, git commits, pins and saved sets. On one file system crate files are linked.
Until all is there the folder has a file RESTORE-INCOMPLETE, and no other command takes it. After
an interruption run it again: it begins anew.

Example:
  orlop restore /mnt/backup/orlop --data /srv/orlop && orlop serve --data /srv/orlop

Exit codes: 0 well, 2 usage, 3 unavailable, 4 the backup is incomplete or damaged.")]
pub struct RestoreArgs {
    /// The folder of the backup.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Where the settings come from.
    #[command(flatten)]
    pub settings: SettingArgs,
}

impl RestoreArgs {
    pub(in crate::cli) fn run(&self, out: &mut dyn Write) -> Result<(), Error> {
        let config = load(&self.settings)?.config;
        let manifest = read_manifest(&self.dir).map_err(Error::Job)?;
        let restoring = Restoring {
            from: &self.dir,
            to: &config.store.dir,
            manifest: &manifest,
        };
        store::Restoring::check(&config.store.dir).map_err(Error::Store)?;
        restoring.check_files().map_err(Error::Job)?;
        store::Restoring::check_format(&self.dir.join("format")).map_err(Error::Store)?;
        let folder = store::Restoring::begin(&config.store.dir).map_err(Error::Store)?;
        let blobs = restoring.lay().map_err(Error::Job)?;
        let names = restoring.fill(folder, &config)?;
        store::Restoring::end(&config.store.dir).map_err(Error::Store)?;
        if self.json {
            let report = serde_json::json!({
                "report": "restore", "names": names, "blobs": blobs.count,
                "blob_bytes": blobs.bytes, "generation": manifest.copied.generation,
                "of": manifest.at,
            });
            writeln!(out, "{report}")?;
        } else {
            writeln!(out, "index entries   {names}")?;
            let size = size(blobs.bytes);
            writeln!(out, "crate files     {} ({size})", blobs.count)?;
            let data = config.store.dir.display();
            writeln!(out, "the store in `{data}` is that of {}", manifest.at)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Blobs {
    count: u64,
    bytes: u64,
}

struct Restoring<'a> {
    from: &'a Path,
    to: &'a Path,
    manifest: &'a Manifest,
}

impl Restoring<'_> {
    /// Lays out the files, which are on the disk then.
    fn lay(&self) -> Result<Blobs, JobError> {
        let mut folders = vec![self.to.to_owned()];
        for file in &self.manifest.files {
            if is_of_store(&file.path) {
                self.copy(&file.path, &mut folders)?;
            }
        }
        let blobs = self.lay_blobs(&mut folders)?;
        folders.sort();
        folders.dedup();
        for folder in &folders {
            sync_dir(folder).map_err(failed("sync", folder))?;
        }
        self.copy("format", &mut folders)?;
        sync_dir(self.to).map_err(failed("sync", self.to))?;
        Ok(blobs)
    }

    /// Before anything is written.
    fn check_files(&self) -> Result<(), JobError> {
        let has = |path: &str| self.manifest.files.iter().any(|file| file.path == path);
        for path in ["format", "journal", dump::INDEX, dump::KEPT, BLOBS] {
            if !has(path) {
                return Err(self.damaged(&format!("its manifest has no `{path}`")));
            }
        }
        for file in &self.manifest.files {
            if !is_safe(&file.path) {
                return Err(self.damaged("its manifest names a path that leads elsewhere"));
            }
            let path = self.from.join(&file.path);
            let read = File::open(&path).and_then(|mut file| hash(&mut file, &mut |_| Ok(())));
            match read {
                Ok((sum, len)) if len == file.len && sum.to_hex() == file.sha256 => {}
                Ok(_) => {
                    let what = format!("`{}` is not what its manifest says", file.path);
                    return Err(self.damaged(&what));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(self.damaged(&format!("`{}` is missing", file.path)));
                }
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        Ok(())
    }

    fn damaged(&self, what: &str) -> JobError {
        let dir = self.from.display();
        JobError::new(
            Fault::Damaged,
            format!("the backup in `{dir}` is damaged: {what}"),
        )
        .hint("make the backup anew, or restore an older one")
    }

    fn copy(&self, path: &str, folders: &mut Vec<PathBuf>) -> Result<(), JobError> {
        let (from, to) = (self.from.join(path), self.to.join(path));
        if let Some(folder) = to.parent() {
            let mode = if is_secret(path) { 0o700 } else { 0o777 };
            let created = DirBuilder::new().recursive(true).mode(mode).create(folder);
            created.map_err(failed("make the folder", folder))?;
            let above = folder
                .ancestors()
                .take_while(|above| above.starts_with(self.to));
            folders.extend(above.map(Path::to_owned));
        }
        let mode = if is_secret(path) { SECRET } else { PUBLIC };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let copied = File::open(&from).and_then(|mut input| {
            let mut out = options.open(&to)?;
            io::copy(&mut input, &mut out)?;
            out.sync_all()
        });
        copied.map_err(failed("write", &to))
    }

    fn lay_blobs(&self, folders: &mut Vec<PathBuf>) -> Result<Blobs, JobError> {
        let path = self.from.join(BLOBS);
        let list = File::open(&path).map_err(failed("read", &path))?;
        let mut blobs = Blobs::default();
        let mut links = true;
        let (mut list, mut line) = (BufReader::new(list), String::new());
        loop {
            line.clear();
            let read = list.by_ref().take(MOST_LINE_BYTES).read_line(&mut line);
            if read.map_err(failed("read", &path))? == 0 {
                break;
            }
            let (sum, len) = parse_blob_line(&line)
                .ok_or_else(|| self.damaged("a line of `blobs.list` is none"))?;
            self.lay_blob(&sum, len, &mut links, folders)?;
            blobs.count += 1;
            blobs.bytes += len;
            if blobs.count.is_multiple_of(TOLD_EVERY) {
                tell(&format!(
                    "crate files: {} of {}\n",
                    blobs.count, self.manifest.copied.blobs
                ));
            }
        }
        Ok(blobs)
    }

    fn lay_blob(
        &self,
        sum: &Checksum,
        len: u64,
        links: &mut bool,
        folders: &mut Vec<PathBuf>,
    ) -> Result<(), JobError> {
        let name = blob_path(&sum.to_hex());
        let (from, to) = (self.from.join(&name), self.to.join(&name));
        if let Some(folder) = to.parent()
            && folders.last().is_none_or(|last| last != folder)
        {
            fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
            folders.push(self.to.join("blobs"));
            folders.push(folder.to_owned());
        }
        // A link to a link would be one.
        let is_file = fs::symlink_metadata(&from).is_ok_and(|found| found.is_file());
        if *links && is_file && fs::hard_link(&from, &to).is_ok() {
            let read = File::open(&to).and_then(|mut file| hash(&mut file, &mut |_| Ok(())));
            return match read.map_err(failed("read", &from))? {
                (found, found_len) if found == *sum && found_len == len => Ok(()),
                _ => Err(damaged_backup_blob(&from)),
            };
        }
        *links &= !is_file;
        if !from.exists() {
            return Err(self.damaged(&format!("`{}` is missing", name.display())));
        }
        copy(&from, &to, sum, len).map_err(|error| match error.fault {
            Fault::Damaged => damaged_backup_blob(&from),
            _ => error,
        })
    }

    /// Opens the store, which is rebuilt from the journal, and gives it back what only the dump has.
    fn fill(&self, folder: store::Restoring, config: &Config) -> Result<u64, Error> {
        let opened = folder.open(config.store.clone(), Clock::start().now());
        let (store, _report) = opened.map_err(Error::Store)?;
        let change = match config.git() {
            Some(options) => change_of(options).map_err(Error::Git)?,
            None => 0,
        };
        let open = |path: &str| {
            let path = self.from.join(path);
            File::open(&path).map_err(|error| Error::Job(failed("read", &path)(error)))
        };
        let total = self.manifest.copied.names;
        let mut told = |names: u64| {
            if names.is_multiple_of(TOLD_EVERY) {
                tell(&format!("index entries: {names} of {total}\n"));
            }
        };
        let names = dump::restore_index(&store, change, open(dump::INDEX)?, &mut told)
            .map_err(|error| self.unfilled(&error))?;
        dump::restore_kept(&store, open(dump::KEPT)?).map_err(|error| self.unfilled(&error))?;
        store.close().map_err(Error::Store)?;
        Ok(names)
    }

    fn unfilled(&self, error: &dump::Error) -> Error {
        let message = format!("the store in `{}` is only half restored", self.to.display());
        Error::Job(
            JobError::new(Fault::Damaged, message)
                .because(error)
                .hint("restore an older backup, or make this one anew, and restore again"),
        )
    }
}

/// The change number of the git index that was restored.
fn change_of(options: git::Options) -> Result<u64, git::Error> {
    let (repo, _report) = Repo::open(options)?;
    match repo.readable_head() {
        Some(head) => Ok(repo.commit_facts(head.id)?.change),
        None => Ok(0),
    }
}

fn damaged_backup_blob(path: &Path) -> JobError {
    JobError {
        hint: Some(
            "remove that file and run `orlop backup` into the folder again, which lays it anew; or \
             restore an older backup"
                .to_owned(),
        ),
        ..damaged_blob(path)
    }
}

/// What only the owner of the store may read.
fn is_secret(path: &str) -> bool {
    path.starts_with("key/")
}

/// What a store has as a backup has it. The rest is given to it.
fn is_of_store(path: &str) -> bool {
    path == "journal" || path.starts_with("git/") || path.starts_with("key/")
}

fn read_manifest(dir: &Path) -> Result<Manifest, JobError> {
    let shown = dir.display();
    if dir.join(INCOMPLETE).exists() {
        let message = format!("the backup in `{shown}` is incomplete: making it was interrupted");
        return Err(JobError::new(Fault::Damaged, message)
            .hint(format!("run `orlop backup {shown}` to its end")));
    }
    let path = dir.join(MANIFEST);
    let mut text = Vec::new();
    let read =
        File::open(&path).and_then(|file| file.take(MOST_MANIFEST_BYTES).read_to_end(&mut text));
    if let Err(error) = read {
        let message = format!("there is no backup in `{shown}`");
        return Err(JobError::new(Fault::Usage, message).because(&error));
    }
    let of_format = serde_json::from_slice::<serde_json::Value>(&text).ok();
    let format = of_format.and_then(|value| value.get("format")?.as_u64());
    match format {
        Some(format) if format > u64::from(FORMAT) => {
            let message = format!(
                "the backup in `{shown}` has format {format}, and this build reads up to {FORMAT}"
            );
            Err(JobError::new(Fault::Damaged, message).hint("install a newer orlop"))
        }
        _ => serde_json::from_slice(&text).map_err(|error| {
            let message = format!("the manifest of the backup in `{shown}` is damaged");
            JobError::new(Fault::Damaged, message).because(&error)
        }),
    }
}

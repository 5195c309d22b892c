//! The folder of a backup: laid out from the stream of the job, durable before it counts as whole.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    jobs::{
        Fault, JobError,
        archive::{PUBLIC, Reader, SECRET},
        backup::{self, BLOBS, FORMAT, Manifest, ManifestFile, SUMMARY, Summary, parse_blob_line},
    },
    registry::{Checksum, checksum::Hasher},
    util::{
        format::{rfc3339, seconds},
        fs::sync_dir,
    },
};

/// What says that a backup is not whole.
pub(in crate::cli::commands) const INCOMPLETE: &str = "INCOMPLETE";

/// What says what a backup has.
pub(in crate::cli::commands) const MANIFEST: &str = "MANIFEST";

/// The ending of a file that is being written.
const NEW: &str = "new";

/// What is copied at once.
const BUFFER: usize = 1 << 20;

/// The longest summary.
const MOST_SUMMARY_BYTES: u64 = 64 << 10;

/// The longest file of the store's format.
const MOST_FORMAT_BYTES: u64 = 4096;

/// What became of the crate files.
#[derive(Debug, Default)]
pub(super) struct Laid {
    pub(super) dir: PathBuf,
    pub(super) linked: u64,
    pub(super) copied: u64,
    /// Those that an earlier backup had.
    pub(super) kept: u64,
    /// Those that the store no longer has.
    pub(super) left: u64,
}

/// A backup that is being made.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    data: PathBuf,
    /// Whether links are possible; found out with the first.
    links: bool,
    files: Vec<ManifestFile>,
    /// Folders whose names have to be synced at the end.
    folders: BTreeSet<PathBuf>,
    laid: Laid,
}

impl Folder {
    /// Takes the folder, marking it as incomplete.
    pub(super) fn begin(dir: &Path, data: &Path) -> Result<Folder, JobError> {
        check_contents(dir)?;
        make_folder(dir).map_err(failed("make the folder", dir))?;
        let mark = dir.join(INCOMPLETE);
        let text = b"This backup is being made, or making it was interrupted.\n";
        let marked = create(&mark, 0o644).and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        });
        marked
            .and_then(|()| sync_dir(dir))
            .map_err(failed("write", &mark))?;
        Ok(Folder {
            dir: dir.to_owned(),
            data: data.to_owned(),
            links: true,
            files: Vec::new(),
            folders: BTreeSet::new(),
            laid: Laid::default(),
        })
    }

    /// Lays out what the job sends.
    pub(super) fn lay(mut self, input: impl Read) -> Result<Laid, JobError> {
        let mut input = Reader::new(BufReader::with_capacity(BUFFER, input));
        let mut summary = None;
        let mut writing: Option<Writing> = None;
        while let Some(member) = input.next_member().map_err(|error| broke_off(&error))? {
            if member.path == SUMMARY {
                let json = serde_json::from_reader((&mut input).take(MOST_SUMMARY_BYTES));
                summary = Some(json.map_err(|error| broke_off(&error.into()))?);
                continue;
            }
            if writing
                .as_ref()
                .is_some_and(|file| file.path != member.path)
            {
                writing.take().map_or(Ok(()), |file| self.finish(file))?;
            }
            let file = match &mut writing {
                Some(file) => file,
                none => none.insert(self.begin_file(&member.path, member.mode)?),
            };
            if member.len > backup::BUFFER as u64 {
                return Err(broke_off(&io::Error::other("a piece is too long")));
            }
            let mut piece = Vec::new();
            let read = input.read_to_end(&mut piece);
            read.map_err(|error| broke_off(&error))?;
            file.write(&piece)?;
            if member.path == BLOBS {
                self.blobs(&piece)?;
            }
        }
        writing.map_or(Ok(()), |file| self.finish(file))?;
        let summary: Summary =
            summary.ok_or_else(|| broke_off(&io::ErrorKind::UnexpectedEof.into()))?;
        self.copy_format()?;
        self.end(&summary)
    }

    fn begin_file(&self, path: &str, mode: u32) -> Result<Writing, JobError> {
        if self.files.iter().any(|file| file.path == path) {
            return Err(broke_off(&io::Error::other("a file came twice")));
        }
        let mode = if mode == SECRET { SECRET } else { PUBLIC };
        Writing::begin(&self.dir, path, mode)
    }

    /// Lays the crate files of some lines of the list.
    fn blobs(&mut self, lines: &[u8]) -> Result<(), JobError> {
        for line in String::from_utf8_lossy(lines).lines() {
            let (checksum, length) = parse_blob_line(line)
                .ok_or_else(|| broke_off(&io::Error::other("a line of the list is none")))?;
            self.blob(&checksum, length)?;
        }
        Ok(())
    }

    fn finish(&mut self, writing: Writing) -> Result<(), JobError> {
        let (file, folder) = writing.finish()?;
        self.files.push(file);
        let above = folder
            .ancestors()
            .take_while(|above| above.starts_with(&self.dir));
        self.folders.extend(above.map(Path::to_owned));
        Ok(())
    }

    /// Which format the files have is told by the store's own word for it.
    fn copy_format(&mut self) -> Result<(), JobError> {
        let path = self.data.join("format");
        let mut text = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(MOST_FORMAT_BYTES).read_to_end(&mut text));
        read.map_err(failed("read", &path)).map_err(|error| {
            error.hint(
                "name the store's folder with --data, and run as its user or as one of its group",
            )
        })?;
        let mut writing = Writing::begin(&self.dir, "format", PUBLIC)?;
        writing.write(&text)?;
        self.finish(writing)
    }

    fn blob(&mut self, checksum: &Checksum, length: u64) -> Result<(), JobError> {
        let hex = checksum.to_hex();
        let name = blob_path(&hex);
        let (from, to) = (self.data.join(&name), self.dir.join(&name));
        if self.is_there(&from, &to, length) {
            self.laid.kept += 1;
            return Ok(());
        }
        if let Some(folder) = to.parent()
            && !self.folders.contains(folder)
        {
            make_below(&self.dir, folder)?;
            self.folders.insert(folder.to_owned());
            self.folders.insert(self.dir.join("blobs"));
        }
        if self.links && self.link(&from, &to)? {
            self.laid.linked += 1;
            return Ok(());
        }
        copy(&from, &to, checksum, length)?;
        self.laid.copied += 1;
        Ok(())
    }

    /// Whether an earlier backup brought it. A link is known by its inode. One that could be a link
    /// and is another file is laid anew, for nobody knows what became of it; a copy is believed by
    /// its length, because reading all copies again would take as long as the first backup did.
    fn is_there(&self, from: &Path, to: &Path, length: u64) -> bool {
        let Ok(found) = fs::symlink_metadata(to) else {
            return false;
        };
        if !found.is_file() || found.len() != length {
            return false;
        }
        let source = fs::symlink_metadata(from);
        let may_link = |source: &fs::Metadata| self.links && source.dev() == found.dev();
        !source.is_ok_and(|source| may_link(&source) && source.ino() != found.ino())
    }

    /// Whether it could be linked; where not, no other can.
    fn link(&mut self, from: &Path, to: &Path) -> Result<bool, JobError> {
        use rustix::io::Errno;
        let linked = fs::hard_link(from, to).or_else(|error| match error.kind() {
            // Of another length: what a crash left.
            io::ErrorKind::AlreadyExists => {
                fs::remove_file(to).and_then(|()| fs::hard_link(from, to))
            }
            _ => Err(error),
        });
        let Err(error) = linked else { return Ok(true) };
        let number = error.raw_os_error();
        let no_links = [
            Errno::XDEV,
            Errno::PERM,
            Errno::MLINK,
            Errno::NOTSUP,
            Errno::NOSYS,
        ];
        if no_links
            .iter()
            .any(|errno| Some(errno.raw_os_error()) == number)
        {
            self.links = number == Some(Errno::MLINK.raw_os_error());
            return Ok(false);
        }
        Err(unreadable(&error, from))
    }

    /// Everything is on the disk before the mark goes.
    fn end(mut self, summary: &Summary) -> Result<Laid, JobError> {
        self.remove_old_packs()?;
        self.laid.left = self.count_left()?;
        for folder in &self.folders {
            sync_dir(folder).map_err(failed("sync", folder))?;
        }
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: rfc3339(seconds(summary.at)),
            copied: summary.report.clone(),
            files: std::mem::take(&mut self.files),
        };
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| failed("write", &self.dir)(error.into()))?;
        let mut writing = Writing::begin(&self.dir, MANIFEST, PUBLIC)?;
        writing.write(&text)?;
        writing.finish()?;
        sync_dir(&self.dir).map_err(failed("sync", &self.dir))?;
        let mark = self.dir.join(INCOMPLETE);
        fs::remove_file(&mark)
            .and_then(|()| sync_dir(&self.dir))
            .map_err(failed("remove", &mark))?;
        self.laid.dir.clone_from(&self.dir);
        Ok(self.laid)
    }

    /// Packs of an earlier backup that were merged since.
    fn remove_old_packs(&mut self) -> Result<(), JobError> {
        let wanted: BTreeSet<PathBuf> = self
            .files
            .iter()
            .map(|file| self.dir.join(&file.path))
            .collect();
        let mut found = Vec::new();
        files_below(&self.dir.join("git"), &mut found).map_err(failed("look into", &self.dir))?;
        for path in found {
            if !wanted.contains(&path) {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
            }
        }
        Ok(())
    }

    fn count_left(&self) -> Result<u64, JobError> {
        let blobs = self.dir.join("blobs");
        let mut count = 0;
        let folders = match fs::read_dir(&blobs) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed("look into", &blobs)(error)),
        };
        for folder in folders {
            let folder = folder.map_err(failed("look into", &blobs))?.path();
            let files = fs::read_dir(&folder).map_err(failed("look into", &folder))?;
            for file in files.flatten() {
                let path = file.path();
                if path.extension().is_some_and(|ending| ending == NEW) {
                    fs::remove_file(&path).map_err(failed("remove", &path))?;
                } else {
                    count += 1;
                }
            }
        }
        let laid = &self.laid;
        Ok(u64::saturating_sub(
            count,
            laid.linked + laid.copied + laid.kept,
        ))
    }
}

/// A file on its way, under another name until it is whole and on the disk.
struct Writing {
    path: String,
    to: PathBuf,
    new: PathBuf,
    out: BufWriter<File>,
    hasher: Hasher,
    len: u64,
}

impl Writing {
    fn begin(dir: &Path, path: &str, mode: u32) -> Result<Writing, JobError> {
        let to = dir.join(path);
        if let Some(folder) = to.parent() {
            make_below(dir, folder)?;
        }
        let mut new = to.clone().into_os_string();
        new.push(".");
        new.push(NEW);
        let new = PathBuf::from(new);
        let file = create(&new, mode).map_err(failed("write", &new))?;
        Ok(Writing {
            path: path.to_owned(),
            to,
            new,
            out: BufWriter::with_capacity(BUFFER, file),
            hasher: Hasher::default(),
            len: 0,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), JobError> {
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        self.out
            .write_all(bytes)
            .map_err(failed("write", &self.new))
    }

    /// The file's line for the manifest, and its folder.
    fn finish(self) -> Result<(ManifestFile, PathBuf), JobError> {
        let file = self
            .out
            .into_inner()
            .map_err(|error| failed("write", &self.new)(error.into_error()))?;
        file.sync_all()
            .and_then(|()| fs::rename(&self.new, &self.to))
            .map_err(failed("write", &self.to))?;
        let folder = self.to.parent().unwrap_or(&self.to).to_owned();
        let line = ManifestFile {
            path: self.path,
            len: self.len,
            sha256: self.hasher.finish().to_hex(),
        };
        Ok((line, folder))
    }
}

/// Makes a file in the place of whatever was left there: its rights and its target are not asked.
fn create(path: &Path, mode: u32) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode).open(path)
}

/// A backup has what its owner may see and not everybody: the packages of a lab, and its key.
fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes the folders down to `folder`, none of which may lead out of `dir`.
fn make_below(dir: &Path, folder: &Path) -> Result<(), JobError> {
    let mut above = folder.ancestors().take_while(|above| *above != dir);
    let is_link = |path: &&Path| fs::symlink_metadata(path).is_ok_and(|found| !found.is_dir());
    match above.find(is_link) {
        None => make_folder(folder).map_err(failed("make the folder", folder)),
        Some(link) => {
            let message = format!("`{}` is a link, and not followed", link.display());
            Err(JobError::new(Fault::Unavailable, message))
        }
    }
}

/// Where a crate file is, in a store and in a backup.
pub(in crate::cli::commands) fn blob_path(hex: &str) -> PathBuf {
    let first = hex.get(..2).unwrap_or_default();
    PathBuf::from(format!("blobs/{first}/{hex}.raw"))
}

/// Copies a crate file, durably, and only if it is what it should be.
pub(in crate::cli::commands) fn copy(
    from: &Path,
    to: &Path,
    checksum: &Checksum,
    length: u64,
) -> Result<(), JobError> {
    let new = to.with_extension(NEW);
    let mut input = File::open(from).map_err(|error| unreadable(&error, from))?;
    let mut out = create(&new, 0o644).map_err(failed("write", &new))?;
    let (found, copied) =
        hash(&mut input, &mut |bytes| out.write_all(bytes)).map_err(failed("copy", from))?;
    if found != *checksum || copied != length {
        drop(fs::remove_file(&new));
        return Err(damaged_blob(from));
    }
    out.sync_all()
        .and_then(|()| fs::rename(&new, to))
        .map_err(failed("write", to))
}

/// An error for a crate file that is another.
pub(in crate::cli::commands) fn damaged_blob(path: &Path) -> JobError {
    let message = format!("the crate file `{}` is damaged", path.display());
    JobError::new(Fault::Damaged, message).hint(
        "on the server, `orlop verify --repair` sets damaged files aside and fetches them again",
    )
}

/// The sha256 and the length of what is read.
pub(in crate::cli::commands) fn hash(
    input: &mut impl Read,
    each: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(Checksum, u64)> {
    let (mut hasher, mut len) = (Hasher::default(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = match input.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), len)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let piece = buffer.get(..read).unwrap_or_default();
        hasher.update(piece);
        each(piece)?;
        len += read as u64;
    }
}

/// An error that names what was done with what.
pub(in crate::cli::commands) fn failed(
    what: &str,
    path: &Path,
) -> impl Fn(io::Error) -> JobError + use<> {
    let message = format!("could not {what} `{}`", path.display());
    move |error| JobError::new(Fault::Unavailable, message.clone()).because(&error)
}

fn files_below(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files_below(&entry.path(), found)?;
        } else {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// A folder with something else in it is somebody else's.
fn check_contents(dir: &Path) -> Result<(), JobError> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look into", dir)(error)),
    };
    let is_ours = dir.join(MANIFEST).exists() || dir.join(INCOMPLETE).exists();
    if is_ours || entries.next().is_none() {
        return Ok(());
    }
    let message = format!("`{}` is neither empty nor a backup of orlop", dir.display());
    Err(JobError::new(Fault::Usage, message)
        .hint("name an empty folder, or that of an earlier backup"))
}

const BROKE_OFF: &str = "the stream of the backup broke off";

/// An error for a stream that does not come to its end.
fn broke_off(error: &io::Error) -> JobError {
    JobError::new(Fault::Unavailable, BROKE_OFF).because(error)
}

/// Whether a failure says no more than that the other end failed.
pub(super) fn is_consequence(error: &JobError) -> bool {
    error.message == BROKE_OFF
}

fn unreadable(error: &io::Error, path: &Path) -> JobError {
    failed("read", path)(io::Error::new(error.kind(), error.to_string())).hint(
        "run it as the user of the server (for example `sudo -u orlop orlop backup …`), with the \
         store's folder as --data",
    )
}

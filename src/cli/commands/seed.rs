//! `orlop import --from-dir`: walks a folder, recognises what a lab may have in it, and sends it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Read, Seek as _, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use flate2::read::GzDecoder;

use super::backup::folder::{failed, hash};
use crate::{
    cli::{
        Error,
        job::{self, JobArgs},
    },
    jobs::{
        Fault, JobError,
        archive::{PUBLIC, Writer},
        seed::{
            CRATE, FoundCrate, FoundMisfit, GROUP, Group, INDEX, MOST_INDEX_BYTES, Refusal,
            SeedReport, SeedRequest,
        },
    },
    registry::{CrateName, layout::parse_index_path, release::parse_version},
    util::format::size,
};

/// How deep folders are looked into.
const DEPTH: usize = 32;

/// Crate files whose index entries are asked for together. All of them are open meanwhile.
const GROUP_FILES: usize = 64;

/// Entries of a folder that are taken and sorted together: a cache may have 300,000 files in one.
const CHUNK: usize = 1024;

/// Folders with index files that are kept in mind: one for each registry that cargo used.
const MOST_ROOTS: usize = 1024;

/// The largest manifest of a vendored crate that is read.
const MOST_MANIFEST_BYTES: u64 = 4 << 20;

/// The formats of cargo's cache of the index that are understood, and of the lines in it.
const CARGO_CACHE: [u8; 5] = [3, 2, 0, 0, 0];

/// Takes the folder in. `list`: where the releases of vendored crates are written to.
pub(super) fn run(
    job: &JobArgs,
    dir: &Path,
    list: Option<&Path>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    if !dir.is_dir() {
        let message = format!("`{}` is no folder", dir.display());
        return Err(Error::Job(JobError::new(Fault::Usage, message)));
    }
    let survey = Survey::of(dir, list).map_err(Error::Job)?;
    let files = survey.crates;
    let (reader, writer) =
        io::pipe().map_err(|error| Error::Job(failed("make a pipe for", dir)(error)))?;
    let from = dir.to_owned();
    let sending = std::thread::spawn(move || {
        // Where the job ends early, its error is the one that counts.
        drop(send(
            &from,
            &survey.roots,
            File::from(OwnedFd::from(writer)),
        ));
    });
    let request = SeedRequest { files };
    let ran = job::run(job, request, vec![reader.into()], out, |report, out| {
        print(report, dir, list, out)
    });
    drop(sending.join());
    ran
}

fn print(
    report: &SeedReport,
    dir: &Path,
    list: Option<&Path>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let (taken, bytes) = (report.taken, size(report.taken_bytes));
    writeln!(out, "taken in        {taken} crate files ({bytes})")?;
    writeln!(out, "held already    {}", report.held)?;
    if report.entries > 0 {
        writeln!(out, "index entries   {} from the folder", report.entries)?;
    }
    for (why, count) in &report.refused {
        writeln!(out, "\n{count} not taken: {}", why.as_str())?;
        let paths = report.misfits.iter().filter(|misfit| misfit.why == *why);
        for misfit in paths {
            writeln!(out, "  {}", misfit.path)?;
        }
        if let Some(remedy) = remedy(*why, list) {
            writeln!(out, "  {remedy}")?;
        }
        if *why == Refusal::Vendored {
            writeln!(out, "  exactly these: {}", exactly(dir))?;
        }
    }
    Ok(())
}

/// The line that fetches what a vendor folder was made of: its lockfile lies in it or beside it.
fn exactly(dir: &Path) -> String {
    let beside = fs::canonicalize(dir).ok();
    let places = [Some(dir), beside.as_deref().and_then(Path::parent)];
    let found = places.into_iter().flatten().map(|at| at.join("Cargo.lock"));
    let lockfile = found.into_iter().find(|path| path.is_file());
    let lockfile = lockfile.unwrap_or_else(|| PathBuf::from("Cargo.lock"));
    format!("orlop sync --lockfile {}", lockfile.display())
}

fn remedy(why: Refusal, list: Option<&Path>) -> Option<String> {
    let text = match (why, list) {
        (Refusal::Vendored, Some(list)) => {
            return Some(format!(
                "fetch these instead: orlop sync --list {}",
                list.display()
            ));
        }
        (Refusal::Vendored, None) => {
            "fetch these instead: `orlop sync --list FILE`, with the file that `--vendored-list \
             FILE` writes here, or `orlop sync --lockfile Cargo.lock`"
        }
        (Refusal::Unasked, _) => {
            "let the mirror ask its upstream, or put an index beside the files"
        }
        (Refusal::UnknownVersion, _) => "`orlop refresh NAME` asks upstream for the entry again",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Something in a folder that counts.
enum Item {
    Crate(PathBuf),
    /// The folder that an index file lies in at its place.
    IndexBelow(PathBuf),
    /// An unpacked crate of `cargo vendor`.
    Vendored(PathBuf),
    Unreadable(PathBuf),
}

/// Looks through a folder, and keeps no more of it than a part of one folder.
fn walk(dir: &Path, depth: usize, visit: &mut dyn FnMut(Item) -> io::Result<()>) -> io::Result<()> {
    let Some(depth) = depth.checked_sub(1) else {
        return visit(Item::Unreadable(dir.to_owned()));
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return visit(Item::Unreadable(dir.to_owned()));
    };
    if dir.join(".cargo-checksum.json").exists() {
        return visit(Item::Vendored(dir.to_owned()));
    }
    let mut paths = entries.flatten().map(|entry| entry.path());
    loop {
        let mut chunk: Vec<PathBuf> = paths.by_ref().take(CHUNK).collect();
        if chunk.is_empty() {
            return Ok(());
        }
        // The versions of a crate come one after the other, and reports in an order.
        chunk.sort();
        for path in chunk {
            look_at(path, depth, visit)?;
        }
    }
}

fn look_at(
    path: PathBuf,
    depth: usize,
    visit: &mut dyn FnMut(Item) -> io::Result<()>,
) -> io::Result<()> {
    let Ok(kind) = fs::symlink_metadata(&path) else {
        return visit(Item::Unreadable(path));
    };
    if kind.is_dir() {
        // The objects of a git repository are none of ours.
        if path.ends_with(".git") {
            return Ok(());
        }
        return walk(&path, depth, visit);
    }
    if !fs::metadata(&path).is_ok_and(|target| target.is_file()) {
        return Ok(());
    }
    if path.extension().is_some_and(|ending| ending == "crate") || is_raw(&path) {
        visit(Item::Crate(path))
    } else if let Some(root) = index_root(&path) {
        visit(Item::IndexBelow(root))
    } else {
        Ok(())
    }
}

/// What a first look at a folder tells.
#[derive(Debug, Default)]
struct Survey {
    crates: u64,
    /// The folders that are an index.
    roots: BTreeSet<PathBuf>,
}

impl Survey {
    fn of(dir: &Path, list: Option<&Path>) -> Result<Survey, JobError> {
        let mut survey = Survey::default();
        let create = |path: &Path| File::create(path).map_err(failed("write", path));
        let mut out = list.map(create).transpose()?.map(BufWriter::new);
        let walked = walk(dir, DEPTH, &mut |item| {
            match (item, &mut out) {
                (Item::Crate(_), _) => survey.crates += 1,
                (Item::IndexBelow(root), _) if survey.roots.len() < MOST_ROOTS => {
                    survey.roots.insert(root);
                }
                (Item::Vendored(path), Some(out)) => {
                    if let Some(release) = vendored_release(&path) {
                        writeln!(out, "{release}")?;
                    }
                }
                _ => {}
            }
            Ok(())
        });
        let flushed = walked.and_then(|()| out.map_or(Ok(()), |mut out| out.flush()));
        flushed.map_err(failed("write", list.unwrap_or(dir)))?;
        Ok(survey)
    }
}

/// Which release is unpacked in a folder, as a line for `orlop sync --list`.
fn vendored_release(dir: &Path) -> Option<String> {
    let mut text = String::new();
    let manifest = File::open(dir.join("Cargo.toml")).ok()?;
    let read = manifest.take(MOST_MANIFEST_BYTES).read_to_string(&mut text);
    read.ok()?;
    let manifest: toml::Table = text.parse().ok()?;
    let package = manifest.get("package")?;
    let (name, version) = (
        package.get("name")?.as_str()?,
        package.get("version")?.as_str()?,
    );
    let name = CrateName::parse(name).ok()?;
    let version = parse_version(version).ok()?;
    Some(format!("{name}@={version}"))
}

/// Sends what a folder has, as it is found.
fn send(dir: &Path, roots: &BTreeSet<PathBuf>, pipe: File) -> io::Result<()> {
    let mut sender = Sender {
        out: Writer::new(BufWriter::with_capacity(1 << 18, pipe)),
        roots,
        group: Group::default(),
        files: Vec::new(),
    };
    walk(dir, DEPTH, &mut |item| sender.take(item))?;
    sender.send_group()?;
    sender.out.finish().map(drop)
}

struct Sender<'a> {
    out: Writer<BufWriter<File>>,
    roots: &'a BTreeSet<PathBuf>,
    group: Group,
    /// The files of the crates in the group, and their lengths.
    files: Vec<(File, u64)>,
}

impl Sender<'_> {
    fn take(&mut self, item: Item) -> io::Result<()> {
        match item {
            Item::Crate(path) => match look(&path) {
                Ok((found, file, len)) => {
                    self.group.crates.push(found);
                    self.files.push((file, len));
                }
                Err(_) => self.refuse(&path, Refusal::Unreadable, None),
            },
            Item::Vendored(path) => {
                self.refuse(&path, Refusal::Vendored, vendored_release(&path));
            }
            Item::Unreadable(path) => self.refuse(&path, Refusal::Unreadable, None),
            Item::IndexBelow(_) => {}
        }
        if self.files.len().max(self.group.refused.len()) < GROUP_FILES {
            return Ok(());
        }
        self.send_group()
    }

    fn refuse(&mut self, path: &Path, why: Refusal, release: Option<String>) {
        let path = path.display().to_string();
        self.group.refused.push(FoundMisfit { path, why, release });
    }

    fn send_group(&mut self) -> io::Result<()> {
        let mut group = std::mem::take(&mut self.group);
        let releases = group.crates.iter().flat_map(|found| &found.releases);
        let names: BTreeSet<&String> = releases.map(|(name, _version)| name).collect();
        group.names = names.into_iter().cloned().collect();
        self.out
            .member(GROUP, PUBLIC, &serde_json::to_vec(&group)?)?;
        for name in &group.names {
            send_index(name, self.roots, &mut self.out)?;
        }
        for (file, len) in self.files.drain(..) {
            self.out.begin(CRATE, PUBLIC, len)?;
            let sent = io::copy(&mut file.take(len), &mut self.out)?;
            // One that became shorter is filled up, and refused for its checksum.
            let missing = len.saturating_sub(sent);
            io::copy(&mut io::repeat(0).take(missing), &mut self.out)?;
        }
        Ok(())
    }
}

/// A crate file in a store of orlop's own.
fn is_raw(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    path.extension().is_some_and(|ending| ending == "raw")
        && stem.is_some_and(|stem| stem.len() == 64 && stem.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The folder of the index that this file is part of, by the folders that it lies in:
/// `…/se/rd/serde`.
fn index_root(path: &Path) -> Option<PathBuf> {
    (2..=3).find_map(|count| {
        let root = path.ancestors().nth(count)?;
        let place = path.strip_prefix(root).ok()?.to_str()?;
        parse_index_path(place).ok()?;
        Some(root.to_owned())
    })
}

/// Reads a crate file once for its hash, and its first name.
fn look(path: &Path) -> io::Result<(FoundCrate, File, u64)> {
    let mut file = File::open(path)?;
    let (sha256, len) = hash(&mut file, &mut |_| Ok(()))?;
    let mut releases = Vec::new();
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    for text in stem
        .into_iter()
        .map(ToOwned::to_owned)
        .chain(top_folder(&mut file))
    {
        for split in splits(&text) {
            if !releases.contains(&split) {
                releases.push(split);
            }
        }
    }
    file.rewind()?;
    let found = FoundCrate {
        path: path.display().to_string(),
        sha256,
        releases,
    };
    Ok((found, file, len))
}

/// The folder that everything in a crate file lies in, `NAME-VERSION`, out of the first header of
/// its tar: 100 bytes, ended by a zero.
fn top_folder(file: &mut File) -> Option<String> {
    let mut header = [0; 100];
    file.rewind().ok()?;
    let mut tar = GzDecoder::new(file);
    tar.read_exact(&mut header).ok()?;
    let text = header.split(|byte| *byte == 0).next()?;
    let text = str::from_utf8(text).ok()?;
    Some(text.split('/').next()?.to_owned())
}

/// Every name and version that `NAME-VERSION` may mean: `foo-1-2.0.0` has one, `a-1.0.0-2.0.0` two.
fn splits(text: &str) -> Vec<(String, String)> {
    let dashes = text.match_indices('-').map(|(at, _)| at);
    let split = |at: usize| {
        let (name, version) = (text.get(..at)?, text.get(at + 1..)?);
        CrateName::parse(name).ok()?;
        parse_version(version).ok()?;
        Some((name.to_owned(), version.to_owned()))
    };
    dashes.filter_map(split).collect()
}

fn send_index(
    name: &str,
    roots: &BTreeSet<PathBuf>,
    out: &mut Writer<impl Write>,
) -> io::Result<()> {
    let Ok(place) = CrateName::parse(name).map(|name| name.index_path()) else {
        return Ok(());
    };
    let mut places = roots.iter().rev().map(|root| root.join(&place));
    let Some(path) = places.find(|path| path.is_file()) else {
        return Ok(());
    };
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MOST_INDEX_BYTES).read_to_end(&mut bytes));
    // What is no index file is not used as one.
    if read.is_err() {
        return Ok(());
    }
    out.member(&format!("{INDEX}{name}"), PUBLIC, &lines_of(bytes))
}

/// The lines of an index file, be it one as registries have it or one of cargo's cache: a byte of
/// format (3), the format of lines (4 bytes: 2), a text for the version of the index, and for each
/// version its number and its line, all texts ended by a zero.
fn lines_of(bytes: Vec<u8>) -> Vec<u8> {
    let Some(rest) = bytes.strip_prefix(&CARGO_CACHE) else {
        return bytes;
    };
    let mut texts = rest.split(|byte| *byte == 0).skip(1);
    let mut lines = Vec::new();
    while let (Some(_version), Some(line)) = (texts.next(), texts.next()) {
        lines.extend_from_slice(line);
        lines.push(b'\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_means_every_split_that_can_be_meant() {
        let check = |text: &str, expected: &[(&str, &str)]| {
            let found = splits(text);
            let found: Vec<_> = found
                .iter()
                .map(|(n, v)| (n.as_str(), v.as_str()))
                .collect();
            assert_eq!(found, expected, "{text}");
        };
        check("serde-1.0.219", &[("serde", "1.0.219")]);
        check("foo-1-2.0.0", &[("foo-1", "2.0.0")]);
        check("a-1.0.0-2.0.0", &[("a", "1.0.0-2.0.0")]);
        check("a-1.0.0-rc-1", &[("a", "1.0.0-rc-1")]);
        check(
            "libgit2-sys-0.18.0+1.9.0",
            &[("libgit2-sys", "0.18.0+1.9.0")],
        );
        check("thesis", &[]);
    }

    #[test]
    fn an_index_file_is_known_by_its_folders() {
        let check = |path: &str, root: Option<&str>| {
            let found = index_root(Path::new(path));
            assert_eq!(found.as_deref(), root.map(Path::new), "{path}");
        };
        check("/x/index/se/rd/serde", Some("/x/index"));
        check("/x/.cache/3/a/abc", Some("/x/.cache"));
        check("/x/1/a", Some("/x"));
        check("/x/serde", None);
        check("/x/se/rd/other", None);
    }

    #[test]
    fn lines_come_out_of_the_cache_of_cargo() {
        let mut bytes = CARGO_CACHE.to_vec();
        bytes.extend_from_slice(b"etag: x\x001.0.0\0{\"a\":1}\x001.1.0\0{\"a\":2}\0");
        assert_eq!(lines_of(bytes), b"{\"a\":1}\n{\"a\":2}\n");
        assert_eq!(lines_of(b"{}\n".to_vec()), b"{}\n");
    }
}

//! Files of bundles, which the command opens: whole or in parts, in their place only when they are
//! whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;

use crate::{
    cli::Error,
    jobs::{Fault, JobError, bundle::ImportPart},
    util::fs::sync_dir,
};

/// The smallest part that is made: a thousand of them still fit on a screen.
const MIN_PART_BYTES: u64 = 4096;

/// How much is moved at a time.
const PIECE_BYTES: usize = 256 << 10;

/// A failure with a file that a person named.
pub(super) fn fault(doing: &str, path: &Path, error: &io::Error) -> JobError {
    let told = JobError::new(
        Fault::Unavailable,
        format!("could not {doing} `{}`", path.display()),
    );
    told.because(error)
}

/// A size as people write it: `700M`, `4G`, `4GiB`, `65536`.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = text.get(digits.len()..).unwrap_or_default();
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("a size is a number with K, M, G or T: `4G`".to_owned()),
    };
    let number: u64 = digits
        .trim()
        .parse()
        .map_err(|_digits| "a size is a number with K, M, G or T: `4G`".to_owned())?;
    let size = number.checked_mul(1 << shift);
    size.filter(|size| *size >= MIN_PART_BYTES)
        .ok_or_else(|| format!("a part has at least {MIN_PART_BYTES} bytes"))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn part_path(base: &Path, number: u32) -> PathBuf {
    with_end(base, &format!(".{number:03}"))
}

/// Makes a file under another name than it will have.
fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(with_end(path, ".part"))
}

/// Gives a file its name, durably.
fn settle(path: &Path) -> Result<(), Error> {
    let new = with_end(path, ".part");
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let settled = File::open(&new)
        .and_then(|file| file.sync_all())
        .and_then(|()| fs::rename(&new, path))
        .and_then(|()| sync_dir(folder));
    settled.map_err(|error| Error::Job(fault("write", path, &error)))
}

fn forget(path: &Path) {
    match fs::remove_file(with_end(path, ".part")) {
        Ok(()) | Err(_) => {}
    }
}

/// One file that a job writes into. Dropped before it was kept, it leaves nothing.
#[derive(Debug)]
pub(super) struct NewFile {
    path: PathBuf,
    kept: bool,
}

impl NewFile {
    /// The file, and what the job gets of it.
    pub(super) fn begin(path: &Path) -> Result<(NewFile, OwnedFd), JobError> {
        let file = begin(path).map_err(|error| fault("write", path, &error))?;
        let new = NewFile {
            path: path.to_owned(),
            kept: false,
        };
        Ok((new, file.into()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its name.
    pub(super) fn keep(&mut self) -> Result<(), Error> {
        if !self.kept {
            settle(&self.path)?;
            self.kept = true;
        }
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            forget(&self.path);
        }
    }
}

/// The parts that a bundle is cut into while a job writes it.
#[derive(Debug)]
pub(super) struct NewParts {
    base: PathBuf,
    /// What was begun.
    begun: Arc<Mutex<Vec<PathBuf>>>,
    cutting: Option<JoinHandle<io::Result<u32>>>,
    kept: bool,
}

impl NewParts {
    /// The parts, and what the job gets of them.
    pub(super) fn begin(base: &Path, part_bytes: u64) -> Result<(NewParts, OwnedFd), JobError> {
        let (reader, writer) =
            io::pipe().map_err(|error| fault("make a pipe for", base, &error))?;
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (mine, path) = (Arc::clone(&begun), base.to_owned());
        let cutting = std::thread::spawn(move || {
            split(reader, part_bytes, &mut |number| {
                let path = part_path(&path, number);
                mine.lock().push(path.clone());
                begin(&path)
            })
        });
        let new = NewParts {
            base: base.to_owned(),
            begun,
            cutting: Some(cutting),
            kept: false,
        };
        Ok((new, writer.into()))
    }

    fn cut(&mut self) -> Result<u32, JobError> {
        let failed = || JobError::new(Fault::Unavailable, "could not write the parts");
        let cutting = self.cutting.take().ok_or_else(failed)?;
        let cut = cutting.join().map_err(|_panicked| failed())?;
        cut.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => failed()
                .because(&error)
                .hint("make room where the bundle goes, or give it several disks"),
            _ => failed().because(&error),
        })
    }

    /// Gives the parts their names, and returns these. Older parts of more numbers go: whoever names
    /// all parts would name them too.
    pub(super) fn keep(&mut self) -> Result<Vec<PathBuf>, Error> {
        let begun = || self.begun.lock().clone();
        if self.kept {
            return Ok(begun());
        }
        let count = self.cut().map_err(Error::Job)?;
        let paths = self.begun.lock().clone();
        for path in &paths {
            settle(path)?;
        }
        self.kept = true;
        for number in count.saturating_add(1).. {
            if fs::remove_file(part_path(&self.base, number)).is_err() {
                break;
            }
        }
        Ok(paths)
    }

    /// What kept the parts from the disk, which is why the job found nobody who took the bundle.
    pub(super) fn trouble(&mut self) -> Option<JobError> {
        self.cutting.as_ref()?;
        self.cut().err()
    }
}

impl Drop for NewParts {
    fn drop(&mut self) {
        if !self.kept {
            for path in self.begun.lock().iter() {
                forget(path);
            }
        }
    }
}

/// Refuses what is there already.
pub(super) fn check_free(out: &Path, is_split: bool, force: bool) -> Result<(), JobError> {
    let first = if is_split {
        part_path(out, 1)
    } else {
        out.to_owned()
    };
    if force || !first.exists() {
        return Ok(());
    }
    Err(JobError::new(
        Fault::Usage,
        format!("`{}` is there already", first.display()),
    )
    .hint("name another file, or replace it with `--force`"))
}

/// Cuts what comes from `input` into files of `size` bytes, which `open` makes. Returns how many.
fn split(
    mut input: impl Read,
    size: u64,
    open: &mut dyn FnMut(u32) -> io::Result<File>,
) -> io::Result<u32> {
    let mut piece = vec![0; PIECE_BYTES];
    let mut count = 0;
    let mut part: Option<(File, u64)> = None;
    loop {
        let room = part.as_ref().map_or(size, |(_file, room)| *room);
        let most = usize::try_from(room).map_or(PIECE_BYTES, |room| room.min(PIECE_BYTES));
        let read = match input.read(piece.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Ok(count),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let mut file = if let Some((file, _room)) = part.take() {
            file
        } else {
            count += 1;
            open(count)?
        };
        file.write_all(piece.get(..read).unwrap_or_default())?;
        let room = room.saturating_sub(read as u64);
        part = (room > 0).then_some((file, room));
    }
}

/// The parts of a bundle that a job reads.
#[derive(Debug)]
pub(super) struct Feed {
    feeding: Option<JoinHandle<Result<(), JobError>>>,
    /// The files that it is cut into; none: it is in one piece.
    pub(super) parts: Vec<ImportPart>,
}

impl Feed {
    /// The bundle in these files, and what the job gets of it.
    pub(super) fn begin(paths: &[PathBuf]) -> Result<(Feed, OwnedFd), JobError> {
        let mut files = Vec::new();
        for path in paths {
            files.push(NumberedPart::open(path, paths.len() > 1)?);
        }
        files.sort_by_key(|file| file.number);
        if files.len() > 1 {
            check_parts(&files)?;
        }
        // A single file is a part only if it is the first: the digits at the end of the name of a
        // whole bundle can be a date.
        let is_split = files.len() > 1;
        let parts = files
            .iter()
            .filter(|file| is_split || file.number == Some(1));
        let mut feed = Feed {
            feeding: None,
            parts: parts.map(|file| file.part.clone()).collect(),
        };
        if files.len() == 1
            && let Some(only) = files.pop()
        {
            return Ok((feed, only.file.into()));
        }
        let (reader, writer) =
            io::pipe().map_err(|error| fault("make a pipe for", Path::new("the parts"), &error))?;
        feed.feeding = Some(std::thread::spawn(move || feed_all(files, writer)));
        Ok((feed, reader.into()))
    }

    /// Why the job failed: where it found the bundle cut short or a part missing, that can be because
    /// a part could not be read.
    pub(super) fn explain(&mut self, error: JobError) -> JobError {
        match error.fault {
            Fault::Damaged | Fault::Usage => self.trouble().unwrap_or(error),
            _ => error,
        }
    }

    fn trouble(&mut self) -> Option<JobError> {
        self.feeding.take()?.join().ok()?.err()
    }
}

/// A file of a bundle. A part has its number at the end of its name.
struct NumberedPart {
    number: Option<u32>,
    part: ImportPart,
    file: File,
}

impl NumberedPart {
    fn open(path: &Path, is_part: bool) -> Result<NumberedPart, JobError> {
        let number = part_number(path);
        if is_part && number.is_none() {
            let text = format!("`{}` has no number of a part", path.display());
            return Err(JobError::new(Fault::Usage, text).hint(PARTS_HINT));
        }
        let opened = File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
        let (bytes, file) = opened.map_err(|error| fault("open", path, &error))?;
        let name = path.display().to_string();
        Ok(NumberedPart {
            number,
            part: ImportPart { name, bytes },
            file,
        })
    }
}

const PARTS_HINT: &str = "name one bundle, or all parts of one as `orlop export --split` made them: \
                          FILE.001, FILE.002, …";

/// Whether these are all parts of one split, as far as names and lengths show it.
fn check_parts(files: &[NumberedPart]) -> Result<(), JobError> {
    let wrong = |why: String| Err(JobError::new(Fault::Usage, why).hint(PARTS_HINT));
    for (file, expected) in files.iter().zip(1u32..) {
        if file.number < Some(expected) {
            let number = expected.saturating_sub(1);
            return wrong(format!("part {number} of the bundle is named twice"));
        }
        if file.number > Some(expected) {
            let text = format!("part {expected} of the bundle is missing: name all its parts");
            return wrong(text);
        }
    }
    let size = files.first().map_or(0, |first| first.part.bytes);
    let odd = files.windows(2).find_map(|pair| match pair {
        [file, next] if file.part.bytes != size || next.part.bytes > size => Some(file),
        _ => None,
    });
    odd.map_or(Ok(()), |odd| {
        wrong(format!(
            "`{}` is cut short, or belongs to another split of the bundle",
            odd.part.name
        ))
    })
}

fn feed_all(files: Vec<NumberedPart>, mut out: impl Write) -> Result<(), JobError> {
    let mut piece = vec![0; PIECE_BYTES];
    for mut file in files {
        loop {
            let read = match file.file.read(&mut piece) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault("read", Path::new(&file.part.name), &error)),
            };
            if read == 0 {
                break;
            }
            if out
                .write_all(piece.get(..read).unwrap_or_default())
                .is_err()
            {
                // The job takes no more, and says why.
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The number of a part: `FILE.001`.
fn part_number(path: &Path) -> Option<u32> {
    let end = path.extension()?.to_str()?;
    let is_number = end.len() >= 3 && end.bytes().all(|byte| byte.is_ascii_digit());
    end.parse().ok().filter(|_number| is_number)
}

/// Where the receipt of a bundle goes when nobody says it: next to the bundle.
pub(super) fn receipt_path(first: &Path) -> PathBuf {
    let whole = match part_number(first) {
        Some(_number) => first.with_extension(""),
        None => first.to_owned(),
    };
    with_end(&whole, ".receipt")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("65536", Some(65536)),
            ("4G", Some(4 << 30)),
            ("4 GiB", Some(4 << 30)),
            ("700mb", Some(700 << 20)),
            ("1", None),
            ("G", None),
            ("4X", None),
            ("99999999999T", None),
        ] {
            assert_eq!(parse_size(text).ok(), bytes, "{text}");
        }
    }

    #[test]
    fn parts_have_the_size_and_together_all_bytes() {
        let place = tempfile::tempdir().expect("a folder");
        let bytes: Vec<u8> = (0..=255).cycle().take(PIECE_BYTES * 2).collect();
        for (size, count) in [
            (bytes.len() as u64 / 2, 2),
            (bytes.len() as u64 - 1, 2),
            (bytes.len() as u64, 1),
            (MIN_PART_BYTES, 128),
        ] {
            let path = place.path().join("b");
            let mut open = |number| File::create(part_path(&path, number));
            let made = split(&bytes[..], size, &mut open).expect("a disk with room");
            assert_eq!(made, count, "{size}");
            let parts = (1..=made).map(|number| {
                let part = fs::read(part_path(&path, number)).expect("it was made");
                assert!(part.len() as u64 == size || number == made);
                part
            });
            assert!(parts.collect::<Vec<_>>().concat() == bytes, "{size}");
        }
    }

    #[test]
    fn parts_that_are_not_all_of_one_split_are_told_by_name() {
        let place = tempfile::tempdir().expect("a folder");
        let path = |name: &str| place.path().join(name);
        for (name, len) in [
            ("b.001", 10),
            ("b.002", 10),
            ("b.003", 7),
            ("b.004", 11),
            ("short.002", 9),
            ("again.002", 10),
            ("b", 10),
        ] {
            fs::write(path(name), vec![b'x'; len]).expect("written");
        }
        let begin = |names: &[&str]| {
            let paths: Vec<_> = names.iter().map(|name| path(name)).collect();
            Feed::begin(&paths)
        };
        let refused = |names: &[&str], word: &str| {
            let error = begin(names).expect_err(word);
            assert_eq!(error.fault, Fault::Usage);
            assert!(error.message.contains(word), "{error:?}");
        };
        refused(&["b.002", "b.003"], "part 1 of the bundle is missing");
        refused(&["b.003", "b.001"], "part 2 of the bundle is missing");
        refused(
            &["b.001", "b.002", "again.002"],
            "part 2 of the bundle is named twice",
        );
        refused(
            &["b.001", "short.002", "b.003"],
            "short.002` is cut short, or belongs",
        );
        refused(
            &["b.001", "b.002", "b.003", "b.004"],
            "b.003` is cut short, or belongs",
        );
        refused(&["b.001", "b"], "b` has no number of a part");

        let (mut feed, pipe) = begin(&["b.003", "b.001", "b.002"]).expect("all are there");
        let lens = feed.parts.iter().map(|part| part.bytes);
        assert_eq!(lens.collect::<Vec<_>>(), [10, 10, 7]);
        let mut joined = Vec::new();
        let read = File::from(pipe).read_to_end(&mut joined);
        assert_eq!(read.expect("a pipe can be read"), 27);
        assert!(feed.trouble().is_none());
        assert_eq!(begin(&["b"]).expect("a bundle").0.parts, []);
        assert_eq!(begin(&["b.001"]).expect("a part").0.parts.len(), 1);
        let dated = path("lab.20261201");
        fs::write(&dated, b"a whole bundle").expect("written");
        assert_eq!(Feed::begin(&[dated]).expect("a bundle").0.parts, []);
    }

    #[test]
    fn a_part_that_cannot_be_read_explains_what_the_job_found() {
        let place = tempfile::tempdir().expect("a folder");
        let [first, second] = ["b.001", "b.002"].map(|name| place.path().join(name));
        for fault in [Fault::Damaged, Fault::Usage, Fault::Cancelled] {
            fs::write(&first, vec![b'x'; 64 << 10]).expect("written");
            // A folder can be opened, but not read.
            fs::create_dir_all(&second).expect("made");
            let (mut feed, pipe) = Feed::begin(&[first.clone(), second.clone()]).expect("there");
            let mut read = Vec::new();
            let end = File::from(pipe).read_to_end(&mut read);
            assert_eq!(end.expect("a pipe can be read"), 64 << 10);
            let error = feed.explain(JobError::new(fault, "part 3 of the bundle is missing"));
            let is_explained =
                error.message.contains("could not read") && error.message.contains("b.002`");
            assert_eq!(is_explained, fault != Fault::Cancelled, "{error:?}");
        }
    }

    #[test]
    fn a_receipt_goes_next_to_the_bundle() {
        let check = |first: &str, receipt: &str| {
            assert_eq!(receipt_path(Path::new(first)), Path::new(receipt));
        };
        check("/media/lab.orlop", "/media/lab.orlop.receipt");
        check("/media/lab.orlop.001", "/media/lab.orlop.receipt");
        check("lab.v1", "lab.v1.receipt");
    }
}

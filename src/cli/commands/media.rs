//! Files of bundles, which the command opens: whole or in parts, in their place only when they are
//! whole.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    thread::JoinHandle,
};

use parking_lot::Mutex;

use crate::cli::Error;
use crate::mirror::{
    bundle::parts::{self, Source},
    jobs::{Fault, JobError},
};

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
    size.filter(|size| *size >= parts::MIN_PART_BYTES)
        .ok_or_else(|| format!("a part has at least {} bytes", parts::MIN_PART_BYTES))
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
        .and_then(|()| File::open(folder)?.sync_all());
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
    cutting: Option<JoinHandle<Result<u32, JobError>>>,
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
            parts::split(reader, part_bytes, &mut |number| {
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
        let gone = || JobError::new(Fault::Unavailable, "could not write the parts");
        let cutting = self.cutting.take().ok_or_else(gone)?;
        cutting.join().map_err(|_panicked| gone())?
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
        let error = self.cut().err()?;
        (error.fault == Fault::Unavailable).then_some(error)
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

/// What was read of, and how that went.
type Fed = (Box<Source>, Result<(), JobError>);

/// A bundle that a job reads.
#[derive(Debug)]
pub(super) struct Feed {
    feeding: Option<JoinHandle<Fed>>,
}

impl Feed {
    /// The bundle in these files, and what the job gets of it.
    pub(super) fn begin(paths: &[PathBuf]) -> Result<(Feed, OwnedFd), JobError> {
        let mut files = Vec::new();
        for path in paths {
            let file = File::open(path).map_err(|error| fault("open", path, &error))?;
            files.push((path.display().to_string(), file));
        }
        let mut source = match Source::open(files)?.into_file() {
            Ok(file) => return Ok((Feed { feeding: None }, file.into())),
            Err(source) => source,
        };
        let (reader, writer) =
            io::pipe().map_err(|error| fault("make a pipe for", Path::new("the parts"), &error))?;
        let feeding = std::thread::spawn(move || {
            let fed = source.feed(writer);
            (source, fed)
        });
        let feed = Feed {
            feeding: Some(feeding),
        };
        Ok((feed, reader.into()))
    }

    /// What was wrong with a part, which is why the job found the bundle wrong.
    pub(super) fn trouble(&mut self) -> Option<JobError> {
        let (mut source, fed) = self.feeding.take()?.join().ok()?;
        fed.err().or_else(|| source.blame())
    }
}

/// Where the receipt of a bundle goes when nobody says it: next to the bundle.
pub(super) fn receipt_path(first: &Path) -> PathBuf {
    let is_number = |end: &std::ffi::OsStr| {
        let end = end.as_encoded_bytes();
        end.len() >= 3 && end.iter().all(u8::is_ascii_digit)
    };
    let whole = match first.extension() {
        Some(end) if is_number(end) => first.with_extension(""),
        _ => first.to_owned(),
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
    fn a_receipt_goes_next_to_the_bundle() {
        let check = |first: &str, receipt: &str| {
            assert_eq!(receipt_path(Path::new(first)), Path::new(receipt));
        };
        check("/media/lab.orlop", "/media/lab.orlop.receipt");
        check("/media/lab.orlop.001", "/media/lab.orlop.receipt");
        check("lab.v1", "lab.v1.receipt");
    }
}

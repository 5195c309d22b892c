//! Bundles: a signed stream of index entries and crate files that crosses an air gap.
//!
//! # Format 1
//!
//! A bundle is a tar, written and read from its first byte to its last, so that it may be a pipe, a
//! tape or a disk. `tar tf` shows what is in it:
//!
//! ```text
//! manifest.json           who signed, the receipt that it is a delta against, how many crate files
//!                         follow with how many bytes, and of each section its sha256, length, records
//! manifest.sig            ed25519 signature of manifest.json, 64 bytes;
//!                         of an unsigned bundle manifest.sha256, for `sha256sum -c`
//! crates.jsonl.zst        crate files, by name, within a name by version
//! index.jsonl.zst         index files, by name
//! journal.jsonl.zst       events, as they were noticed
//! crates/NAME-VERSION.crate …                  in the order of crates.jsonl.zst
//! ```
//!
//! The bundle's id is the sha256 of manifest.json: everything else follows from it by checksums. The
//! manifest says nothing that changes while the state stays: no time, no version of orlop. The same
//! state, selection and key give the same bytes (of one build: another zstd may pack otherwise). Only
//! a tar as orlop writes it is accepted, see [`archive`](super::archive): one that was unpacked and
//! packed again has other headers.
//!
//! The sections are lines of JSON, packed by zstd (`zstd -dc`). Their checksums are those of the
//! packed bytes, so that nothing is unpacked that was not verified. Crate files stand as they are:
//! they are gzip, on which zstd saves one part in two hundred (measured on 2,087 of them: 0.995 of the
//! size at level 3, 0.984 at level 19).
//!
//! | section | record |
//! |---|---|
//! | `crates` | `name`, `version`, `sha256`, `size`; `left_out` where the receiver has it |
//! | `index` | `name`, `etag`, `last_modified`, `seen` (when this file was seen, in ms since 1970), `gone`; `file`: the exact bytes, as `text` or, where they are not UTF-8, as `base64`; or `left_out`: the digest of a file that the receiver has |
//! | `journal` | `at` (ms since 1970), `name`, `kind` |
//!
//! The crate files list the whole state, also what a delta leaves out: so the receiver can tell exactly
//! what it lacks when the delta was made against another state than its own. They are sorted by name
//! and not by sha256, because then the list is written in one pass without sorting.
//!
//! Not in a bundle: crate files of versions that were published anew since (superseded), and the
//! times of checks, which move without a change. An entry that comes in counts as last confirmed
//! when its file was seen: a store that asked upstream later keeps what it has. What came from a
//! bundle itself does not outrank a later one by a clock alone ([`rank`] has the rules).
//!
//! A bundle in parts is cut anywhere: `cat` puts the parts together.
//!
//! # Memory
//!
//! The export that uses a receipt has 16 bytes a crate file and about 30 a name of it in memory: 50 MB
//! for three million crate files. All else is read and written in pieces, or one record at a time. The
//! sections stand on the store's disk while a bundle is written or read: about a tenth of what the
//! index files take unpacked.

mod error;
mod export;
mod format;
mod import;
mod key;
mod pace;
mod rank;
mod receipt;
mod section;
mod stream;
#[cfg(test)]
mod tests;

use std::{fs::File, io::Read, sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize};

pub use self::key::{InvalidKey, PublicKey};
use self::{
    error::Error,
    export::Export,
    import::Import,
    key::{KeyFile, MAX_KEY_FILE_BYTES, SigningKey},
    receipt::Receipt,
    stream::Trust,
};
use super::select::Selection;
use crate::{
    jobs::{
        Fault, JobContext, JobError, Services,
        cancellable_io::CancellableIo,
        error::Failure,
        job::{Job, JobReport},
        kind::JobKind,
        select::choose,
    },
    metrics::Direction,
    store::Store,
    util::task,
};

/// How many things of a kind a report lists by name.
const MAX_TOLD: usize = 1000;

/// What to write. The files: where the bundle goes, written in order and never read; then the
/// receipt, if there is one; then the key, if there is one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportRequest {
    /// The crates; empty: everything held.
    pub selection: Selection,
    /// Whether a receipt is among the files: what it names is left out.
    pub since: bool,
    /// Whether a key is among the files, to sign with instead of the store's.
    pub key: bool,
    /// Whether nobody signs.
    pub unsigned: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportReport {
    /// The bundle's id.
    pub id: String,
    /// Who signed it; `None`: nobody.
    pub key: Option<String>,
    /// The receipt that it is a delta against; `None`: it is whole.
    pub base: Option<String>,
    /// Index entries in it.
    pub names: u64,
    /// Index entries that the receiver has.
    pub names_left_out: u64,
    /// Crate files in it.
    pub crates: u64,
    /// Their bytes.
    pub crate_bytes: u64,
    /// Crate files that the receiver has.
    pub crates_left_out: u64,
    /// Events of the journal in it.
    pub events: u64,
    /// Whether nothing of the selection is held: then there is no bundle.
    pub nothing: bool,
    /// The files that it was written to, where the command wrote them; none: stdout.
    pub files: Vec<String>,
    /// The bytes of these files together.
    pub bundle_bytes: u64,
    /// What was chosen and is not held, by name and version; at most 1000 of them.
    pub missing: Vec<String>,
    /// How many there are of these.
    pub missing_count: u64,
    /// What could not be chosen.
    pub failed: Vec<Failure>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl JobReport for ExportReport {
    const NAME: &'static str = "export";

    /// Whether the bundle lacks something that was asked for. It is good for the rest.
    fn has_problems(&self) -> bool {
        self.nothing || self.missing_count > 0 || !self.failed.is_empty()
    }
}

/// What to take in. The files: the bundle, read in order; then where the receipt goes, if one is
/// wanted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportRequest {
    /// Public keys that are trusted besides those of the configuration and our own.
    pub trust: Vec<String>,
    /// Whether a bundle that nobody signed is taken.
    pub unsigned: bool,
    /// Whether everything is verified and nothing taken in.
    pub dry_run: bool,
    /// Whether a file for the receipt is among the files.
    pub receipt: bool,
    /// The files that the bundle is cut into, in order; none: it is in one piece.
    pub parts: Vec<ImportPart>,
}

/// A file that has a part of a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportPart {
    /// Its name, for messages.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// What was taken in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportReport {
    /// The bundle's id.
    pub id: String,
    /// Who signed it; `None`: nobody.
    pub key: Option<String>,
    /// The receipt that it is a delta against; `None`: it is whole.
    pub base: Option<String>,
    /// Whether nothing was taken in, only verified.
    pub dry_run: bool,
    /// Index entries that came in.
    pub names: u64,
    /// Index entries that were here.
    pub names_held: u64,
    /// Index entries that are newer here and were kept.
    pub names_kept: u64,
    /// Crate files that came in.
    pub crates: u64,
    /// Their bytes.
    pub crate_bytes: u64,
    /// Crate files that were here.
    pub crates_held: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Events that the journal did not have.
    pub events: u64,
    /// Crate files of the bundle that the index here does not list, by name and version; at most
    /// 1000 of them.
    pub unlisted: Vec<String>,
    /// How many there are of these.
    pub unlisted_count: u64,
    /// Versions that the index entries of the bundle list and whose files are not here.
    pub absent: u64,
    /// The id of the receipt that was written.
    pub receipt: Option<String>,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl JobReport for ImportReport {
    const NAME: &'static str = "import";

    /// Whether something came in that the index does not list.
    fn has_problems(&self) -> bool {
        self.unlisted_count > 0
    }
}

/// What to do with the key that this store signs with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyRequest {
    /// Whether to make one. Otherwise it is shown.
    pub generate: bool,
    /// Whether one that is there is replaced.
    pub force: bool,
}

/// The key that this store signs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KeyReport {
    /// The public half.
    pub public_key: String,
    /// The file of the private half.
    pub file: String,
    /// Whether it was made just now.
    pub made: bool,
}

impl Job for ExportRequest {
    const NAME: &'static str = "export";
    type Report = ExportReport;

    fn kind(&self) -> JobKind {
        JobKind::Export
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<ExportReport, JobError> {
        let files = cx.take_files();
        let (request, services) = (self, &services);
        let chosen = if request.selection.is_empty() {
            None
        } else {
            Some(choose(services, &request.selection, false, &cx).await?)
        };
        let (store, key_file) = (services.store.clone(), key_file(services));
        let metrics = Arc::clone(&services.metrics);
        task::blocking(move || {
            let mut files = files.into_iter().map(File::from);
            let out = next_file(&mut files)?;
            let receipt = if request.since {
                let file = CancellableIo::new(next_file(&mut files)?, cx.clone());
                let read = Receipt::read(file, &store, &cx);
                Some(read.map_err(|error| error.into_job("use the receipt"))?)
            } else {
                None
            };
            let given = request.key.then(|| next_file(&mut files)).transpose()?;
            let key = signing_key(&request, given, &key_file, &cx)
                .map_err(|error| error.into_job("use the key"))?;
            let export = Export {
                store: &store,
                chosen: chosen.as_ref(),
                receipt: receipt.as_ref(),
                key: key.as_ref(),
                cx: &cx,
            };
            let mut out = CancellableIo::new(out, cx.clone());
            let outcome = export.write(&mut out);
            metrics.bundled(Direction::Export, out.moved());
            outcome.map_err(|error| {
                if cx.is_cancelled() {
                    return JobError::cancelled();
                }
                error.into_job("write the bundle")
            })
        })
        .await?
    }
}

impl Job for ImportRequest {
    const NAME: &'static str = "import";
    type Report = ImportReport;

    fn kind(&self) -> JobKind {
        JobKind::Import
    }

    async fn run(self, cx: JobContext, services: Services) -> Result<ImportReport, JobError> {
        let files = cx.take_files();
        let (request, services) = (self, &services);
        let trust = trust(services, &request)?;
        let store = services.store.clone();
        let metrics = Arc::clone(&services.metrics);
        let now = services.clock.now();
        task::blocking(move || {
            let mut files = files.into_iter().map(File::from);
            let mut input = CancellableIo::new(next_file(&mut files)?, cx.clone());
            let receipt = request.receipt.then(|| next_file(&mut files)).transpose()?;
            let outcome = import(&store, &request, &trust, &mut input, receipt, now, &cx);
            metrics.bundled(Direction::Import, input.moved());
            outcome
        })
        .await?
    }
}

impl JobReport for KeyReport {
    const NAME: &'static str = "key";
}

impl Job for KeyRequest {
    const NAME: &'static str = "key";
    type Report = KeyReport;

    fn kind(&self) -> JobKind {
        // A new key beside an export that signs: one of the two waits.
        if self.generate {
            JobKind::Export
        } else {
            JobKind::Read
        }
    }

    async fn run(self, _cx: JobContext, services: Services) -> Result<KeyReport, JobError> {
        let (request, services) = (self, &services);
        let file = key_file(services);
        task::blocking(move || key(&request, &file)).await?
    }
}

fn key_file(services: &Services) -> KeyFile {
    KeyFile::of(&services.options.get().bundle.key_dir)
}

/// What the configuration names, what the request names, and our own key.
fn trust(services: &Services, request: &ImportRequest) -> Result<Trust, JobError> {
    let mut keys = Vec::new();
    let options = services.options.get();
    let configured = options.bundle.trust.iter();
    let told = configured.map(|text| (text, "import.trust"));
    let told = told.chain(request.trust.iter().map(|text| (text, "--trust")));
    for (text, place) in told {
        let key = text.parse().map_err(|error: InvalidKey| {
            let what = format!("could not use `{text}` of `{place}` as a public key");
            JobError::new(Fault::Usage, what).because(&error)
        })?;
        keys.push(key);
    }
    match key_file(services).read() {
        Ok(own) => keys.extend(own.map(|own| own.public())),
        // Whoever cannot read it trusts the others all the same.
        Err(error) => tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not read our own key"
        ),
    }
    Ok(Trust {
        keys,
        unsigned: request.unsigned,
    })
}

fn next_file(files: &mut impl Iterator<Item = File>) -> Result<File, JobError> {
    files
        .next()
        .ok_or_else(|| JobError::new(Fault::Usage, "a file is missing in the request"))
}

fn signing_key(
    request: &ExportRequest,
    given: Option<File>,
    own: &KeyFile,
    cx: &JobContext,
) -> Result<Option<SigningKey>, Error> {
    if let Some(file) = given {
        let mut bytes = Vec::new();
        let file = CancellableIo::new(file, cx.clone());
        let read = file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut bytes);
        read.map_err(Error::reading("the key"))?;
        return SigningKey::read(&bytes).map(Some);
    }
    if request.unsigned {
        return Ok(None);
    }
    if let Some(key) = own.read()? {
        return Ok(Some(key));
    }
    let key = own.generate()?;
    cx.note(format!(
        "made the key that this store signs with: machines that import its bundles need \
         `trust = [\"{}\"]` in the table [import] of their configuration",
        key.public()
    ));
    Ok(Some(key))
}

fn key(request: &KeyRequest, file: &KeyFile) -> Result<KeyReport, JobError> {
    let told = |error: Error| error.into_job("use the key of this store");
    let path = file.path().display().to_string();
    // One that is damaged may be replaced, too.
    let is_there = file.path().exists();
    let key = match (request.generate, is_there) {
        (true, true) if !request.force => {
            return Err(JobError::new(
                Fault::Usage,
                format!("this store has a key already, at `{path}`"),
            )
            .hint(
                "`orlop key show` shows its public half; `--force` replaces it, and every machine \
                 that trusts the old one has to be told the new one",
            ));
        }
        (true, _) => file.generate().map_err(told)?,
        (false, _) => file.read().map_err(told)?.ok_or_else(|| {
            JobError::new(Fault::Usage, "this store has no key yet")
                .hint("it is made at the first export, or by `orlop key generate`")
        })?,
    };
    Ok(KeyReport {
        public_key: key.public().to_string(),
        file: path,
        made: request.generate,
    })
}

fn import(
    store: &Store,
    request: &ImportRequest,
    trust: &Trust,
    input: impl Read,
    receipt: Option<File>,
    now: SystemTime,
    cx: &JobContext,
) -> Result<ImportReport, JobError> {
    let before = store.totals().blobs;
    let told = |error: Error| {
        let is_cut = error.is_damage() || matches!(error, Error::Parts(_));
        let mut error = error.into_job("take the bundle in");
        if is_cut
            && store.totals().blobs > before
            && let Some(hint) = &mut error.hint
        {
            hint.push_str(
                "; what was taken in of it stays, so that the next import is shorter, and no index \
                 entry of it is visible",
            );
        }
        error
    };
    let import = Import {
        store,
        trust,
        parts: &request.parts,
        dry_run: request.dry_run,
        now,
        cx,
    };
    let outcome = import.read(input);
    let mut report = outcome.map_err(|error| {
        if cx.is_cancelled() {
            return JobError::cancelled();
        }
        told(error)
    })?;
    if let Some(base) = &report.base
        && !receipt::is_own(store, base)
    {
        report.notes.push(
            "the bundle is a delta against a receipt that this store did not write; everything \
             that it leaves out is here"
                .to_owned(),
        );
    }
    if let Some(mut file) = receipt.filter(|_| !request.dry_run) {
        let id = Receipt::write(store, &mut file, &report.id, now)
            .map_err(|error| error.into_job("write the receipt; the bundle was taken in"))?;
        report.receipt = Some(id.to_hex());
    }
    Ok(report)
}

//! A repository written by hand, for tests: small trees, one pack a generation; and a client that
//! takes a stream apart.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use flate2::Decompress;
use sha1::{Digest, Sha1};
use tempfile::TempDir;

use super::{
    Head, ObjectId,
    chain::NewPack,
    delta,
    entry::{self, Form, Header, Kind, id_of},
    pack::{self, IndexEntry},
    serve::PackStream,
};

/// Where the index file of a crate lies.
pub(super) fn index_path(name: &str) -> String {
    match name.len() {
        length @ 1..=2 => format!("{length}/{name}"),
        3 => format!("3/{}/{name}", &name[..1]),
        _ => format!("{}/{}/{name}", &name[..2], &name[2..4]),
    }
}

pub(super) type Objects = HashMap<ObjectId, (Kind, Vec<u8>)>;

/// Files by path, and all objects that ever were.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) objects: HashMap<ObjectId, (u8, Vec<u8>)>,
    /// The head after each generation, and what its tree and commit are.
    pub(super) heads: Vec<(Head, BTreeSet<ObjectId>)>,
    names: BTreeMap<String, ObjectId>,
    /// Whether objects that were there before are written again when they come back.
    pub(super) writes_again: bool,
}

impl Model {
    /// The next generation: `changes` to files, then a commit and the pack of the new objects.
    pub(super) fn commit(&mut self, folder: &Path, changes: &[(&str, Option<&[u8]>)]) -> NewPack {
        for (path, bytes) in changes {
            match bytes {
                Some(bytes) => self.files.insert((*path).to_owned(), bytes.to_vec()),
                None => self.files.remove(*path),
            };
        }
        let mut new: Vec<(ObjectId, Kind, Vec<u8>)> = Vec::new();
        let mut names = BTreeMap::new();
        let mut all = BTreeSet::new();
        let mut blobs = BTreeMap::new();
        for (path, bytes) in &self.files {
            let id = id_of(Kind::Blob, bytes);
            blobs.insert(path.clone(), id);
            names.insert(path.clone(), id);
            new.push((id, Kind::Blob, bytes.clone()));
        }
        let root = tree("", &blobs, &mut names, &mut new);
        let generation = self.heads.last().map_or(7, |(head, _)| head.generation + 1);
        let parent = self
            .heads
            .last()
            .map_or(String::new(), |(head, _)| format!("parent {}\n", head.id));
        let who = format!(
            "orlop <orlop@localhost> {} +0000",
            1_700_000_000 + generation
        );
        let text = format!(
            "tree {root}\n{parent}author {who}\ncommitter {who}\n\ngeneration {generation}: test\n"
        );
        let id = id_of(Kind::Commit, text.as_bytes());
        new.push((id, Kind::Commit, text.into_bytes()));
        all.extend(new.iter().map(|(id, ..)| *id));
        let before = self
            .heads
            .last()
            .map(|(_, all)| all.clone())
            .unwrap_or_default();
        let mut seen = BTreeSet::new();
        new.retain(|(id, ..)| {
            seen.insert(*id)
                && !before.contains(id)
                && (self.writes_again || !self.objects.contains_key(id))
        });
        let bases = names
            .iter()
            .filter_map(|(path, id)| Some((*id, *self.names.get(path)?)));
        let bases = bases
            .filter(|(new_id, old)| new_id != old && new.iter().any(|(id, ..)| id == new_id))
            .collect();
        for (id, kind, bytes) in &new {
            self.objects.insert(*id, (kind.code(), bytes.clone()));
        }
        self.names = names;
        let head = Head { id, generation };
        self.heads.push((head, all));
        NewPack {
            path: write_pack(folder, &new),
            head,
            bases,
        }
    }

    /// What a client has that has all up to a generation.
    pub(super) fn all_up_to(&self, generation: u64) -> Objects {
        let heads = self
            .heads
            .iter()
            .filter(|(head, _)| head.generation <= generation);
        self.some(heads.flat_map(|(_, all)| all))
    }

    /// What a client has that has the commits of some generations.
    pub(super) fn all_of(&self, generations: &[u64]) -> Objects {
        let heads = self
            .heads
            .iter()
            .filter(|(head, _)| generations.contains(&head.generation));
        self.some(heads.flat_map(|(_, all)| all))
    }

    fn some<'a>(&self, ids: impl Iterator<Item = &'a ObjectId>) -> Objects {
        ids.map(|id| {
            let (code, bytes) = &self.objects[id];
            (*id, (Kind::of_code(*code).unwrap(), bytes.clone()))
        })
        .collect()
    }

    pub(super) fn head(&self) -> Head {
        self.heads.last().unwrap().0
    }
}

fn tree(
    at: &str,
    blobs: &BTreeMap<String, ObjectId>,
    names: &mut BTreeMap<String, ObjectId>,
    new: &mut Vec<(ObjectId, Kind, Vec<u8>)>,
) -> ObjectId {
    let mut rows: BTreeMap<String, (bool, ObjectId)> = BTreeMap::new();
    for (path, id) in blobs {
        let Some(rest) = path.strip_prefix(at) else {
            continue;
        };
        match rest.split_once('/') {
            None => {
                rows.insert(rest.to_owned(), (false, *id));
            }
            Some((folder, _)) if !rows.contains_key(&format!("{folder}/")) => {
                let below = tree(&format!("{at}{folder}/"), blobs, names, new);
                rows.insert(format!("{folder}/"), (true, below));
            }
            Some(_) => {}
        }
    }
    let mut bytes = Vec::new();
    for (name, (is_tree, id)) in rows {
        let mode = if is_tree { "40000" } else { "100644" };
        bytes.extend_from_slice(format!("{mode} {}\0", name.trim_end_matches('/')).as_bytes());
        bytes.extend_from_slice(id.as_bytes());
    }
    let id = id_of(Kind::Tree, &bytes);
    names.insert(at.to_owned(), id);
    new.push((id, Kind::Tree, bytes));
    id
}

/// Writes a pack of whole objects with its index, as the repository does.
pub(super) fn write_pack(folder: &Path, objects: &[(ObjectId, Kind, Vec<u8>)]) -> PathBuf {
    let mut pack = entry::pack_header(u32::try_from(objects.len()).unwrap()).to_vec();
    let (mut places, mut sums) = (Vec::new(), Vec::new());
    for (id, kind, bytes) in objects.iter().rev() {
        let start = pack.len();
        places.push((*id, start as u64));
        Header {
            form: Form::Whole(*kind),
            size: bytes.len() as u64,
        }
        .write(&mut pack);
        entry::deflate(&mut entry::deflater(), bytes, &mut pack);
        sums.push(crc32fast::hash(&pack[start..]));
    }
    let trailer: [u8; 20] = Sha1::digest(&pack).into();
    pack.extend_from_slice(&trailer);
    let path = folder.join(format!("pack-{}.pack", ObjectId::from(trailer)));
    fs::write(&path, pack).unwrap();
    let mut entries: Vec<_> = places
        .into_iter()
        .zip(sums)
        .map(|((id, offset), crc32)| IndexEntry { id, crc32, offset })
        .collect();
    pack::replace_index(&path, &mut entries, &ObjectId::from(trailer)).unwrap();
    path
}

/// A bare repository, still empty.
pub(super) fn bare() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let repository = dir.path().join("index");
    fs::create_dir_all(repository.join("objects/pack")).unwrap();
    fs::create_dir_all(repository.join("refs/heads")).unwrap();
    fs::write(repository.join("HEAD"), "ref: refs/heads/master\n").unwrap();
    fs::write(
        repository.join("config"),
        "[core]\n\trepositoryformatversion = 0\n\tbare = true\n",
    )
    .unwrap();
    (dir, repository)
}

pub(super) fn set_head(repository: &Path, head: Head) {
    fs::write(
        repository.join("refs/heads/master"),
        format!("{}\n", head.id),
    )
    .unwrap();
}

/// Runs git; its standard output.
pub(super) fn git(repository: &Path, args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(repository)
        .args(args)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "git {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// What a client had and got. Panics on all that a client may refuse: a wrong count or trailer, an
/// object twice, a `REF_DELTA` whose base comes in the same stream, a missing base.
pub(super) fn receive(mut had: Objects, stream: PackStream) -> (Objects, Got) {
    let objects = stream.objects();
    let mut bytes = Vec::new();
    // Odd pieces, as a socket may want them.
    let mut stream = stream;
    let mut buffer = [0; 977];
    loop {
        let read = stream.read(&mut buffer).unwrap();
        if read == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
    let (entries, trailer) = bytes.split_at(bytes.len() - 20);
    assert_eq!(&<[u8; 20]>::from(Sha1::digest(entries)), trailer);
    assert_eq!(entries[..12], entry::pack_header(objects));
    let (mut at, mut zlib) = (12, Decompress::new(true));
    let mut by_place: HashMap<usize, ObjectId> = HashMap::new();
    let mut sent = BTreeSet::new();
    let mut got = Got {
        bytes: bytes.clone(),
        ..Got::default()
    };
    while at < entries.len() {
        let (header, length) = Header::read(&entries[at..]).unwrap();
        let mut data = Vec::new();
        let used =
            entry::inflate(&mut zlib, &entries[at + length..], header.size, &mut data).unwrap();
        let base = match header.form {
            Form::Whole(_) => None,
            Form::Offset(distance) => Some(by_place[&(at - usize::try_from(distance).unwrap())]),
            Form::Reference(id) => {
                got.references.insert(id);
                Some(id)
            }
        };
        let (kind, data) = match (header.form, base) {
            (Form::Whole(kind), _) => (kind, data),
            (_, Some(base)) => {
                got.deltas += 1;
                let (kind, bytes) = had
                    .get(&base)
                    .unwrap_or_else(|| panic!("base {base} is not there"));
                (*kind, delta::apply(bytes, &data).unwrap())
            }
            _ => unreachable!(),
        };
        let id = id_of(kind, &data);
        assert!(sent.insert(id), "{id} came twice");
        by_place.insert(at, id);
        had.insert(id, (kind, data));
        at += length + used;
    }
    assert_eq!(sent.len(), objects as usize);
    assert!(
        got.references.is_disjoint(&sent),
        "a base of a REF_DELTA came too"
    );
    got.sent = sent;
    (had, got)
}

/// A stream taken apart.
#[derive(Debug, Default)]
pub(super) struct Got {
    pub(super) bytes: Vec<u8>,
    pub(super) sent: BTreeSet<ObjectId>,
    pub(super) references: BTreeSet<ObjectId>,
    pub(super) deltas: usize,
}

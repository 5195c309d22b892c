//! Crates and index lines made in code: small libraries that real cargo builds, of any size.

use std::{collections::BTreeMap, io::Write as _, sync::Arc};

use flate2::{Compression, GzBuilder};
use serde_json::json;

use super::sha256;

/// One release to be built: a library with dependencies, features and filler.
#[derive(Clone, Debug)]
pub(crate) struct Krate {
    name: String,
    version: String,
    dependencies: Vec<Dependency>,
    features: BTreeMap<String, Vec<String>>,
    filler_bytes: usize,
    yanked: bool,
    code: Option<String>,
}

#[derive(Clone, Debug)]
struct Dependency {
    name: String,
    requirement: String,
    optional: bool,
}

impl Krate {
    pub(crate) fn new(name: &str, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            dependencies: Vec::new(),
            features: BTreeMap::new(),
            filler_bytes: 0,
            yanked: false,
            code: None,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dep(mut self, name: &str, requirement: &str) -> Self {
        self.dependencies.push(Dependency {
            name: name.to_owned(),
            requirement: requirement.to_owned(),
            optional: false,
        });
        self
    }

    pub(crate) fn optional_dep(mut self, name: &str, requirement: &str) -> Self {
        self = self.dep(name, requirement);
        if let Some(last) = self.dependencies.last_mut() {
            last.optional = true;
        }
        self
    }

    pub(crate) fn feature(mut self, name: &str, enables: &[&str]) -> Self {
        let enables = enables.iter().map(|&text| text.to_owned()).collect();
        self.features.insert(name.to_owned(), enables);
        self
    }

    /// Adds that many bytes that do not compress, so that the `.crate` is at least as large.
    pub(crate) fn size(mut self, bytes: usize) -> Self {
        self.filler_bytes = bytes;
        self
    }

    pub(crate) fn yanked(mut self) -> Self {
        self.yanked = true;
        self
    }

    /// The text of `src/lib.rs`; by default a function `count` that adds up the dependencies'.
    pub(crate) fn code(mut self, code: &str) -> Self {
        self.code = Some(code.to_owned());
        self
    }

    /// Builds the archive and its index line; the same description gives the same bytes.
    pub(crate) fn build(&self) -> Release {
        let bytes = self.archive();
        let checksum = sha256(&bytes);
        Release {
            version: self.version.clone(),
            line: self.line(&checksum),
            sha256: checksum,
            bytes: bytes.into(),
        }
    }

    fn archive(&self) -> Vec<u8> {
        let gzip = GzBuilder::new()
            .mtime(0)
            .write(Vec::new(), Compression::fast());
        let mut tar = tar::Builder::new(gzip);
        let mut add = |path: &str, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(1_153_704_088);
            let path = format!("{}-{}/{path}", self.name, self.version);
            tar.append_data(&mut header, path, bytes)
                .expect("memory takes every write");
        };
        add("Cargo.toml", self.manifest().as_bytes());
        add("src/lib.rs", self.library().as_bytes());
        if self.filler_bytes > 0 {
            let seed = u64::from(crc32fast::hash(
                format!("{} {}", self.name, self.version).as_bytes(),
            ));
            let mut filler = vec![0; self.filler_bytes];
            fastrand::Rng::with_seed(seed).fill(&mut filler);
            add("filler.bin", &filler);
        }
        tar.into_inner()
            .and_then(|mut gzip| {
                gzip.flush()?;
                gzip.finish()
            })
            .expect("memory takes every write")
    }

    fn manifest(&self) -> String {
        let mut manifest = format!(
            "[package]\nname = \"{}\"\nversion = \"{}\"\nedition = \"2021\"\n\
             description = \"A crate made for a test\"\nlicense = \"MIT\"\n\n[lib]\npath = \"src/lib.rs\"\n\n[dependencies]\n",
            self.name, self.version
        );
        for Dependency {
            name,
            requirement,
            optional,
        } in &self.dependencies
        {
            manifest +=
                &format!("{name} = {{ version = \"{requirement}\", optional = {optional} }}\n");
        }
        manifest += "\n[features]\n";
        for (name, enables) in &self.features {
            manifest += &format!("{name} = {enables:?}\n");
        }
        manifest
    }

    fn library(&self) -> String {
        if let Some(code) = &self.code {
            return code.clone();
        }
        let sum: String = self
            .dependencies
            .iter()
            .filter(|dependency| !dependency.optional)
            .map(|dependency| format!(" + {}::count()", dependency.name.replace('-', "_")))
            .collect();
        format!("pub fn count() -> u64 {{\n    1{sum}\n}}\n")
    }

    /// The line as crates.io writes it today: this order of fields, no spaces.
    fn line(&self, checksum: &str) -> String {
        let deps: Vec<String> = self
            .dependencies
            .iter()
            .map(|dependency| {
                format!(
                    r#"{{"name":{},"req":{},"features":[],"optional":{},"default_features":true,"target":null,"kind":"normal"}}"#,
                    json!(dependency.name),
                    json!(dependency.requirement),
                    dependency.optional
                )
            })
            .collect();
        format!(
            r#"{{"name":{},"vers":{},"deps":[{}],"cksum":"{checksum}","features":{},"yanked":{},"rust_version":"1.56","pubtime":"2024-02-03T04:05:06Z","v":2}}"#,
            json!(self.name),
            json!(self.version),
            deps.join(","),
            json!(self.features),
            self.yanked,
        )
    }
}

/// A release as a registry holds it.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) version: String,
    pub(crate) line: String,
    pub(crate) sha256: String,
    pub(crate) bytes: Arc<[u8]>,
}

/// All releases by crate name, in the order of publication.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry {
    releases: BTreeMap<String, Vec<Release>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with(mut self, krate: &Krate) -> Self {
        self.put(krate);
        self
    }

    /// Publishes a release, or replaces it when that version is there: what a registry must not do.
    pub(crate) fn put(&mut self, krate: &Krate) {
        let release = krate.build();
        let versions = self.releases.entry(krate.name.clone()).or_default();
        match versions
            .iter_mut()
            .find(|old| old.version == release.version)
        {
            Some(old) => *old = release,
            None => versions.push(release),
        }
    }

    /// Forgets a crate altogether.
    pub(crate) fn remove(&mut self, name: &str) {
        self.releases.remove(name);
    }

    /// Marks a version as yanked in its index line.
    pub(crate) fn yank(&mut self, name: &str, version: &str) {
        let release = self
            .releases
            .get_mut(name)
            .and_then(|versions| versions.iter_mut().find(|old| old.version == version))
            .expect("the release that a test yanks is there");
        release.line = release
            .line
            .replace(r#""yanked":false"#, r#""yanked":true"#);
    }

    /// The release, which must be there.
    #[track_caller]
    pub(crate) fn release(&self, name: &str, version: &str) -> Release {
        self.find(name, version)
            .unwrap_or_else(|| panic!("the registry of this test has no {name} {version}"))
    }

    pub(crate) fn find(&self, name: &str, version: &str) -> Option<Release> {
        self.releases
            .get(name)?
            .iter()
            .find(|release| release.version == version)
            .cloned()
    }

    /// The index file below its lower-case path: one line a release.
    pub(crate) fn index_file(&self, lower_name: &str) -> Option<String> {
        // Most names are written in lower case; the others are looked for.
        let releases = self.releases.get(lower_name).or_else(|| {
            let mut all = self.releases.iter();
            let found = all.find(|(name, _)| name.to_lowercase() == lower_name);
            found.map(|(_, releases)| releases)
        })?;
        Some(
            releases
                .iter()
                .map(|release| format!("{}\n", release.line))
                .collect(),
        )
    }
}

/// Where the sparse index has a crate, without a leading slash.
pub(crate) fn index_path(name: &str) -> String {
    let lower = name.to_lowercase();
    let prefix = prefix(&lower);
    format!("{prefix}/{lower}")
}

/// The folder part of an index path, in the letters given.
pub(crate) fn prefix(name: &str) -> String {
    match name.len() {
        0..=2 => name.len().to_string(),
        3 => format!("3/{}", &name[..1]),
        _ => format!("{}/{}", &name[..2], &name[2..4]),
    }
}

/// `count` libraries `knot-000`, `knot-001`, … where each needs the two after it.
pub(crate) fn knots(count: usize) -> Registry {
    let mut registry = Registry::new();
    for number in 0..count {
        let mut krate = Krate::new(&format!("knot-{number:03}"), "1.0.0")
            .code(&format!("pub fn number() -> usize {{\n    {number}\n}}\n"));
        for next in [number + 1, number + 2] {
            if next < count {
                krate = krate.dep(&format!("knot-{next:03}"), "^1");
            }
        }
        registry.put(&krate);
    }
    registry
}

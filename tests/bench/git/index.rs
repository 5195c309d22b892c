//! A synthetic crates.io index in the real layout: the same for a seed, cut into generations.
//!
//! It is made to compress, and to delta, as the real one does: most lines repeat the dependencies
//! of the line before, every line has its own checksum and time, and the crates of one family
//! share a root name, a cadence of releases and some dependencies, but no lines. The shape of the
//! numbers (versions, sizes, folders) was fitted to real files; `cargo bench --bench git -- stats`
//! measures it.
//!
//! Nothing is held in memory but names and changes: a file is made anew whenever it is asked for.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Write as _,
};

use fastrand::Rng;

/// How many names the index has that the figures of the project are quoted for.
pub(crate) const NAMES: usize = 250_000;

/// The index at some generation.
#[derive(Debug, Clone)]
pub(crate) struct Index {
    seed: u64,
    names: Vec<Box<str>>,
    taken: HashSet<Box<str>>,
    /// How many names the first generation has.
    first: usize,
    generation: u64,
    /// What happened to a crate after the first generation, in order.
    changes: BTreeMap<usize, Vec<Change>>,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    /// The next version.
    Append,
    /// One of the versions there are, picked by this number, is yanked, or not any more.
    Yank(u64),
}

/// One index file: its path and its bytes.
pub(crate) type File = (String, Vec<u8>);

impl Index {
    /// Generation 1 with this many names.
    pub(crate) fn new(names: usize, seed: u64) -> Index {
        let mut index = Index {
            seed,
            names: Vec::with_capacity(names),
            taken: HashSet::with_capacity(names),
            first: names,
            generation: 1,
            changes: BTreeMap::new(),
        };
        let mut rng = Rng::with_seed(seed);
        while index.names.len() < names {
            for name in family(&mut rng) {
                if index.names.len() < names {
                    index.add(name);
                }
            }
        }
        index
    }

    fn add(&mut self, name: String) {
        let name: Box<str> = name.into();
        // The index knows crates by the lower-case spelling with `-` and `_` alike.
        if self
            .taken
            .insert(name.to_ascii_lowercase().replace('_', "-").into())
        {
            self.names.push(name);
        }
    }

    /// The number of the generation, the first being 1.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// All files as they are now, in no order.
    pub(crate) fn files(&self) -> impl Iterator<Item = File> + '_ {
        (0..self.names.len()).map(|at| self.file(at))
    }

    /// Goes on to the next generation, in which `count` names change: new versions for most of
    /// them, active crates before others, some yanks of old versions, a few new crates. The files
    /// that changed, as they are now.
    pub(crate) fn advance(&mut self, count: usize) -> Vec<File> {
        self.generation += 1;
        let mut rng =
            Rng::with_seed(self.seed ^ self.generation.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut changed = BTreeSet::new();
        while changed.len() < count {
            if rng.f32() < 0.08 {
                let before = self.names.len();
                let name = family(&mut rng).swap_remove(0);
                self.add(name);
                if self.names.len() > before {
                    changed.insert(before);
                }
                continue;
            }
            let at = rng.usize(..self.names.len());
            // A crate is published the more often the more versions it has.
            let active = rng.f32() < 0.02 || (rng.usize(..120)) < self.start(at).versions;
            if active && changed.insert(at) {
                let change = if rng.f32() < 0.06 {
                    Change::Yank(rng.u64(..))
                } else {
                    Change::Append
                };
                self.changes.entry(at).or_default().push(change);
            }
        }
        changed.into_iter().map(|at| self.file(at)).collect()
    }

    fn start(&self, at: usize) -> Crate<'_> {
        Crate::new(self, at)
    }

    fn file(&self, at: usize) -> File {
        let mut krate = self.start(at);
        let mut lines = Vec::with_capacity(krate.versions);
        for _ in 0..krate.versions {
            lines.push(krate.release());
        }
        for change in self.changes.get(&at).into_iter().flatten() {
            match change {
                Change::Append => lines.push(krate.release()),
                Change::Yank(which) => {
                    let which = usize::try_from(which % lines.len() as u64).unwrap_or(0);
                    lines[which] = if lines[which].contains(r#""yanked":false"#) {
                        lines[which].replace(r#""yanked":false"#, r#""yanked":true"#)
                    } else {
                        lines[which].replace(r#""yanked":true"#, r#""yanked":false"#)
                    };
                }
            }
        }
        (path(&self.names[at]), lines.concat().into_bytes())
    }
}

/// Where the index file of a name is, as the index format has it.
fn path(name: &str) -> String {
    let key = name.to_ascii_lowercase();
    match key.len() {
        1 => format!("1/{key}"),
        2 => format!("2/{key}"),
        3 => format!("3/{}/{key}", &key[..1]),
        _ => format!("{}/{}/{key}", &key[..2], &key[2..4]),
    }
}

/// The name of a crate and, in three of ten cases, those of its companions.
fn family(rng: &mut Rng) -> Vec<String> {
    let letters = |rng: &mut Rng, count| (0..count).map(|_| rng.lowercase()).collect::<String>();
    let root = match rng.u32(..1000) {
        0 => return vec![letters(rng, 1)],
        1..10 => return vec![letters(rng, 2)],
        10..45 => return vec![letters(rng, 3)],
        45..270 => format!("{}-{}", often(rng, STEMS), often(rng, STEMS)),
        270..400 => format!("{}{}", often(rng, STEMS), often(rng, STEMS)),
        400..560 => format!("{}-{}", often(rng, STEMS), syllables(rng)),
        560..660 => format!("{}-{}", syllables(rng), often(rng, STEMS)),
        _ => syllables(rng),
    };
    let root = match rng.u32(..100) {
        0 => root[..1].to_ascii_uppercase() + &root[1..],
        1..20 => root.replace('-', "_"),
        _ => root,
    };
    let mut names = vec![root.clone()];
    if rng.f32() < 0.3 {
        let joint = if root.contains('_') || rng.f32() < 0.2 {
            '_'
        } else {
            '-'
        };
        while names.len() < 60 && rng.f32() < 0.7 {
            names.push(format!("{root}{joint}{}", often(rng, PARTS)));
        }
    }
    names.retain(|name| name.len() <= 64);
    names
}

/// A made-up word that can be spoken.
fn syllables(rng: &mut Rng) -> String {
    const ONSETS: &str = "b br c ch cl cr d dr f fl fr g gr h j k l m n p pl pr qu r s sc sh sl sp st t th tr v w x z";
    const RHYMES: &str = "a e i o u ai ar as at ea ed el em en er es et ia id il in io ir is it ol om on op or os ou ul um un ur us y";
    let mut word = String::new();
    for _ in 0..rng.usize(2..=3) {
        if !word.is_empty() || rng.f32() < 0.85 {
            word += any(rng, ONSETS);
        }
        word += any(rng, RHYMES);
    }
    word
}

fn any<'words>(rng: &mut Rng, words: &'words str) -> &'words str {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    words[rng.usize(..words.len())]
}

/// One of the words, the early ones more often.
fn often<'words>(rng: &mut Rng, words: &'words str) -> &'words str {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    words[sloping(rng, words.len())]
}

/// A number below `count`, small ones more often.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a fraction of a small count"
)]
fn sloping(rng: &mut Rng, count: usize) -> usize {
    let slope = rng.f64().powf(1.7);
    ((count as f64 * slope) as usize).min(count - 1)
}

/// A crate while its releases are written one after the other.
struct Crate<'index> {
    index: &'index Index,
    name: &'index str,
    rng: Rng,
    /// How many releases it has in the first generation.
    versions: usize,
    /// How large its manifest is, beside others.
    weight: f64,
    version: (u32, u32, u32),
    /// When it was published last, in seconds since 1970.
    time: u64,
    /// The usual time between two releases in seconds.
    cadence: u64,
    deps: Vec<Dep>,
    features: Vec<(String, Vec<String>)>,
    rust: Option<u32>,
}

#[derive(Clone)]
struct Dep {
    name: String,
    req: String,
    /// Whether it is a companion, released together with this crate.
    sibling: bool,
    features: String,
    optional: bool,
    defaults: bool,
    target: Option<&'static str>,
    kind: &'static str,
}

impl<'index> Crate<'index> {
    fn new(index: &'index Index, at: usize) -> Crate<'index> {
        let name: &str = &index.names[at];
        let mut rng = Rng::with_seed(hash(name) ^ index.seed);
        let versions = if at < index.first {
            rounded(log_normal(&mut rng, 3.0, 1.45)).clamp(1, 1500)
        } else {
            1
        };
        // Crates with many releases depend on more, too. The largest real files have some megabytes.
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        let weight = (log_normal(&mut rng, 1.5, 0.9) * (versions as f64).powf(0.14))
            .min(12_000.0 / versions as f64);
        // 2015 to 2025, more and more of them.
        let time = 1_430_000_000 + rounded_u64(rng.f64().sqrt() * 340e6);
        let cadence = rounded_u64(log_normal(&mut rng, 6e5, 1.2)).max(600);
        let mut krate = Crate {
            index,
            name,
            versions,
            weight,
            version: (0, 1, 0),
            time,
            cadence,
            deps: Vec::new(),
            features: Vec::new(),
            rust: (rng.f32() < 0.35).then(|| rng.u32(31..90)),
            rng,
        };
        krate.begin();
        krate
    }

    fn begin(&mut self) {
        if self.rng.f32() < 0.1 {
            self.version = (1, 0, 0);
        }
        for _ in 0..rounded(self.weight).min(160) {
            self.depend();
        }
        if self.rng.f32() < 0.45 {
            for _ in 0..rounded(log_normal(&mut self.rng, 2.0, 0.8)).clamp(1, 60) {
                self.feature();
            }
        }
    }

    fn depend(&mut self) {
        let rng = &mut self.rng;
        let (name, sibling) = match rng.u32(..100) {
            0..70 => (often(rng, POPULAR).to_owned(), false),
            70..82 if self.name.contains('-') => {
                let root = self.name.split('-').next().unwrap_or(self.name);
                (format!("{root}-{}", often(rng, PARTS)), true)
            }
            _ => {
                let at = rng.usize(..self.index.first);
                (self.index.names[at].to_string(), false)
            }
        };
        let features = if rng.f32() < 0.27 {
            let list: Vec<String> = (0..rng.usize(1..=3))
                .map(|_| format!("{:?}", often(rng, FEATURES)))
                .collect();
            list.join(",")
        } else {
            String::new()
        };
        let kind = match rng.u32(..100) {
            0..70 => "normal",
            70..96 => "dev",
            _ => "build",
        };
        let dep = Dep {
            name,
            req: requirement(rng),
            sibling,
            features,
            optional: kind == "normal" && rng.f32() < 0.14,
            defaults: rng.f32() > 0.13,
            target: (rng.f32() < 0.05).then(|| {
                let targets = [
                    "cfg(windows)",
                    "cfg(unix)",
                    "cfg(target_arch = \\\"wasm32\\\")",
                ];
                targets[rng.usize(..targets.len())]
            }),
            kind,
        };
        let at = self.deps.partition_point(|other| other.name < dep.name);
        self.deps.insert(at, dep);
    }

    fn feature(&mut self) {
        let rng = &mut self.rng;
        let name = often(rng, FEATURES).to_owned();
        let mut enables = Vec::new();
        for _ in 0..rng.usize(..4) {
            let other = often(rng, FEATURES);
            match (rng.u32(..3), self.deps.is_empty()) {
                (0, false) => {
                    let dep = &self.deps[rng.usize(..self.deps.len())].name;
                    enables.push(format!("{dep}/{other}"));
                }
                (1, false) => {
                    let dep = &self.deps[rng.usize(..self.deps.len())].name;
                    enables.push(format!("dep:{dep}"));
                }
                _ => enables.push(other.to_owned()),
            }
        }
        match self
            .features
            .binary_search_by(|(other, _)| other.cmp(&name))
        {
            Ok(at) => self.features[at].1 = enables,
            Err(at) => self.features.insert(at, (name, enables)),
        }
    }

    /// The line of the next release; then the crate moves on.
    fn release(&mut self) -> String {
        let line = self.line();
        self.time += 60 + rounded_u64(log_normal(&mut self.rng, 1.0, 1.3) * self.cadence_f64());
        let (major, minor, patch) = self.version;
        let step = self.rng.u32(..100);
        self.version = match step {
            0..72 => (major, minor, patch + 1),
            72..97 => (major, minor + 1, 0),
            _ => (major + 1, 0, 0),
        };
        // A larger step changes more of the manifest.
        let restless = if step < 72 { 0.3 } else { 0.65 };
        while self.rng.f32() < restless {
            self.edit();
        }
        line
    }

    #[expect(clippy::cast_precision_loss, reason = "seconds of some years")]
    fn cadence_f64(&self) -> f64 {
        self.cadence as f64
    }

    fn edit(&mut self) {
        match self.rng.u32(..20) {
            0..2 => self.depend(),
            2 if !self.deps.is_empty() => {
                let at = self.rng.usize(..self.deps.len());
                self.deps.remove(at);
            }
            3 => self.feature(),
            4 if self.rust.is_some() => self.rust = Some(self.rng.u32(56..90)),
            _ if !self.deps.is_empty() => {
                let at = self.rng.usize(..self.deps.len());
                self.deps[at].req = requirement(&mut self.rng);
            }
            _ => {}
        }
    }

    fn line(&mut self) -> String {
        let (major, minor, patch) = self.version;
        let version = match self.rng.u32(..40) {
            0 => format!("{major}.{minor}.{patch}-alpha.{}", self.rng.u32(1..9)),
            _ => format!("{major}.{minor}.{patch}"),
        };
        let mut line = String::with_capacity(300 + self.deps.len() * 120);
        line.extend([
            "{\"name\":\"",
            self.name,
            "\",\"vers\":\"",
            &version,
            "\",\"deps\":[",
        ]);
        for (at, dep) in self.deps.iter().enumerate() {
            line.push_str(if at == 0 { "" } else { "," });
            let req = if dep.sibling {
                format!("^{version}")
            } else {
                dep.req.clone()
            };
            dep.write(&req, &mut line);
        }
        line.push_str("],\"cksum\":\"");
        for _ in 0..4 {
            write!(line, "{:016x}", self.rng.u64(..)).expect("a String takes everything");
        }
        line.push_str("\",\"features\":{");
        for (at, (name, enables)) in self.features.iter().enumerate() {
            line.push_str(if at == 0 { "" } else { "," });
            write!(line, "{name:?}:[").expect("a String takes everything");
            for (at, enable) in enables.iter().enumerate() {
                line.push_str(if at == 0 { "" } else { "," });
                write!(line, "{enable:?}").expect("a String takes everything");
            }
            line.push(']');
        }
        let yanked = self.rng.f32() < 0.025;
        write!(line, "}},\"yanked\":{yanked}").expect("a String takes everything");
        if let Some(rust) = self.rust {
            write!(line, ",\"rust_version\":\"1.{rust}\"").expect("a String takes everything");
        }
        line.extend([",\"pubtime\":\"", &rfc3339(self.time), "\"}\n"]);
        line
    }
}

impl Dep {
    fn write(&self, req: &str, line: &mut String) {
        let Dep {
            name,
            features,
            optional,
            defaults,
            kind,
            ..
        } = self;
        write!(
            line,
            "{{\"name\":\"{name}\",\"req\":\"{req}\",\"features\":[{features}],\
             \"optional\":{optional},\"default_features\":{defaults},\"target\":"
        )
        .expect("a String takes everything");
        match self.target {
            Some(target) => line.extend(["\"", target, "\""]),
            None => line.push_str("null"),
        }
        line.extend([",\"kind\":\"", kind, "\"}"]);
    }
}

fn requirement(rng: &mut Rng) -> String {
    let (minor, patch) = (sloping(rng, 30), sloping(rng, 80));
    match rng.u32(..20) {
        0..4 => format!("^{}", rng.u32(1..4)),
        4..10 => format!("^{}.{}", rng.u32(1..4), minor),
        10..13 => format!("^{}.{minor}.{patch}", rng.u32(1..4)),
        13..16 => format!("^0.{minor}"),
        16..19 => format!("^0.{minor}.{patch}"),
        _ => "*".into(),
    }
}

/// FNV-1a: the same on every machine.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A number around `median`, with a long tail upwards.
fn log_normal(rng: &mut Rng, median: f64, sigma: f64) -> f64 {
    let (u, v) = (rng.f64().max(1e-12), rng.f64());
    let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
    median * (normal * sigma).exp()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and small"
)]
fn rounded(value: f64) -> usize {
    value.round() as usize
}

fn rounded_u64(value: f64) -> u64 {
    rounded(value) as u64
}

/// Seconds since 1970 as the index writes them.
fn rfc3339(time: u64) -> String {
    // Days to a date after Howard Hinnant, "chrono-compatible low-level date algorithms".
    let (days, seconds) = (time / 86_400 + 719_468, time % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 {
        (year, month + 3)
    } else {
        (year + 1, month - 9)
    };
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        era * 400 + year,
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// What names begin with or are made of, in the order of how often.
const STEMS: &str = "rust cargo async tokio serde simple wasm git json web api http fast mini tiny \
    easy open aws bevy solana substrate leptos dioxus egui axum actix rocket sqlx graphql grpc \
    proto crypto hash file text string data log time date image audio video game math matrix graph \
    tree list map set queue pool cache db sql redis kafka mongo postgres lite kv store disk mem \
    net tcp udp dns tls ssh ftp mail smtp url uri html css xml yaml toml csv pdf markdown regex \
    parse lex token ast code lang lib core util tool cli term tui gui window input key mouse serial \
    usb gpio embedded stm32 esp nrf avr arm riscv linux windows macos android ios process thread \
    sync atomic lock channel event stream signal task job cron timer rate retry error result macro \
    derive proc const static dyn generic trait type num int float bit byte buf slice vec array ring \
    bloom trie heap sort search find fuzzy diff patch merge config env arg opt test mock bench fuzz \
    trace metric otel cloud kube docker oci vm wasi js node npm py ruby lua go java c cpp ffi bind \
    sys dev id uuid rand noise color font svg canvas gl vulkan wgpu shader scene ecs physics ai llm \
    ml nn tensor onnx nlp chat bot telegram discord slack twitter github gitlab jira stripe pay \
    bank coin bitcoin ethereum eth near polkadot cosmos zk snark merkle sign ed25519 sha aes rsa \
    jwt oauth auth user session cookie form route server client proxy gateway micro service agent \
    multi smart pretty super better safe secure zero no light quick rapid hyper ultra nano pico \
    auto dotenv enum struct field iter cow arc cell once lazy defer scope guard ext extra plus";

/// What the companions of a crate are called.
const PARTS: &str = "core macros derive cli sys utils types client server api common macro codegen \
    util proto test testing tokio async ffi parser runtime data config error traits impl lib build \
    web http db storage sdk bin examples bindings wasm py js model models plugin io net rpc engine \
    render crypto proc-macro log schema service auth ui cache query syntax ast vm lang std alloc \
    internal shared support backend frontend tools tracing metrics sqlite postgres mysql redis grpc \
    s3 aws gcp azure ec2 lambda dynamodb sqs sns iam kms rds ecs eks cloudwatch route53 ssm sts";

/// What crates depend on, in the order of how often.
const POPULAR: &str = "serde serde_json tokio anyhow thiserror clap log tracing rand reqwest chrono \
    futures regex lazy_static syn quote proc-macro2 async-trait once_cell libc bytes uuid itertools \
    env_logger tempfile criterion tracing-subscriber url base64 hex toml num-traits bitflags \
    parking_lot indexmap sha2 serde_yaml dirs axum hyper http wasm-bindgen tower crossbeam rayon \
    walkdir smallvec byteorder time strum ratatui crossterm colored semver nom memchr futures-util \
    tokio-stream web-sys js-sys cfg-if arrayvec nix winapi windows-sys sqlx prost tonic dashmap \
    async-std structopt pin-project either derive_more rustls ring ureq flate2 zip tar glob ndarray \
    nalgebra image proptest quickcheck pretty_assertions trybuild insta assert_cmd predicates mockall \
    wiremock serial_test tower-http actix-web warp rocket diesel rusqlite redis mongodb lru ahash \
    hashbrown fnv heck convert_case unicode-width unicode-segmentation textwrap console indicatif \
    dialoguer inquire openssl native-tls rustc-hash blake3 sha1 md5 hmac aes rsa ed25519-dalek \
    curve25519-dalek secp256k1 k256 bincode postcard rmp-serde ciborium csv quick-xml roxmltree \
    scraper html5ever tera handlebars askama minijinja bevy wgpu winit glam egui eframe pyo3 napi \
    neon jni cc bindgen pkg-config cmake vergen built rustversion version_check autocfg";

/// What features are called, in the order of how often.
const FEATURES: &str = "std default serde derive full alloc rt-multi-thread macros json async tokio \
    rustls-tls v4 sync time net fs io-util unstable nightly cli test-util tracing log blocking rand \
    wasm js http2 stream multipart gzip brotli cookies native-tls rustls sqlite postgres mysql \
    runtime-tokio chrono uuid bytes simd rayon parallel python capi static vendored bundled extra \
    visit-mut parsing printing proc-macro clone-impls env-filter fmt ansi unicode color html_reports";

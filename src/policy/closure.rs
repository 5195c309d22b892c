//! Which versions of which crates a build could need: requirements followed from crate to crate.
//!
//! The rules, on the safe side of what cargo does:
//! - a requirement matches as cargo matches it: a prerelease only where the requirement names one
//!   of the same version, build metadata not looked at;
//! - every version that matches and is not yanked is chosen; with `latest` only the newest;
//! - of a chosen version the normal and build dependencies are followed, for all targets and all
//!   features, optional ones too; dev-dependencies are not, because cargo resolves those of the
//!   workspace only, whose requirements the user names;
//! - dependencies in other registries are counted and not followed.
//!
//! Nothing here asks for index files: [`Closure::wanted`] says of which names they are needed, and
//! [`Closure::take`] or [`Closure::without`] answers, once for each name.

use std::collections::{BTreeMap, HashMap, HashSet};

use semver::{Version, VersionReq};

use crate::registry::{
    Checksum, CrateName, IndexFile,
    deps::{self, DependencyKind},
};

/// How many examples of something are kept for messages.
const EXAMPLES: usize = 3;

/// One version of a crate, as the closure sees it.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The version.
    pub version: Version,
    /// The sha256 of its file.
    pub checksum: Checksum,
    /// Whether new resolutions leave it alone.
    pub yanked: bool,
    /// The dependencies to follow: the name and the requirement as it was written.
    pub needs: Vec<(CrateName, Box<str>)>,
    /// Dependencies in other registries.
    pub elsewhere: Vec<Box<str>>,
}

impl Offer {
    /// What an index file offers. A version that the file names twice is taken as its last line
    /// has it.
    pub fn all(file: &IndexFile) -> Vec<Offer> {
        let mut offers: BTreeMap<&Version, Offer> = BTreeMap::new();
        for row in file.rows() {
            let line = file.bytes().get(row.line.clone()).unwrap_or_default();
            let mut offer = Offer {
                version: row.version.clone(),
                checksum: row.checksum,
                yanked: row.yanked,
                needs: Vec::new(),
                elsewhere: Vec::new(),
            };
            // A line whose dependencies cannot be read is of no use to cargo either.
            offer.follow(deps::dependencies(line).unwrap_or_default());
            offers.insert(&row.version, offer);
        }
        offers.into_values().collect()
    }

    fn follow(&mut self, dependencies: Vec<deps::Dependency<'_>>) {
        for dependency in dependencies {
            if dependency.kind == DependencyKind::Dev {
                continue;
            }
            match (&dependency.registry, CrateName::parse(&dependency.name)) {
                (None, Ok(name)) => self.needs.push((name, dependency.req.into())),
                _ => self.elsewhere.push(dependency.name.into()),
            }
        }
    }
}

/// The number of a name, of a requirement.
type Id = u32;

/// A closure in the making.
#[derive(Debug, Default)]
pub struct Closure {
    latest: bool,
    nodes: Vec<Node>,
    ids: HashMap<CrateName, Id>,
    /// `None`: the text is no requirement.
    reqs: Vec<Option<VersionReq>>,
    req_ids: HashMap<Box<str>, Id>,
    /// Pairs of a name and a requirement that were met before: each is applied once.
    seen: HashSet<(Id, Id)>,
    /// Those of them that the user named: whoever asks looks whether they are met.
    roots: HashSet<(Id, Id)>,
    /// Names that were met since [`wanted`](Closure::wanted) was last asked.
    fresh: Vec<Id>,
    /// Names with requirements that are to be applied.
    work: Vec<Id>,
    elsewhere: Tally,
    unmet: Tally,
}

#[derive(Debug)]
struct Node {
    name: CrateName,
    state: State,
    /// Requirements that are not applied yet.
    waiting: Vec<Id>,
}

#[derive(Debug)]
enum State {
    /// The index file is not here yet.
    Unread,
    /// There is none.
    Without,
    Read(Vec<Known>),
}

#[derive(Debug)]
struct Known {
    version: Version,
    checksum: Checksum,
    yanked: bool,
    chosen: bool,
    /// Taken when the version is chosen, so that memory is held for what is undecided only.
    needs: Box<[(Id, Id)]>,
}

/// How many there were of something, and the first few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The first few, different from one another.
    pub examples: Vec<String>,
}

impl Tally {
    /// Counts one more.
    pub fn add(&mut self, example: impl Into<String> + AsRef<str>) {
        self.count = self.count.saturating_add(1);
        let known = self.examples.iter().any(|one| one == example.as_ref());
        if !known && self.examples.len() < EXAMPLES {
            self.examples.push(example.into());
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: Tally) {
        let examples = other.examples.len() as u64;
        for example in other.examples {
            self.add(example);
        }
        self.count = self
            .count
            .saturating_add(other.count.saturating_sub(examples));
    }

    /// The examples in one line, with dots where there are more.
    pub fn shown(&self) -> String {
        let more = self.count > self.examples.len() as u64;
        let dots = if more { ", …" } else { "" };
        format!("{}{dots}", self.examples.join(", "))
    }
}

/// What came of a closure.
#[derive(Debug, Default)]
pub struct Closed {
    /// The chosen versions of each name, oldest first. A name of which none is chosen is left out.
    pub chosen: BTreeMap<CrateName, Vec<(Version, Checksum)>>,
    /// Dependencies in other registries.
    pub elsewhere: Tally,
    /// Requirements of dependencies that no version fulfils.
    pub unmet: Tally,
}

impl Closure {
    /// An empty one. `latest`: whether the newest version that matches is enough.
    pub fn new(latest: bool) -> Closure {
        Closure {
            latest,
            ..Closure::default()
        }
    }

    /// Follows `name` with the requirement `req`.
    pub fn want(&mut self, name: &CrateName, req: &str) {
        let pair = (self.id(name), self.req(req));
        self.roots.insert(pair);
        self.require(pair);
        self.settle();
    }

    /// The names of which the index file is needed now, each once.
    pub fn wanted(&mut self) -> Vec<CrateName> {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        fresh
            .filter_map(|id| Some(self.node(id)?.name.clone()))
            .collect()
    }

    /// Takes what the index file of `name` offers.
    pub fn take(&mut self, name: &CrateName, offers: Vec<Offer>) {
        let id = self.id(name);
        let known = offers.into_iter().map(|offer| self.intern(offer));
        let known: Vec<Known> = known.collect();
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.state = State::Read(known);
        }
        self.work.push(id);
        self.settle();
    }

    /// There is no index file of `name`.
    pub fn without(&mut self, name: &CrateName) {
        let id = self.id(name);
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.state = State::Without;
        }
        self.work.push(id);
        self.settle();
    }

    /// Whether any version of `name` that was offered, yanked or not, is a prerelease, and none
    /// is not: why a requirement without one matches nothing.
    pub fn is_all_prereleases(&self, name: &CrateName) -> bool {
        let id = self.ids.get(name);
        let node = id.and_then(|id| self.node(*id));
        match node.map(|node| &node.state) {
            Some(State::Read(known)) if !known.is_empty() => {
                known.iter().all(|one| !one.version.pre.is_empty())
            }
            _ => false,
        }
    }

    /// Whether the index file of `name` is there and no version of it was offered.
    pub fn is_empty_of(&self, name: &CrateName) -> bool {
        let id = self.ids.get(name);
        let node = id.and_then(|id| self.node(*id));
        matches!(node.map(|node| &node.state), Some(State::Read(known)) if known.is_empty())
    }

    /// How many versions are chosen of `name` that match `req`.
    pub fn matches(&self, name: &CrateName, req: &VersionReq) -> usize {
        let id = self.ids.get(name);
        let node = id.and_then(|id| self.node(*id));
        match node.map(|node| &node.state) {
            Some(State::Read(known)) => known
                .iter()
                .filter(|one| one.chosen && req.matches(&one.version))
                .count(),
            _ => 0,
        }
    }

    /// The end: what was chosen.
    pub fn finish(self) -> Closed {
        let mut chosen = BTreeMap::new();
        for node in self.nodes {
            let State::Read(known) = node.state else {
                continue;
            };
            let versions = known.into_iter().filter(|one| one.chosen);
            let versions: Vec<_> = versions.map(|one| (one.version, one.checksum)).collect();
            if !versions.is_empty() {
                chosen.insert(node.name, versions);
            }
        }
        Closed {
            chosen,
            elsewhere: self.elsewhere,
            unmet: self.unmet,
        }
    }

    fn node(&self, id: Id) -> Option<&Node> {
        self.nodes.get(id as usize)
    }

    fn id(&mut self, name: &CrateName) -> Id {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = Id::try_from(self.nodes.len()).unwrap_or(Id::MAX);
        self.nodes.push(Node {
            name: name.clone(),
            state: State::Unread,
            waiting: Vec::new(),
        });
        self.ids.insert(name.clone(), id);
        id
    }

    fn req(&mut self, text: &str) -> Id {
        if let Some(id) = self.req_ids.get(text) {
            return *id;
        }
        let id = Id::try_from(self.reqs.len()).unwrap_or(Id::MAX);
        self.reqs.push(VersionReq::parse(text).ok());
        self.req_ids.insert(text.into(), id);
        id
    }

    fn intern(&mut self, offer: Offer) -> Known {
        for name in offer.elsewhere {
            self.elsewhere.add(String::from(name));
        }
        let needs = offer.needs.iter();
        let needs = needs.map(|(name, req)| (self.id(name), self.req(req)));
        Known {
            needs: needs.collect(),
            version: offer.version,
            checksum: offer.checksum,
            yanked: offer.yanked,
            chosen: false,
        }
    }

    /// Notes a requirement of a name, if it is new.
    fn require(&mut self, pair: (Id, Id)) {
        if !self.seen.insert(pair) {
            return;
        }
        let (id, req) = pair;
        let Some(node) = self.nodes.get_mut(id as usize) else {
            return;
        };
        let is_first = matches!(node.state, State::Unread) && node.waiting.is_empty();
        node.waiting.push(req);
        match node.state {
            State::Unread if is_first => self.fresh.push(id),
            State::Unread => {}
            State::Without | State::Read(_) => self.work.push(id),
        }
    }

    /// Applies what can be applied, until nothing new comes of it.
    fn settle(&mut self) {
        while let Some(id) = self.work.pop() {
            let Some(node) = self.nodes.get_mut(id as usize) else {
                continue;
            };
            let mut needed = Vec::new();
            for req_id in std::mem::take(&mut node.waiting) {
                let parsed = self.reqs.get(req_id as usize).and_then(Option::as_ref);
                let found = match (&mut node.state, parsed) {
                    (State::Read(known), Some(req)) => choose(known, req, self.latest, &mut needed),
                    _ => false,
                };
                if !found && !self.roots.contains(&(id, req_id)) {
                    self.unmet.add(node.name.to_string());
                }
            }
            for pair in needed {
                self.require(pair);
            }
        }
    }
}

/// Chooses what matches `req`; the requirements of what is newly chosen go to `needed`. Whether
/// anything matched.
fn choose(known: &mut [Known], req: &VersionReq, latest: bool, needed: &mut Vec<(Id, Id)>) -> bool {
    let matching = known
        .iter_mut()
        .filter(|one| !one.yanked && req.matches(&one.version));
    let mut found = false;
    let mut choose = |one: &mut Known| {
        found = true;
        one.chosen = true;
        needed.extend(std::mem::take(&mut one.needs));
    };
    if latest {
        let newest = matching.max_by(|a, b| a.version.cmp(&b.version));
        newest.into_iter().for_each(&mut choose);
    } else {
        matching.for_each(&mut choose);
    }
    found
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> CrateName {
        CrateName::parse(text).expect("a good name")
    }

    /// A version with its dependencies: name, requirement, kind.
    fn line(krate: &str, version: &str, yanked: bool, deps: &[(&str, &str, &str)]) -> String {
        let sum = Checksum::of(format!("{krate} {version}").as_bytes());
        let deps: Vec<_> = deps
            .iter()
            .map(|(name, req, kind)| {
                format!(r#"{{"name":"{name}","req":"{req}","kind":"{kind}"}}"#)
            })
            .collect();
        format!(
            r#"{{"name":"{krate}","vers":"{version}","deps":[{}],"cksum":"{sum}","yanked":{yanked}}}"#,
            deps.join(",")
        )
    }

    type World = BTreeMap<String, String>;

    fn world(lines: &[String]) -> World {
        let mut world = World::new();
        for line in lines {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let name = value["name"].as_str().expect("a name").to_owned();
            let file = world.entry(name).or_default();
            file.push_str(line);
            file.push('\n');
        }
        world
    }

    fn close(world: &World, roots: &[(&str, &str)], latest: bool) -> Closed {
        let mut closure = Closure::new(latest);
        let mut asked = HashSet::new();
        for (root, req) in roots {
            closure.want(&name(root), req);
        }
        loop {
            let wanted = closure.wanted();
            if wanted.is_empty() {
                return closure.finish();
            }
            for krate in wanted {
                assert!(asked.insert(krate.clone()), "{krate} is asked for once");
                match world.get(krate.as_str()) {
                    Some(text) => {
                        let bytes = Bytes::copy_from_slice(text.as_bytes());
                        let file = IndexFile::parse(&krate, bytes).expect("good lines");
                        closure.take(&krate, Offer::all(&file));
                    }
                    None => closure.without(&krate),
                }
            }
        }
    }

    fn shown(closed: &Closed) -> Vec<String> {
        let chosen = closed.chosen.iter();
        chosen
            .flat_map(|(name, versions)| {
                versions
                    .iter()
                    .map(move |(version, _)| format!("{name} {version}"))
            })
            .collect()
    }

    #[test]
    fn requirements_are_followed_through_normal_and_build_dependencies() {
        let world = world(&[
            line(
                "a",
                "1.0.0",
                false,
                &[
                    ("b", "^1", "normal"),
                    ("c", "*", "build"),
                    ("d", "*", "dev"),
                ],
            ),
            line("b", "1.0.0", false, &[]),
            line("b", "1.1.0", true, &[("never", "*", "normal")]),
            line("b", "1.2.0", false, &[("a", "^1", "normal")]),
            line("b", "2.0.0", false, &[("never", "*", "normal")]),
            line(
                "c",
                "0.1.0",
                false,
                &[("ghost", "1", "normal"), ("b", "^9", "normal")],
            ),
            line("c", "0.2.0-rc.1", false, &[]),
            line("d", "1.0.0", false, &[]),
            line("never", "1.0.0", false, &[]),
        ]);
        let closed = close(&world, &[("a", "^1")], false);
        assert_eq!(shown(&closed), ["a 1.0.0", "b 1.0.0", "b 1.2.0", "c 0.1.0"]);
        assert_eq!(closed.unmet.count, 2);
        assert_eq!(closed.unmet.examples, ["b", "ghost"]);
        let closed = close(&world, &[("a", "^1")], true);
        assert_eq!(shown(&closed), ["a 1.0.0", "b 1.2.0", "c 0.1.0"]);
    }

    #[test]
    fn a_prerelease_comes_only_when_it_is_named() {
        let world = world(&[
            line("a", "1.0.0-rc.1", false, &[]),
            line("a", "1.0.0-rc.2", false, &[]),
            line("a", "1.1.0-rc.1", false, &[]),
            line("a", "1.0.0+meta", false, &[]),
        ]);
        let check = |req, versions: &[&str]| {
            assert_eq!(
                shown(&close(&world, &[("a", req)], false)),
                versions,
                "{req}"
            );
        };
        check("*", &["a 1.0.0+meta"]);
        check("=1.0.0", &["a 1.0.0+meta"]);
        check("1.0.0-rc.2", &["a 1.0.0-rc.2", "a 1.0.0+meta"]);
        check("=1.1.0-rc.1", &["a 1.1.0-rc.1"]);
    }

    #[test]
    fn dependencies_in_other_registries_are_counted() {
        let text = line("a", "1.0.0", false, &[("b", "1", "normal")])
            .replace(r#""kind""#, r#""registry":"https://other.test/","kind""#);
        let closed = close(&world(&[text]), &[("a", "*")], false);
        assert_eq!(shown(&closed), ["a 1.0.0"]);
        assert_eq!(closed.elsewhere.examples, ["b"]);
    }

    const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
    const VERSIONS: [&str; 6] = ["0.1.0", "0.1.1", "1.0.0-rc.1", "1.0.0", "1.2.0+x", "2.0.0"];
    const REQS: [&str; 6] = ["*", "^0.1", "^1", ">=1.0.0-rc.1, <2", "=2.0.0", "~1.2"];
    const KINDS: [&str; 3] = ["normal", "build", "dev"];

    type Version_ = (usize, usize, bool, Vec<(usize, usize, usize)>);

    fn versions() -> impl Strategy<Value = Vec<Version_>> {
        let deps = prop::collection::vec((0..5_usize, 0..6_usize, 0..3_usize), 0..3);
        prop::collection::vec((0..5_usize, 0..6_usize, any::<bool>(), deps), 0..25)
    }

    /// What is chosen by the rule as it is written, until nothing changes: slow and plain.
    fn plainly(all: &[Version_], root: (usize, usize)) -> HashSet<(usize, usize)> {
        let mut reqs = HashSet::from([root]);
        loop {
            let chosen: Vec<_> = all
                .iter()
                .filter(|(krate, version, yanked, _)| {
                    let version = Version::parse(VERSIONS[*version]).expect("a version");
                    !yanked
                        && reqs.iter().any(|(of, req)| {
                            of == krate
                                && VersionReq::parse(REQS[*req])
                                    .expect("one")
                                    .matches(&version)
                        })
                })
                .collect();
            let before = reqs.len();
            for (_, _, _, deps) in &chosen {
                reqs.extend(
                    deps.iter()
                        .filter(|dep| dep.2 < 2)
                        .map(|dep| (dep.0, dep.1)),
                );
            }
            if reqs.len() == before {
                return chosen.iter().map(|one| (one.0, one.1)).collect();
            }
        }
    }

    proptest! {
        #[test]
        fn a_closure_is_closed_and_has_nothing_that_is_not_needed(
            mut all in versions(), root in (0..5_usize, 0..6_usize),
        ) {
            let mut seen = HashSet::new();
            all.retain(|one| seen.insert((one.0, one.1)));
            let lines: Vec<_> = all
                .iter()
                .map(|(krate, version, yanked, deps)| {
                    let deps: Vec<_> = deps
                        .iter()
                        .map(|dep| (NAMES[dep.0], REQS[dep.1], KINDS[dep.2]))
                        .collect();
                    line(NAMES[*krate], VERSIONS[*version], *yanked, &deps)
                })
                .collect();
            let roots = [(NAMES[root.0], REQS[root.1])];
            let closed = close(&world(&lines), &roots, false);
            let found: HashSet<_> = shown(&closed).into_iter().collect();
            let plain = plainly(&all, root).into_iter();
            let plain: HashSet<_> = plain
                .map(|one| format!("{} {}", NAMES[one.0], VERSIONS[one.1]))
                .collect();
            prop_assert_eq!(&found, &plain);
            let latest: HashSet<_> =
                shown(&close(&world(&lines), &roots, true)).into_iter().collect();
            prop_assert!(latest.is_subset(&found));
        }
    }

    #[test]
    fn a_large_graph_is_closed_at_once() {
        let mut closure = Closure::new(false);
        closure.want(&name("k-0"), "*");
        let mut files = 0_u32;
        while let Some(krate) = closure.wanted().first().cloned() {
            files += 1;
            let number = files;
            let offers = (0..5).map(|minor| Offer {
                version: Version::new(1, minor, 0),
                checksum: Checksum::of(b""),
                yanked: false,
                needs: (1..10)
                    .map(|next| (name(&format!("k-{}", number + next % 2)), "^1".into()))
                    .collect(),
                elsewhere: Vec::new(),
            });
            closure.take(
                &krate,
                if number < 4000 {
                    offers.collect()
                } else {
                    Vec::new()
                },
            );
        }
        let closed = closure.finish();
        let versions: usize = closed.chosen.values().map(Vec::len).sum();
        assert!(versions > 5000, "{versions} of {files}");
    }
}
